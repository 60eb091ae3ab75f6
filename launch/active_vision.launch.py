"""The graph on a robot: one process for perception and selection, or one for each node.

    ros2 launch gbopt_ros active_vision.launch.py camera:=/image_raw profile:=/data/robot.yaml

Do not start it twice in one namespace: nodes would have the same names, and two learners one store.
The learner always has a process of its own, so that learning never stalls a frame.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gbopt_ros.nodes.wiring import CAMERA, NODES

ARGUMENTS = (
    DeclareLaunchArgument(
        "camera",
        default_value="camera/image_raw",
        description="image topic; without a leading slash, in the namespace",
    ),
    DeclareLaunchArgument(
        "transport",
        default_value="raw",
        choices=["raw", "compressed"],
        description="type of the topic: Image or CompressedImage",
    ),
    DeclareLaunchArgument(
        "composed",
        default_value="true",
        choices=["true", "false"],
        description="one process that hands frames over in memory, or a process for each node",
    ),
    DeclareLaunchArgument(
        "learner",
        default_value="true",
        choices=["true", "false"],
        description="collect masks, fine-tune, swap the network; false: the last learnt version "
        "does not serve either",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="of all nodes"),
    DeclareLaunchArgument(
        "profile",
        default_value="",
        description="YAML of settings for all nodes, as gbopt replay --config takes; see config/",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="YAML of ROS parameters, such as store of the learner",
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="of all nodes"),
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Node]:
    """The processes that the arguments ask for."""
    value = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    arguments = [
        *("--log-level", value["log_level"]),
        *("-r", f"{CAMERA[0]}:{CAMERA[1]}:={value['camera']}"),
        # No prefix: it would not match the name of a node in a namespace.
        *("-p", f"image_transport:={value['transport']}"),
    ]
    if value["profile"]:
        arguments += ["-p", f"profile:={value['profile']}"]
    if value["params_file"]:
        arguments += ["--params-file", value["params_file"]]
    executables = [name for name in NODES if name != "learner"]
    if value["composed"] == "true":
        executables = ["composed"]
    if value["learner"] == "true":
        executables.append("learner")
    return [
        Node(
            package="gbopt_ros",
            executable=executable,
            namespace=value["namespace"],
            ros_arguments=arguments,
            output="screen",
        )
        for executable in executables
    ]
