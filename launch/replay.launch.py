"""A recording into the graph; ends when the masks of all of it are out.

ros2 launch gbopt_ros replay.launch.py bag:=/data/monday lockstep:=true learner:=false

It starts the graph, too: do not start it beside another one. Without `learner:=false`, what is
selected goes to the learner's store, the robot's own unless `params_file` names another.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

CAMERA = "replay/image_raw"


def generate_launch_description() -> LaunchDescription:
    graph = Path(get_package_share_directory("gbopt_ros"), "launch", "active_vision.launch.py")
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="rosbag2, video or folder of images"),
            DeclareLaunchArgument("rate", default_value="1.0", description="times its own speed"),
            DeclareLaunchArgument(
                "lockstep",
                default_value="false",
                choices=["true", "false"],
                description="wait for the graph after every frame, so that none is dropped",
            ),
            # What else `active_vision.launch.py` takes is passed on to it as it is.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(graph)),
                launch_arguments={"camera": CAMERA}.items(),
            ),
            OpaqueFunction(function=play),
        ]
    )


def play(context: LaunchContext) -> list[ExecuteProcess]:
    """The player; it does not come as a node, since its arguments are those of `gbopt play`."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    program = Path(get_package_prefix("gbopt_ros"), "lib", "gbopt_ros", "gbopt")
    command = [str(program), "play", value("bag"), "--to", CAMERA, "--rate", value("rate")]
    if value("namespace"):
        command += ["--namespace", value("namespace")]
    command.append("--lockstep" if value("lockstep") == "true" else "--finish")
    if value("learner") == "true":
        command += ["--subscribed", "selector/output/masks"]
    return [ExecuteProcess(cmd=command, output="screen", on_exit=[Shutdown()])]
