"""Videos with names that FFmpeg or OpenCV would not take."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.recordings import noise_frames

from gbopt_ros.io.overlay import OverlayWriter
from gbopt_ros.io.sources import open_source


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"2026-01-02T10:30:00.mp4", b"a %02d \xff.mp4"])
def test_videos_of_any_name_are_written_and_read(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    with OverlayWriter(path, 10.0) as video:
        for frame in noise_frames(3, (48, 64)):
            video.write(np.full_like(frame.image, 200))
    assert os.listdir(os.fsencode(tmp_path)) == [name]
    frames = list(open_source(path))
    assert [frame.size for frame in frames] == [(48, 64)] * 3
    assert np.abs(frames[1].image.astype(int) - 200).max() <= 8
