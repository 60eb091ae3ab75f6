"""Every setting, its default and its meaning: one frozen dataclass a section, one file each.

This is the only home of a default. YAML profiles and `--set` hold overrides and are merged by
`load_config`; nodes declare their ROS parameters by walking these fields (`settings`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gbopt_ros.config.background import BackgroundConfig
from gbopt_ros.config.clip import ClipConfig
from gbopt_ros.config.flow import FlowConfig
from gbopt_ros.config.learning import AugmentConfig, LearningConfig
from gbopt_ros.config.motion import MotionConfig
from gbopt_ros.config.outline import OutlineConfig
from gbopt_ros.config.pretrain import PretrainConfig
from gbopt_ros.config.proposal import ProposalConfig
from gbopt_ros.config.section import ConfigSection, Setting, setting, settings
from gbopt_ros.config.selection import SelectionConfig
from gbopt_ros.config.tracks import TrackConfig

__all__ = [
    "AugmentConfig",
    "BackgroundConfig",
    "ClipConfig",
    "Config",
    "ConfigSection",
    "FlowConfig",
    "LearningConfig",
    "MotionConfig",
    "OutlineConfig",
    "PretrainConfig",
    "ProposalConfig",
    "SelectionConfig",
    "Setting",
    "TrackConfig",
    "load_config",
    "section_names",
    "setting",
    "settings",
]


@dataclass(frozen=True)
class Config(ConfigSection):
    """All sections. `Config()` is the recommended setting."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    outline: OutlineConfig = field(default_factory=OutlineConfig)
    tracks: TrackConfig = field(default_factory=TrackConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    device: str = setting(
        "auto", "Device that the networks run on: auto (a GPU if there is one), cpu, cuda, cuda:1.",
        fixed=True,
    )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, for JSON and YAML."""
        return asdict(self)


def section_names() -> tuple[str, ...]:
    """The names of the sections in `Config`."""
    return tuple(f.name for f in fields(Config) if f.name != "device")


from gbopt_ros.config.load import load_config  # noqa: E402  (it needs Config)
