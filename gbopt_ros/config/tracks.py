"""Settings of the tracks that masks are linked to."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class TrackConfig(ConfigSection):
    """Linking of the selected masks of a recording to tracks, for the DAVIS metrics."""

    min_iou: float = setting(
        0.3,
        "Minimum IoU of a mask with the last mask of its track. A larger value gives more, shorter "
        "tracks. Used by `gbopt davis` only.",
        above=0.0, high=1.0,
    )  # fmt: skip
    max_gap: int = setting(
        5, "Maximum number of frames that a track may miss before it ends. A larger value bridges "
        "longer gaps. Used by `gbopt davis` only.", low=0,
    )  # fmt: skip
    max_tracks: int = setting(
        20, "Maximum number of tracks per recording, best first (DAVIS allows 20). Used by `gbopt "
        "davis` only.", low=1, high=254,
    )  # fmt: skip
