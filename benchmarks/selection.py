"""The selection: how fast, how lazy, how much memory, and the paper's algorithm beside it.

    python -m benchmarks.selection --out DIR              # the demo recording
    python -m benchmarks.selection --out DIR my_video.mp4 --parts flow_runs

Parts, all by default: `paper_reference` (the paper's algorithm on the recording's proposals),
`stage1` and `stage2` (times), `growth` (with a plot), `crowds` (stage 1 with N = 100 on crowded
frames), `limits` (stage 1 on frames too hard to search to the end), `flow_runs`, `memory`, `share`
(share of the whole time, with a profile) and `lag` (waiting time and extra energy of an early
decision). Times are medians of the CPU time of one process on one thread; the spread beside them is
the noise of the machine. Exit status 1 if results that must be equal are not.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import itertools
import json
import pstats
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import paper_reference
from benchmarks.networks import TimedFlow
from gbopt_ros import masks as mask_ops
from gbopt_ros.config import Config, SelectionConfig, load_config
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.perception.flow import high_detail_flow
from gbopt_ros.perception.motion import clip_with_motion
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.selection import FixedLagSelector, best_combinations, lattice, select_clip
from gbopt_ros.selection.atoms import atoms_of_rles
from gbopt_ros.selection.combinations import combinations_of_atoms
from gbopt_ros.selection.lattice import Lattice
from gbopt_ros.selection.path import lazy_shortest_path, node_min_marginals
from gbopt_ros.structures import Clip, Combination, Cues, Frame, Proposals, Rle

VGA = (480, 640)
PARTS = (
    "paper_reference",
    "stage1",
    "stage2",
    "growth",
    "crowds",
    "limits",
    "flow_runs",
    "memory",
    "share",
    "lag",
)
Recorded = tuple[Clip, Cues]
Background = NDArray[np.float32]
RandomFrame = Callable[[int, int, tuple[int, int]], tuple[tuple[Rle, ...], Background]]


def milliseconds(work: Callable[[], object], repeats: int = 30) -> dict[str, float]:
    """Median and quartiles of a call's CPU time: other jobs on the machine count less in it."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - start))
    low, median, high = statistics.quantiles(times, n=4)
    return {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def recorded(
    source: Path, config: Config, size: tuple[int, int] | None, frames: int
) -> list[Recorded]:
    """Clips of a recording with their cues; images scaled to `size`.

    Backgrounds hold the evidence of motion, as the selection gets them.
    """

    def scaled(frame: Frame) -> Frame:
        if size is None:
            return frame
        image = cv2.resize(frame.image, size[::-1], interpolation=cv2.INTER_LINEAR)
        return replace(frame, image=np.asarray(image))

    pipeline = Pipeline(config)
    stream = map(scaled, itertools.islice(open_source(source), frames))
    flow, found = high_detail_flow(pipeline.flow_network), []
    for clip in pipeline.clips(stream):
        cues = pipeline.perceive(clip)
        moved = clip_with_motion(clip.frames, cues.backgrounds, flow, config.motion)
        found.append((clip, replace(cues, backgrounds=moved)))
    return found


def paper_algorithm(clips: Sequence[Recorded], config: Config) -> dict[str, Any]:
    """The paper's stage 1 and stage 2 on recorded proposals, times side by side."""
    k, epsilon = config.selection.k, config.selection.epsilon
    frames = [
        (p, mask_ops.decode_all(p.rles, p.size), b)
        for _, cues in clips
        for p, b in zip(cues.proposals, cues.backgrounds, strict=True)
    ][:6]
    ours_ms, paper_ms = [], []
    outcomes = {"disjoint": 0, "as_written": 0, "keep_foreground": 0}
    for proposals, masks, background in frames:
        for name, candidates, keep in (
            ("disjoint", _disjoint(masks), False),
            ("as_written", masks, False),
            ("keep_foreground", masks, True),
        ):
            start = time.process_time()
            theirs = paper_reference.best_combinations(candidates, background, k, epsilon, keep)
            if name == "as_written":
                paper_ms.append(1e3 * (time.process_time() - start))
            ours = best_combinations(candidates, background, k)
            outcomes[name] += np.allclose(
                [c.loss for c in ours], [loss for loss, _ in theirs], atol=1e-6
            )
        ours_ms.append(
            milliseconds(lambda p=proposals, b=background: _stage1(p, b, config.selection, 0.0), 9)[
                "median"
            ]
        )
    # Stage 2, every edge evaluated, by Dijkstra's algorithm with shifted weights.
    clip, cues = clips[0]
    settings = replace(config.selection, exhaustive=True)
    network = Pipeline(config).flow_network
    graph = Lattice(network, settings)
    for frame, p, b, flow in zip(
        clip.frames, cues.proposals, cues.backgrounds, [None, *cues.flows], strict=True
    ):
        graph.append(frame, p, b, flow)
    energy, path = paper_reference.shortest_path(graph.nodes, graph.edges)
    lazy = select_clip(
        clip, cues.proposals, cues.backgrounds, list(cues.flows), network, config.selection
    )
    same_path = [graph.layers[t].combinations[m].indices for t, m in enumerate(path)]
    return {
        "frames": len(frames),
        "mean_candidates_without_overlap": float(
            np.mean([len(_disjoint(m)) for _, m, _ in frames])
        ),
        "equal_without_overlap": outcomes["disjoint"],
        "equal_as_written": outcomes["as_written"],
        "equal_keeping_foreground": outcomes["keep_foreground"],
        "paper_ms": round(statistics.median(paper_ms), 1),
        "ours_ms": round(statistics.median(ours_ms), 2),
        "times_faster": round(statistics.median(paper_ms) / statistics.median(ours_ms)),
        "stage2_difference": abs(energy - lazy.energy),
        "equal": outcomes["disjoint"] == len(frames)
        and abs(energy - lazy.energy) < 1e-9
        and all(
            set(frame.indices) <= set(indices)
            for frame, indices in zip(lazy.frames, same_path, strict=True)
        ),
    }


def _stage1(
    proposals: Proposals,
    background: NDArray[np.floating],
    settings: SelectionConfig,
    tolerance: float,
) -> list[Combination]:
    """Stage 1 from the masks' run lengths, as the pipeline calls it."""
    combinations, _ = combinations_of_atoms(
        atoms_of_rles(proposals.rles, proposals.size),
        background,
        settings.k,
        tolerance,
        epsilon=settings.epsilon,
    )
    return combinations


def _disjoint(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The masks, best first, that share no pixel with one that was kept before."""
    taken = np.zeros(masks.shape[1:], bool)
    kept = []
    for mask in masks:
        if not (mask & taken).any():
            kept.append(mask)
            taken |= mask
    return np.array(kept, bool).reshape(-1, *masks.shape[1:])


def stage1(few: Sequence[Recorded], many: Sequence[Recorded], config: Config) -> dict[str, Any]:
    """A whole frame, from masks to K combinations, at 480x640."""
    settings = config.selection
    rows = {}
    for name, clips in (("N=15", few), ("N=100", many)):
        pairs = [
            (p, b)
            for _, cues in clips
            for p, b in zip(cues.proposals, cues.backgrounds, strict=True)
        ]
        of_rles, of_masks = [], []
        for p, b in pairs:
            masks = mask_ops.decode_all(p.rles, p.size)

            def from_rles(p: Any = p, b: Any = b) -> object:
                return _stage1(p, b, settings, settings.overlap_tolerance)

            def from_masks(masks: Any = masks, b: Any = b) -> object:
                return best_combinations(masks, b, settings.k, settings.overlap_tolerance)

            of_rles.append(milliseconds(from_rles, 9)["median"])
            of_masks.append(milliseconds(from_masks, 9)["median"])
        rows[name] = {
            "candidates": float(np.mean([len(p) for p, _ in pairs])),
            "from_run_lengths_ms": _spread(of_rles),
            "from_bool_masks_ms": _spread(of_masks),
            "pixel_codes_alone_ms": milliseconds(lambda masks=masks: _pixel_codes(masks), 9),
        }
    return rows


def _pixel_codes(masks: NDArray[np.bool_]) -> object:
    """Atoms by one bit code a pixel: the representation that was not taken."""
    packed = np.packbits(masks, axis=0)  # (ceil(N / 8), H, W)
    flat = np.ascontiguousarray(packed.reshape(len(packed), -1).T)
    covered = flat[flat.any(axis=1)]
    return np.unique(covered.view([("", np.uint8)] * covered.shape[1]), return_inverse=True)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def stage2() -> dict[str, Any]:
    """The path and the min-marginals at T = 180, K = 10, every edge known."""
    rng = np.random.default_rng(0)
    nodes = [rng.random(10) for _ in range(180)]
    edges = [rng.random((10, 10)) for _ in range(179)]
    known = [np.ones((10, 10), bool) for _ in edges]
    return {
        "path_ms": milliseconds(
            lambda: lazy_shortest_path(nodes, edges, edges, known, lambda _: [])
        ),
        "min_marginals_ms": milliseconds(lambda: node_min_marginals(nodes, edges)),
    }


def crowded(seed: int, n: int, size: tuple[int, int]) -> tuple[tuple[Rle, ...], Background]:
    """Ellipses of a twelfth to a third of the image, thrown at random; a third are objects."""
    rng = np.random.default_rng(seed)
    height, width = size
    small = rng.random((height // 16, width // 16)).astype(np.float32)
    background = cv2.resize(cv2.GaussianBlur(small, (0, 0), 1.5), (width, height))
    background = (background - background.min()) / np.ptp(background)
    masks = np.zeros((n, *size), np.uint8)
    for number, mask in enumerate(masks):
        centre = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        axes = [int(rng.uniform(min(size) / 24, min(size) / 6)) for _ in range(2)]
        cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1, -1)
        if number % 3 == 0:
            covered = mask.astype(bool)
            background[covered] = np.minimum(background[covered], rng.uniform(0.15, 0.35))
    return mask_ops.encode_all(masks.astype(bool)), background


def discs(seed: int, n: int, size: tuple[int, int]) -> tuple[tuple[Rle, ...], Background]:
    """Small discs on a background of noise."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[: size[0], : size[1]] / size[0]
    masks = [
        (ys - rng.random()) ** 2 + (xs - rng.random() * size[1] / size[0]) ** 2
        < rng.uniform(0.03, 0.12) ** 2
        for _ in range(n)
    ]
    return mask_ops.encode_all(np.stack(masks)), rng.random(size).astype(np.float32)


def crowds(frames: int) -> dict[str, Any]:
    """Stage 1 on crowded frames, N = 100, K = 10, 480x640: ms over frames, by tolerance."""
    found = {}
    for tolerance in (0.0, 0.05, SelectionConfig.overlap_tolerance):
        times = []
        for seed in range(frames):
            rles, background = crowded(seed, 100, VGA)
            work = partial(_stage1_of, rles, background, 10, tolerance)
            if not seed:
                work()  # the first call imports the solver
            times.append(milliseconds(work, 3)["median"])
        found[f"tolerance {tolerance}"] = {
            "frames": frames,
            "median": round(statistics.median(times), 1),
            "worst": round(max(times), 1),
        }
    return found


def limits() -> dict[str, Any]:
    """Seconds of stage 1, K = 10, for masks on white noise, which reach its limit of work."""
    rng = np.random.default_rng(0)
    crowds = {f"{n} ellipses": crowded(0, n, VGA)[0] for n in (150, 200, 300)}
    noise = {
        f"30 masks of pixel noise, {width}x{height}": mask_ops.encode_all(
            rng.random((30, height, width)) < 0.1
        )
        for height, width in ((96, 128), (240, 320))
    }
    found = {}
    for name, rles in (crowds | noise).items():
        height, width = rles[0]["size"]
        background = rng.random((height, width), np.float32)
        work = partial(_stage1_of, rles, background, 10, SelectionConfig.overlap_tolerance)
        found[name] = round(milliseconds(work, 2)["median"] / 1000, 1)
    return found


def growth(out: Path) -> dict[str, Any]:
    """Stage 1 on random frames, one of N, K and H x W varied at a time; a plot in `out`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def measure(n: int, k: int, size: tuple[int, int], frame: RandomFrame = discs) -> float:
        rles, background = frame(0, n, size)
        return milliseconds(partial(_stage1_of, rles, background, k, 0.0), 9)["median"]

    counts = 5, 10, 15, 25, 50, 75, 100
    rows: dict[str, list[tuple[float, float]]] = {
        "N, candidates (K = 10, 480x640)": [(n, measure(n, 10, VGA)) for n in counts],
        "N, crowded frames": [(n, measure(n, 10, VGA, crowded)) for n in counts],
        "K, combinations (N = 15, 480x640)": [
            (k, measure(15, k, VGA)) for k in (1, 5, 10, 20, 50, 100)
        ],
        "megapixels (N = 15, K = 10)": [
            (h * w / 1e6, measure(15, 10, (h, w)))
            for h, w in ((120, 160), (240, 320), (480, 640), (720, 1280), (1080, 1920))
        ],
    }
    figure, axes = pyplot.subplots(1, len(rows), figsize=(13, 3), sharey=True, layout="constrained")
    for axis, (label, points) in zip(axes, rows.items(), strict=True):
        axis.plot(*zip(*points, strict=True), marker="o")
        axis.set(xlabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("stage 1, ms a frame")
    figure.savefig(out / "growth.svg")
    return {label: points for label, points in rows.items()}


def _stage1_of(
    rles: Sequence[Rle], background: Background, k: int, tolerance: float
) -> list[Combination]:
    size = background.shape[0], background.shape[1]
    decomposed = atoms_of_rles(rles, size)
    return combinations_of_atoms(decomposed, background, k, tolerance, epsilon=1e-3)[0]


def flow_runs(clips: Sequence[Recorded], config: Config, exhaustive: int) -> dict[str, Any]:
    """Runs of the flow network against K^2 (T - 1); the optimum against exhaustive evaluation."""
    network = Pipeline(config).flow_network
    runs = possible = differing = 0
    for number, (clip, cues) in enumerate(clips):
        arguments = (clip, cues.proposals, cues.backgrounds, list(cues.flows), network)
        lazy = select_clip(*arguments, config.selection)
        runs += lazy.flow_runs
        possible += config.selection.k**2 * (len(clip) - 1)
        if number < exhaustive:
            full = select_clip(*arguments, replace(config.selection, exhaustive=True))
            same = [f.indices for f in lazy.frames] == [f.indices for f in full.frames]
            differing += not same or abs(lazy.energy - full.energy) > 1e-9
    return {
        "clips": len(clips),
        "runs": runs,
        "percent": round(100 * runs / possible, 2),
        "clips_compared": min(exhaustive, len(clips)),
        "equal": differing == 0,
    }


def memory(clips: Sequence[Recorded], config: Config, length: int = 180) -> dict[str, Any]:
    """Peak of what selection allocates on one long clip, its inputs not counted."""
    clip, cues = clips[0]
    turn = [t % len(clip) for t in range(length)]
    frames = tuple(Frame(clip.frames[s].image, t, t) for t, s in enumerate(turn))
    flows = [cues.flows[s % len(cues.flows)] for s in turn[:-1]]
    network = Pipeline(config).flow_network
    tracemalloc.start()
    selection = select_clip(
        Clip(0, frames),
        [cues.proposals[s] for s in turn],
        [cues.backgrounds[s] for s in turn],
        flows,
        network,
        config.selection,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "frames": length,
        "size": clip.size,
        "peak_mb": round(peak / 1e6, 1),
        "flow_runs": selection.flow_runs,
    }


def lag(clips: Sequence[Recorded], config: Config) -> dict[str, Any]:
    """Decisions with a fixed lag against those of the whole clip."""
    network = Pipeline(config).flow_network
    rows: dict[str, Any] = {}
    for limit in (0, 1, 2, 4, 8, None):
        same = frames = 0
        waits: list[int] = []
        excess: list[float] = []
        for clip, cues in clips:
            inputs = (cues.proposals, cues.backgrounds, list(cues.flows))
            whole = select_clip(clip, *inputs, network, config.selection)
            selector = FixedLagSelector(network, config.selection, limit)
            decided = []
            for now, (frame, p, b, flow) in enumerate(
                zip(clip.frames, *inputs[:2], [None, *inputs[2]], strict=True)
            ):
                new = selector.add(frame, p, b, flow)
                waits += [now - len(decided) - i for i in range(len(new))]
                decided += new
            rest = selector.finish()
            waits += [len(clip) - 1 - len(decided) - i for i in range(len(rest))]
            decided += rest
            frames += len(clip)
            same += sum(a.rles == b.rles for a, b in zip(decided, whole.frames, strict=True))
            excess.append((selector.energy - whole.energy) / len(clip))
        rows[str(limit)] = {
            "same_frames_percent": round(100 * same / frames, 1),
            "mean_wait_frames": round(statistics.mean(waits), 2),
            "excess_energy_a_frame": round(statistics.mean(excess), 6),
        }
    return {**rows, "equal": rows["None"]["same_frames_percent"] == 100.0}


def share(source: Path, config: Config, frames: int) -> dict[str, Any]:
    """The share of the selection in the whole time; synthetic flow counts as network time."""
    pipeline = Pipeline(config)
    network = TimedFlow(lattice.low_detail_flow(pipeline.flow_network))
    for _ in pipeline.run(itertools.islice(open_source(source), 2)):
        pass
    pipeline.seconds.clear()
    clips = list(pipeline.clips(itertools.islice(open_source(source), frames)))
    all_cues = [pipeline.perceive(clip) for clip in clips]
    with mock.patch.object(lattice, "low_detail_flow", lambda _: network):
        for clip, cues in zip(clips, all_cues, strict=True):
            pipeline.select(clip, cues)
    synthetic = network.seconds
    seconds = {name: round(value, 2) for name, value in pipeline.seconds.items()}
    own = ("motion", "selection", "outlines", "tracks")
    networks = sum(v for name, v in pipeline.seconds.items() if name not in own) + synthetic
    rest = pipeline.seconds["selection"] - synthetic
    profile = cProfile.Profile()
    profile.enable()
    for clip, cues in zip(clips, all_cues, strict=True):
        pipeline.select(clip, cues)
    profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(12)
    print(text.getvalue())
    return {
        "frames": sum(len(clip) for clip in clips),
        "seconds": seconds,
        "synthetic_flow": round(synthetic, 2),
        "selection_without_networks": round(rest, 2),
        "percent_of_networks": round(100 * rest / networks, 1),
        "outlines_percent_of_networks": round(100 * pipeline.seconds["outlines"] / networks, 1),
        "motion_percent_of_networks": round(100 * pipeline.seconds["motion"] / networks, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, nargs="?", help="default: the demo recording")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--config", type=Path, help="YAML profile (default: none)")
    parser.add_argument("--set", action="append", default=["selection.k=10"], metavar="KEY=VALUE")
    parser.add_argument("--frames", type=int, default=60, help="number of frames of the recording")
    parser.add_argument("--exhaustive", type=int, default=2, help="clips to evaluate in full")
    parser.add_argument("--quick", action="store_true", help="20 frames")
    args = parser.parse_args()
    if args.quick:
        args.frames, args.exhaustive = 20, 1
    args.out.mkdir(parents=True, exist_ok=True)
    source = args.source or find_resource("demo/recording")
    config = load_config(args.config, args.set)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    @cache
    def few(*more: str) -> list[Recorded]:
        return recorded(source, load_config(args.config, [*args.set, *more]), VGA, 12)

    @cache
    def clips() -> list[Recorded]:
        return recorded(source, config, None, args.frames)

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "paper_reference": lambda: paper_algorithm(few(), config),
        "stage1": lambda: stage1(few(), few("proposal.max_proposals=100"), config),
        "stage2": stage2,
        "growth": lambda: growth(args.out),
        "crowds": lambda: crowds(20 if args.quick else 200),
        "limits": limits,
        "flow_runs": lambda: flow_runs(clips(), config, args.exhaustive),
        "memory": lambda: memory(few(), config),
        "share": lambda: share(source, config, args.frames),
        "lag": lambda: lag(clips(), config),
    }
    results = {}
    for part in args.parts:
        results[part] = parts[part]()
        print(part, json.dumps(results[part]), flush=True)
    (args.out / "selection.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(r.get("equal", True) for r in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
