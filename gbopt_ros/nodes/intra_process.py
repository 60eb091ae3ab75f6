"""Topics between nodes of one process: payloads are handed over by reference."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class IntraProcessBus:
    """Hands each payload that is published on a topic to all subscribers in the process.

    rclpy would serialise every image and send it through the middleware, even to a node of the
    same process. Callbacks run on the thread of the publisher and must only queue the payload.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[str, list[Callable[[Any], None]]] = {}

    def subscribe(self, topic: str, callback: Callable[[Any], None]) -> Callable[[], None]:
        """Call `callback` with every payload of the topic; returns a function that stops it."""
        with self._lock:
            self._callbacks.setdefault(topic, []).append(callback)

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks[topic].remove(callback)

        return unsubscribe

    def publish(self, topic: str, payload: Any) -> None:
        with self._lock:
            callbacks = tuple(self._callbacks.get(topic, ()))
        for callback in callbacks:
            callback(payload)
