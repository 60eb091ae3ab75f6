"""Settings of the clips that a frame stream is cut into."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class ClipConfig(ConfigSection):
    """How a frame stream is cut into clips."""

    length: int = setting(
        30,
        "Maximum number of frames in a clip, T (paper: 180). Longer clips give more context and "
        "take more memory; masks of a whole clip come when it ends.",
        low=1,
    )
    overlap: int = setting(
        0,
        "Number of frames that a clip shares with the clip before it. They give the first new "
        "frames context; each is selected twice.",
        low=0,
    )
    max_gap_s: float = setting(
        1.0, "Longest time between two frames of a clip, seconds. A longer gap starts a new clip.",
        above=0.0,
    )  # fmt: skip

    def check(self) -> None:
        if self.overlap >= self.length:
            raise ValueError(
                f"ClipConfig.overlap: expected less than length, {self.length}, got {self.overlap}"
            )
