"""The command line, one module a verb.

A verb's module has `add_arguments(parser)` and `run(args)`; the first line of its docstring is its
help. `run` raises GboptError for whatever the user can act on.
"""
