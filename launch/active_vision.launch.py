"""All nodes on a robot: one process for perception and selection, or one for each node.

    ros2 launch gbopt_ros active_vision.launch.py camera:=/image_raw profile:=/data/robot.yaml

Do not start it twice in one namespace: two nodes would have one name, and two learners one store.
The learner always has a process of its own, so that learning delays no frame. If it ends, or the
process of objects_3d with `composed:=false`, perception goes on. If another process ends, all end,
and the launch fails if that one did; with `respawn:=true` it is started again.
"""

from __future__ import annotations

import re
from pathlib import Path

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gbopt_ros.nodes.launching import end_all
from gbopt_ros.nodes.wiring import CAMERA, DEPTH, NODES, remapping

_RESPAWN_DELAY_S = 2.0
_MAY_END = ("learner", DEPTH[0])  # the others do their work without them
ARGUMENTS = (
    DeclareLaunchArgument(
        "camera",
        default_value="camera/image_raw",
        description="Image topic of the camera, the base topic for compressed images too. Without "
        "a leading slash it is in the namespace.",
    ),
    DeclareLaunchArgument(
        "transport",
        default_value="raw",
        choices=["raw", "compressed"],
        description="Images of the camera: raw (Image), or compressed (CompressedImage) on the "
        "topic with /compressed appended.",
    ),
    DeclareLaunchArgument(
        "depth",
        default_value="",
        description="Depth image topic, aligned to the images of the camera: objects_3d publishes "
        "where the objects are in space. The camera info is beside it. Empty: no depth.",
    ),
    DeclareLaunchArgument(
        "target_frame",
        default_value="",
        description="Frame of the objects in space, whose z axis points up, such as base_link. "
        "Empty: the optical frame of the depth image.",
    ),
    DeclareLaunchArgument(
        "composed",
        default_value="true",
        choices=["true", "false"],
        description="Whether all nodes but the learner share one process, which is faster.",
    ),
    DeclareLaunchArgument(
        "learner",
        default_value="true",
        choices=["true", "false"],
        description="Whether to learn: collect masks, fine-tune, exchange the network. If false, "
        "the configured network serves, and no version that was learnt before.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes."),
    DeclareLaunchArgument(
        "profile",
        default_value="robot",
        description="YAML file of settings, as for `gbopt replay --config`, or robot or paper, "
        "which come with the package. Empty, which another launch file can give: the settings of "
        "`gbopt replay`.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="YAML file of ROS parameters, such as the store of the learner.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="Whether the clock of the nodes is that of /clock, as in a simulation.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=["true", "false"],
        description="Whether a process that ends is started again, after 2 s.",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=["true", "false"],
        description="Whether to show masks and objects in RViz, with config/gbopt.rviz.",
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="Log level of all nodes."),
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Node]:
    """The processes that the arguments ask for."""
    value = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    arguments = [
        *("--log-level", value["log_level"]),
        *remapping(CAMERA, value["camera"]),
        # No prefix: it would not match the name of a node in a namespace.
        *("-p", f"image_transport:={value['transport']}"),
    ]
    if value["depth"]:
        arguments += remapping(DEPTH, value["depth"])
    if value["target_frame"]:
        arguments += ["-p", f"target_frame:={value['target_frame']}"]
    arguments += clock(value)
    if value["profile"]:
        arguments += ["-p", f"profile:={value['profile']}"]
    if value["params_file"]:
        arguments += ["--params-file", value["params_file"]]
    respawns = value["respawn"] == "true"
    left_out = {"learner"} if value["learner"] == "false" else set()
    if not value["depth"]:
        left_out.add(DEPTH[0])
    executables = [name for name in NODES if name not in left_out]
    if value["composed"] == "true":
        executables = ["composed", *({"learner"} - left_out)]
    started = [
        Node(
            package="gbopt_ros",
            executable=executable,
            namespace=value["namespace"],
            ros_arguments=arguments,
            output="screen",
            respawn=respawns,
            respawn_delay=_RESPAWN_DELAY_S,
            on_exit=None if respawns or executable in _MAY_END else end_all,
        )
        for executable in executables
    ]
    return [*started, *rviz(value)] if value["rviz"] == "true" else started


def clock(value: dict[str, str]) -> list[str]:
    """Arguments of a ROS program; none by default, so that a parameter file may set it."""
    return ["-p", "use_sim_time:=true"] if value["use_sim_time"] == "true" else []


def rviz(value: dict[str, str]) -> list[Node]:
    """RViz on the topics of the graph, which it has with the slash of no namespace.

    Where it is not installed, this is one warning: the robot does not need it.
    """
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        get_logger("gbopt_ros").warning(
            "rviz:=true, but rviz2 is not installed (sudo apt install ros-jazzy-rviz2): the nodes "
            "start without it"
        )
        return []
    config = Path(get_package_share_directory("gbopt_ros"), "config", "gbopt.rviz")
    topics = re.findall(r"Value: /(\S+)", config.read_text(encoding="utf-8"))
    frame = value["target_frame"]
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=value["namespace"],
            arguments=["-d", str(config), *(["-f", frame] if frame else [])],
            ros_arguments=clock(value),
            remappings=[(f"/{topic}", topic) for topic in topics],
            output="screen",
        )
    ]
