"""A learner's store and a robot in two network namespaces, which share a cable and no folder.

.venv/bin/python -m pytest test/system/test_network_namespaces.py -s
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flask", reason="pip install 'gbopt_ros[review]'")

from support.networks import tiny_mask_rcnn

from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo

PORT = 8611
LEARNER, ROBOT = "10.231.7.1", "10.231.7.2"
FOLLOW = textwrap.dedent("""
    import sys
    from pathlib import Path
    from gbopt_ros.learning.store.model_store import ModelStore
    from gbopt_ros.learning.store.pull import RemoteStore
    url, host, store = sys.argv[1:]
    models, remote = ModelStore(Path(store)), RemoteStore(url, [host])
    remote.follow(models, remote.serving(compared=False), keep=10)
    print(models.verified_current().version)
""")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces with a cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` to make network namespaces with")
    names = [f"gbopt-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    try:
        ends = [f"v{name[-6:]}" for name in names]
        ip("link", "add", ends[0], "netns", names[0], "type", "veth",
           "peer", "name", ends[1], "netns", names[1])  # fmt: skip
        for name, end, address in zip(names, ends, (LEARNER, ROBOT), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_a_robot_pulls_what_a_learner_serves_across_a_cable(
    cable: tuple[str, str], tmp_path: Path
) -> None:
    learner = ModelStore(tmp_path / "learner")
    learner.publish(
        tiny_mask_rcnn(), WeightsInfo(PROPOSALS, "slim18-fpn", "seed"), {"gate": {"passed": True}}
    )
    within = [["ip", "netns", "exec", name, sys.executable] for name in cable]
    serve = ["-m", "gbopt_ros.cli", "serve-models", str(learner.root), "--host", LEARNER]
    follow = ["-c", FOLLOW, f"http://{LEARNER}:{PORT}/", f"{LEARNER}:{PORT}"]
    with subprocess.Popen(
        [*within[0], *serve, "--port", str(PORT)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith(f"http://{LEARNER}:{PORT}/")
            robot = tmp_path / "robot"
            found = subprocess.run(
                [*within[1], *follow, str(robot)], capture_output=True, text=True, timeout=120
            )
            assert found.stdout == "v0001\n", found.stderr
            assert not ModelStore(robot).damaged()
            outside = subprocess.run(
                [sys.executable, *follow, str(tmp_path / "other")],
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert outside.returncode == 1 and not (tmp_path / "other").exists()
        finally:
            server.terminate()
