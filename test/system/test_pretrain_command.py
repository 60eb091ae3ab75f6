"""`gbopt pretrain` as processes: killed and resumed, and two that share the work.

In their short form, of functions in place of commands: `test_pretraining.py` and `test_trainer.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.pretraining import SMALL, make_coco


def curves_of(folder: Path) -> list[float]:
    return json.loads((folder / "background.json").read_text())["losses"]["total"]


def weights_of(folder: Path) -> bytes:
    return (folder / "background.safetensors").read_bytes()


# Threads that wait for each other on a busy machine take minutes for these few steps.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # its sums come in any order, and NCCL wants one a process


def background_command(coco: Path, out: Path, iterations: int) -> list[str]:
    return [
        "pretrain", "--coco", str(coco), "--out", str(out), "--only", "background", *SMALL,
        "--set", f"pretrain.background_iterations={iterations}",
        "--set", "pretrain.checkpoint_every=1",
    ]  # fmt: skip


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "coco")


def test_pretrain_command_resumes_after_kill_with_the_same_weights(
    coco: Path, tmp_path: Path
) -> None:
    iterations = 6
    command = background_command(coco, tmp_path / "killed", iterations)
    checkpoint = tmp_path / "killed" / "background.checkpoint"
    environment = os.environ | ONE_THREAD | NO_GPU
    with subprocess.Popen(
        [sys.executable, "-m", "gbopt_ros.cli", *command], stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert checkpoint.exists()
    assert not (tmp_path / "killed" / "background.safetensors").exists()
    runs = [background_command(coco, tmp_path / name, iterations) for name in ("killed", "whole")]
    code = f"from gbopt_ros.cli.main import main\nfor run in {runs}: assert main(run) == 0"
    # Not here: with other settings of its threads, torch's sums differ in their last bits.
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, stderr=subprocess.DEVNULL
    )
    assert len(curves_of(tmp_path / "whole")) == iterations
    assert curves_of(tmp_path / "killed") == curves_of(tmp_path / "whole")
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")


def test_pretrain_command_on_two_processes(coco: Path, tmp_path: Path) -> None:
    """By torchrun, over gloo."""
    environment = os.environ | ONE_THREAD | NO_GPU
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "gbopt_ros.cli",
    ]  # fmt: skip
    command = [*background_command(coco, tmp_path / "two", 3), "--set", "pretrain.batch_size=4"]
    done = subprocess.run([*torchrun, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(curves_of(tmp_path / "two")) == 3
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "background.json", "background.safetensors",
    ]  # fmt: skip
