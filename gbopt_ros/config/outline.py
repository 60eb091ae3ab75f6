"""Settings of the outlines of selected masks."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class OutlineConfig(ConfigSection):
    """Refinement of the outlines of selected masks (`selection.outlines`)."""

    method: str = setting(
        "grabcut",
        "Outline of a selected mask: grabcut (refined on the image, which takes more time) or "
        "network (as the network proposed it; paper).",
        choices=("grabcut", "network"),
    )
