"""All nodes on a robot: one process for perception and selection, or one for each node.

    ros2 launch gbopt_ros active_vision.launch.py camera:=/image_raw profile:=/data/robot.yaml

Do not start it twice in one namespace: two nodes would have one name, and two learners one store.
The learner always has a process of its own, so that learning delays no frame. If it ends,
perception goes on. If another process ends, all end, and the launch fails if that one did; with
`respawn:=true` it is started again.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gbopt_ros.nodes.wiring import CAMERA, NODES

_RESPAWN_DELAY_S = 2.0
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
        default_value="",
        description="YAML file of settings, as for `gbopt replay --config`; see config/.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="YAML file of ROS parameters, such as the store of the learner.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=["true", "false"],
        description="Whether a process that ends is started again, after 2 s.",
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
        *("-r", f"{CAMERA[0]}:{CAMERA[1]}:={value['camera']}"),
        # No prefix: it would not match the name of a node in a namespace.
        *("-p", f"image_transport:={value['transport']}"),
    ]
    if value["profile"]:
        arguments += ["-p", f"profile:={value['profile']}"]
    if value["params_file"]:
        arguments += ["--params-file", value["params_file"]]
    respawns = value["respawn"] == "true"
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
            respawn=respawns,
            respawn_delay=_RESPAWN_DELAY_S,
            on_exit=None if respawns or executable == "learner" else end_all,
        )
        for executable in executables
    ]


def end_all(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """End the other processes. Raises RuntimeError, which ends them and fails the launch, if the
    process failed.
    """
    told = f"{event.process_name} ended with status {event.returncode}"
    if event.returncode:
        raise RuntimeError(told)
    return [Shutdown(reason=told)]
