"""Settings of the tracks that masks are linked to."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class TrackConfig(ConfigSection):
    """Linking of the selected masks of a recording to tracks, for the DAVIS metrics."""

    min_iou: float = setting(
        0.3,
        "Smallest IoU of a mask with the last mask of the track that it continues. A larger value "
        "gives more, shorter tracks.",
        above=0.0, high=1.0,
    )  # fmt: skip
    max_gap: int = setting(
        5, "Number of frames that a track may miss before it ends. More bridge longer gaps.", low=0
    )
    max_tracks: int = setting(
        20, "Maximum number of tracks of a recording, best first (DAVIS allows 20).",
        low=1, high=254,
    )  # fmt: skip
