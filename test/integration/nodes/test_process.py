"""The process of nodes: how it ends, and that an exception does not end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from rclpy.event_handler import EventHandler
from rclpy.exceptions import InvalidHandle
from std_msgs.msg import Header
from support.ros import Graph

from gbopt_ros.nodes.flow import FlowNode
from gbopt_ros.nodes.messages import make_header
from gbopt_ros.nodes.spin import SteadyExecutor, align_timers

_SLOW_IMPORT = """
import sys, time
from gbopt_ros.nodes import __main__ as nodes

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
nodes.run("composed", [])
"""

_SIGNAL_AT_EACH_LINE = """
import signal, sys
from gbopt_ros.process import stop_on_signals

def interrupt(frame, event, argument):
    signal.raise_signal(signal.SIGTERM)
    return interrupt

signals = stop_on_signals()
sys.settrace(interrupt)
signal.raise_signal(signal.SIGINT)
sys.settrace(None)
print({*signals} == {signal.SIGINT, signal.SIGTERM})
"""


@contextmanager
def started(*arguments: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has written `until`; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            stream = process.stdout if until == "importing" else process.stderr
            assert stream is not None
            assert any(until in line for line in stream)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_modules_are_imported_ends_the_process_quietly(number: int) -> None:
    with started("-c", _SLOW_IMPORT, until="importing") as process:
        process.send_signal(number)
        _, log = process.communicate(timeout=20)
        assert (process.returncode, log) == (0, "")


def test_signal_that_interrupts_the_handler_of_another_one_does_not_wait_for_it() -> None:
    """As where the terminal and the launch system send one each for a Ctrl-C."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNAL_AT_EACH_LINE], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_signal_ends_an_active_node_quietly(ros_domain_id: int) -> None:
    until = "[flow]: active: flow by DisFlow, device cpu"
    with started("-m", "gbopt_ros.nodes", "flow", until=until) as process:
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=20)
        assert (process.returncode, log) == (0, "")


def test_node_that_dds_security_refuses_says_so_without_a_traceback(
    tmp_path: Path, ros_domain_id: int
) -> None:
    """An empty enclave where the policy has that of the node, or a middleware without security."""
    (tmp_path / "enclaves/gbopt_ros/perception").mkdir(parents=True)
    security = {"ENABLE": "true", "STRATEGY": "Enforce", "KEYSTORE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "gbopt_ros.nodes", "flow"], stderr=subprocess.PIPE, text=True,
        env=os.environ | {f"ROS_SECURITY_{name}": value for name, value in security.items()},
    )  # fmt: skip
    assert done.returncode == 1
    assert "[FATAL]" in done.stderr and "ROS makes no node: error creating node" in done.stderr
    assert "Traceback" not in done.stderr


def test_executor_goes_on_when_an_entity_is_destroyed_while_it_begins_to_wait(
    ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a node that another thread deactivates."""
    destroyed = [InvalidHandle("cannot use Destroyable because destruction was requested")]
    add_to_wait_set = EventHandler.add_to_wait_set

    def once(handler: EventHandler, wait_set: Any) -> None:
        if destroyed:
            raise destroyed.pop()
        add_to_wait_set(handler, wait_set)

    with Graph(ros_domain_id) as graph:
        got: list[Header] = []
        graph.observer.create_subscription(Header, "anything", got.append, 10)
        sender = graph.observer.create_publisher(Header, "anything", 10)
        graph.wait(lambda: sender.get_subscription_count() == 1, "the subscription")
        monkeypatch.setattr(EventHandler, "add_to_wait_set", once)
        graph.wait(lambda: not destroyed, "the executor to wait again")
        sender.publish(make_header(0, "good"))
        graph.wait(lambda: len(got) == 1, "the message")


def test_timers_of_all_nodes_run_out_together(ros_domain_id: int) -> None:
    def never() -> None: ...

    with Graph(ros_domain_id, lambda context: [FlowNode(context=context)]) as graph:
        node = graph.nodes["flow"]
        timers = [node.timer(60.0, never)]
        time.sleep(0.3)
        timers += [node.timer(60.0, never), graph.observer.create_timer(60.0, never)]
        stopped = node.timer(60.0, never)
        stopped.cancel()
        align_timers([node, graph.observer])
        left = [timer.time_until_next_call() for timer in timers]
        assert max(left) - min(left) < 50e6  # nanoseconds
        assert stopped.is_canceled()


def test_callback_that_raises_is_logged_and_the_nodes_go_on(
    ros_domain_id: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Graph(ros_domain_id, lambda context: [FlowNode(context=context)]) as graph:
        node, got = graph.nodes["flow"], []

        def fails(message: Header) -> None:
            got.append(message.frame_id)
            if message.frame_id != "good":
                raise RuntimeError(f"broken by {message.frame_id}")

        node.create_subscription(Header, "anything", fails, 10)
        sender = graph.observer.create_publisher(Header, "anything", 10)
        graph.wait(lambda: sender.get_subscription_count() == 1, "the subscription")
        sender.publish(make_header(0, "bad"))
        graph.wait(lambda: node.health.counted("failures") == 1, "the failure")
        sender.publish(b"\0\1\0\0 no message")  # the middleware drops it

        def unreadable(executor: SteadyExecutor, subscription: Any) -> None:
            raise RuntimeError("unreadable")

        with monkeypatch.context() as patch:  # before the callback, when its group is taken
            patch.setattr(SteadyExecutor, "_take_subscription", unreadable)
            sender.publish(make_header(0, "unreadable"))
            graph.wait(lambda: node.health.counted("failures") >= 2, "the second one")
        task = graph.executor.create_task(fails, make_header(0, "a task"))
        graph.wait(task.done, "the task")
        sender.publish(make_header(0, "good"))
        graph.wait(lambda: got[-1] == "good", "the good message")
    log = capfd.readouterr().err
    assert "a callback failed: Traceback" in log and "RuntimeError: broken by bad" in log
