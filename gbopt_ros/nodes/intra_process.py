"""Topics between nodes of one process: payloads are handed over by reference."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rclpy.qos import DurabilityPolicy

T = TypeVar("T")


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


class Output(Generic[T]):
    """An output topic: by reference within the process, as messages to all others."""

    def __init__(
        self, bus: IntraProcessBus | None, publisher: Any, encode: Callable[[T], Any]
    ) -> None:
        self._bus, self._publisher, self._encode = bus, publisher, encode
        # A late subscriber of a latched topic gets messages that were sent before it came.
        durability = publisher.qos_profile.durability
        self._latched = bus is None and durability == DurabilityPolicy.TRANSIENT_LOCAL

    @property
    def is_wanted(self) -> bool:
        """Whether a process subscribed, or may subscribe later and still get the message."""
        return self._latched or self.subscriptions > 0

    @property
    def topic(self) -> str:
        """Full name of the topic."""
        return str(self._publisher.topic_name)

    @property
    def subscriptions(self) -> int:
        """Number of subscriptions, without those on the intra-process bus."""
        return int(self._publisher.get_subscription_count())

    def publish(self, payload: T) -> None:
        if self._bus is not None:
            self._bus.publish(self.topic, payload)
        if self.is_wanted:
            self._publisher.publish(self._encode(payload))
