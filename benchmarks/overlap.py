"""Do the stages of a replay overlap? Wall time of a replay against that of its slowest stage.

    python -m benchmarks.overlap [SOURCE] [--frames 240] [--size 640 480] [--network-ms 20 40 80]

Networks on a GPU leave the CPU idle. Here they sleep for so many milliseconds a frame, and give
what the bundled networks found before, so that all other stages cost what they cost. The stages are
decoding, networks (with the flow of DIS, on the CPU), selection (with motion and outlines) and
writing. Each is timed by itself, with nothing beside it; then the replay runs with all of them at
the same time. The first clip passes the stages one after the other: the more clips, the less it
counts. Rows with an overlay and without one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from gbopt_ros.config import Config
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.selection_format import SelectionWriter
from gbopt_ros.io.sources import open_source
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Clip, Cues, Frame, Image, Selection


class Sleeping:
    """A network that sleeps and gives what another one gave for the same images.

    Args:
        seconds: for each image.
    """

    version = "sleeping"
    calibration = None

    def __init__(self, seconds: float, found: Sequence[Any]) -> None:
        self._seconds, self._found, self._next = seconds, found, 0

    def propose(self, images: Sequence[Image]) -> list[Any]:
        time.sleep(self._seconds * len(images))
        first, self._next = self._next, self._next + len(images)
        return list(self._found[first : self._next])

    background = propose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=find_resource("demo/recording"))
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"))
    parser.add_argument("--network-ms", type=float, nargs="+", default=[20.0, 40.0, 80.0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    def frames() -> Iterator[Frame]:
        for frame in open_source(args.source, resize=tuple(args.size)):
            if frame.index >= args.frames:
                return
            yield frame

    pipeline = Pipeline(Config())
    clips = list(pipeline.clips(frames()))
    cues = [pipeline.perceive(clip) for clip in clips]
    print("| overlay | networks, ms | slowest stage | its s | all stages, s | replay, s | ratio |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for overlay in (True, False):
        alone = stages_alone(pipeline, frames, clips, cues, overlay)
        for milliseconds in args.network_ms:
            seconds = replay(frames, cues, milliseconds / 1e3, overlay)
            asleep = milliseconds / 1e3 * sum(map(len, clips))
            stages = alone | {"networks": alone["networks"] + asleep}
            slowest = max(stages, key=lambda stage: stages[stage])
            print(
                f"| {'yes' if overlay else 'no'} | {milliseconds:g} | {slowest} | "
                f"{stages[slowest]:.2f} | {sum(stages.values()):.2f} | {seconds:.2f} | "
                f"{seconds / stages[slowest]:.2f} |"
            )


def stages_alone(
    pipeline: Pipeline,
    frames: Callable[[], Iterator[Frame]],
    clips: Sequence[Clip],
    cues: Sequence[Cues],
    overlay: bool,
) -> dict[str, float]:
    """Wall time of every stage, one after the other, in seconds; of the networks, flow alone."""
    start = time.perf_counter()
    for _ in pipeline.clips(frames()):
        pass
    decoded = time.perf_counter()
    for clip in clips:
        images = [frame.image for frame in clip.frames]
        pipeline.flow_network.flow(images[:-1], images[1:])
    flowed = time.perf_counter()
    selections = [pipeline.select(*both) for both in zip(clips, cues, strict=True)]
    selected = time.perf_counter()
    write(selections, overlay)
    return {
        "decoding": decoded - start,
        "networks": flowed - decoded,
        "selection": selected - flowed,
        "writing": time.perf_counter() - selected,
    }


def replay(
    frames: Callable[[], Iterator[Frame]], cues: Sequence[Cues], seconds: float, overlay: bool
) -> float:
    """Wall time of a replay whose networks sleep, half of `seconds` a frame each."""
    proposals = Sleeping(seconds / 2, [found for clip in cues for found in clip.proposals])
    backgrounds = Sleeping(seconds / 2, [found for clip in cues for found in clip.backgrounds])
    pipeline = Pipeline(Config(), proposal_network=proposals, background_network=backgrounds)
    start = time.perf_counter()
    write(pipeline.run(frames(), prefetch=True), overlay)
    return time.perf_counter() - start


def write(selections: Sequence[Selection] | Iterator[Selection], overlay: bool) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        SelectionWriter(Path(folder) / "out", "overlap", overlay=overlay) as writer,
    ):
        for selection in selections:
            writer.add(selection)
        writer.finish()


if __name__ == "__main__":
    main()
