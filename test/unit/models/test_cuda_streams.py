"""Networks side by side: what is ordered before what, with streams that only write it down."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from support.networks import CPU, SIDE, random_images, tiny_mask_rcnn
from torchvision.models.optical_flow import raft_small

from gbopt_ros.config import BackgroundConfig, Config, FlowConfig, ProposalConfig
from gbopt_ros.models.background_fpn import build_background
from gbopt_ros.models.cuda_streams import CudaStreams
from gbopt_ros.models.raft import RaftFlow
from gbopt_ros.perception.background import FpnBackground
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Clip, Cues, Frame

GPU = torch.device("cuda")  # where a test needs no more of it than the name


# -------------------------------------------------------------------------------------- streams


class WrittenStream:
    """In place of `torch.cuda.Stream`: writes down what it is told, and in which thread."""

    log: list[tuple[str, str, str]]

    def __init__(self, device: torch.device, name: str) -> None:
        self.device, self.name = device, name

    def wait_stream(self, other: WrittenStream) -> None:
        self.write(f"waits for {other.name}")

    def synchronize(self) -> None:
        self.write("is empty")

    def write(self, event: str) -> None:
        self.log.append((self.name, threading.current_thread().name, event))


class Entered:
    """In place of `torch.cuda.stream`."""

    def __init__(self, stream: WrittenStream) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        self._stream.write("entered")

    def __exit__(self, *error: object) -> None:
        self._stream.write("left")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """(stream, thread, event) of all streams that are made from now on."""
    events: list[tuple[str, str, str]] = []
    monkeypatch.setattr(WrittenStream, "log", events, raising=False)
    names = iter("abc")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: WrittenStream(device, next(names)))
    monkeypatch.setattr(torch.cuda, "stream", Entered)
    caller = threading.current_thread()

    def current(device: torch.device) -> WrittenStream:
        return WrittenStream(device, "caller" if threading.current_thread() is caller else "wrong")

    monkeypatch.setattr(torch.cuda, "current_stream", current)
    return events


def written(log: list[tuple[str, str, str]], name: str) -> Callable[[], str]:
    """A call that writes down that it was made."""

    def call() -> str:
        log.append((name, threading.current_thread().name, "call"))
        return name

    return call


def test_cuda_streams_wait_run_and_are_empty(log) -> None:
    assert CudaStreams(GPU).run(*(written(log, name) for name in "abc")) == ("a", "b", "c")
    for name in "abc":
        events = [event for stream, _, event in log if stream == name]
        assert events == ["waits for caller", "entered", "call", "is empty", "left"]
        assert len({thread for stream, thread, _ in log if stream == name}) == 1
    assert threading.current_thread().name not in {thread for _, thread, _ in log}


def test_cuda_streams_run_calls_at_once(log) -> None:
    together = threading.Barrier(3, timeout=10)
    CudaStreams(GPU).run(together.wait, together.wait, together.wait)


def test_cuda_streams_leave_no_work_after_a_call_that_fails(log) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        CudaStreams(GPU).run(written(log, "a"), fail, written(log, "c"))
    for name in "abc":
        assert [event for stream, _, event in log if stream == name][-2:] == ["is empty", "left"]


def test_cuda_streams_on_a_cpu_run_calls_in_order_in_the_callers_thread(log) -> None:
    assert CudaStreams(CPU).run(*(written(log, name) for name in "abc")) == ("a", "b", "c")
    thread = threading.current_thread().name
    assert log == [(name, thread, "call") for name in "abc"]


# ------------------------------------------------------------------------- the three networks


def make_pipeline(device: torch.device) -> Pipeline:
    """Small random networks in single precision."""
    torch.manual_seed(0)
    background = build_background("slim18-semantic-fpn")
    background.short_side = SIDE
    raft = raft_small(weights=None)
    return Pipeline(
        replace(Config(), device=str(device)),
        proposal_network=MaskRcnnProposals(
            tiny_mask_rcnn(), "random", ProposalConfig(half=False, max_proposals=8), device
        ),
        background_network=FpnBackground(background, BackgroundConfig(half=False), device),
        flow_network=RaftFlow(raft, FlowConfig(half=False), device),
    )


def make_clip(count: int = 4) -> Clip:
    frames = [Frame(image, 10**8 * (t + 1), t) for t, image in enumerate(random_images(count))]
    return Clip(0, tuple(frames))


def one_after_the_other(pipeline: Pipeline, clip: Clip) -> Cues:
    shown = [frame.image for frame in clip.frames]
    return Cues(
        pipeline.proposal_network.propose(shown),
        pipeline.background_network.background(shown),
        pipeline.flow_network.flow(shown[:-1], shown[1:]),
    )


def assert_equal(a: Cues, b: Cues) -> None:
    for found, expected in zip(a.proposals, b.proposals, strict=True):
        assert found.rles == expected.rles
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(a.backgrounds, b.backgrounds)
    np.testing.assert_array_equal(a.flows, b.flows)


@pytest.mark.parametrize("threads", [False, True])
def test_pipeline_perceive_gives_the_outputs_of_single_networks(
    log, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU; with threads, as on a GPU, between streams that only write."""
    if threads:
        monkeypatch.setattr("gbopt_ros.pipeline.CudaStreams", lambda _: CudaStreams(GPU))
    pipeline, clip = make_pipeline(CPU), make_clip()
    expected = one_after_the_other(pipeline, clip)
    assert any(len(proposals) for proposals in expected.proposals)
    for _ in range(3):
        assert_equal(pipeline.perceive(clip), expected)
    assert bool(log) is threads
    assert set(pipeline.seconds) == {"proposals", "background", "flow"}


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU")
    return torch.device("cuda")


def test_cuda_streams_of_a_gpu_give_what_its_default_stream_gives(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a third thread runs RAFT on the default stream, as selection does.

    cuDNN may choose another algorithm in another thread, so results are close, not equal.
    """
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    pipeline, clip = make_pipeline(gpu), make_clip(12)
    expected = one_after_the_other(pipeline, clip)
    shown = [frame.image for frame in clip.frames]
    for _ in range(5):
        other = threading.Thread(target=pipeline.flow_network.flow, args=(shown[::2], shown[1::2]))
        other.start()
        found = pipeline.perceive(clip)
        other.join()
        np.testing.assert_allclose(found.backgrounds, expected.backgrounds, atol=1e-3)
        assert np.median(np.abs(found.flows - expected.flows)) <= 1e-2  # pixels
        for a, b in zip(found.proposals, expected.proposals, strict=True):
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)


# ---------------------------------------------------------------------------------- the profile


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """`benchmarks/networks.py`, whose name is that of a module of the tests."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "networks.py"
    spec = importlib.util.spec_from_file_location("networks_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_benchmark_shares_of_the_wall_time(benchmark: ModuleType) -> None:
    """Kernels and copies of several streams overlap; a copy under a kernel costs nothing."""
    spans = [
        ("Memcpy HtoD (Pinned -> Device)", 0.0, 10.0),
        ("convolution", 5.0, 40.0),
        ("correlation", 20.0, 50.0),
        ("Memcpy DtoH (Device -> Pinned)", 30.0, 60.0),
        ("Memcpy DtoD (Device -> Device)", 70.0, 75.0),
    ]
    expected = {"networks": 0.5, "copies": 0.15, "host": 0.35}
    assert benchmark.shares(spans[::-1], 100.0) == pytest.approx(expected)
    assert benchmark.shares([], 100.0) == {"networks": 0.0, "copies": 0.0, "host": 1.0}


def test_benchmark_measure_at_once_on_a_gpu(gpu: torch.device, benchmark: ModuleType) -> None:
    frames = [Frame(image, 10**8 * (t + 1), t) for t, image in enumerate(random_images(8))]
    found = benchmark.measure_at_once(make_pipeline(gpu), frames)
    assert found["frames"] == 8
    assert 0 < found["share"]["networks"] < 1
    assert sum(found["share"].values()) == pytest.approx(1)
