"""The launch files, where the launch system is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

launch = pytest.importorskip("launch", reason="the launch system comes with an installed ROS")
pytest.importorskip("launch_ros", reason="the launch system comes with an installed ROS")
if not hasattr(launch, "LaunchContext"):  # the folder of launch files, found as a namespace
    pytest.skip("the launch system comes with an installed ROS", allow_module_level=True)

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


def test_end_all_shuts_down_and_fails_the_launch_if_the_process_failed() -> None:
    """A process that ends ends the others, unless it is the learner or is started again."""
    module, context = load("active_vision"), launch.LaunchContext()
    event = launch.events.process.ProcessExited
    about = {"action": None, "name": "composed-1", "cmd": [], "cwd": None, "env": None, "pid": 1}
    (shutdown,) = module.end_all(event(returncode=0, **about), context)
    assert isinstance(shutdown, launch.actions.Shutdown)
    with pytest.raises(RuntimeError, match="composed-1 ended with status 1"):
        module.end_all(event(returncode=1, **about), context)


def test_rviz_shows_the_topics_of_the_namespace() -> None:
    """Its own configuration is installed, and names topics without a namespace."""
    from launch.utilities import perform_substitutions

    assert "rviz2" not in nodes()
    rviz = nodes(rviz="true", namespace="robot1", target_frame="base_link")["rviz2"]
    context = launch.LaunchContext()

    def words(pairs: Any) -> list[str]:
        return [perform_substitutions(context, pair) for pair in pairs]

    remappings = dict(map(words, rviz._Node__remappings))
    assert remappings["/selector/debug/overlay"] == "selector/debug/overlay"
    assert remappings["/objects_3d/output/points"] == "objects_3d/output/points"
    command = words(rviz.cmd[1:])  # without the program, which need not be installed
    assert command[command.index("-f") + 1] == "base_link"
    assert Path(command[command.index("-d") + 1]).name == "gbopt.rviz"
