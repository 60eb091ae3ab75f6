"""All sections together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from gbopt_ros.config.background import BackgroundConfig
from gbopt_ros.config.clip import ClipConfig
from gbopt_ros.config.flow import FlowConfig
from gbopt_ros.config.learning import LearningConfig
from gbopt_ros.config.motion import MotionConfig
from gbopt_ros.config.outline import OutlineConfig
from gbopt_ros.config.pretrain import PretrainConfig
from gbopt_ros.config.proposal import ProposalConfig
from gbopt_ros.config.section import ConfigSection, setting
from gbopt_ros.config.selection import SelectionConfig
from gbopt_ros.config.tracks import TrackConfig


@dataclass(frozen=True)
class Config(ConfigSection):
    """All settings. `Config()` is the recommended setting."""

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
        "auto",
        "Device for the networks: auto (a GPU if there is one, else the CPU), cpu, cuda or cuda:1.",
        fixed=True,
    )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, for JSON and YAML."""
        return asdict(self)
