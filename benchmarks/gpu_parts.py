"""What `benchmarks.gpu` measures: a function a part, which yields one row after the other.

Rows are plain values for JSON. They are yielded as soon as they are known, since a part may be cut
off.
"""

from __future__ import annotations

import contextlib
import gc
import io
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from benchmarks import networks
from benchmarks.conformance import (
    EXACT,
    HALF,
    TF32,
    Difference,
    compare_backgrounds,
    compare_flows,
    compare_proposals,
)
from benchmarks.gpu_inputs import Scaled, long_clip, raft, recorded, rounded
from benchmarks.gpu_setup import NO_GPU, Setup
from benchmarks.isolated import NotThereError
from gbopt_ros.cli.main import main as gbopt
from gbopt_ros.config import Config, LearningConfig
from gbopt_ros.io.datasets.coco import load_coco_dir
from gbopt_ros.io.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.learning.data.datasets import CocoInstances, InstanceDataset
from gbopt_ros.learning.training.fine_tuning import fine_tune
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.onnx import CPU, CUDA, TENSORRT, load_onnx
from gbopt_ros.models.onnx_export import check_installed
from gbopt_ros.models.raft import RaftFlow
from gbopt_ros.perception.background import FpnBackground, load_semantic_fpn
from gbopt_ros.perception.onnx_background import OnnxBackground
from gbopt_ros.perception.onnx_proposals import OnnxProposals
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Clip, Frame, GboptError

Row = dict[str, Any]
Comparison = tuple[str, Callable[..., Difference], Callable[..., Any]]
"""A network: its name, what compares its outputs, and what runs it on images."""

MASK_RCNN, BACKGROUND = "bundled Mask R-CNN", "bundled background network"


# --------------------------------------------------------------------------------------- the parts


def facts(setup: Setup) -> Iterator[Row]:
    """The machine and the versions, or that there is no GPU."""
    if setup.on_gpu and not torch.cuda.is_available():
        raise NotThereError(NO_GPU)
    try:
        import onnxruntime

        onnx = onnxruntime.__version__
    except ImportError:
        onnx = None
    device = torch.device(setup.device)
    yield {
        "device": networks.name_of(device),
        "memory_bytes": torch.cuda.mem_get_info(device)[1] if setup.on_gpu else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "cudnn": torch.backends.cudnn.version() if setup.on_gpu else None,
            "onnxruntime": onnx,
        },
    }


def conformance(setup: Setup) -> Iterator[Row]:
    """Half against single precision; on a GPU also single precision against that of the CPU."""
    cpu, device = torch.device("cpu"), torch.device(setup.device)
    single = partial(_networks, setup, device, half=False)
    if setup.on_gpu:
        pairs = [
            ("float16 against float32", partial(_networks, setup, device, half=True), HALF),
            ("float32 against float32 of the CPU", single, TF32),
        ]
    else:
        weights = partial(_networks, setup, cpu, half=False, prepare=rounded)
        pairs = [("weights of bfloat16 against float32", weights, HALF)]
    frames = recorded(setup.size)
    count = 2 if setup.quick else 8
    step = len(frames) // count  # images far apart, and pairs of neighbours
    firsts, seconds = ([frame.image for frame in frames[start::step][:count]] for start in (0, 1))
    for title, make, within in pairs:
        against_cpu = within is TF32
        reference = partial(_networks, setup, cpu, half=False) if against_cpu else single
        some = slice(4) if against_cpu else slice(None)  # RAFT takes seconds a pair there
        images = firsts[some], seconds[some]
        for (name, compare, found), (_, _, expected) in zip(make(), reference(), strict=True):
            yield _row(name, title, compare(found(*images), expected(*images), within))


def streams(setup: Setup) -> Iterator[Row]:
    """The three networks at once, as the pipeline runs them, against one after the other."""
    config = setup.config()
    device = torch.device(setup.device)
    pipeline = Pipeline(
        config, flow_network=RaftFlow(raft(setup, small=setup.quick), config.flow, device)
    )
    clip = Clip(0, tuple(long_clip(setup, setup.frames)))
    images = [frame.image for frame in clip.frames]

    def serial() -> tuple[Any, ...]:
        return (
            pipeline.proposal_network.propose(images),
            pipeline.background_network.background(images),
            pipeline.flow_network.flow(images[:-1], images[1:]),
        )

    def at_once() -> tuple[Any, ...]:
        cues = pipeline.perceive(clip)
        return cues.proposals, cues.backgrounds, np.stack(cues.flows)

    if setup.on_gpu:  # slow the first time
        serial(), at_once()
    expected, serial_s = _timed(serial)
    within = TF32 if setup.on_gpu else EXACT
    compared = {
        MASK_RCNN: compare_proposals,
        BACKGROUND: compare_backgrounds,
        "RAFT": compare_flows,
    }
    took = []
    for run in range(5 if setup.on_gpu else 1):
        found, at_once_s = _timed(at_once)
        took.append(at_once_s)
        for (name, compare), a, b in zip(compared.items(), found, expected, strict=True):
            title = f"at once against one after the other, run {run + 1}"
            yield _row(name, title, compare(a, b, within))
    yield {
        "frames": len(images),
        "serial_seconds": serial_s,
        "at_once_seconds": statistics.median(took),
    }


def speed_random(setup: Setup) -> Iterator[Row]:
    """Mask R-CNN R50-FPN, background R50 and RAFT large with random weights."""
    flow = Path(setup.flow) if setup.flow else None
    make = partial(networks.build, size=setup.size, flow=flow, quick=setup.quick)
    yield from _speed(setup, make, partial(networks.moving_squares, *setup.size))


def speed_bundled(setup: Setup) -> Iterator[Row]:
    """The bundled networks and DIS flow: the recommended settings."""
    yield from _speed(setup, Pipeline, partial(long_clip, setup))


def learning(setup: Setup) -> Iterator[Row]:
    """A few steps of fine-tuning with the recommended settings, half of each batch rehearsal."""
    config = Config().learning
    config = replace(config, iterations=2, batch_size=2) if setup.quick else config
    config = config if setup.quick else replace(config, iterations=8)
    device = torch.device(setup.device)
    dataset = Scaled(CocoInstances(load_coco_dir(find_resource("demo/rehearsal"))), setup.size)
    made: dict[str, Callable[[], Any]] = {
        MASK_RCNN: lambda: load_mask_rcnn(find_resource(SEED_PROPOSALS))[0],
        "Mask R-CNN R50-FPN, random": networks.random_mask_rcnn,
    }
    for name, make in list(made.items())[: 1 if setup.quick else None]:
        torch.manual_seed(0)
        _forget(setup)
        losses, ends = _fine_tuned(make(), dataset, config, device)
        yield {
            "network": name,
            "batch": config.batch_size,
            "steps": config.iterations,
            "seconds_per_step": statistics.median(np.diff(ends)[1:].tolist()),
            "losses": [losses[0], losses[-1]],
            "memory": _memory(setup),
            "passed": all(map(math.isfinite, losses)),
        }


def onnx(setup: Setup) -> Iterator[Row]:
    """Exported networks in onnxruntime against torch; raises NotThereError if none can run here."""
    try:
        check_installed()
    except GboptError as error:
        raise NotThereError(str(error)) from error
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    wanted = [[CUDA], [TENSORRT, CUDA]] if setup.on_gpu else [[CPU]]
    if not {name for names in wanted for name in names} & {*offered}:
        raise NotThereError(
            f"onnxruntime {onnxruntime.__version__} offers {', '.join(offered)}; "
            "pip install onnxruntime-gpu in its place"
        )
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: _exported(weights, setup.size, Path(folder))
            for name, weights in ((MASK_RCNN, SEED_PROPOSALS), (BACKGROUND, SEED_BACKGROUND))
            if not (setup.quick and name == MASK_RCNN)  # its export takes long
        }
        yield from _onnx_rows(setup, files, wanted, offered)


def _onnx_rows(
    setup: Setup, files: dict[str, Path], wanted: Sequence[list[str]], offered: Sequence[str]
) -> Iterator[Row]:
    """A row for each list of execution providers and each file, by the name of its network."""
    device, config = torch.device(setup.device), setup.config(half=False)
    images = [frame.image for frame in recorded(setup.size)[:: 60 if setup.quick else 12]]
    # Doubt in the network would hide differences.
    background = replace(config.background, onnx_temperature=1.0, onnx_floor=0.0)
    in_torch = [known for known in _networks(setup, device, half=False) if known[0] in files]
    for providers in wanted:
        for name, compare, run in in_torch:
            row = {"network": name, "provider": providers[0].removesuffix("ExecutionProvider")}
            if providers[0] not in offered:
                yield row | {"missing": "not in this onnxruntime"}
                continue
            try:
                file = load_onnx(files[name], device, providers)
                if providers[0] not in file.providers:
                    yield row | {"missing": "its libraries cannot be loaded"}
                    continue
                exported = (
                    OnnxProposals(file, config.proposal, device).propose
                    if compare is compare_proposals
                    else OnnxBackground(file, background).background
                )
                exported(images[:1])  # slow the first time
                found, onnx_s = _timed(partial(exported, images))
            except GboptError as error:
                yield row | {"missing": f"fails: {error}", "passed": False}
                continue
            run(images[:1])
            expected, torch_s = _timed(partial(run, images))
            title = "onnxruntime against torch, float32"
            yield (
                row
                | _row(name, title, compare(found, expected, TF32))
                | {
                    "ms_per_image": 1e3 * onnx_s / len(images),
                    "torch_ms_per_image": 1e3 * torch_s / len(images),
                }
            )


# ----------------------------------------------------------------------------------------- helpers


def _networks(
    setup: Setup,
    device: torch.device,
    half: bool,
    prepare: Callable[[nn.Module], Any] = lambda network: network,
) -> list[Comparison]:
    """The networks whose conformance is measured; all take first and second images of pairs."""
    config = setup.config(half)
    proposing, info = load_mask_rcnn(find_resource(SEED_PROPOSALS))
    semantic, _ = load_semantic_fpn(find_resource(SEED_BACKGROUND))
    proposals = MaskRcnnProposals(
        prepare(proposing), info.version, config.proposal, device, info.calibration
    )
    background = FpnBackground(prepare(semantic), config.background, device)
    flows = {"RAFT small, random": raft(setup, small=True)}
    if not setup.quick:
        flows["RAFT large" if setup.flow else "RAFT large, random"] = raft(setup)
    return [
        (MASK_RCNN, compare_proposals, lambda images, _=None: proposals.propose(images)),
        (BACKGROUND, compare_backgrounds, lambda images, _=None: background.background(images)),
        *(
            (name, compare_flows, RaftFlow(prepare(network), config.flow, device).flow)
            for name, network in flows.items()
        ),
    ]


def _row(network: str, comparison: str, difference: Difference) -> Row:
    return {
        "network": network,
        "comparison": comparison,
        "values": difference.values,
        "at_least": difference.at_least,
        "at_most": difference.at_most,
        "passed": difference.passed,
    }


def _speed(
    setup: Setup, make: Callable[[Config], Pipeline], frames: Callable[[int], Sequence[Frame]]
) -> Iterator[Row]:
    """One clip part by part; on a GPU also clips with everything at once, and the memory."""
    pipeline = make(setup.config())
    _forget(setup)
    yield networks.measure(pipeline, frames(setup.frames))
    if not setup.on_gpu:
        return
    clips = frames(networks.CLIPS * setup.frames)
    yield {"at_once": networks.speed_at_once(pipeline, clips), "memory": _memory(setup)}
    del pipeline  # its networks would count as memory of the next one
    _forget(setup)
    pipeline = make(setup.live_config())
    networks.speed_at_once(pipeline, clips[: setup.frames])  # slow the first time
    yield {"live": networks.speed_at_once(pipeline, clips), "live_memory": _memory(setup)}
    pipeline = make(setup.config())
    yield {"gpu_share": networks.profile_at_once(pipeline, clips)}


def _fine_tuned(
    network: Any, dataset: InstanceDataset, config: LearningConfig, device: torch.device
) -> tuple[list[float], list[float]]:
    """The loss of every step, and the times of the start and of the end of every step, seconds."""
    ends = [time.perf_counter()]
    _, log = fine_tune(
        network, dataset, dataset, config, device, lambda *_: ends.append(time.perf_counter())
    )
    return log.total, ends


def _forget(setup: Setup) -> None:
    """Give the GPU memory of earlier parts back, and start to measure its peak."""
    gc.collect()
    if setup.on_gpu:
        torch.cuda.init()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(setup: Setup) -> dict[str, int] | None:
    """The peak since `_forget`, bytes: of tensors, and of what torch took from the GPU."""
    if not setup.on_gpu:
        return None
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }


def _exported(weights: str, size: tuple[int, int], folder: Path) -> Path:
    """The file that `gbopt models export` makes; raises GboptError with its message."""
    path = folder / f"{Path(weights).stem}-{size[0]}x{size[1]}.onnx"
    told = io.StringIO()
    arguments = ["--size", f"{size[0]}x{size[1]}", "--out", str(path)]
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        status = gbopt(["models", "export", str(find_resource(weights)), *arguments])
    if status:
        raise GboptError(told.getvalue().strip().splitlines()[-1])
    return path


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start
