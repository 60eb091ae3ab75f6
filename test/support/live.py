"""Whole runs for the system tests: commands in processes of their own, and their masks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gbopt_ros.io.resources import find_resource

RECORDING = find_resource("demo/recording")
PATIENT = {"idle_timeout_s": 600.0, "stall_timeout_s": 600.0}
"""Parameters of the nodes: a slow machine must not look like a silent camera or a dead network."""


def gbopt(*arguments: str | Path) -> None:
    """Run a command of the package; a failure shows what it wrote."""
    command = [sys.executable, "-m", "gbopt_ros.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def replay(source: Path, out: Path, *options: str) -> dict[str, Any]:
    """Run `gbopt replay` on the CPU; returns the content of `run.json`."""
    gbopt("replay", source, "--out", out, "--set=device=cpu", *options)
    run: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return run


def replayed_masks(out: Path) -> dict[int, list[str]]:
    """Run lengths of the masks of every frame of a replay, by its stamp."""
    content = json.loads((out / "selected.json").read_text(encoding="utf-8"))
    stamps = {image["id"]: image["stamp_ns"] for image in content["images"]}
    masks: dict[int, list[str]] = {stamp: [] for stamp in stamps.values()}
    for annotation in content["annotations"]:
        masks[stamps[annotation["image_id"]]].append(annotation["segmentation"]["counts"])
    return masks
