"""All nodes and a recording in place of the camera; ends when all masks are out.

It fails if the player does, such as on a recording that cannot be read, or a node.

    ros2 launch gbopt_ros replay.launch.py bag:=/data/monday lockstep:=true learner:=false

Do not start it beside running nodes. Without `learner:=false` the learner adds the masks to its
store: that of the robot, unless `params_file` names another.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

from gbopt_ros.nodes.launching import end_all

CAMERA = "replay/image_raw"


def generate_launch_description() -> LaunchDescription:
    nodes = Path(get_package_share_directory("gbopt_ros"), "launch", "active_vision.launch.py")
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="A rosbag2, a video or a folder of images."),
            DeclareLaunchArgument(
                "rate", default_value="1.0", description="Speed relative to the recording."
            ),
            DeclareLaunchArgument(
                "lockstep",
                default_value="false",
                choices=["true", "false"],
                description="Whether to wait for the nodes after every frame: none is dropped.",
            ),
            # The other arguments of `active_vision.launch.py` are passed on to it.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(nodes)),
                launch_arguments={"camera": CAMERA, "transport": "raw"}.items(),
            ),
            OpaqueFunction(function=play),
        ]
    )


def play(context: LaunchContext) -> list[ExecuteProcess]:
    """The player, started as `gbopt play`."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    program = ExecutableInPackage("gbopt", "gbopt_ros")
    command = [program, "play", value("bag"), "--to", CAMERA, "--rate", value("rate")]
    if value("namespace"):
        command += ["--namespace", value("namespace")]
    command.append("--lockstep" if value("lockstep") == "true" else "--finish")
    if value("learner") == "true":
        command += ["--subscribed", "selector/output/masks"]
    return [ExecuteProcess(cmd=command, output="screen", on_exit=end_all)]
