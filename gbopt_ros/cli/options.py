"""Command-line options that several verbs share: the configuration, and frames of a recording."""

from __future__ import annotations

import argparse
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gbopt_ros.config import Config, load_config
from gbopt_ros.io.limits import MAX_PIXELS
from gbopt_ros.io.selection_format import SELECTION_NAME
from gbopt_ros.io.sources import Source, open_source
from gbopt_ros.io.sources.base import SourceOptions
from gbopt_ros.io.sources.folder import IMAGE_SUFFIXES
from gbopt_ros.structures import GboptError

SOURCE_HELP = "rosbag2 (folder, .mcap or .db3 file), video file, or folder of images"


def add_config_arguments(
    parser: argparse.ArgumentParser,
    example: str = "selection.k=5",
    *,
    weights: bool = False,
    profile: str = "none",
) -> None:
    """Add --config and --set, and --weights if wanted; `config_from_args` reads them.

    Args:
        profile: what the help says is taken without --config.
    """
    if weights:
        parser.add_argument(
            "--weights",
            metavar="W",
            help="weights file of the proposal network (default: the bundled seed network)",
        )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="profile with settings: a YAML file, or paper or robot, which come with the package "
        f"(default: {profile})",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"a single setting, such as {example}; may be repeated",
    )


def config_from_args(args: argparse.Namespace, profile: Path | None = None) -> Config:
    """The configuration: defaults, --config, --set, then --weights where the verb has it.

    Args:
        profile: takes the place of --config where that is not given.

    Raises:
        GboptError: as `load_config` and `verified`.
    """
    config = load_config(args.config or profile, args.set, option="--set")
    weights = getattr(args, "weights", None)
    if weights:
        config = replace(config, proposal=replace(config.proposal, weights=str(weights)))
    return verified(config)


def verified(config: Config) -> Config:
    """The configuration; raises GboptError if `check_weights` does for weights that it names."""
    for name in (config.proposal.weights, config.learning.student):
        if name:
            check_weights(Path(name))
    return config


def check_weights(path: Path) -> None:
    """Raises GboptError if weights are a folder, or a version of a store that was changed."""
    from gbopt_ros.learning.store.model_store import verify_version

    if path.is_dir():
        version = next(path.glob("models/v*/*.safetensors"), None)
        example = f", such as {version}" if version is not None else ""
        raise GboptError(f"{path}: a folder; expected a weights file{example}")
    verify_version(path)


def add_source_arguments(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, topic_flag: str = "--topic"
) -> None:
    """Add the topic, --stride, --start, --end and --resize; `source_from_args` reads them.

    Args:
        topic_flag: name of the topic's option, for a verb that also has an output topic.
    """
    parser.add_argument(
        topic_flag,
        dest="source_topic",
        metavar="T",
        help="image topic of a rosbag2, with or without /compressed; needed where it has several",
    )
    parser.add_argument(
        "--stride", type=positive, default=1, metavar="N", help="take every N-th frame"
    )
    parser.add_argument(
        "--start", type=_seconds, metavar="S", help="begin S seconds after the first frame"
    )
    parser.add_argument(
        "--end", type=_seconds, metavar="S", help="stop S seconds after the first frame"
    )
    parser.add_argument(
        "--resize", type=_size, metavar="WxH", help="scale every frame, for example 640x480"
    )


def source_from_args(args: argparse.Namespace, path: Path, max_pixels: int = MAX_PIXELS) -> Source:
    """Open the recording at `path` as the arguments say.

    Args:
        max_pixels: as of `open_source`.

    Raises:
        GboptError: as `open_source`.
    """
    options = source_options_from_args(args, max_pixels)
    return open_source(path, topic=args.source_topic, **vars(options))


def source_options_from_args(args: argparse.Namespace, max_pixels: int) -> SourceOptions:
    """The frames of a recording to read. Raises GboptError as `SourceOptions`."""
    return SourceOptions(args.stride, args.start, args.end, args.resize, max_pixels)


def check_has_frames(replay: Path) -> None:
    """Raises GboptError if a folder is an output of `gbopt replay` or `bulk` without images."""
    if not (replay / SELECTION_NAME).is_file():  # told by whoever reads it
        return
    if not any(each.suffix in IMAGE_SUFFIXES for each in (replay / "frames").rglob("*")):
        raise GboptError(
            f"{replay}: it has masks, but no frames; select them again without --no-frames"
        )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --no-frames and --no-overlay, for a `SelectionWriter`."""
    parser.add_argument(
        "--no-frames", action="store_true", help="leave the images out: nothing can be learnt then"
    )
    parser.add_argument(
        "--no-overlay", action="store_true", help="leave out the video that shows the masks"
    )


def positive(text: str) -> int:
    """A whole number from 1 on, for `type` of an argument."""
    with suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"expected a whole number, at least 1, got {text}")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"expected seconds from the first frame, got {text}")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 640x480, got {text}")
    return int(match[1]), int(match[2])
