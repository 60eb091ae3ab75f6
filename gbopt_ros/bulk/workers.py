"""Workers behind one interface: processes of this machine, or actors of Ray on many machines."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from gbopt_ros.structures import GboptError

Make = Callable[[], Any]
"""Makes what does the tasks of a worker: an object with `ready` and `do`. It is pickled."""

_LOSSES = 3  # workers in a row that end before they are ready, until there is no hope


@dataclass(frozen=True)
class Event:
    """A worker is ready, has done its task, or has ended in the middle of it.

    Attributes:
        worker: its number.
        result: what `do` returned; None if the worker has just become ready.
        lost: why it ended, "" if it did not; another worker of the same number takes its place.
    """

    worker: int
    result: Any = None
    lost: str = ""


class Workers(Protocol):
    """Workers that do one task at a time each; a task is anything that can be pickled."""

    def start(self, worker: int, task: Any) -> None:
        """Give a task to a worker that is ready."""

    def wait(self) -> list[Event]:
        """Wait until something happens.

        Raises:
            GboptError: workers end again and again before they are ready.
        """
        ...

    def close(self) -> None:
        """End all workers at once, whatever they do."""


class ProcessWorkers:
    """Processes of this machine, started anew (spawn). They end with the process that made them.

    Args:
        make: makes what does the tasks.
        gpus: number of GPUs to share out, 0 if each process chooses for itself.
    """

    def __init__(self, count: int, make: Make, gpus: int = 0) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._make, self._gpus, self._losses = make, gpus, 0
        self._ready: set[int] = set()
        self._workers = [self._new(number) for number in range(count)]

    def start(self, worker: int, task: Any) -> None:
        with suppress(OSError):  # it has just ended, which `wait` tells
            self._workers[worker][1].send(task)

    def wait(self) -> list[Event]:
        numbers = {connection: i for i, (_, connection) in enumerate(self._workers)}
        ready: list[Any] = wait(numbers)
        return [self._event(numbers[connection]) for connection in ready]

    def close(self) -> None:
        for process, connection in self._workers:
            process.kill()
            process.join()
            connection.close()

    def _new(self, number: int) -> tuple[Any, Connection]:
        connection, theirs = self._context.Pipe()
        gpu = _visible_gpus()[number % self._gpus] if self._gpus > 1 else None
        arguments = theirs, self._make, gpu
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return process, connection

    def _event(self, number: int) -> Event:
        process, connection = self._workers[number]
        try:
            result = connection.recv()
        except (EOFError, OSError):
            process.join()
            connection.close()
            reason = f"its process {_ending(process.exitcode)}"
            self._losses += number not in self._ready
            self._ready.discard(number)
            if self._losses == _LOSSES:
                raise GboptError(f"no worker can be started: {reason}") from None
            self._workers[number] = self._new(number)
            return Event(number, lost=reason)
        self._ready.add(number)
        self._losses = 0
        return Event(number, result)


def _serve(connection: Connection, make: Make, gpu: str | None) -> None:
    """The life of a process: tasks come in and results go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that made it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    _be_quiet()
    try:
        worker = make()
        worker.ready()
        connection.send(None)
        while True:
            connection.send(worker.do(connection.recv()))
    except (EOFError, BrokenPipeError):
        pass


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _ending(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with exit status {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _visible_gpus() -> list[str]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


class RayWorkers:
    """Actors of Ray Core. Every machine sees the same files under the same paths.

    Args:
        count: number of actors; None: one a GPU if `wants_gpu` and the cluster has any, else one a
            CPU.
        make: makes what does the tasks.
        address: of a cluster, such as `auto` or `HOST:6379`; None: a Ray of this machine alone.
        wants_gpu: whether the networks run on a GPU where there is one.

    Raises:
        GboptError: there is no such cluster.
    """

    def __init__(
        self, count: int | None, make: Make, address: str | None = None, wants_gpu: bool = False
    ) -> None:
        self._ray = ray = _import_ray()
        self._owns = not ray.is_initialized()
        if self._owns:
            _connect(ray, address, count)
        resources = ray.cluster_resources()
        gpus = resources.get("GPU", 0) if wants_gpu else 0
        count = count or max(1, int(gpus or resources.get("CPU", 1)))
        share = min(1.0, gpus / count) if gpus else 0
        self._actor = ray.remote(num_cpus=1, num_gpus=share, max_restarts=0)(_RayWorker)
        self._make, self._losses = make, 0
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, tuple[int, bool]] = {}  # by reference: worker, whether it is busy
        for number in range(count):
            self._new(number)

    def start(self, worker: int, task: Any) -> None:
        self._waiting[self._actors[worker].do.remote(task)] = worker, True

    def wait(self) -> list[Event]:
        done, _ = self._ray.wait([*self._waiting], num_returns=1)
        return [self._event(reference) for reference in done]

    def close(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._owns:
            self._ray.shutdown()

    def _new(self, number: int) -> None:
        self._actors[number] = self._actor.remote(self._make)
        self._waiting[self._actors[number].ready.remote()] = number, False

    def _event(self, reference: Any) -> Event:
        number, was_busy = self._waiting.pop(reference)
        try:
            event = Event(number, self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:300]
            self._losses += not was_busy
            if self._losses == _LOSSES:
                raise GboptError(f"no worker can be started: {reason}") from error
            self._new(number)
            return Event(number, lost=reason)
        self._losses = 0
        return event


class _RayWorker:
    """What an actor runs."""

    def __init__(self, make: Make) -> None:
        _be_quiet()
        self._worker = make()

    def ready(self) -> None:
        self._worker.ready()

    def do(self, task: Any) -> Any:
        return self._worker.do(task)


def _be_quiet() -> None:
    """No warnings from every worker: the run reports what counts."""
    logging.getLogger("gbopt_ros").setLevel(logging.ERROR)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        import ray
    except ImportError as error:
        raise GboptError("Ray is not installed: pip install 'gbopt_ros[bulk]'") from error
    return ray


def _connect(ray: Any, address: str | None, count: int | None) -> None:
    options: dict[str, Any] = {"address": address} if address else {"num_cpus": count}
    if not address:
        options |= {"include_dashboard": False, "address": "local"}
        # By default Ray's workers give way to everybody else; plain processes do not.
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:  # Ray's own errors have no common base here
        place = f"a cluster at {address}" if address else "a Ray of this machine"
        reason = " ".join(str(error).split())[:200]
        raise GboptError(f"--ray: {place} cannot be reached: {reason}") from error
