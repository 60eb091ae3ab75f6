"""The live nodes over real DDS against the offline pipeline, mask for mask."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from support.forks import ForkedProgram
from support.networks import little_slim, save_random_weights
from support.recordings import disc_frames
from support.ros import PATIENCE_S, PIPELINE, TOPIC, Graph, counts_by_stamp, ros_arguments

from gbopt_ros.config import Config, load_config
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.sources.images import image_from_message
from gbopt_ros.masks import decode
from gbopt_ros.models import mask_rcnn
from gbopt_ros.msg import ClipFrames, ClipStatus, SelectedMasks
from gbopt_ros.nodes.base import LATCHED_QOS, LINK_QOS, PipelineNode
from gbopt_ros.nodes.composed import COMPOSED, compose
from gbopt_ros.nodes.messages import Stamped, decode_rle, encode_image, make_header, stamp_ns
from gbopt_ros.nodes.player import Player, looped
from gbopt_ros.nodes.proposal import ProposalNode
from gbopt_ros.nodes.selector import SelectorNode
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.selection import StreamSelector
from gbopt_ros.srv import SetTarget
from gbopt_ros.structures import Frame, GboptError
from gbopt_ros.tracks import TrackLinker

MASKS, STATUS = "/selector/output/masks", "/selector/output/status"
SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"), sees_foreground=True)


def offline(
    weights: dict[str, Path],
    frames: Sequence[Frame],
    *overrides: str,
    profile: Path | None = None,
) -> dict[int, list[str]]:
    """What `gbopt replay` selects; where clips overlap, the first clip of a frame counts."""
    config: Config = load_config(
        profile,
        [
            f"proposal.weights={weights['proposals']}",
            f"background.weights={weights['background']}",
            *(f"{name}={value}" for name, value in PIPELINE.items()),
            *overrides,
        ],
    )
    chosen: dict[int, list[str]] = {}
    for selection in Pipeline(config).run(frames):
        for frame in selection.frames:
            chosen.setdefault(frame.frame.stamp_ns, [rle["counts"] for rle in frame.rles])
    return chosen


@pytest.fixture
def graph(
    request: pytest.FixtureRequest,
    ros_domain_id: int,
    weights: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Graph]:
    """All nodes but the learner in this process; parametrise indirectly with parameters.

    As long as it lasts, proposal networks look at few regions, `offline` too.
    """
    monkeypatch.setitem(mask_rcnn.ARCHITECTURES, "slim18-fpn", little_slim())
    parameters = getattr(request, "param", {})
    arguments = ros_arguments(weights, **parameters)
    with Graph(ros_domain_id, lambda context: compose(context=context), arguments) as made:
        made.start()
        yield made


def play(graph: Graph, frames: Sequence[Frame], linger_s: float = 0.0) -> None:
    options = {"patience_s": PATIENCE_S, "linger_s": linger_s}
    player = Player(TOPIC, lockstep=True, context=graph.context, **options)
    try:
        assert player.play(frames) == len(frames)
    finally:
        player.close()


@pytest.mark.parametrize(
    ("graph", "overrides"),
    [({}, []), ({"clip.overlap": 2}, ["clip.overlap=2"])],
    indirect=["graph"],
    ids=["apart", "overlapping"],
)
def test_composed_equals_replay(
    graph: Graph, weights: dict[str, Path], overrides: list[str]
) -> None:
    frames = disc_frames(10)
    masks, status = graph.observe(SelectedMasks, MASKS), graph.observe(ClipStatus, STATUS)
    play(graph, frames)
    expected = offline(weights, frames, *overrides)
    assert sum(map(len, expected.values())) > 0
    graph.wait(lambda: len(masks) >= len(frames), "the masks")
    assert counts_by_stamp(masks) == expected
    assert len(masks) == len(frames)
    assert {m.model_version for m in masks} == {"random"}
    assert all(m.header.frame_id == "camera" for m in masks)
    assert [m.frame_index for m in masks] == list(range(len(frames)))
    assert all(s.optimal and s.dropped_frames == 0 and s.dropped_clips == 0 for s in status)
    assert all(0 < s.selection_time < s.latency < 60 for s in status)
    assert sum(s.masks for s in status) >= sum(len(m.masks) for m in masks)


@pytest.mark.parametrize(
    ("graph", "overrides"),
    [
        # A lag of a whole clip changes nothing, without motion: a stream knows only earlier frames.
        ({"selection.lag": 4, "motion.weight": 0.0}, ["motion.weight=0"]),
        (
            {"selection.lag": 4, "motion.weight": 0.0, "clip.overlap": 2},
            ["motion.weight=0", "clip.overlap=2"],
        ),
        (
            {"selection.lag": 1, "clip.overlap": 2, "max_in_flight": 1},
            ["selection.lag=1", "clip.overlap=2"],
        ),
    ],
    indirect=["graph"],
    ids=["whole clip", "overlapping", "short"],
)
def test_composed_with_a_lag_equals_replay(
    graph: Graph, weights: dict[str, Path], overrides: list[str]
) -> None:
    frames = disc_frames(11)
    masks, status = graph.observe(SelectedMasks, MASKS), graph.observe(ClipStatus, STATUS)
    play(graph, frames)
    graph.wait(lambda: sum(s.published for s in status) == len(frames), "the end of all clips")
    graph.wait(lambda: len(masks) == len(frames), "the masks")
    assert [m.frame_index for m in masks] == list(range(len(frames)))
    assert [stamp_ns(m.header.stamp) for m in masks] == [f.stamp_ns for f in frames]
    assert all(m.header.frame_id == "camera" and m.model_version == "random" for m in masks)
    for s in status:
        assert s.published == sum(m.clip_id == s.clip_id for m in masks)
        assert 0 < s.selection_time < s.latency < 60
    assert counts_by_stamp(masks) == offline(weights, frames, *overrides)
    if "selection.lag=1" not in overrides:
        assert all(s.optimal and s.lower_bound == s.energy for s in status)


ROBOT = find_resource("config/robot.yaml")


@pytest.mark.parametrize("graph", [{"profile": ROBOT, "clip.length": 8}], indirect=True)
def test_composed_with_the_robot_profile_equals_replay(
    graph: Graph, weights: dict[str, Path]
) -> None:
    frames = disc_frames(11)
    masks = graph.observe(SelectedMasks, MASKS)
    play(graph, frames)
    graph.wait(lambda: len(masks) == len(frames), "the masks")
    assert counts_by_stamp(masks) == offline(weights, frames, "clip.length=8", profile=ROBOT)


@pytest.mark.parametrize(
    "graph", [{"selection.lag": 1, "clip.length": 50, "max_in_flight": 1}], indirect=True
)
def test_selector_with_a_lag_publishes_before_the_clip_ends(graph: Graph) -> None:
    masks, status = graph.observe(SelectedMasks, MASKS), graph.observe(ClipStatus, STATUS)
    for count, frame in enumerate(disc_frames(6)):
        graph.feed([frame])  # returns when the frame is done, and not before its masks are due
        graph.wait(lambda count=count: len(masks) >= count, "the masks of the frame before")
    assert status == []
    assert [m.frame_index for m in masks][:5] == list(range(5))
    assert graph.call(Trigger, "/clip_buffer/flush").success
    graph.wait(lambda: len(masks) == 6 and len(status) == 1, "the last frame's masks")
    assert (status[0].frames, status[0].published) == (6, 6)


@pytest.mark.parametrize(
    "graph", [{"selection.lag": 0, "max_in_flight": 2, "max_wait_s": 600.0}], indirect=True
)
def test_selector_that_is_slow_holds_back_the_clip_buffer(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame is done only when the selection has taken it: frames wait, none is lost."""
    buffer = graph.nodes["clip_buffer"]
    may_go_on = threading.Event()
    advance = StreamSelector.advance

    def slow(*arguments: Any, **options: Any) -> Any:
        may_go_on.wait(PATIENCE_S)
        return advance(*arguments, **options)

    monkeypatch.setattr(StreamSelector, "advance", slow)
    masks = graph.observe(SelectedMasks, MASKS)
    images = graph.observe(Image, "/clip_buffer/output/image", LINK_QOS)
    for count, frame in enumerate(disc_frames(6), start=1):
        graph.send(frame)
        graph.wait(lambda count=count: buffer.facts()["received"] == count, "the frame to arrive")
    graph.wait(lambda: len(images) == 2, "two frames to be sent")
    time.sleep(0.5)  # in which the networks finish them
    assert len(images) == buffer.facts()["in flight"] == 2
    may_go_on.set()
    graph.wait(lambda: len(masks) == 6, "the masks")
    assert buffer.health.counted("dropped") == 0
    assert graph.nodes["selector"].health.counted("clips lost") == 0


def test_separate_processes_equal_replay(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    frames = disc_frames(6)
    with processes(weights) as _, Graph(ros_domain_id) as observing:
        masks = observing.observe(SelectedMasks, MASKS)
        play(observing, frames)
        observing.wait(lambda: len(masks) >= len(frames), "the masks")
    assert counts_by_stamp(masks) == offline(weights, frames)


class processes:
    """Each node as a process of its own."""

    NAMES = ("selector", "flow", "background", "proposal", "clip_buffer")

    def __init__(
        self, weights: dict[str, Path], names: Sequence[str] = NAMES, **parameters: Any
    ) -> None:
        self._names, self._arguments = names, ros_arguments(weights, **parameters)
        self.running: dict[str, ForkedProgram] = {}

    def start(self, name: str) -> None:
        self.running[name] = ForkedProgram("gbopt_ros.nodes", [name, *self._arguments])

    def __enter__(self) -> processes:
        for name in self._names:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.interrupt()
        try:
            statuses = {name: process.wait(20) for name, process in self.running.items()}
        finally:
            for process in self.running.values():
                process.kill()
        assert set(statuses.values()) == {0}, f"exit statuses {statuses}"


def test_selector_that_was_killed_comes_back(ros_domain_id: int, weights: dict[str, Path]) -> None:
    """The other nodes, which stay as they are, are in one process, joined by DDS all the same."""
    frames = looped(disc_frames(8), 0)
    running = processes(weights, ("selector",), stall_timeout_s=2.0)

    def others(context: Any) -> list[PipelineNode]:
        return [make(context=context) for make in COMPOSED if make is not SelectorNode]

    arguments = ros_arguments(weights, stall_timeout_s=2.0)
    with running, Graph(ros_domain_id, others, arguments) as observing:
        observing.start()
        masks = observing.observe(SelectedMasks, MASKS)

        def send_until(done: Any) -> None:
            def step() -> bool:
                observing.send(next(frames))
                time.sleep(0.25)  # else the networks take the cores that the selector starts on
                return bool(done())

            observing.wait(step, "masks")

        send_until(lambda: masks)
        running.running["selector"].kill()
        running.start("selector")
        masks.clear()
        send_until(lambda: len(masks) >= 8)
        # Whole clips again: frames of one clip, in order.
        last = [m for m in masks if m.clip_id == masks[0].clip_id]
        assert [m.frame_index for m in last] == sorted(m.frame_index for m in last)


def slow_down_proposals(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    process = ProposalNode.process

    def slowly(self: ProposalNode, image: Any) -> None:
        time.sleep(seconds)
        process(self, image)

    monkeypatch.setattr(ProposalNode, "process", slowly)


def test_clip_buffer_gives_up_nothing_for_slow_networks(
    ros_domain_id: int, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame waits for the four before it for longer than the stall timeout."""
    slow_down_proposals(monkeypatch, 0.4)  # alone it has a second more, on a busy machine too
    parameters = {"clip.length": 3, "clip.max_gap_s": 10.0}  # no dropped frame ends a clip
    arguments = ros_arguments(weights, stall_timeout_s=1.4, **parameters)
    with Graph(ros_domain_id, lambda context: compose(context=context), arguments) as made:
        made.start()
        masks = made.observe(SelectedMasks, MASKS)
        buffer, selector = made.nodes["clip_buffer"], made.nodes["selector"]
        frames = looped(disc_frames(8), 0)  # without end

        def send() -> bool:
            made.send(next(frames))
            time.sleep(0.1)
            return len(masks) >= 9 and buffer.health.counted("dropped") > 20

        made.wait(send, "the masks of the clips, and frames dropped")
        made.wait(lambda: buffer.facts()["in flight"] == 0, "all frames to be done")
        assert buffer.health.counted("given up") == 0
        assert selector.health.counted("clips lost") == 0


def test_diagnostics_tell_that_dropped_frames_tear_clips(
    ros_domain_id: int, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down_proposals(monkeypatch, 0.4)
    parameters = {"clip.max_gap_s": 0.15, "max_in_flight": 1, "queue": 1}
    arguments = ros_arguments(weights, **parameters)
    with Graph(ros_domain_id, lambda context: compose(context=context), arguments) as made:
        made.start()
        buffer = made.nodes["clip_buffer"]
        for frame in looped(disc_frames(8), 3):  # 10 a second
            made.send(frame)
            time.sleep(0.1)
        message = buffer.health.status("", "active", {}).message
        assert "clips end early: dropped frames leave gaps of more than 0.15 s" in message


def test_player_that_finishes_waits_for_the_last_masks(
    ros_domain_id: int, weights: dict[str, Path]
) -> None:
    """At the recording's own pace, fewer frames than a clip has."""
    arguments = ros_arguments(weights, **{"clip.length": 30})
    with Graph(ros_domain_id, lambda context: compose(context=context), arguments) as made:
        made.start()
        masks = made.observe(SelectedMasks, MASKS)
        frames = disc_frames(5)
        player = Player(TOPIC, finish=True, subscribed=[MASKS], context=made.context)
        try:
            assert player.play(frames) == 5
        finally:
            player.close()
        assert stamp_ns(masks[-1].header.stamp) == frames[-1].stamp_ns


def test_selector_outputs_for_planners(graph: Graph) -> None:
    frames = disc_frames(4)
    topics = {
        "/selector/output/label_image": Image,
        "/selector/output/segmask": Image,
        "/selector/debug/overlay": Image,
    }
    seen = {topic: graph.observe(kind, topic) for topic, kind in topics.items()}
    masks = graph.observe(SelectedMasks, MASKS)
    reply = graph.call(SetTarget, "/selector/set_target", mode=SetTarget.Request.MODE_LARGEST)
    assert reply.success and reply.message == "segmask shows the largest mask"
    play(graph, frames)
    graph.wait(lambda: all(len(v) == 4 for v in (masks, *seen.values())), "all outputs")
    for i, message in enumerate(masks):
        labels, segmask, overlay = (seen[topic][i] for topic in topics)
        assert labels.header == segmask.header == overlay.header == message.header
        values = np.frombuffer(labels.data, "<u2").reshape(96, 128)
        decoded = [decode({"size": [96, 128], "counts": m.mask.counts}) for m in message.masks]
        expected = sum((i + 1) * mask.astype(int) for i, mask in enumerate(decoded))
        assert labels.encoding == "16UC1"
        np.testing.assert_array_equal(values, expected)
        largest = max(decoded, key=np.sum)
        shown = np.frombuffer(segmask.data, np.uint8).reshape(96, 128)
        np.testing.assert_array_equal(shown, 255 * largest)
        assert overlay.encoding == "rgb8"
        assert not np.array_equal(image_from_message(overlay), frames[i].image)


def track_ids(masks: Sequence[Any]) -> list[list[int]]:
    return [[mask.track_id for mask in message.masks] for message in masks]


@pytest.mark.parametrize("graph", [{"selection.detect_cuts": False}], indirect=True)
def test_selector_publishes_track_ids_that_last(graph: Graph) -> None:
    """Over the end of clips and over a time in which it is not active; `segmask` follows one."""
    masks, segmasks = (
        graph.observe(kind, topic)
        for kind, topic in ((SelectedMasks, MASKS), (Image, "/selector/output/segmask"))
    )
    frames = disc_frames(12)
    play(graph, frames[:8])  # two clips
    graph.wait(lambda: len(masks) == 8, "the masks of two clips")
    linker = TrackLinker()

    def expected() -> list[list[int]]:
        return [
            linker.link([decode_rle(mask.mask) for mask in m.masks], stamp_ns(m.header.stamp))
            for m in masks[linker_fed:]
        ]

    linker_fed = 0
    assert track_ids(masks) == expected()
    linker_fed = 8
    assert {i for ids in track_ids(masks[:4]) for i in ids} & set(track_ids(masks[4:5])[0])

    selector = graph.nodes["selector"]
    assert selector.trigger_deactivate() == selector.trigger_activate() == SUCCESS
    chosen = track_ids(masks)[-1][0]
    request = {"mode": SetTarget.Request.MODE_TRACK, "track_id": chosen}
    reply = graph.call(SetTarget, "/selector/set_target", **request)
    assert reply.success and reply.message == f"segmask shows the mask of track {chosen}"
    segmasks.clear()
    play(graph, frames[8:])
    graph.wait(lambda: len(masks) == 12 and len(segmasks) == 4, "the masks of the third clip")
    assert track_ids(masks[8:]) == expected()
    for message, segmask in zip(masks[8:], segmasks, strict=True):
        shown = np.frombuffer(segmask.data, np.uint8).reshape(96, 128) > 0
        of_track = [decode(decode_rle(m.mask)) for m in message.masks if m.track_id == chosen]
        np.testing.assert_array_equal(shown, sum(of_track, np.zeros((96, 128), bool)))


def test_selector_ends_tracks_at_a_cut(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """One and the same image gives the same masks, and with a cut before it other ids."""
    monkeypatch.setattr("gbopt_ros.selection.lattice.is_cut", lambda scores, iou: True)
    masks = graph.observe(SelectedMasks, MASKS)
    frame = disc_frames(1)[0]
    stamps = [frame.stamp_ns + i * 10**8 for i in range(4)]
    play(graph, [replace(frame, index=i, stamp_ns=stamp) for i, stamp in enumerate(stamps)])
    graph.wait(lambda: len(masks) == 4, "the masks of a clip")
    ids = [i for of_frame in track_ids(masks) for i in of_frame]
    assert len(set(ids)) == len(ids) > 4


def test_selector_outputs_for_vision_msgs(graph: Graph) -> None:
    """Labels and version are latched: who comes late gets them."""
    vision = pytest.importorskip("vision_msgs.msg", reason="vision_msgs, which has no wheel")
    boxes = graph.observe(vision.Detection2DArray, "/selector/output/detections")
    masks = graph.observe(SelectedMasks, MASKS)
    play(graph, disc_frames(4))
    graph.wait(lambda: len(masks) == len(boxes) == 4, "masks and boxes")
    assert [[int(box.id) for box in b.detections] for b in boxes] == track_ids(masks)
    assert [b.header for b in boxes] == [m.header for m in masks]
    labels, versions = (
        graph.observe(kind, f"/selector/output/{name}", LATCHED_QOS)
        for kind, name in ((vision.LabelInfo, "label_info"), (vision.VisionInfo, "vision_info"))
    )
    graph.wait(lambda: len(labels) == len(versions) == 1, "what was latched")
    names = ["background"] + ["object"] * max(len(m.masks) for m in masks)
    assert [(c.class_id, c.class_name) for c in labels[0].class_map] == [*enumerate(names)]
    (version,) = versions
    assert (version.method, version.database_location) == ("gbopt_ros", "random")
    assert version.database_version == 0  # no version of a store


@pytest.mark.parametrize(
    ("request_", "reason"),
    [({"mode": 9}, "mode 9"), ({"mode": SetTarget.Request.MODE_TRACK}, "track_id 0")],
)
def test_set_target_refuses_an_unknown_mode_and_no_track(
    graph: Graph, request_: dict[str, int], reason: str
) -> None:
    reply = graph.call(SetTarget, "/selector/set_target", **request_)
    assert not reply.success and reason in reply.message


@pytest.mark.parametrize("graph", [{"max_buffered_frames": 4, "clip.length": 6}], indirect=True)
def test_selector_logs_a_clip_that_it_cannot_hold(
    graph: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    graph.feed(disc_frames(5))
    graph.send(disc_frames(6)[5])
    said = ""

    def is_told() -> bool:
        nonlocal said
        said += "".join(capfd.readouterr())
        return "a clip of 6 frames does not fit max_buffered_frames (4)" in said

    graph.wait(is_told, "the complaint")


@pytest.mark.parametrize("graph", [{"queue": 1, "max_in_flight": 1}], indirect=True)
def test_clip_buffer_under_load_drops_the_oldest_frames_and_counts_them(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = graph.observe(ClipFrames, "/clip_buffer/output/clips")
    buffer = graph.nodes["clip_buffer"]
    all_sent = threading.Event()
    process = ProposalNode.process

    def slow(node: ProposalNode, image: Any) -> None:
        all_sent.wait(PATIENCE_S)
        process(node, image)

    monkeypatch.setattr(ProposalNode, "process", slow)
    frames = disc_frames(30)
    for count, frame in enumerate(frames, start=1):  # not faster than the middleware
        graph.send(frame)
        graph.wait(lambda count=count: buffer.facts()["received"] == count, "the frame to arrive")
    all_sent.set()
    assert graph.call(Trigger, "/clip_buffer/flush").success
    graph.wait(
        lambda: clips and sum(len(c.stamps) for c in clips) + clips[-1].dropped == len(frames),
        "every frame to be in a clip or counted",
    )
    assert clips[-1].dropped == 28
    taken = [stamp_ns(stamp) for clip in clips for stamp in clip.stamps]
    assert len(taken) == 2 and taken[0] < taken[1] == frames[-1].stamp_ns


@pytest.mark.parametrize(
    "graph",
    [{}, {"use_sim_time": True}],
    indirect=True,
    ids=["wall", "a simulated clock that stands still"],
)
def test_clip_buffer_ends_the_clip_of_a_silent_camera(graph: Graph) -> None:
    clips = graph.observe(ClipFrames, "/clip_buffer/output/clips")
    masks = graph.observe(SelectedMasks, MASKS)
    frames = disc_frames(10)

    def end_after(seconds: float) -> None:
        timeout = Parameter("idle_timeout_s", value=seconds)
        assert graph.nodes["clip_buffer"].set_parameters([timeout])[0].successful

    graph.feed(frames[:2])
    end_after(0.1)  # only now: a slow machine is no silent camera
    graph.wait(lambda: len(masks) == 2, "the masks of the clip that silence ended")
    assert clips[0].reason == ClipFrames.REASON_GAP
    end_after(600.0)
    graph.feed(frames[6:])
    graph.wait(lambda: len(masks) == 6, "masks after the silence")
    assert [len(c.stamps) for c in clips] == [2, 4]
    assert clips[1].reason == ClipFrames.REASON_LENGTH


def test_clip_buffer_takes_stamps_that_repeat_or_jump_back(graph: Graph) -> None:
    frames = disc_frames(8)
    order = [frames[4], frames[5], frames[5], frames[0], frames[1], frames[2], frames[3]]
    clips = graph.observe(ClipFrames, "/clip_buffer/output/clips")
    masks = graph.observe(SelectedMasks, MASKS)
    graph.feed(order)
    graph.wait(lambda: len(masks) == 6, "the masks")
    assert [c.reason for c in clips] == [ClipFrames.REASON_STAMP, ClipFrames.REASON_LENGTH]
    assert [len(c.stamps) for c in clips] == [2, 4]
    assert clips[-1].dropped == 1


def test_selector_takes_a_repeated_stamp_after_a_jump_as_another_frame(graph: Graph) -> None:
    frames = disc_frames(4)
    masks = graph.observe(SelectedMasks, MASKS)
    graph.feed([frames[1], *frames])
    graph.wait(lambda: len(masks) == 5, "masks of every frame")
    assert [m.frame_index for m in masks] == [0, 1, 2, 3, 4]


def test_selector_selects_a_recording_that_begins_again(graph: Graph) -> None:
    """With other pictures under the same stamps, as after the reset of a simulation."""
    frames = disc_frames(4)
    blank = [replace(frame, image=np.full_like(frame.image, 90)) for frame in frames]
    masks = graph.observe(SelectedMasks, MASKS)
    overlays = graph.observe(Image, "/selector/debug/overlay")
    for count, recording in enumerate((frames, blank, frames), start=1):
        play(graph, recording)
        graph.wait(lambda count=count: len(masks) == len(overlays) == 4 * count, "the masks")
    assert counts_by_stamp(masks[:4]) == counts_by_stamp(masks[8:])
    # The corner, where no mask is, shows which picture was selected on.
    corners = [image_from_message(overlay)[0, 0].tolist() for overlay in overlays]
    assert corners[:4] == corners[8:] != corners[4:8]


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
def test_clip_buffer_takes_publishers_of_either_reliability(
    graph: Graph, reliability: ReliabilityPolicy
) -> None:
    masks = graph.observe(SelectedMasks, MASKS)
    graph.feed(disc_frames(4), reliability=reliability)
    graph.wait(lambda: len(masks) == 4, "the masks")


def test_clip_buffer_skips_and_counts_an_image_that_cannot_be_decoded(graph: Graph) -> None:
    clips = graph.observe(ClipFrames, "/clip_buffer/output/clips")
    frames = disc_frames(5)
    broken = Image(height=96, width=128, encoding="rgb8", step=384)
    early = encode_image(Stamped(make_header(-1, "camera"), frames[2].image))
    late = encode_image(Stamped(make_header(0, "camera"), frames[2].image))
    late.header.stamp.sec, late.header.stamp.nanosec = 2**31 - 1, 10**9  # no clip can tell it
    buffer = graph.nodes["clip_buffer"]
    graph.feed(frames[:2])
    for count, message in enumerate((broken, early, late), start=1):
        graph.camera().publish(message)
        graph.wait(lambda count=count: buffer.health.counted("dropped") == count, "the skip")
    graph.feed(frames[3:])
    graph.wait(lambda: len(clips) == 1, "the clip")
    assert list(clips[0].frame_indices) == [0, 1, 5, 6]
    assert clips[0].dropped == 3
    assert buffer.health.counted("failures") == 0


def test_diagnostics_of_every_node(graph: Graph) -> None:
    seen = graph.observe(DiagnosticArray, "/diagnostics")
    play(graph, disc_frames(4), linger_s=0.5)  # diagnostics of before arrive
    names = {"clip_buffer", "proposal", "background", "flow", "selector"}
    seen.clear()
    graph.wait(lambda: {s.name for m in seen for s in m.status} == names, "all diagnostics")
    by_name = {s.name: {v.key: v.value for v in s.values} for m in seen for s in m.status}
    assert all(values["state"] == "active" for values in by_name.values())
    assert {s.hardware_id for m in seen for s in m.status} <= {"cpu", "cuda"}
    assert by_name["proposal"]["model version"] == "random"
    assert by_name["proposal"]["done"] == "4"
    assert float(by_name["proposal"]["rate (Hz)"]) > 0
    assert by_name["selector"]["done"] == "1"
    assert by_name["clip_buffer"]["in flight"] == "0"


def test_player_says_that_nobody_subscribes(
    ros_domain_id: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gbopt_ros.nodes.player._SILENCE_S", 0.1)
    with Graph(ros_domain_id) as empty:
        player = Player(TOPIC, lockstep=True, patience_s=0.5, context=empty.context)
        try:
            with pytest.raises(GboptError, match="nobody subscribes to /camera/image_raw"):
                player.play(disc_frames(1))
        finally:
            player.close()
    assert capfd.readouterr().err.count("waiting up to 0.5 s: nobody subscribes to /camera") == 1


def test_player_in_lockstep_goes_past_a_repeated_stamp(graph: Graph) -> None:
    frames = disc_frames(3)
    masks = graph.observe(SelectedMasks, MASKS)
    play(graph, [frames[0], frames[1], frames[1], frames[2]])
    graph.wait(lambda: len(masks) == 3, "the masks")


def test_looped_stamps_go_on() -> None:
    frames = disc_frames(3)
    stamps = [frame.stamp_ns for frame in looped(frames, 2)]
    assert np.diff(stamps).tolist() == [10**8] * 5
    assert replace(frames[0], stamp_ns=stamps[3]).stamp_ns == 10**18 + 3 * 10**8
