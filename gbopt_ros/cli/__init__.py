"""The command line, one module a verb.

The module of a verb has `add_arguments(parser)` and `run(args)`. The first line of its docstring is
the verb's help. `run` raises GboptError for errors that the user can act on.
"""
