"""The real networks through the whole pipeline: frames per second and the share of each part.

    python -m benchmarks.networks                     # 480x640, on the CPU and a GPU if any
    python -m benchmarks.networks --proposals FILE    # trained weights in place of random ones
    python -m benchmarks.networks --quick             # small images, to see that it runs

Mask R-CNN R50-FPN for proposals, a ResNet-50 semantic FPN for the background, RAFT large for the
measured and the synthetic flow. Without weights files the weights are random. A network takes the
same time then; but the number of selected masks, and so of synthetic flow runs, says nothing about
trained networks, so the number of runs is printed. The images show textured squares that move
over a textured ground.

The table has each part by itself. On a GPU the networks run at the same time, beside the selection,
so a second measurement takes clips through the pipeline as `gbopt replay` does. The profile of
torch then tells for which share of the time the GPU computes, only copies, or waits for the host.
The largest share is what bounds the pipeline.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection import MaskRCNN
from torchvision.models.optical_flow import raft_large
from torchvision.models.resnet import Bottleneck

from gbopt_ros.config import Config, load_config
from gbopt_ros.io.files import write_text
from gbopt_ros.models.background_fpn import build_background
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.raft import RaftFlow, load_raft
from gbopt_ros.perception.background import FpnBackground
from gbopt_ros.perception.flow import high_detail_flow
from gbopt_ros.perception.load import load_proposals
from gbopt_ros.perception.motion import clip_with_motion
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.selection import select_clip, with_outlines
from gbopt_ros.structures import Clip, Cues, FlowNetwork, Frame, Image

T = TypeVar("T")
Span = tuple[str, float, float]
"""Name, start and end of what a GPU did, microseconds."""

CLIPS = 3  # in the measurement with everything at once

PARTS = ("proposals", "background", "flow", "motion", "synthetic flow", "selection", "outlines")
"""In the order of the table; motion includes its own flow, selection excludes synthetic flow."""


class TimedFlow:
    """A flow network that counts its pairs and seconds."""

    def __init__(self, network: FlowNetwork) -> None:
        self._network = network
        self.pairs, self.seconds = 0, 0.0

    def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
        start = time.perf_counter()
        flow = self._network.flow(first, second)
        self.seconds += time.perf_counter() - start
        self.pairs += len(first)
        return flow


def moving_squares(height: int, width: int, count: int) -> list[Frame]:
    """Frames at 10 Hz: six textured squares, each with a speed of its own."""
    rng = np.random.default_rng(0)
    side = height // 6
    ground = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    squares = rng.integers(120, 255, (6, side, side, 3), dtype=np.uint8)
    speeds = rng.integers(-side // 8, side // 8 + 1, (6, 2))
    places = rng.integers(0, (height - side, width - side), (6, 2))
    frames = []
    for t in range(count):
        image = ground.copy()
        for square, place, speed in zip(squares, places, speeds, strict=True):
            top, left = (place + t * speed) % (height - side, width - side)
            image[top : top + side, left : left + side] = square
        frames.append(Frame(image, 10**8 * (t + 1), t))
    return frames


def steady(network: nn.Module) -> nn.Module:
    """The network with residual blocks scaled down: else random ones overflow half precision."""
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.2)
    return network


def random_mask_rcnn(quick_size: tuple[int, int] | None = None) -> MaskRCNN:
    """Mask R-CNN R50-FPN.

    Args:
        quick_size: (height, width) of images that are not enlarged, and whose 100 best regions
            alone are looked at.
    """
    network = steady(build_mask_rcnn("resnet50-fpn"))
    if quick_size is not None:
        height, width = quick_size
        network.transform.min_size, network.transform.max_size = (height,), 2 * width
        network.rpn._post_nms_top_n["testing"] = 100
    return network


def build(
    config: Config,
    size: tuple[int, int],
    proposals: Path | None = None,
    background: Path | None = None,
    flow: Path | None = None,
    quick: bool = False,
) -> Pipeline:
    """The pipeline with the three networks, random where no weights file is given.

    Args:
        size: (height, width) of the images, pixels.
        quick: as `quick_size` of `random_mask_rcnn`.
    """
    device = resolve_device(config.device)
    torch.manual_seed(0)
    if proposals:
        proposal_network = load_proposals(proposals, config.proposal, device)
    else:
        network = random_mask_rcnn(size if quick else None)
        proposal_network = MaskRcnnProposals(network, "random", config.proposal, device)
    if background:
        background_network = FpnBackground.from_file(background, config.background, device)
    else:
        semantic = steady(build_background("resnet50-semantic-fpn"))
        semantic.short_side = min(semantic.short_side, size[0])
        background_network = FpnBackground(semantic, config.background, device)
    raft = load_raft(flow, "auto") if flow else raft_large(weights=None)
    return Pipeline(
        config,
        proposal_network=proposal_network,
        background_network=background_network,
        flow_network=RaftFlow(raft, config.flow, device),
    )


def measure(pipeline: Pipeline, frames: Sequence[Frame]) -> dict[str, Any]:
    """One clip, part by part; on a GPU the first, slow time is not measured."""
    config, device = pipeline.config, resolve_device(pipeline.config.device)
    clip = Clip(0, tuple(frames))
    images = [frame.image for frame in frames]
    if device.type == "cuda":
        pipeline.select(clip, pipeline.perceive(clip))
        torch.cuda.reset_peak_memory_stats(device)
    flow = TimedFlow(pipeline.flow_network)
    detailed = high_detail_flow(pipeline.flow_network)
    seconds: dict[str, float] = {}

    def timed(part: str, call: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = call()
        seconds[part] = time.perf_counter() - start
        return result

    cues = Cues(
        timed("proposals", lambda: pipeline.proposal_network.propose(images)),
        timed("background", lambda: pipeline.background_network.background(images)),
        timed("flow", lambda: flow.flow(images[:-1], images[1:])),
    )
    backgrounds = timed(
        "motion",
        lambda: clip_with_motion(frames, cues.backgrounds, detailed, config.motion),
    )
    flow.pairs, flow.seconds = 0, 0.0
    selection = timed(
        "selection",
        lambda: select_clip(clip, cues.proposals, backgrounds, cues.flows, flow, config.selection),
    )
    seconds["synthetic flow"] = flow.seconds
    seconds["selection"] -= flow.seconds
    timed("outlines", lambda: with_outlines(selection, config.outline))
    total = sum(seconds.values())
    networks = total - seconds["selection"] - seconds["outlines"]
    return {
        "device": name_of(device),
        "size": list(images[0].shape[:2]),
        "frames": len(frames),
        "frames_per_second": len(frames) / total,
        "seconds": {part: seconds[part] for part in PARTS} | {"total": total},
        "share": {part: seconds[part] / total for part in PARTS} | {"networks": networks / total},
        "flow_pairs": {"measured": len(frames) - 1, "synthetic": selection.flow_runs},
        "proposals": sum(len(proposals) for proposals in cues.proposals),
        "masks": selection.mask_count,
        "half": device.type == "cuda" and config.proposal.half,
    }


def measure_at_once(pipeline: Pipeline, frames: Sequence[Frame]) -> dict[str, Any]:
    """Clips through the pipeline on a GPU: their speed, and the profile of a second run."""
    return speed_at_once(pipeline, frames) | {"share": profile_at_once(pipeline, frames)}


def speed_at_once(pipeline: Pipeline, frames: Sequence[Frame]) -> dict[str, Any]:
    """Frames per second with everything at once, as far as the device allows."""
    start = time.perf_counter()
    for _ in pipeline.run(frames):
        pass
    seconds = time.perf_counter() - start
    return {"frames": len(frames), "seconds": seconds, "frames_per_second": len(frames) / seconds}


def profile_at_once(pipeline: Pipeline, frames: Sequence[Frame]) -> dict[str, float]:
    """The `shares` of the time on a GPU; slow, since the profile takes long to read."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        profiled = speed_at_once(pipeline, frames)["seconds"]
    spans = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA
    ]
    return shares(spans, 1e6 * profiled)


def shares(spans: Sequence[Span], wall: float) -> dict[str, float]:
    """Parts of the wall time, microseconds, that add up to 1.

    The GPU computes (`networks`), only copies from or to the host (`copies`), or does neither: it
    waits for the `host`.
    """
    is_copy = [name.startswith(("Memcpy HtoD", "Memcpy DtoH")) for name, *_ in spans]
    computing = covered(span for span, copy in zip(spans, is_copy, strict=True) if not copy)
    busy = covered(spans)
    return {
        "networks": computing / wall,
        "copies": (busy - computing) / wall,
        "host": 1 - busy / wall,
    }


def covered(spans: Iterable[Span]) -> float:
    """The time in which at least one of them is under way, microseconds."""
    total, reached = 0.0, -math.inf
    for _, start, end in sorted(spans, key=lambda span: span[1]):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"


def show(row: dict[str, Any]) -> None:
    height, width = row["size"]
    print(
        f"\n{row['device']}: {row['frames']} frames of {height}x{width}, "
        f"{row['frames_per_second']:.3g} frames/s, {row['proposals']} proposals, "
        f"{row['masks']} masks selected"
    )
    print(f"{'part':<16} {'seconds':>9} {'ms/frame':>9} {'share':>7}")
    for part in PARTS:
        seconds = row["seconds"][part]
        pairs = {"flow": "measured", "synthetic flow": "synthetic"}.get(part)
        note = f"   {row['flow_pairs'][pairs]} pairs" if pairs else ""
        per_frame = 1000 * seconds / row["frames"]
        print(f"{part:<16} {seconds:>9.2f} {per_frame:>9.1f} {row['share'][part]:>7.1%}{note}")
    print(f"networks {row['share']['networks']:.1%} of the wall time", flush=True)


def show_at_once(at_once: dict[str, Any]) -> None:
    share = at_once["share"]
    print(
        f"all at once: {at_once['frames_per_second']:.3g} frames/s, bound by "
        f"{max(share, key=share.__getitem__)}; the GPU computes {share['networks']:.1%} of the "
        f"time, only copies {share['copies']:.1%}, waits for the host {share['host']:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 frames of 96x128")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--frames", type=int, help="of the clip (4 on a CPU, 30 on a GPU)")
    parser.add_argument("--devices", nargs="+", help="such as cpu cuda; all that there are")
    for part in ("proposals", "background", "flow"):
        parser.add_argument(f"--{part}", type=Path, help="weights file in place of random weights")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    if args.quick:
        args.height, args.width, args.frames = 96, 128, 3
    frames, rows = args.frames, []
    for name in args.devices or (["cpu"] + ["cuda"] * torch.cuda.is_available()):
        args.frames = frames or (4 if name == "cpu" else 30)
        config = load_config(None, args.set)
        clip = replace(config.clip, length=args.frames, overlap=0)
        config = replace(config, clip=clip, device=name)
        size = args.height, args.width
        pipeline = build(config, size, args.proposals, args.background, args.flow, args.quick)
        row = measure(pipeline, moving_squares(*size, args.frames))
        row |= {"at_once": None, "peak_gpu_bytes": None}
        show(row)  # the profile of what follows takes long to read
        if name != "cpu":
            row["at_once"] = measure_at_once(pipeline, moving_squares(*size, CLIPS * args.frames))
            row["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(torch.device(name))
            show_at_once(row["at_once"])
        rows.append(row)
    if args.out is not None:
        facts = {"torch": torch.__version__, "random": not args.proposals, "rows": rows}
        write_text(args.out, json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
