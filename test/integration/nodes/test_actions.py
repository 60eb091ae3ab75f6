"""The actions ~/segment and ~/train over real DDS: results, feedback, cancelling, refusals."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.action", reason="the messages are not built")

from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from support.networks import save_random_weights
from support.recordings import disc_frames
from support.ros import Graph, ros_arguments

from gbopt_ros.action import Segment, Train
from gbopt_ros.learning import round as rounds
from gbopt_ros.learning.store.gate import GateDecision
from gbopt_ros.learning.store.teacher_gate import TeacherDecision
from gbopt_ros.msg import SelectedMasks, TrainingProgress
from gbopt_ros.nodes import segment
from gbopt_ros.nodes.actions import NodeAction
from gbopt_ros.nodes.composed import compose
from gbopt_ros.nodes.flow import FlowNode
from gbopt_ros.nodes.learner import LearnerNode
from gbopt_ros.nodes.messages import make_time, stamp_ns
from gbopt_ros.nodes.selector import SelectorNode
from gbopt_ros.nodes.spin import SteadyExecutor
from gbopt_ros.structures import Frame


class Caller:
    """A client of an action, which ends with the graph; calls wait for what comes."""

    def __init__(self, graph: Graph, action_type: Any, name: str) -> None:
        self._graph, self._type = graph, action_type
        self._client = ActionClient(graph.observer, action_type, name)
        self.feedback: list[Any] = []
        graph.wait(self._client.server_is_ready, name)

    def send(self, **goal: Any) -> Any:
        """The handle of an accepted goal."""
        future = self._client.send_goal_async(
            self._type.Goal(**goal), lambda message: self.feedback.append(message.feedback)
        )
        self._graph.wait(future.done, "the goal to be accepted")
        assert future.result().accepted
        return future.result()

    def result(self, handle: Any) -> tuple[int, Any]:
        """Status and result of a goal."""
        future = handle.get_result_async()
        self._graph.wait(future.done, "the result")
        return future.result().status, future.result().result

    def call(self, **goal: Any) -> tuple[int, Any]:
        return self.result(self.send(**goal))

    def cancel(self, handle: Any) -> None:
        future = handle.cancel_goal_async()
        self._graph.wait(future.done, "the answer to cancel")
        assert len(future.result().goals_canceling) == 1


@pytest.fixture(scope="module")
def weights(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def graph(ros_domain_id: int, weights: dict[str, Path], tmp_path: Path) -> Iterator[Graph]:
    """All nodes; the learner trains two steps when it is called."""
    parameters = {
        "store": tmp_path / "store", "train_every_clips": 0, "learning.iterations": 2,
        "learning.batch_size": 2, "learning.warmup": 0, "segment_max_age_s": 600.0,
    }  # fmt: skip
    arguments = ros_arguments(weights, **parameters)

    def make(context: rclpy.Context) -> list[Any]:
        return [LearnerNode(context=context), *compose(context=context)]

    with Graph(ros_domain_id, make, arguments) as made:
        made.start()
        yield made


def later(frames: list[Frame], graph: Graph) -> list[Frame]:
    """The frames as taken from now on."""
    now = graph.observer.get_clock().now().nanoseconds
    return [
        Frame(f.image, now + 10**9 + 10**8 * i, f.index, f.frame_id) for i, f in enumerate(frames)
    ]


def test_segment_gives_the_last_masks_or_says_why_not(graph: Graph) -> None:
    caller = Caller(graph, Segment, "/selector/segment")
    masks = graph.observe(SelectedMasks, "/selector/output/masks")
    status, result = caller.call(frames=1, timeout=0.3)
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert result.message == (
        "masks of 0 of 1 frames: no frame arrived; /diagnostics of clip_buffer says why"
    )
    for wrong, words in (
        ({"frames": 0, "timeout": 1.0}, "frames: expected 1 to 200, got 0"),
        ({"frames": 201, "timeout": 1.0}, "frames: expected 1 to 200, got 201"),
        ({"frames": 1, "timeout": float("nan")}, "timeout: expected seconds above 0"),
        ({"frames": 1, "timeout": 0.0}, "timeout: expected seconds above 0"),
    ):
        status, result = caller.call(**wrong)
        assert status == GoalStatus.STATUS_ABORTED and words in result.message

    graph.feed(disc_frames(6))  # a clip of 4, and two frames that wait for the next
    graph.wait(lambda: len(masks) == 4, "the masks")
    status, result = caller.call(frames=3, timeout=5.0)
    assert (status, result.success) == (GoalStatus.STATUS_SUCCEEDED, True)
    assert result.message == "masks of 3 frames"
    assert list(result.masks) == masks[1:4]
    status, result = caller.call(frames=5, timeout=0.3)
    assert (status, len(result.masks)) == (GoalStatus.STATUS_ABORTED, 4)
    assert result.message == (
        "masks of 4 of 5 frames: 2 more wait for the end of their clip, or for their selection"
    )


def test_segment_gives_no_masks_that_were_published_long_before_the_goal(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller(graph, Segment, "/selector/segment")
    masks = graph.observe(SelectedMasks, "/selector/output/masks")
    frames = disc_frames(8)
    graph.feed(frames[:4])
    graph.wait(lambda: len(masks) == 4, "the masks")
    status, result = caller.call(frames=2, timeout=5.0)
    assert (status, list(result.masks)) == (GoalStatus.STATUS_SUCCEEDED, masks[2:])

    now = time.monotonic
    monkeypatch.setattr(segment, "time", SimpleNamespace(monotonic=lambda: now() + 601.0))
    status, result = caller.call(frames=2, timeout=0.3)
    assert (status, list(result.masks)) == (GoalStatus.STATUS_ABORTED, [])
    assert result.message == (
        "masks of 0 of 2 frames: 4 others were published more than 600 s before the goal came "
        "(segment_max_age_s); no frame arrived; /diagnostics of clip_buffer says why"
    )
    goal = caller.send(frames=2, timeout=60.0)
    graph.feed(frames[4:])
    status, result = caller.result(goal)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert [stamp_ns(m.header.stamp) for m in result.masks] == [f.stamp_ns for f in frames[4:6]]


def test_segment_waits_for_frames_from_now_on_and_can_be_cancelled(graph: Graph) -> None:
    caller = Caller(graph, Segment, "/selector/segment")
    goal = caller.send(frames=8, from_now=True, timeout=60.0)
    old = caller.send(frames=1, from_now=True, timeout=60.0)
    graph.feed(disc_frames(4))  # taken long ago
    graph.wait(lambda: len(graph.nodes["selector"]._segment._newest) == 4, "the masks")
    caller.cancel(old)
    status, result = caller.result(old)
    assert (status, result.success) == (GoalStatus.STATUS_CANCELED, False)
    timer = graph.nodes["selector"]._segment._timer
    assert not timer.is_canceled()  # the other goal waits
    assert result.message == "masks of 0 of 1 frames: the goal was cancelled"
    assert not caller.feedback
    frames = later(disc_frames(8), graph)
    graph.feed(frames[:4])
    # Once rclpy knows that a goal is done, it drops the feedback that is still to come.
    graph.wait(lambda: len(caller.feedback) == 4, "the feedback of the first clip")
    assert [told.received for told in caller.feedback] == [1, 2, 3, 4]
    graph.feed(frames[4:])
    status, result = caller.result(goal)
    assert (status, result.success) == (GoalStatus.STATUS_SUCCEEDED, True)
    assert [stamp_ns(m.header.stamp) for m in result.masks] == [f.stamp_ns for f in frames]


def test_segment_compares_stamps_with_a_simulated_clock(graph: Graph) -> None:
    selector, now = graph.nodes["selector"], 100 * 10**9
    assert selector.set_parameters([Parameter("use_sim_time", value=True)])[0].successful
    clock = graph.observer.create_publisher(Clock, "/clock", 1)

    def is_now() -> bool:
        clock.publish(Clock(clock=make_time(now)))
        return bool(selector.get_clock().now().nanoseconds == now)

    graph.wait(is_now, "the clock")
    caller = Caller(graph, Segment, "/selector/segment")
    goal = caller.send(frames=4, from_now=True, timeout=60.0)
    frames = [
        Frame(f.image, now + (i - 4) * 10**8, i, f.frame_id) for i, f in enumerate(disc_frames(8))
    ]
    graph.feed(frames)
    _, result = caller.result(goal)
    assert result.success
    assert [stamp_ns(m.header.stamp) for m in result.masks] == [f.stamp_ns for f in frames[4:]]
    waiting = [caller.send(frames=1, from_now=True, timeout=1e9) for _ in range(32)]
    status, result = caller.call(frames=1, from_now=True, timeout=1e9)
    assert status == GoalStatus.STATUS_ABORTED and "32 goals wait already" in result.message
    graph.nodes["selector"].trigger_deactivate()
    status, result = caller.result(waiting[0])
    assert status == GoalStatus.STATUS_ABORTED and "not active any more" in result.message
    graph.nodes["selector"].trigger_activate()
    status, result = caller.call(frames=1, timeout=0.1)  # the masks of before are too old to grasp
    assert (status, list(result.masks)) == (GoalStatus.STATUS_ABORTED, [])
    assert graph.nodes["selector"]._segment._timer.is_canceled()  # no goal: nothing to watch


def test_segment_answers_a_goal_whose_masks_come_when_its_timer_has_run_out(
    ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(context: rclpy.Context) -> list[Any]:
        return [SelectorNode(context=context)]

    with Graph(ros_domain_id, make, ros_arguments(None)) as graph:
        graph.start()
        selector = graph.nodes["selector"]
        action, take = selector._segment, SteadyExecutor._take_timer

        def take_late(executor: SteadyExecutor, timer: Any) -> Any:
            if timer is action._timer and action._goals:
                other = threading.Thread(target=action.add, args=(SelectedMasks(clip_id=7),))
                other.start()
                other.join()
            return take(executor, timer)

        monkeypatch.setattr(SteadyExecutor, "_take_timer", take_late)
        status, result = Caller(graph, Segment, "/selector/segment").call(frames=1, timeout=60.0)
        assert (status, result.masks[0].clip_id) == (GoalStatus.STATUS_SUCCEEDED, 7)
        graph.wait(action._timer.is_canceled, "the timer to stand still")
        assert selector.health.counted("failures") == 0


def test_an_action_follows_the_remap_rule_of_its_name(ros_domain_id: int) -> None:
    context = rclpy.Context()
    arguments = ["test", "--ros-args", "-r", "arm:~/segment:=/left/masks"]
    rclpy.init(args=arguments, context=context, domain_id=ros_domain_id)
    node = rclpy.create_node("arm", context=context)
    action = NodeAction(node, Segment, "~/segment", lambda goal: None)
    names = [name for name, _ in node.get_service_names_and_types()]
    assert "/left/masks/_action/send_goal" in names
    action.destroy()
    node.destroy_node()
    context.try_shutdown()


def test_goals_are_executing_while_they_wait_and_canceling_until_they_are_answered(
    ros_domain_id: int,
) -> None:
    """By the status that every client gets."""
    with Graph(ros_domain_id, lambda context: [FlowNode(context=context)]) as graph:
        open_goals: list[Any] = []
        action = NodeAction(graph.nodes["flow"], Segment, "~/segment", open_goals.append)
        caller = Caller(graph, Segment, "/flow/segment")
        handle, other = caller.send(), caller.send()
        graph.wait(lambda: handle.status == GoalStatus.STATUS_EXECUTING, "the goal to execute")
        caller.cancel(handle)
        graph.wait(lambda: handle.status == GoalStatus.STATUS_CANCELING, "the goal to be cancelled")
        assert open_goals[0].is_cancel_requested and open_goals[0].is_active
        action.finish(open_goals[0], success=False, message="cancelled", masks=[])
        status, result = caller.result(handle)
        assert (status, result.message) == (GoalStatus.STATUS_CANCELED, "cancelled")
        assert open_goals[1].status == GoalStatus.STATUS_EXECUTING
        action.finish(open_goals[1], success=True, message="done", masks=[])
        status, result = caller.result(other)
        assert (status, result.message) == (GoalStatus.STATUS_SUCCEEDED, "done")
        graph.end()
        action.destroy()


def test_a_result_is_sent_before_its_action_is_destroyed(ros_domain_id: int) -> None:
    """Also where that happens once the goal is concluded, and before its result is sent."""
    with Graph(ros_domain_id, lambda context: [FlowNode(context=context)]) as graph:
        goals: list[Any] = []
        node = graph.nodes["flow"]
        action = NodeAction(node, Segment, "~/segment", goals.append)
        future = Caller(graph, Segment, "/flow/segment").send().get_result_async()
        server = action._server
        graph.wait(
            lambda: any(asked._callbacks for asked in server._result_futures.values()),
            "the request of the result",
        )

        def destroy_once_concluded() -> None:
            if not goals[0].is_active:
                always.cancel()
                action.destroy()

        always = node.create_timer(0.0, destroy_once_concluded)
        action.finish(goals[0], success=True, message="done", masks=[])
        graph.wait(future.done, "the result", 20.0)
        assert future.result().result.message == "done"
        assert node.health.counted("failures") == 0
        graph.wait(lambda: not action._finished, "nothing to be left")


def test_a_goal_that_cannot_start_is_aborted_whatever_was_raised(ros_domain_id: int) -> None:
    def start(goal: Any) -> None:
        raise RuntimeError("out of order")

    with Graph(ros_domain_id, lambda context: [FlowNode(context=context)]) as graph:
        action = NodeAction(graph.nodes["flow"], Segment, "~/segment", start)
        caller = Caller(graph, Segment, "/flow/segment")
        status, result = caller.result(caller.send())
        assert (status, result.message) == (GoalStatus.STATUS_ABORTED, "out of order")
        graph.end()
        action.destroy()


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_open_goals_are_aborted_when_their_nodes_end(
    ros_domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """As by Ctrl-C, after which no executor spins, and by the transition."""

    def make(context: rclpy.Context) -> list[Any]:
        return [LearnerNode(context=context), SelectorNode(context=context)]

    arguments = ros_arguments(None, store=tmp_path)
    with Graph(ros_domain_id) as client, Graph(ros_domain_id, make, arguments) as graph:
        graph.start()
        learner = graph.nodes["learner"]
        learner._masks_stored = 1

        def trains(config: Any, on_step: Any, **_: Any) -> None:
            while True:
                on_step(1, 0.0)
                time.sleep(0.01)

        monkeypatch.setattr(learner._store, "learn", trains)
        segment = Caller(client, Segment, "/selector/segment")
        train = Caller(client, Train, "/learner/train")
        goals = segment.send(frames=1, timeout=600.0), train.send()
        results = [goal.get_result_async() for goal in goals]
        actions = learner._train_action, graph.nodes["selector"]._segment._action
        futures = [action._server._result_futures.values() for action in actions]
        asked = list(itertools.chain.from_iterable(futures))
        client.wait(lambda: all(future._callbacks for future in asked), "both to be asked for")
        client.wait(lambda: len(train.feedback) > 0, "the training to run")
        if how == "shutdown":
            for name in graph.nodes:
                request = {"transition": Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN)}
                assert client.call(ChangeState, f"/{name}/change_state", **request).success
        else:
            graph.end()
        client.wait(lambda: all(result.done() for result in results), "the results")
        answers = [result.result() for result in results]
        assert [answer.status for answer in answers] == [GoalStatus.STATUS_ABORTED] * 2
        assert [answer.result.message for answer in answers] == [
            "masks of 0 of 1 frames: selector is not active any more",
            "training was stopped: the node was deactivated",
        ]


def test_train_gives_feedback_and_its_version_and_can_be_cancelled(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller(graph, Train, "/learner/train")
    learner = graph.nodes["learner"]
    status, result = caller.call()
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert result.message == "no selected mask to learn from yet"
    graph.feed(disc_frames(8))
    graph.wait(lambda: learner.health.counted("clips stored") == 2, "the clips to be stored")

    monkeypatch.setattr(rounds, "check_agreement", lambda *_: GateDecision(True, "good"))
    handle = caller.send()
    status, result = caller.result(handle)
    assert (status, result.success) == (GoalStatus.STATUS_SUCCEEDED, True), result.message
    assert result.version == "v0001" and result.message.startswith("v0001: ")
    published = TrainingProgress.STATE_PUBLISHED
    graph.wait(lambda: caller.feedback[-1].progress.state == published, "the last feedback")
    assert caller.feedback[0].progress.state == TrainingProgress.STATE_TRAINING

    monkeypatch.setattr(rounds, "check_agreement", lambda *_: GateDecision(False, "too bad"))
    status, result = caller.call()
    assert (status, result.version) == (GoalStatus.STATUS_ABORTED, "")
    assert result.message == "refused by the gate: too bad"

    cancelled: list[Any] = []

    def step(cancel: Any, number: int, loss: float) -> None:
        graph.wait(lambda: bool(cancelled), "the goal to be cancelled")
        LearnerNode._on_step(learner, cancel, number, loss)

    monkeypatch.setattr(rounds, "check_agreement", lambda *_: GateDecision(True, "good"))
    monkeypatch.setattr(learner, "_on_step", step)
    handle = caller.send()
    status, result = caller.call()
    assert status == GoalStatus.STATUS_ABORTED and "training is under way" in result.message
    caller.cancel(handle)
    cancelled.append(handle)
    status, result = caller.result(handle)
    assert (status, result.message) == (
        GoalStatus.STATUS_CANCELED, "training was stopped: it was cancelled"
    )  # fmt: skip

    monkeypatch.setattr(learner._training, "put", lambda reason: None)
    handle = caller.send()  # a goal whose training does not begin
    learner.trigger_deactivate()
    status, result = caller.result(handle)
    assert (status, result.message) == (GoalStatus.STATUS_ABORTED, "learner was deactivated")


def test_train_names_a_version_that_is_published_and_does_not_serve_yet(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its teacher proposes better, so it is not announced."""
    learner = graph.nodes["learner"]
    learnt = SimpleNamespace(
        version=SimpleNamespace(version="v0001"),
        decision=GateDecision(True, "good"),
        comparison=TeacherDecision(False, "too weak", 4),
    )
    monkeypatch.setattr(learner._store, "learn", lambda *_, **__: learnt)
    learner._masks_stored = 1
    status, result = Caller(graph, Train, "/learner/train").call()
    assert (status, result.success) == (GoalStatus.STATUS_SUCCEEDED, True)
    assert result.version == "v0001"
    assert result.message == "v0001 does not serve yet, learning goes on from it: too weak"
