"""Settings of the outlines of selected masks."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class OutlineConfig(ConfigSection):
    """Refinement of the outlines of selected masks (`selection.outlines`)."""

    method: str = setting(
        "guided",
        "Outline of a selected mask: guided (a guided filter moves it to edges of the image) or "
        "network (as the network proposed it; paper).",
        choices=("guided", "network"),
    )
