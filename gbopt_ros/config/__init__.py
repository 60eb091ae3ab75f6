"""Every setting, its default and its meaning: one frozen dataclass a section, one file each.

Defaults are nowhere else. YAML profiles and `--set` hold overrides, which `load_config` merges;
nodes declare their ROS parameters from `settings`.
"""

from gbopt_ros.config.background import BackgroundConfig
from gbopt_ros.config.clip import ClipConfig
from gbopt_ros.config.config import Config
from gbopt_ros.config.flow import FlowConfig
from gbopt_ros.config.learning import AugmentConfig, LearningConfig
from gbopt_ros.config.load import load_config
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
    "setting",
    "settings",
]
