"""Fixtures for all tests, and the check that no test leaves something behind."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tqdm

REPOSITORY = Path(__file__).resolve().parent.parent

# Before a test imports NumPy, torch and OpenCV, which read these once. Tests beside others get a
# core each: OpenCV's threads wait for each other at every step of a flow, for long on a busy core.
for _variable in (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM",
):  # fmt: skip
    os.environ[_variable] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"

# A shell that starts the tests in the background has them ignore what tests of signals send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set by pytest for every test, by torch when it first touches CUDA or steps an optimiser, by OpenCV
# when it is imported, and for OpenCV's FFmpeg by the module that reads videos.
_MAY_CHANGE = {
    "PYTEST_CURRENT_TEST",
    "CUDA_MODULE_LOADING",
    "LD_LIBRARY_PATH",
    "TORCHINDUCTOR_CACHE_DIR",
    "OPENCV_FFMPEG_LOGLEVEL",
}

tqdm.tqdm.monitor_interval = 0  # its thread would outlive the test that starts it


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """The folder of real recordings; they are large, and not part of the package."""
    path = Path(os.environ.get("GBOPT_REAL_DIR", REPOSITORY.parent / "shared" / "real"))
    if not path.is_dir():
        pytest.skip(f"no real recordings at {path}; set GBOPT_REAL_DIR to their folder")
    return path


@pytest.fixture(scope="module")
def small_networks() -> Iterator[None]:
    """The slim networks look at 64-pixel images as they are, and at few regions of them."""
    from support.networks import little_slim

    from gbopt_ros.models import background_fpn, mask_rcnn

    background = background_fpn.ARCHITECTURES["slim18-semantic-fpn"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mask_rcnn.ARCHITECTURES, "slim18-fpn", little_slim())
        patch.setitem(
            background_fpn.ARCHITECTURES, "slim18-semantic-fpn", replace(background, short_side=64)
        )
        yield


@pytest.fixture
def ros_domain_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS domain of the test's own, on this machine alone; its children inherit it.

    A bound port reserves it against tests that run at the same time in other processes.
    """
    for domain in range(1, 101):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reserved:
            try:
                reserved.bind(("127.0.0.1", 32768 + domain))
            except OSError:
                continue
            monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
            monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
            yield domain
            return
    pytest.fail("no free ROS domain among 1 to 100")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that changes the environment, the working directory or leaves a thread."""
    environment, folder, threads = dict(os.environ), os.getcwd(), set(threading.enumerate())
    yield
    left = _threads_left(threads, patience_s=2.0)
    after = dict(os.environ)
    changed = {
        name
        for name in environment.keys() | after.keys()
        if environment.get(name) != after.get(name)
    } - _MAY_CHANGE
    for name in changed:  # so that only this test fails
        os.environ.pop(name, None)
        if name in environment:
            os.environ[name] = environment[name]
    moved = os.getcwd() != folder
    os.chdir(folder)
    assert not changed, f"the test changed the environment: {sorted(changed)}"
    assert not moved, "the test changed the working directory"
    assert not left, f"the test left threads running: {sorted(thread.name for thread in left)}"


def _threads_left(before: set[threading.Thread], patience_s: float) -> set[threading.Thread]:
    """Threads that are still running after a while, other than those that ran before."""
    deadline = time.monotonic() + patience_s
    while left := set(threading.enumerate()) - before:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return left
