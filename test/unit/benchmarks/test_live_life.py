"""The table of two checkouts, the stream that they see, and the environment that each runs in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from benchmarks.graph_processes import (
    checkout_environment,
    graph_processes,
    proportional_bytes,
    resident_bytes,
)
from benchmarks.live_life import Measures, check_checkout, continuous, table
from benchmarks.stages import median_and_noise
from gbopt_ros.structures import Frame, GboptError


@pytest.mark.parametrize(
    ("values", "expected"),
    [([2.0], "2.00 ± 0.00"), ([1.0, 2.0, 4.0], "2.00 ± 0.75"), ([4.0, 0.0], "2.00 ± 1.00")],
)
def test_median_and_noise_is_half_the_range_between_the_quartiles(
    values: list[float], expected: str
) -> None:
    assert median_and_noise(values, 2) == expected


def test_table_has_ratios_within_rounds_and_every_text_once() -> None:
    before: list[Measures] = [
        {"age, s": 2.0, "memory, MB": 800.0, "dropped, %": 0.0, "exit": "0 and 0"},
        {"age, s": 4.0, "memory, MB": 800.0, "dropped, %": 0.0, "exit": "0 and -2"},
        {"age, s": 8.0, "memory, MB": 804.0, "dropped, %": 0.0, "exit": "0 and 0"},
    ]
    now: list[Measures] = [
        {"age, s": 1.0, "memory, MB": 1600.0, "dropped, %": 12.0, "exit": "0 and 0"},
        {"age, s": 2.0, "memory, MB": 1600.0, "dropped, %": 14.0, "exit": "0 and 0"},
        {"age, s": 40.0, "memory, MB": 1608.0, "dropped, %": 15.0, "exit": "0 and 0"},
    ]
    assert table({"before": before, "now": now}).splitlines() == [
        "| | before | now | ratio |",
        "|---|---:|---:|---:|",
        "| age, s | 4.00 ± 1.50 | 2.00 ± 9.75 | 0.50 ± 1.12 |",
        "| memory, MB | 800 ± 1 | 1600 ± 2 | 2.00 ± 0.00 |",
        "| dropped, % | 0.00 ± 0.00 | 14.0 ± 0.8 |  |",
        "| exit | 0 and 0; 0 and -2 | 0 and 0 |  |",
    ]


def test_stream_plays_each_scene_forth_back_and_forth_without_gaps() -> None:
    frames = [Frame(np.full((2, 2, 3), value, np.uint8), 100 * value, value) for value in range(20)]
    stream = continuous(frames, 4.0)
    first = [*range(10), *reversed(range(10)), *range(10)]
    shown = [int(frame.image[0, 0, 0]) for frame in stream]
    assert shown == first + [value + 10 for value in first]
    assert [frame.stamp_ns for frame in stream[:3]] == [250_000_000, 500_000_000, 750_000_000]
    assert [frame.index for frame in stream] == list(range(60))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder whose environment is an interpreter that prints where it would find the package."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho ${PYTHONPATH%%:*}/gbopt_ros/__init__.py\n")
    python.chmod(0o755)
    return tmp_path


def test_checkout_runs_without_the_libraries_of_this_environment(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{sys.prefix}/lib{os.pathsep}/opt/ros/lib")
    monkeypatch.setenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "1")
    monkeypatch.setenv("PYTHONPATH", "/opt/ros/python")
    python, variables = checkout_environment(checkout)
    assert python == str(checkout / ".venv" / "bin" / "python")
    assert variables["LD_LIBRARY_PATH"] == "/opt/ros/lib"
    assert variables["PYTHONPATH"] == f"{checkout}{os.pathsep}/opt/ros/python"
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in variables
    check_checkout(checkout)


def test_checkout_that_runs_another_package_is_refused(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\necho /elsewhere/gbopt_ros/__init__.py\n")
    with pytest.raises(GboptError, match=r"its own gbopt_ros .* not: /elsewhere/gbopt_ros"):
        check_checkout(checkout)


def test_checkout_without_an_environment_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(GboptError, match=r"has no \.venv .*: run `make setup` there"),
        graph_processes(("composed",), checkout=tmp_path),
    ):
        pass


def test_proportional_memory_is_a_part_of_the_resident_memory() -> None:
    assert 10e6 < proportional_bytes(os.getpid()) < resident_bytes(os.getpid()) + 1e6
