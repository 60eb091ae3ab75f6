"""How long learning from a recording takes, measured on a few frames and images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gbopt_ros.config import Config
from gbopt_ros.demo.data import SeenData
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Frame

_STILLS = 4
_TRAINING = 1.7  # time of training on an image, in times of proposing masks in it


@dataclass(frozen=True)
class Speed:
    """Seconds to select masks in a frame, and to propose masks in a labelled image."""

    frame: float
    still: float


def measure_speed(frames: Sequence[Frame], data: SeenData, config: Config) -> Speed:
    """Run the networks on a few frames, at least one, and on a few labelled images.

    Raises:
        GboptError: weights are missing, corrupt or of another network.
    """
    pipeline = Pipeline(config)
    list(pipeline.run(frames[:1]))  # the first run is slower
    start = time.perf_counter()
    list(pipeline.run(frames))
    selected = time.perf_counter()
    stills = [data.seen.load_image(image) for image in data.seen.images[:_STILLS]]
    loaded = time.perf_counter()
    pipeline.proposal_network.propose(stills)
    proposed = time.perf_counter()
    return Speed((selected - start) / len(frames), (proposed - loaded) / len(stills))


def expected_seconds(
    speed: Speed, frames: int, data: SeenData, config: Config, rounds: int
) -> float:
    """Seconds of all rounds, with the selection and the evaluation before and after them."""
    learning = config.learning
    trained = learning.iterations * learning.batch_size
    compared = 2 * rounds + max(0, rounds - 1)  # networks that the gates evaluate
    stills = compared * len(data.validation) + 2 * len(data.seen)
    return (rounds + 1) * frames * speed.frame + speed.still * (
        rounds * (trained * _TRAINING + frames) + stills
    )


def in_words(seconds: float) -> str:
    """A duration as somebody would say it."""
    if seconds < 90:
        return "about a minute"
    minutes = seconds / 60
    return f"about {round(minutes)} minutes" if minutes < 90 else f"about {minutes / 60:.1f} hours"
