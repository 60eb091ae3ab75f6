"""Settings of the clips that a stream of frames is cut into."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting
from gbopt_ros.io.limits import MAX_PIXELS


@dataclass(frozen=True)
class ClipConfig(ConfigSection):
    """How a stream of frames is cut into clips."""

    length: int = setting(
        30,
        "Maximum number of frames per clip, T (paper: 180). A longer clip gives the selection more "
        "context and takes more memory. With selection.lag -1, its masks also come later.",
        low=1,
    )
    overlap: int = setting(
        0,
        "Number of frames that a clip shares with the previous clip. More frames give the start of "
        "a clip more context and take more time. Shared frames keep the masks of the first clip.",
        low=0,
    )
    max_gap_s: float = setting(
        1.0, "Maximum time between two frames of a clip, seconds. A longer gap starts a new clip.",
        above=0.0,
    )  # fmt: skip

    max_pixels: int = setting(
        MAX_PIXELS,
        "Maximum number of pixels of an image. An image with more is not decoded. A clip ends when "
        "its frames hold 8 times as many. A larger value takes more memory.",
        low=1, high=178_000_000,
    )  # fmt: skip

    def check(self) -> None:
        if self.overlap >= self.length:
            raise ValueError(
                f"ClipConfig.overlap: expected less than length, {self.length}, got {self.overlap}"
            )
