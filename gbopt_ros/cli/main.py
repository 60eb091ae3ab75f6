"""`gbopt VERB ...`: finds the verb, runs it, and turns failures into one line and an exit status.

Only the module of the chosen verb is imported, so that help and usage errors come at once.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import importlib
import keyword
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from gbopt_ros.process import leave, share_cores

VERBS = (
    "demo", "bag", "replay", "bulk", "learn", "export", "review", "import", "calibrate", "evaluate",
    "davis", "tracks", "dataset", "run", "play", "pretrain", "world", "models", "serve-models",
    "doctor",
)  # fmt: skip

DONE, FAILED = 0, 1
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143  # 128 + signal, as in shells

_PATIENCE_S = 1.0

_ADVICE = {
    errno.ENOSPC: "free some space or choose another output folder",
    errno.EDQUOT: "free some space or choose another output folder",
    errno.EACCES: "choose a place that you may read and write",
    errno.EPERM: "choose a place that you may read and write",
    errno.EROFS: "choose an output folder that can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def module_of(verb: str) -> str:
    """The name of the module of a verb: Python allows neither hyphens nor its own words."""
    name = verb.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


class _Version(argparse.Action):
    """Looks the version up only when it is needed, because that is slow."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *ignored: object) -> None:
        from importlib.metadata import version

        print(f"gbopt {version('gbopt_ros')}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit status.

    Raises:
        SystemExit: help was asked for (0) or the usage is wrong (2).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((a for a in arguments if not a.startswith("-")), None)
    debug = "--debug" in arguments
    try:
        args = _parser(chosen).parse_args(arguments)
        with _log_to_stderr(), _terminable():
            args.run(args)
        sys.stdout.flush()
        return DONE
    except _Terminated:
        print("gbopt: terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("gbopt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return PIPE_CLOSED
        if debug:
            traceback.print_exc()
        print(f"gbopt: error: {_one_line(error)}", file=sys.stderr)
        return FAILED


def program() -> None:
    """The program `gbopt`: `main`, and the end of the process."""
    share_cores()
    status = main()
    if "rclpy" in sys.modules:  # the verb has closed its nodes
        leave(status)
    sys.exit(status)


class _Terminated(KeyboardInterrupt):
    """SIGTERM ends a verb as Ctrl-C does: everything cleans up on its way out."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Raise `_Terminated` on SIGTERM and `KeyboardInterrupt` on Ctrl-C, once.

    Cleaning up may take as long as a clip. No signal breaks into it; a Ctrl-C after a second ends
    the process at once. What is half done is then left as `kill -9` leaves it.
    """
    process, began = os.getpid(), 0.0

    def end(number: int, _: object) -> None:
        nonlocal began
        if os.getpid() != process:  # a forked worker, which has nothing to clean up
            if number == signal.SIGINT:  # and which may expect this one
                raise KeyboardInterrupt
            os._exit(TERMINATED)
        if not began:
            began = time.monotonic()
            raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt
        # Shells and `timeout` may send one signal twice.
        if number == signal.SIGINT and time.monotonic() - began > _PATIENCE_S:
            os.write(2, b"\ngbopt: interrupted\n")
            os._exit(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():  # signals are not for others
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser of the chosen verb; without one, a parser that lists all verbs."""
    parser = argparse.ArgumentParser(
        prog="gbopt",
        description="Select objects in recordings, learn them without labels, and measure it.",
        epilog="`gbopt VERB --help` explains a verb.",
    )
    parser.add_argument("--version", action=_Version)
    _add_debug(parser, default=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    if chosen in VERBS:
        module = importlib.import_module(f"gbopt_ros.cli.{module_of(chosen)}")
        verb = verbs.add_parser(
            chosen,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        _add_debug(verb, default=argparse.SUPPRESS)
        verb.set_defaults(run=module.run)
    else:
        for name in VERBS:
            verbs.add_parser(name, help=_help(name))
    return parser


def _add_debug(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of a failure"
    )


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show the package's log from INFO up, and no log of libraries."""
    log, handler = logging.getLogger("gbopt_ros"), logging.StreamHandler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def _help(verb: str) -> str:
    """The first line of a verb's docstring, read without importing the verb."""
    path = Path(__file__).with_name(f"{module_of(verb)}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0].replace("%", "%%")


def _stdout_is_closed() -> bool:
    """Whether the reader of the output has gone, as in `gbopt ... | head`."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(output, 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:  # the interpreter flushes once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return closed


def _one_line(error: Exception) -> str:
    from gbopt_ros.structures import GboptError

    text = " ".join(str(error).split())
    if isinstance(error, GboptError):
        return text + _advice(error.__cause__)
    if isinstance(error, ModuleNotFoundError):
        return f"the Python module {error.name} is missing; `gbopt doctor` says how to get it"
    if isinstance(error, MemoryError):
        return "out of memory; shorten the clips or make the frames smaller"
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{(error.strerror or text).lower()}{_advice(error)}"
    return f"unexpected {type(error).__name__}: {text} (run with --debug for the traceback)"


def _advice(cause: BaseException | None) -> str:
    """Advice on an error of the operating system, "" for any other."""
    while cause is not None and cause.__cause__ is not None:  # the first error of the chain
        cause = cause.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    if str(cause) == "database or disk is full":  # SQLite's words
        number = errno.ENOSPC
    return f"; {_ADVICE[number]}" if number in _ADVICE else ""
