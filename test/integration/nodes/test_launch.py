"""The launch files, where the launch system is installed."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

launch = pytest.importorskip("launch", reason="the launch system comes with an installed ROS")
pytest.importorskip("launch_ros", reason="the launch system comes with an installed ROS")
if not hasattr(launch, "LaunchContext"):  # the folder of launch files, found as a namespace
    pytest.skip("the launch system comes with an installed ROS", allow_module_level=True)

logging.setLoggerClass(logging.Logger)  # the one of launch would hide what our modules log

from gbopt_ros.nodes.launching import end_all

FOLDER = Path(__file__).resolve().parents[3] / "launch"
SEPARATE = {"clip_buffer", "proposal", "background", "flow", "selector"}


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.launch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def nodes(**arguments: str) -> dict[str, Any]:
    """The node actions of `active_vision.launch.py` by their executable."""
    module = load("active_vision")
    context = launch.LaunchContext()
    for argument in module.ARGUMENTS:
        argument.visit(context)
    context.launch_configurations.update(arguments)
    return {node.node_executable: node for node in module.start(context)}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"composed", "learner"}),
        ({"learner": "false"}, {"composed"}),
        ({"composed": "false"}, SEPARATE | {"learner"}),
        ({"depth": "/depth/image"}, {"composed", "learner"}),
        ({"depth": "/depth/image", "composed": "false"}, SEPARATE | {"objects_3d", "learner"}),
        ({"composed": "false", "learner": "false"}, SEPARATE),
    ],
)
def test_start_launches_the_processes_of_its_arguments(
    arguments: dict[str, str], expected: set[str]
) -> None:
    assert nodes(**arguments).keys() == expected


def words(parts: Any) -> list[str]:
    """Parts of a command, as text."""
    from launch.utilities import perform_substitutions

    return [perform_substitutions(launch.LaunchContext(), part) for part in parts]


@pytest.mark.usefixtures("rviz2")
def test_use_sim_time_is_a_parameter_of_every_process() -> None:
    """Else it is not mentioned, so that a parameter file may set it."""
    given = {"rviz": "true", "composed": "false"}
    for node in nodes(**given, use_sim_time="true").values():
        assert "use_sim_time:=true" in words(node.cmd[1:])  # without the program
    for node in nodes(**given).values():
        assert not any("use_sim_time" in word for word in words(node.cmd[1:]))


def ended(returncode: int) -> Any:
    about = {"action": None, "name": "player-1", "cmd": [], "cwd": None, "env": None, "pid": 1}
    return launch.events.process.ProcessExited(returncode=returncode, **about)


def test_end_all_shuts_down_and_fails_the_launch_if_the_process_failed() -> None:
    """By Ctrl-C it did not fail."""
    context = launch.LaunchContext()
    for returncode in (0, 130, -2):
        (shutdown,) = end_all(ended(returncode), context)
        assert isinstance(shutdown, launch.actions.Shutdown)
    for returncode in (1, -9):
        with pytest.raises(RuntimeError, match=f"player-1 ended with status {returncode}"):
            end_all(ended(returncode), context)


def on_exit_of(action: Any) -> Any:
    return action._ExecuteLocal__on_exit


def test_a_process_that_ends_ends_the_others_unless_they_do_not_need_it() -> None:
    """Or it is started again."""
    assert on_exit_of(nodes()["composed"]) is end_all
    assert on_exit_of(nodes()["learner"]) is None
    assert on_exit_of(nodes(respawn="true")["composed"]) is None


def test_replay_ends_with_its_player_and_fails_with_it() -> None:
    module, context = load("replay"), launch.LaunchContext()
    context.launch_configurations.update({
        "bag": "/data/monday", "rate": "2.0", "lockstep": "true", "learner": "false",
        "namespace": "",
    })  # fmt: skip
    (player,) = module.play(context)
    assert on_exit_of(player) is end_all


@pytest.fixture
def rviz2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RViz counts as installed."""
    index = tmp_path / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "rviz2").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path), prepend=os.pathsep)


def test_rviz_that_is_not_installed_is_a_warning_and_the_nodes_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert nodes(rviz="true").keys() == {"composed", "learner"}
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "apt install ros-jazzy-rviz2" in record.getMessage()


@pytest.mark.usefixtures("rviz2")
def test_rviz_shows_the_topics_of_the_namespace() -> None:
    """Its own configuration is installed, and names topics without a namespace."""
    assert "rviz2" not in nodes()
    rviz = nodes(rviz="true", namespace="robot1", target_frame="base_link")["rviz2"]
    remappings = dict(map(words, rviz._Node__remappings))
    assert remappings["/selector/debug/overlay"] == "selector/debug/overlay"
    assert remappings["/objects_3d/output/points"] == "objects_3d/output/points"
    command = words(rviz.cmd[1:])
    assert command[command.index("-f") + 1] == "base_link"
    assert Path(command[command.index("-d") + 1]).name == "gbopt.rviz"
