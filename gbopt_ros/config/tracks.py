"""Settings of the tracks that masks are linked to."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting
from gbopt_ros.tracks import MAX_GAP_S, MIN_IOU, TrackLinker


@dataclass(frozen=True)
class TrackConfig(ConfigSection):
    """Linking of the selected masks of a recording or of a camera to tracks."""

    min_iou: float = setting(
        MIN_IOU,
        "Minimum IoU of a mask with the last mask of its track, or of their enlarged boxes. A "
        "larger value gives more, shorter tracks.",
        above=0.0, high=1.0,
    )  # fmt: skip
    max_gap_s: float = setting(
        MAX_GAP_S,
        "Maximum time between two masks of a track, seconds. A larger value keeps the id of an "
        "object over longer occlusions.",
        above=0.0,
    )
    max_tracks: int = setting(
        20, "Maximum number of tracks per recording, best first (DAVIS allows 20). Used by `gbopt "
        "davis` only.", low=1, high=254,
    )  # fmt: skip

    average_confidence: bool = setting(
        True,
        "Whether the masks of a track in a clip share one confidence, the mean of their own. A "
        "frame in which the track has no mask counts a little, as 0.",
    )

    def linker(self) -> TrackLinker:
        """A linker with these settings, and no tracks yet."""
        return TrackLinker(self.min_iou, self.max_gap_s)
