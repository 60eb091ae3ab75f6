"""The live graph in lockstep with a recording gives the masks of `gbopt replay`, bit by bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from support.live import PATIENT, RECORDING, replay, replayed_masks

from benchmarks.graph_processes import (
    COMPOSED,
    SEPARATE,
    TOPIC,
    Masks,
    Observer,
    graph_processes,
)
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources import open_source
from gbopt_ros.nodes.player import player

pytestmark = pytest.mark.timeout(1200)

SECONDS = 35.0  # of the recording: six clips of ten frames
ROBOT = find_resource("config/robot.yaml")
Replayed = Callable[..., Masks]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """The masks of `gbopt replay` with some options, replayed once."""
    known: dict[tuple[str, ...], Masks] = {}

    def masks(*options: str) -> Masks:
        if options not in known:
            out = tmp_path_factory.mktemp("replay") / "out"
            replay(RECORDING, out, f"--end={SECONDS}", *options)
            known[options] = replayed_masks(out)
        return known[options]

    return masks


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, ros_domain_id: int) -> None:
    """One thread in every process: with another number of threads the last bits differ."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")


def live_masks(modules: tuple[str, ...], **parameters: object) -> Masks:
    """What a graph publishes of the recording in lockstep."""
    parameters = {"device": "cpu", **PATIENT, **parameters}
    with graph_processes(modules, **parameters), Observer() as observer:
        frames = list(open_source(RECORDING, end=SECONDS))
        observer.wait_for_graph()
        with player(TOPIC, lockstep=True, patience_s=300.0) as playing:
            playing.play(frames)
        stamps = {frame.stamp_ns for frame in frames}
        observer.spin_until(lambda: stamps <= observer.masks.keys(), 30.0)
    missing = [frame.index for frame in frames if frame.stamp_ns not in observer.masks]
    assert not missing, f"no masks of frames {missing}"
    assert len(observer.versions) == len(frames)  # each frame once, and by this graph alone
    return observer.masks


def assert_same_masks(live: Masks, replayed: Masks) -> None:
    """Fail with the stamps of the frames that differ, and the masks that do."""
    differing = {
        stamp: [
            index
            for index, pair in enumerate(itertools.zip_longest(live.get(stamp, []), masks))
            if pair[0] != pair[1]
        ]
        for stamp, masks in replayed.items()
        if live.get(stamp) != masks
    }
    assert live.keys() == replayed.keys()
    assert not differing, f"{len(differing)} of {len(replayed)} frames differ: {differing}"


@pytest.mark.parametrize("modules", [COMPOSED, SEPARATE], ids=["composed", "separate"])
def test_live_graph_gives_the_masks_of_the_replay(
    replayed: Replayed, modules: tuple[str, ...]
) -> None:
    assert_same_masks(live_masks(modules), replayed())


def test_live_graph_with_a_lag_gives_the_masks_of_the_replay(replayed: Replayed) -> None:
    assert_same_masks(live_masks(COMPOSED, profile=ROBOT), replayed(f"--config={ROBOT}"))


def test_live_graph_with_a_lag_and_overlap_gives_the_masks_of_the_replay(
    replayed: Replayed,
) -> None:
    """The recording has gaps; only short clips overlap in it."""
    options = f"--config={ROBOT}", "--set=clip.length=8"
    live = live_masks(COMPOSED, profile=ROBOT, clip__length=8)
    assert_same_masks(live, replayed(*options))
