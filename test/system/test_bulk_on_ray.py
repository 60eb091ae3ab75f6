"""`gbopt bulk` on Ray: the masks of plain processes, on one machine and on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.bulk import masks_of, save_networks
from support.recordings import noise_frames

from gbopt_ros.io.rosbag_writer import write_rosbag

pytest.importorskip("ray", reason="Ray is not installed (extra bulk)")
pytestmark = pytest.mark.timeout(600)
BAGS = ("a", "b")

# Two raylets on this machine are a cluster of two nodes; each has room for one worker.
CLUSTER = """
import subprocess, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
try:
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    print("nodes", len(cluster.list_all_nodes()), flush=True)
    command = [sys.executable, "-m", "gbopt_ros.cli", *sys.argv[1:], "--ray", cluster.address]
    sys.exit(subprocess.run(command).returncode)
finally:
    cluster.shutdown()
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_networks(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    for seed, name in enumerate(BAGS):
        write_rosbag(noise_frames(9, (32, 32), seed=seed), folder / name, topic="/image")
    return folder


def gbopt(*command: str) -> str:
    """Run a command that must succeed; what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    shown = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    return shown.stdout


@pytest.fixture(scope="module")
def expected(bags: Path, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What plain processes give."""
    out = tmp_path_factory.mktemp("processes") / "out"
    arguments = ["bulk", str(bags), f"--out={out}", "--workers=2", "--shard-frames=3", *options]
    gbopt(sys.executable, "-m", "gbopt_ros.cli", *arguments)
    return out / "selected.json"


@pytest.mark.parametrize("place", ["this machine", "a cluster"])
def test_bulk_on_ray_gives_the_masks_of_processes(
    place: str, bags: Path, options: list[str], expected: Path, tmp_path: Path
) -> None:
    arguments = ["bulk", str(bags), f"--out={tmp_path / 'out'}", "--shard-frames=3", *options]
    if place == "a cluster":
        told = gbopt(sys.executable, "-c", CLUSTER, *arguments)
        assert told.startswith("nodes 2")
    else:
        command = ["-m", "gbopt_ros.cli", *arguments, "--workers=2", "--ray=local"]
        gbopt(sys.executable, *command)
    for name in BAGS:
        found = masks_of(tmp_path / "out" / "selected.json", name)
        assert found == masks_of(expected, name)
        assert any(masks for _, _, masks in found)
