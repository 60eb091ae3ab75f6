"""The parameters of the nodes themselves, beside those that are settings of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config import ConfigSection, setting

TRANSPORTS = ("raw", "compressed")
COMPARED = ("motion", "selection")
"""Sections of the selector under which the learner compares a student with its teacher."""
_ON_THEIR_WAY = 36  # frames beside those of clips: in flight, and on the topics between the nodes


@dataclass(frozen=True)
class NodeSettings(ConfigSection):
    """The parameters of every node, beside the sections of the configuration that it uses."""

    autostart: bool = setting(
        True, "Whether the node configures and activates itself when it starts.", fixed=True
    )
    profile: str = setting(
        "",
        "YAML file of settings, as for `gbopt replay --config`. ROS parameters override it. Empty: "
        "the defaults.",
        fixed=True,
    )


@dataclass(frozen=True)
class ClipBufferSettings(NodeSettings):
    """Parameters of the clip buffer itself."""

    image_transport: str = setting(
        "raw",
        "Message type of the camera images: raw (Image on the camera topic) or compressed "
        "(CompressedImage on the topic with /compressed appended, as image_transport names it).",
        choices=TRANSPORTS, fixed=True,
    )  # fmt: skip
    queue: int = setting(
        30,
        "Maximum number of frames that wait until the networks are free. If there are more, the "
        "oldest is dropped. A larger queue bridges longer bursts and takes more memory.",
        low=1, fixed=True,
    )  # fmt: skip
    max_wait_s: float = setting(
        1.0,
        "Maximum time that a frame waits until the networks are free, seconds of wall time. Then "
        "it is dropped, unless it is the newest. A longer time bridges longer bursts, and delays "
        "the masks by up to as much where the networks are slower than the camera.",
        above=0.0,
    )  # fmt: skip
    max_in_flight: int = setting(
        4,
        "Maximum number of frames that are sent and not finished; further frames wait. A larger "
        "value keeps the networks busier and delays the masks.",
        low=1, high=16,
    )  # fmt: skip
    consumers: str = setting(
        "proposal, background, flow, selector",
        "Names of the nodes that must subscribe before the first frame is sent, if they run in "
        "other processes. none: the first frame is sent at once.",
        fixed=True,
    )
    idle_timeout_s: float = setting(
        5.0,
        "Time without a frame after which the current clip ends and the camera counts as silent, "
        "seconds of wall time.",
        above=0.0,
    )  # fmt: skip
    stall_timeout_s: float = setting(
        10.0,
        "Time after which a sent frame is given up if no frame is finished any more, or later ones "
        "were, seconds of wall time. A longer time suits slower networks.",
        above=0.0,
    )


@dataclass(frozen=True)
class StoreSettings(NodeSettings):
    """Parameters of the nodes that know the store: the learner and the proposal node."""

    store: str = setting(
        "~/.ros/gbopt_ros", "Folder of the model versions and of the training set.", fixed=True
    )


@dataclass(frozen=True)
class ProposalSettings(StoreSettings):
    """Parameters of the proposal node itself."""

    allowed_hosts: str = setting(
        "",
        "Hosts from which versions are pulled into the store when an update names their address, "
        "as host:port, separated by commas. They run `gbopt serve-models`. Empty: none.",
        fixed=True,
    )


@dataclass(frozen=True)
class BufferSettings(NodeSettings):
    """Parameters of the nodes that hold frames until their clip is selected."""

    max_buffered_frames: int = setting(
        0,
        "Maximum number of frames that are held until their clip ends, or until their masks come, "
        "and of images of each other kind (0: those of two clips, and 36). A smaller number takes "
        "less memory; two clips and the frames in flight must fit.",
        low=0, fixed=True,
    )  # fmt: skip

    def buffered_frames(self, clip_length: int) -> int:
        """`max_buffered_frames`, or what clips of a length need."""
        return self.max_buffered_frames or 2 * clip_length + _ON_THEIR_WAY


@dataclass(frozen=True)
class SelectorSettings(BufferSettings):
    """Parameters of the selector itself."""

    queue: int = setting(
        2,
        "Maximum number of whole clips that wait for their selection. If there are more, the "
        "oldest is dropped.",
        low=1, fixed=True,
    )  # fmt: skip
    max_age_s: float = setting(
        0.0,
        "Maximum time from the arrival of the last frame of a clip to the start of its selection, "
        "seconds of wall time (0: no limit). An older clip is dropped whole and counted. A shorter "
        "time gives fewer masks, which are fresher.",
        low=0.0,
    )  # fmt: skip
    segment_max_age_s: float = setting(
        10.0,
        "Maximum time between the publication of masks and a goal of ~/segment that they answer, "
        "seconds of wall time. A shorter time gives fresher masks; a goal then waits more often. "
        "No effect on goals with from_now.",
        above=0.0,
    )
    stall_timeout_s: float = setting(
        10.0,
        "Time after which an incomplete clip is given up if no frame is finished any more, or "
        "later ones were, seconds of wall time. A longer time suits slower networks.",
        above=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class LearnerSettings(StoreSettings, BufferSettings):
    """Parameters of the learner node."""

    rehearse: str = setting(
        "",
        "COCO folder of labelled images of seen classes for rehearsal. Empty: the bundled folder "
        "if the bundled network learns, none if another network does.",
        fixed=True,
    )
    validation: str = setting(
        "",
        "COCO folder of labelled images of seen classes, on which the gate measures forgetting. "
        "Empty: the bundled folder if the bundled network learns, none if another network does.",
        fixed=True,
    )
    url: str = setting(
        "",
        "Address of the `gbopt serve-models` that serves the store, such as http://learner:8611/, "
        "for proposal nodes that do not share its folder. Empty: none.",
    )
    train_every_clips: int = setting(
        50,
        "Number of new clips with masks after which a training round starts (0: only when ~/train "
        "is called).",
        low=0,
    )
    niceness: int = setting(
        10,
        "Niceness that the process adds to its own. A larger value gives the other nodes more CPU "
        "time.",
        low=0, high=19, fixed=True,
    )  # fmt: skip
    threads: int = setting(
        1,
        "Number of CPU threads for training. More threads are faster and leave fewer to the other "
        "nodes.",
        low=1, high=256, fixed=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Objects3dSettings(BufferSettings):
    """Parameters of the node that finds the objects in space."""

    target_frame: str = setting(
        "",
        "Frame of the points and boxes, such as base_link. Its z axis points up. Empty: the "
        "optical frame of the depth image, with z forward, and without the surface below.",
        fixed=True,
    )
    rectified: bool = setting(
        False,
        "Whether colour and depth images are rectified: the camera info describes them by P, else "
        "by K and D.",
        fixed=True,
    )
    on_surface: bool = setting(
        True,
        "Whether boxes reach down to the surface around the object, which hides their bottom from "
        "a camera above. Only with target_frame.",
    )
    border: int = setting(
        2,
        "Width of the border of a mask in which a depth must continue that of the inside, pixels. "
        "A larger value suits coarser masks and depth images.",
        low=1, high=50,
    )  # fmt: skip
    max_stamp_gap_s: float = setting(
        0.015,
        "Maximum time between a colour image and its depth image, seconds. A longer time suits a "
        "camera that takes them one after the other, and adds its motion as an error.",
        low=0.0, fixed=True,
    )  # fmt: skip


SECTIONS = (
    NodeSettings, ClipBufferSettings, StoreSettings, ProposalSettings, BufferSettings,
    SelectorSettings, LearnerSettings, Objects3dSettings,
)  # fmt: skip
"""The parameters of all nodes."""
