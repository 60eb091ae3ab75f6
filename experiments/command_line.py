"""Arguments and exit status of the scripts, and what every result file tells of its run."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import torch

from experiments.methods import FILE
from gbopt_ros.config import Config, load_config
from gbopt_ros.io.selection_format import versions
from gbopt_ros.models.device import resolve_device
from gbopt_ros.structures import GboptError


def make_parser(
    doc: str | None, out: str, *, writes: str = "output folder", config: Path | None = None
) -> argparse.ArgumentParser:
    """A parser with --out, --config and --set.

    Args:
        doc: docstring of the script; its first line is the description.
        out: default of --out.
        writes: what --out is.
        config: default profile; None for the recommended settings.
    """
    profile = config.stem if config else "the recommended settings"
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(out), help=f"{writes} (default: %(default)s)"
    )
    parser.add_argument(
        "--config", type=Path, default=config, help=f"YAML profile (default: {profile})"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser


def add_training_arguments(
    parser: argparse.ArgumentParser, methods: Iterable[str], default: Iterable[str]
) -> None:
    """Add --methods, --rounds, --seeds and --jobs."""
    add_methods_argument(parser, methods, default)
    parser.add_argument("--rounds", type=positive, default=1, help="rounds of select and learn")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1, 2], action=Distinct)
    parser.add_argument("--jobs", type=positive, default=1, help="processes of one thread each")


def add_methods_argument(
    parser: argparse.ArgumentParser, methods: Iterable[str], default: Iterable[str]
) -> None:
    """Add --methods: names, and `file:PATH` for masks that another program made."""
    known = list(methods)

    def name(text: str) -> str:
        if text not in known and not text.startswith(FILE):
            raise argparse.ArgumentTypeError(
                f"expected {FILE}PATH or one of {', '.join(known)}, got {text!r}"
            )
        return text

    parser.add_argument(
        "--methods", nargs="+", default=list(default), type=name, metavar="METHOD", action=Distinct,
        help=f"{', '.join(known)}; {FILE}PATH: masks made elsewhere, see methods/mask_file.py",
    )  # fmt: skip


class Distinct(argparse.Action):
    """Takes several values, each once: what is given twice would count as two measurements."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        once = {_identity(value): value for value in values}
        setattr(namespace, self.dest, list(once.values()))


def check_apart(
    parser: argparse.ArgumentParser, fitted: Iterable[Path], judged: Iterable[Path]
) -> None:
    """End with an error if something is judged on what it was fitted on."""
    if both := set(map(_identity, fitted)) & set(map(_identity, judged)):
        parser.error(f"fitted and judged on the same data: {', '.join(map(str, sorted(both)))}")


def _identity(value: Any) -> Any:
    return value.resolve() if isinstance(value, Path) else value


def at_least(least: int) -> Callable[[str], int]:
    """A whole number from `least` on, for argparse."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {text}")
        return value

    return number


positive = at_least(1)


def config_of(args: argparse.Namespace, *overrides: str) -> Config:
    """The configuration that --config and --set ask for. Raises GboptError as `load_config`."""
    return load_config(args.config, [*args.set, *overrides], option="--set")


def start(run: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Run a script in one thread; returns its exit status. An expected error is one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    single_threaded()
    try:
        return run(args) or 0
    except GboptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def single_threaded() -> None:
    """One thread for all libraries: a process per core trains faster than threads do."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def cores() -> int:
    """Number of processes that this machine runs at once."""
    return os.cpu_count() or 1


def run_facts(config: Config) -> dict[str, Any]:
    """Date, machine, configuration and versions, for a result file."""
    device = resolve_device(config.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {cores()} cores, {platform.system()}, {gpu}",
        "config": config.to_dict(),
        "versions": versions(),
    }
