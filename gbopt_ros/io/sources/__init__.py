"""Recordings in, as streams of frames and clips; frames out, as rosbags."""

from gbopt_ros.io.clip_cutter import ClipCutter, cut_clips
from gbopt_ros.io.sources.base import Source
from gbopt_ros.io.sources.detect import open_source
from gbopt_ros.io.sources.rosbag_writer import write_rosbag

__all__ = ["ClipCutter", "Source", "cut_clips", "open_source", "write_rosbag"]
