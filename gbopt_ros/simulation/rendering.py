"""Rendering of stills and clips in worker processes.

A result depends on (seed, split, index) alone, not on the number of processes.
"""

from __future__ import annotations

import multiprocessing
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from gbopt_ros.simulation.camera import CameraPath
from gbopt_ros.simulation.environment import ENVIRONMENT_OBJECTS, Environment
from gbopt_ros.simulation.motion import choose_movers
from gbopt_ros.simulation.objects import unseen_kinds
from gbopt_ros.simulation.scene import Scene, Visible
from gbopt_ros.simulation.simulator import Simulator
from gbopt_ros.simulation.textures import Texture
from gbopt_ros.structures import GboptError, Image

JPEG_QUALITY = 88
FRAMES_PER_SECOND = 10
_MIN_INSTANCES = 2
_ATTEMPTS = 20
_PICTURES = 16
_SCENES_A_PROCESS = 1000  # the renderer never frees a texture, so processes are replaced

Rendered = TypeVar("Rendered")


@dataclass(frozen=True)
class Still:
    """A rendered still: JPEG bytes, and the visible objects."""

    jpeg: bytes
    objects: tuple[Visible, ...]


@dataclass(frozen=True)
class VideoClip:
    """T rendered frames, (240, 320, 3) uint8 RGB each, and the visible objects of each."""

    images: tuple[Image, ...]
    objects: tuple[tuple[Visible, ...], ...]


@dataclass(frozen=True)
class Job:
    """One still or one clip to render.

    Attributes:
        frames: length of a clip.
        jpeg_quality: quality of a still, 1 to 100.
        kinds: names of the unseen kinds to show, () for all.
        environment: show an `Environment`, if the split is of unseen objects.
        object_count: number of recurring objects in the environment.
    """

    seed: int
    split: str
    seen: bool
    index: int
    frames: int = 0
    jpeg_quality: int = JPEG_QUALITY
    kinds: tuple[str, ...] = ()
    environment: bool = False
    object_count: int = ENVIRONMENT_OBJECTS

    def generator(self, attempt: int) -> np.random.Generator:
        key = zlib.crc32(self.split.encode())
        return np.random.default_rng([self.seed, key, self.index, attempt])


class _Worker:
    """The simulator of a worker process, and the pictures on its posters."""

    def __init__(self, seed: int) -> None:
        self.sim = Simulator()
        self.pictures: list[Texture] = []
        for number in range(_PICTURES):
            rng = np.random.default_rng([seed, number])
            scene = Scene(self.sim, rng, seen=True, settle_s=0.3)
            image, _ = scene.render(scene.camera, rng)
            self.pictures.append(cv2.resize(image, (160, 120)).astype(np.float32) / 255)


_worker: _Worker | None = None


def _start_worker(seed: int) -> None:
    """Runs once in each worker process. Bullet prints every model that it loads, so it is muted."""
    global _worker
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    cv2.setNumThreads(1)
    _worker = _Worker(seed)


def _compose_scene(job: Job, settle_s: float) -> tuple[Scene, np.random.Generator]:
    """The first random scene that shows at least two objects."""
    assert _worker is not None
    kinds, environment = unseen_kinds(job.kinds), None
    if job.environment and not job.seen:
        environment = Environment(job.seed, job.object_count)
    for attempt in range(_ATTEMPTS):
        rng = job.generator(attempt)
        scene = Scene(_worker.sim, rng, job.seen, _worker.pictures, settle_s, kinds, environment)
        if scene.visible_count() >= _MIN_INSTANCES:
            return scene, rng
    raise GboptError(f"no scene with {_MIN_INSTANCES} visible objects in {job}")


def render_still(job: Job) -> Still:
    """Worker side: one labelled still."""
    scene, rng = _compose_scene(job, settle_s=0.7)
    image, objects = scene.render(scene.camera, rng)
    quality = [cv2.IMWRITE_JPEG_QUALITY, job.jpeg_quality]
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), quality)
    return Still(encoded.tobytes(), objects)


def render_clip(job: Job) -> VideoClip:
    """Worker side: one scene with moving camera and objects."""
    assert _worker is not None
    sim = _worker.sim
    scene, rng = _compose_scene(job, settle_s=1.5)
    path = CameraPath(rng, scene.camera)
    movers = choose_movers(sim, rng, scene.bodies, scene.camera.pixels_per_metre, FRAMES_PER_SECOND)
    images, shown = [], []
    substeps = round(1 / FRAMES_PER_SECOND / sim.STEP_S)
    for frame in range(job.frames):
        image, objects = scene.render(path.at(frame), rng)
        images.append(image)
        shown.append(objects)
        for substep in range(1, substeps + 1):
            for mover in movers:
                mover.place(sim, frame / FRAMES_PER_SECOND + substep * sim.STEP_S)
            sim.bullet.stepSimulation()
    return VideoClip(tuple(images), tuple(shown))


def run_parallel(
    render: Callable[[Job], Rendered], jobs: list[Job], processes: int
) -> Iterator[Rendered]:
    """Results in the order of the jobs; few jobs run ahead, so that few results wait."""
    context = multiprocessing.get_context("spawn")
    block = _SCENES_A_PROCESS * processes
    for start in range(0, len(jobs), block):
        waiting: deque[Future[Rendered]] = deque()
        todo = iter(jobs[start : start + block])
        with ProcessPoolExecutor(
            processes, context, initializer=_start_worker, initargs=(jobs[0].seed,)
        ) as pool:
            try:
                for job in todo:
                    waiting.append(pool.submit(render, job))
                    if len(waiting) > 4 * processes:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BrokenProcessPool as error:
                raise GboptError(
                    "a rendering process died; is there enough memory? try fewer --jobs"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
