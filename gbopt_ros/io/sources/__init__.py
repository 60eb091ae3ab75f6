"""Recordings as streams of frames: rosbag2, video files and folders of images."""

from gbopt_ros.io.sources.base import Source
from gbopt_ros.io.sources.open import files_of_recording, open_source

__all__ = ["Source", "files_of_recording", "open_source"]
