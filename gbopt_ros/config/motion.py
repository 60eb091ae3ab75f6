"""Settings of the motion cue."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class MotionConfig(ConfigSection):
    """Motion against the surroundings as evidence for objects (`perception.motion`)."""

    weight: float = setting(
        1.0,
        "Weight of motion as evidence for objects, beside the background network (paper: 0). A "
        "larger value trusts motion more.",
        low=0.0,
    )
    baseline_s: float = setting(
        0.5,
        "Time between the two frames that motion is measured on, seconds by the time stamps. A "
        "longer time shows slower motion, but more pixels are hidden in one of the two frames.",
        above=0.0, high=10.0,
    )  # fmt: skip
