"""`gbopt run` and `gbopt play`: the graph in a process of its own, what it gives and refuses."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from support.forks import ForkedProgram
from support.networks import save_random_weights
from support.recordings import disc_frames
from support.ros import Graph

from gbopt_ros.cli.main import main
from gbopt_ros.config import load_config
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.msg import SelectedMasks
from gbopt_ros.nodes import composed


def test_run_and_play_give_masks_and_fill_the_store(
    ros_domain_id: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = save_random_weights(tmp_path)
    bag = tmp_path / "disc"
    write_rosbag(disc_frames(6), bag, topic="/other/topic")
    store = tmp_path / "store"
    log = tmp_path / "log"
    arguments = [
        "run", "--camera", "robot_camera", "--namespace", "robot1",
        "--set", f"proposal.weights={weights['proposals']}",
        "--set", f"background.weights={weights['background']}",
        "--set", "clip.length=4", "--set", "clip.overlap=1",
        "--ros-args", "-p", f"store:={store}",
    ]  # fmt: skip
    graph = ForkedProgram("gbopt_ros.cli", arguments, log)
    try:
        with Graph(ros_domain_id) as observing:
            masks = observing.observe(SelectedMasks, "/robot1/selector/output/masks")
            play = ["--to", "robot_camera", "--namespace", "robot1", "--lockstep"]
            assert main(["play", str(bag), *play]) == 0
            said = capsys.readouterr().out
            assert said == "6 frames published on robot_camera, 0 undecodable ones skipped\n"
            observing.wait(lambda: len(masks) == 6, "the masks")
            observing.wait((store / "training").is_dir, "the learner beside the graph")
        graph.interrupt()
        assert graph.wait(30) == 0, log.read_text()
    finally:
        graph.kill()
    assert "Traceback" not in log.read_text()
    assert ModelStore(store).current() is None


@pytest.mark.parametrize(
    ("options", "lag"), [([], 8), (["--set", "selection.lag=2"], 2), (["--config", "paper"], -1)]
)
def test_run_takes_the_profile_robot_where_none_is_named(
    options: list[str], lag: int, in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lags: list[int] = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robot").write_text("selection: {lag: 1}\n")  # nobody names it

    def started(arguments: Sequence[str]) -> int:
        (profile,) = (a.removeprefix("profile:=") for a in arguments if a.startswith("profile:="))
        lags.append(load_config(Path(profile)).selection.lag)
        return 0

    monkeypatch.setattr(composed, "main", started)
    assert main(["run", "--no-learner", *options]) == 0
    assert lags == [lag]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ros-args", "-p", "clip.overlap:=99"], "clip.overlap: expected less than length"),
        (["--ros-args", "-p", "selection.k:=0"], "selection.k"),
        (["--ros-args", "-p", "selection.k:=many"], "selection.k"),
        (["--ros-args", "--params-file", "none.yaml"], "Couldn't parse params file"),
        (
            ["--ros-args", "-p", "selection.score_memory:=0.5"],
            "parameter selection.score_memory is now called selection.score_propagation",
        ),
        (["--ros-args", "-p", "probe:=x"], "parameter probe is now called validation"),
    ],
)
def test_run_refuses_bad_parameters(
    ros_domain_id: int, in_process: None, arguments: list[str], complaint: str, capfd: Any
) -> None:
    assert main(["run", "--no-learner", *arguments]) == 1
    log = capfd.readouterr().err
    assert complaint in log
    assert log.endswith("gbopt: error: the nodes did not start; the log above says why\n")
    assert "Traceback" not in log


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what `gbopt run` changes in its process."""
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_run_tells_that_the_learner_died(ros_domain_id: int, tmp_path: Path) -> None:
    """The other nodes run on; the exit status tells it too."""
    weights = save_random_weights(tmp_path)
    (tmp_path / "store").write_text("a file")
    log = tmp_path / "log"
    arguments = [
        "run", "--set", f"proposal.weights={weights['proposals']}",
        "--set", f"background.weights={weights['background']}",
        "--ros-args", "-p", f"store:={tmp_path / 'store'}",
    ]  # fmt: skip
    graph = ForkedProgram("gbopt_ros.cli", arguments, log)
    try:
        Graph.wait(
            lambda: log.exists() and "nothing is learnt any more" in log.read_text(), "the learner"
        )
        graph.interrupt()
        assert graph.wait(30) == 1
    finally:
        graph.kill()
    said = log.read_text()
    store = tmp_path / "store"
    assert f"{store}: cannot be written: {store} is no folder" in said
    assert said.endswith("the learner ended while the other nodes ran on; the log above says why\n")


def test_run_that_cannot_start_ends_the_learner_quietly(
    ros_domain_id: int, in_process: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The learner still imports its modules then."""
    arguments = ["--set", "proposal.weights=none", "--ros-args", "-p", f"store:={tmp_path}"]
    assert main(["run", *arguments]) == 1
    log = capfd.readouterr().err
    assert "none: no such weights file" in log
    assert log.endswith("gbopt: error: the nodes did not start; the log above says why\n")
    assert "Traceback" not in log


def test_run_refuses_an_old_name_in_set_and_in_a_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "robot.yaml"
    profile.write_text("learning: {recurrence: false}\n")
    for arguments in (["--set", "learning.recurrence=false"], ["--config", str(profile)]):
        assert main(["run", "--no-learner", *arguments]) == 1
        told = capsys.readouterr().err
        assert "learning.recurrence is now called learning.cross_clip_confidence" in told


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--rate", "0"], "--rate: expected a positive number"),
        (["--loop", "-1"], "--loop: expected 0 or more"),
        (["--patience", "nan"], "--patience: expected a positive number"),
        (["--to", "bad topic"], "'}': 'bad topic'\n"),
        (["--namespace", "9"], "starts with a number: '/9'\n"),
        (["--subscribed", "bad topic"], "'}': 'bad topic'\n"),
        (["--patience", "0.3"], "nobody subscribes to /camera/image_raw"),
    ],
)
def test_play_refuses(
    ros_domain_id: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    complaint: str,
) -> None:
    bag = tmp_path / "disc"
    write_rosbag(disc_frames(1), bag, topic="/other/topic")
    assert main(["play", str(bag), *extra]) == 1
    assert complaint in capsys.readouterr().err
