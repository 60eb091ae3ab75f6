"""The learner node collects, trains, announces and rolls back; the other nodes follow."""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger
from support.detectron2_networks import needs_detectron2, tiny_detectron2, write_config
from support.disk import files_of_at_most
from support.forks import ForkedProgram
from support.networks import save_random_weights, tiny_mask_rcnn
from support.onnx_networks import needs_onnx, save_bright_yolo
from support.recordings import disc_frames
from support.ros import TOPIC, Graph, ros_arguments

from gbopt_ros.learning import round as rounds
from gbopt_ros.learning.confidence.appearance import AppearanceExtractor
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.store.gate import GateDecision
from gbopt_ros.learning.store.store import Store
from gbopt_ros.learning.store.teacher_gate import TeacherDecision
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import PROPOSALS, sha256_of, write_calibration
from gbopt_ros.msg import ClipStatus, ModelUpdate, SelectedMasks, TrainingProgress
from gbopt_ros.nodes import base, model_update
from gbopt_ros.nodes import learner as learner_node
from gbopt_ros.nodes.base import LATCHED_QOS, LINK_QOS
from gbopt_ros.nodes.clip_collector import CollectedFrames
from gbopt_ros.nodes.composed import compose
from gbopt_ros.nodes.learner import LearnerNode
from gbopt_ros.nodes.player import Player, looped
from gbopt_ros.structures import Calibration, Frame, GboptError

pytestmark = pytest.mark.usefixtures("small_networks")
SUCCESS = TransitionCallbackReturn.SUCCESS
# To observe them with LINK_QOS, which misses nothing of what follows in a hurry.
UPDATE, PROGRESS = "/learner/output/model_update", "/learner/output/progress"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_random_weights(tmp_path_factory.mktemp("weights"))


def learning(store: Path, **changes: Any) -> dict[str, Any]:
    """Parameters of a learner that trains for seconds."""
    return {
        "store": store, "train_every_clips": 0, "learning.iterations": 2,
        "learning.batch_size": 2, "learning.warmup": 0, "learning.learning_rate": 1e-5,
        "learning.gate_agreement": 0.0,  # what random weights propose, JPEG changes
    } | changes  # fmt: skip


def on_detectron2(folder: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """A detectron2 checkpoint as proposal network, and the parameters that go with it."""
    checkpoint = folder / "random.pth"
    torch.save(tiny_detectron2().state_dict(), checkpoint)
    return some_masks(folder) | {PROPOSALS: checkpoint}, {
        "proposal.detectron2_config": write_config(folder)
    }


def some_masks(folder: Path) -> dict[str, Path]:
    """Weights with which some masks are selected, however faint."""
    return save_random_weights(folder, sees_foreground=True)


def with_learner(domain: int, arguments: Sequence[str]) -> Graph:
    """All nodes, not started."""
    return Graph(
        domain,
        lambda context: [LearnerNode(context=context), *compose(context=context)],
        arguments,
    )


@pytest.fixture
def graph(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Graph]:
    parameters = learning(tmp_path / "store")
    kind = getattr(request, "param", "torchvision")
    if kind == "detectron2":
        weights, more = on_detectron2(tmp_path)
        parameters |= more
    if kind == "calibrated":  # any mask is probably an object
        calibrated = tmp_path / "calibrated.safetensors"
        write_calibration(weights[PROPOSALS], Calibration(0.0, 0.0, 0.0), calibrated)
        weights = weights | {PROPOSALS: calibrated}
    arguments = ros_arguments(weights, **parameters)
    with with_learner(ros_domain_id, arguments) as made:
        made.start()
        yield made


def play(graph: Graph, count: int) -> None:
    play_frames(graph, disc_frames(count))


def test_learner_compares_under_the_settings_that_the_selector_has_now(graph: Graph) -> None:
    selector, learner = graph.nodes["selector"], graph.nodes["learner"]
    changes = {"selection.lambda_flow": 0.75, "motion.baseline_s": 1.5, "selection.k": 3}
    parameters = [Parameter(name, value=value) for name, value in changes.items()]
    assert all(result.successful for result in selector.set_parameters(parameters))
    play(graph, 4)
    graph.wait(lambda: learner.config.selection == selector.config.selection, "its settings")
    assert learner.config.motion == selector.config.motion
    assert {name: learner.get_parameter(name).value for name in changes} == changes


def test_learner_tells_of_settings_that_it_cannot_take_over(graph: Graph) -> None:
    """No message makes it open a file, or changes what is its own."""
    learner = graph.nodes["learner"]
    before = learner.config, learner.settings
    names = {"selection.photograph": "/dev/zero", "train_every_clips": 7, "selection.new": 1}

    def tell(**settings: Any) -> str:
        parameters = [Parameter(name, value=value) for name, value in settings.items()]
        learner._on_status(ClipStatus(settings=[each.to_parameter_msg() for each in parameters]))
        return str(learner.health.status("", "active", {}).message)

    told = tell(**names)
    assert "compares under other settings than those of the selector: " in told
    assert "read-only parameter: selection.photograph" in told
    assert (learner.config, learner.settings) == before
    assert tell() == "active"


def play_frames(graph: Graph, frames: Sequence[Frame]) -> None:
    player = Player(TOPIC, lockstep=True, linger_s=0.0, context=graph.context)
    try:
        player.play(frames)
    finally:
        player.close()


@pytest.mark.parametrize(
    "graph", ["torchvision", pytest.param("detectron2", marks=needs_detectron2)], indirect=True
)
def test_learner_trains_swaps_and_rolls_back_while_frames_flow(
    graph: Graph, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store").models
    updates, progress = (
        graph.observe(ModelUpdate, UPDATE),
        graph.observe(TrainingProgress, PROGRESS, LINK_QOS),
    )
    masks = graph.observe(SelectedMasks, "/selector/output/masks")
    proposal, learner = graph.nodes["proposal"], graph.nodes["learner"]
    first = proposal.facts()["model version"]  # of a checkpoint: its name and digest
    assert str(first).startswith("random")

    reply = graph.call(Trigger, "/learner/train")
    assert not reply.success and "no selected mask" in reply.message

    play(graph, 8)
    graph.wait(lambda: learner.health.counted("clips stored") == 2, "the clips to be stored")
    graph.wait(lambda: len(masks) == 8, "the masks")
    with Store(tmp_path / "store").training_set() as stored:
        assert stored.instance_count == sum(len(m.masks) for m in masks) > 0

    reply = graph.call(Trigger, "/learner/train")
    assert reply.success
    sent = 8
    frames = islice(looped(disc_frames(8), 0), 8, None)
    player = Player(TOPIC, lockstep=True, linger_s=0.0, context=graph.context)
    try:
        while not updates or proposal.facts()["model version"] != "v0001":
            sent += player.play(list(islice(frames, 4)))
        sent += player.play(list(islice(frames, 4)))
    finally:
        player.close()
    graph.wait(lambda: len(masks) == sent, "masks of every frame")
    versions = [m.model_version for m in masks]
    assert sorted(set(versions)) == [first, "v0001"]
    assert versions == sorted(versions), "one version after the other"
    published = store.current()
    assert published is not None and published.version == "v0001"
    assert updates[0].sha256 == sha256_of(published.path)
    assert updates[0].parent == first and updates[0].cause == ModelUpdate.CAUSE_TRAINED
    graph.wait(lambda: progress[-1].state == TrainingProgress.STATE_PUBLISHED, "the end")
    assert TrainingProgress.STATE_TRAINING in [p.state for p in progress]
    assert max(p.iteration for p in progress) == 2

    reply = graph.call(Trigger, "/learner/rollback")
    assert reply.success and first in reply.message
    graph.wait(lambda: proposal.facts()["model version"] == first, "the old network")
    graph.wait(lambda: updates[-1].cause == ModelUpdate.CAUSE_ROLLBACK, "the announcement")
    play(graph, 4)
    graph.wait(lambda: len(masks) == sent + 4, "masks after the rollback")
    assert {m.model_version for m in masks[-4:]} == {first}
    reply = graph.call(Trigger, "/learner/rollback")
    assert not reply.success and "nothing to roll back" in reply.message


def test_learner_starts_a_new_session_after_a_clip_buffer_restart(
    graph: Graph, tmp_path: Path
) -> None:
    """Frames and clips count from 0 again; they become another recording."""
    learner, buffer = graph.nodes["learner"], graph.nodes["clip_buffer"]
    masks = graph.observe(SelectedMasks, "/selector/output/masks")
    play(graph, 8)
    graph.wait(lambda: learner.health.counted("clips stored") == 2, "the clips to be stored")
    assert buffer.trigger_deactivate() == buffer.trigger_activate() == SUCCESS
    later = [replace(frame, stamp_ns=frame.stamp_ns + 10**11) for frame in disc_frames(16)[8:]]
    play_frames(graph, later)
    graph.wait(lambda: learner.health.counted("clips stored") == 4, "all clips to be stored")
    graph.wait(lambda: len(masks) == 16, "all masks")
    assert [m.frame_index for m in masks] == [*range(8), *range(8)]
    with Store(tmp_path / "store").training_set() as stored:
        assert len(stored) == sum(bool(m.masks) for m in masks)
        assert stored.instance_count == sum(len(m.masks) for m in masks) > 0


@pytest.mark.parametrize("graph", ["calibrated"], indirect=True)
def test_learner_stores_replayed_frames_once(graph: Graph, tmp_path: Path) -> None:
    """With the masks of the last session; not at all if that has none."""
    learner, buffer = graph.nodes["learner"], graph.nodes["clip_buffer"]
    masks = graph.observe(SelectedMasks, "/selector/output/masks")
    recordings: list[list[str]] = []
    tracks: list[dict[int, list[int | None]]] = []
    for session in (1, 2, 3):
        if session == 3:  # so that no score is good enough
            selector = graph.nodes["selector"]
            strict = [
                Parameter("selection.score_weight", value=1e6),
                Parameter("selection.neutral_score", value=0.999),
            ]
            assert all(r.successful for r in selector.set_parameters(strict))
        frames = disc_frames(8)
        play_frames(graph, [replace(f, stamp_ns=f.stamp_ns + session * 10**11) for f in frames])
        graph.wait(
            lambda: learner.health.counted("clips stored") == 2 * len(recordings) + 2, "the clips"
        )
        with Store(tmp_path / "store").training_set() as stored:
            entries = stored.labelled_images().entries
            recordings.append([entry.recording for entry in entries])
            held = stored.frames()
            tracks.append({f.frame_index: [mask.track_id for mask in f.masks] for f in held})
        assert buffer.trigger_deactivate() == buffer.trigger_activate() == SUCCESS
    graph.wait(lambda: len(masks) == 24, "all masks")
    assert len(recordings[1]) == sum(bool(m.masks) for m in masks[8:16]) > 0
    sent = {m.frame_index: [mask.track_id for mask in m.masks] for m in masks[8:16] if m.masks}
    assert tracks[1] == sent
    assert len(set(recordings[1])) == 1 and set(recordings[1]) != set(recordings[0])
    assert not any(m.masks for m in masks[16:]) and recordings[2] == []


def test_learner_does_not_announce_a_version_refused_by_the_gate(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rounds, "check_agreement", lambda *_: GateDecision(False, "too bad"))
    updates, progress = (
        graph.observe(ModelUpdate, UPDATE),
        graph.observe(TrainingProgress, PROGRESS, LINK_QOS),
    )
    play(graph, 4)
    graph.wait(lambda: graph.nodes["learner"].health.counted("clips stored") == 1, "the clip")
    graph.call(Trigger, "/learner/train")
    graph.wait(lambda: progress[-1].state == TrainingProgress.STATE_REJECTED, "the refusal")
    assert "too bad" in progress[-1].message
    assert updates == []
    assert Store(tmp_path / "store").models.current() is None


@needs_onnx
def test_learner_announces_a_student_once_it_proposes_as_well_as_its_teacher(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is an ONNX network, which serves until then and after the rollback."""
    decisions = [TeacherDecision(False, "too weak", 4), TeacherDecision(True, "good", 4, saved=1.1)]
    monkeypatch.setattr(rounds, "compare_with_teacher", lambda *_, **__: decisions.pop(0))
    monkeypatch.setattr(model_update, "MIN_AGREEMENT", 0.0)  # random weights agree with nothing
    teacher = save_bright_yolo(tmp_path / "yolo.onnx")
    cheap = {"learning.iterations": 1, "learning.batch_size": 1}
    parameters = learning(tmp_path / "store", **cheap, **{"learning.student": weights[PROPOSALS]})
    arguments = ros_arguments(some_masks(tmp_path) | {PROPOSALS: teacher}, **parameters)
    with with_learner(ros_domain_id, arguments) as made:
        made.start()
        proposal, learner = made.nodes["proposal"], made.nodes["learner"]
        first = str(proposal.facts()["model version"])
        assert first == f"yolo-{sha256_of(teacher)[:8]}"
        updates = made.observe(ModelUpdate, UPDATE)
        progress = made.observe(TrainingProgress, PROGRESS, LINK_QOS)
        masks = made.observe(SelectedMasks, "/selector/output/masks")
        play(made, 4)
        made.wait(lambda: learner.health.counted("clips stored") == 1, "the clip to be stored")

        assert made.call(Trigger, "/learner/train").success
        made.wait(lambda: progress[-1].state == TrainingProgress.STATE_REJECTED, "the refusal")
        assert (
            progress[-1].message == "v0001 does not serve yet, learning goes on from it: too weak"
        )
        store = Store(tmp_path / "store").models
        weak = store.current()
        assert weak is not None and weak.manifest["teachers"] == [first]
        assert updates == [] and proposal.facts()["model version"] == first

        made.wait(lambda: learner._training.idle, "the end of the round")
        assert made.call(Trigger, "/learner/train").success
        made.wait(lambda: proposal.facts()["model version"] == "v0002", "the student")
        assert [(u.version, u.parent) for u in updates] == [("v0002", "v0001")]
        assert {m.name: m.value for m in updates[0].metrics}["teacher_gate/saved"] == 1.1

        made.wait(lambda: learner._training.idle, "the end of the round")
        assert first in made.call(Trigger, "/learner/rollback").message
        made.wait(lambda: proposal.facts()["model version"] == first, "the teacher")
        assert Path(updates[-1].path) == teacher.resolve()
        assert store.current() == weak and store.serving() is None
        assert {m.model_version for m in masks} == {first}


def test_learner_that_starts_announces_the_version_in_service(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    """Not the current one, which is not as good as the teacher."""
    store = Store(tmp_path / "store").models
    network, info = load_mask_rcnn(weights[PROPOSALS])
    passed, failed = ({"teacher_gate": {"passed": passed}} for passed in (True, False))
    serving = store.publish(network, info, passed)
    store.publish(network, replace(info, version=serving.version), failed)
    arguments = ros_arguments(weights, **learning(tmp_path / "store"))
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        made.start()
        updates = made.observe(ModelUpdate, UPDATE, LATCHED_QOS)
        made.wait(lambda: [u.version for u in updates] == ["v0001"], "the version in service")


def test_train_every_clips_starts_training(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ros_arguments(weights, **learning(tmp_path / "store", train_every_clips=2))
    with with_learner(ros_domain_id, arguments) as made:
        made.start()
        updates = made.observe(ModelUpdate, UPDATE)
        play(made, 8)
        made.wait(lambda: len(updates) == 1, "a new version")


def test_clips_that_were_learnt_from_are_not_new(
    ros_domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where somebody called for the training."""
    trainings: list[int] = []  # clips stored by then

    def learn(store: Store, *_: Any, **__: Any) -> None:
        trainings.append(learner.health.counted("clips stored"))
        raise GboptError("enough")

    monkeypatch.setattr(Store, "learn", learn)
    parameters = learning(tmp_path / "store", train_every_clips=3)
    arguments = ros_arguments(some_masks(tmp_path), **parameters)
    with with_learner(ros_domain_id, arguments) as made:
        made.start()
        learner = made.nodes["learner"]
        for clips in (2, 4, 5):
            play(made, 4 * (clips - learner.health.counted("clips stored")))
            made.wait(lambda n=clips: learner.health.counted("clips stored") == n, "the clips")
            if clips == 2:
                assert made.call(Trigger, "/learner/train").success
                made.wait(lambda: bool(trainings), "the training")
        made.wait(lambda: len(trainings) == 2, "the third new clip")
    assert trainings == [2, 5]


def test_learner_stores_frames_of_a_clip_that_never_ends(
    ros_domain_id: int, tmp_path: Path
) -> None:
    """When its buffer is full, and at deactivation."""
    arguments = ros_arguments(
        some_masks(tmp_path),
        **learning(tmp_path / "store"),
        **{"clip.length": 60, "selection.lag": 0},
    )
    with with_learner(ros_domain_id, arguments) as made:
        made.start()
        learner = made.nodes["learner"]
        learner._collector._capacity = 4
        masks = made.observe(SelectedMasks, "/selector/output/masks")
        made.feed(disc_frames(8))
        made.wait(lambda: len(masks) == 8, "masks without waiting for the end of the clip")
        made.wait(lambda: learner.facts()["masks stored"] > 0, "the first of them")
        made.wait(lambda: learner._collector._last_index == masks[-1].frame_index, "all of them")
        assert learner.trigger_deactivate() == SUCCESS
        assert made.nodes["selector"].health.counted("done") == 0  # no clip
        assert learner.health.counted("clips stored") == 0  # but frames, below
    with Store(tmp_path / "store").training_set() as stored:
        assert stored.instance_count == sum(len(m.masks) for m in masks) > 0


def test_learner_leaves_nothing_of_a_clip_that_it_could_not_store(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What a learner leaves that is killed then, the next one finds in the store and removes."""
    store, places = tmp_path / "store", []

    def add(self: TrainingSet, frames: Any, **_: Any) -> int:
        places.append([frame.image_path for frame in frames])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TrainingSet, "add", add)
    with with_learner(ros_domain_id, ros_arguments(weights, **learning(store))) as made:
        made.start()
        learner = made.nodes["learner"]
        play(made, 4)
        made.wait(lambda: learner.health.counted("failures") == 1, "the failure")
        told = learner.health.status("", "active", {}).message
        assert told == f"{store}: cannot be written: No space left on device"
        assert [path.parent.parent for path in places[0]] == [store] * 4
        assert not any(path.exists() for path in places[0])
    assert "Traceback" not in capfd.readouterr().err


def test_learner_stores_no_part_of_an_image_on_a_full_disk(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    store, rng = tmp_path / "store", np.random.default_rng(0)
    noise = rng.integers(0, 256, (480, 640, 3), np.uint8)  # 300 kB as JPEG
    frames = [replace(frame, image=noise) for frame in disc_frames(4)]
    with with_learner(ros_domain_id, ros_arguments(weights, **learning(store))) as made:
        made.start()
        learner = made.nodes["learner"]
        with files_of_at_most(200_000):
            play_frames(made, frames)
            made.wait(lambda: learner.health.counted("failures") == 1, "the failure")
        told = learner.health.status("", "active", {}).message
        assert told == f"{store}: cannot be written: File too large"
        assert not list(store.rglob("*.jpg"))


def test_latency_of_the_learner_counts_the_wait_of_a_clip(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ros_arguments(weights, **learning(tmp_path / "store"))
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        made.start()
        learner, go_on = made.nodes["learner"], threading.Event()
        training_set = learner._store.training_set

        def late(*arguments: Any) -> Any:
            go_on.wait(10)
            return training_set(*arguments)

        monkeypatch.setattr(learner._store, "training_set", late)
        for _ in range(2):  # two clips whose frames have no image
            learner._collector._store(CollectedFrames("live", [], is_whole=True))
        time.sleep(0.5)
        go_on.set()
        made.wait(lambda: learner.health.counted("done") == 2, "both clips")
        values = {v.key: v.value for v in learner.health.status("", "active", {}).values}
    assert 0.5 <= float(values["latency mean (s)"]) < 10.0  # both waited


def test_learner_refuses_a_store_of_another_network(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store").models
    _, info = load_mask_rcnn(weights[PROPOSALS])
    store.publish(tiny_mask_rcnn(seed=1), info, {"origin": "of another"})
    arguments = ros_arguments(weights, **learning(tmp_path / "store"))
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        assert not made.nodes["learner"].start()


def test_learner_does_not_start_on_a_device_that_is_missing(
    ros_domain_id: int, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """And says so, though it needs the device only to train."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    arguments = ros_arguments(None, **learning(tmp_path / "store"), device="cuda")
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        assert not made.nodes["learner"].start()
    log = capfd.readouterr().err
    assert log.count("[ERROR]") == 1 and "cannot configure: device 'cuda': torch sees 0" in log


@pytest.mark.parametrize("content", ["{", '{"version": "latest"}'])
def test_learner_with_a_damaged_pointer_is_active_and_its_rollback_repairs_it(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path, content: str
) -> None:
    store = Store(tmp_path / "store").models
    network, info = load_mask_rcnn(weights[PROPOSALS])
    version = store.publish(network, info, {})
    (store.folder / "current.json").write_text(content)
    arguments = ros_arguments(weights, **learning(tmp_path / "store"))
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        made.start()
        learner = made.nodes["learner"]
        status = learner.health.status("learner", "active", {})
        assert status.level == DiagnosticStatus.ERROR and "call ~/rollback" in status.message
        assert made.call(Trigger, "/learner/rollback").success
        assert learner.health.status("learner", "active", {}).message == "active"
    assert store.current_name() == version.version


def test_rollback_service_repairs_a_damaged_version(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store").models
    network, info = load_mask_rcnn(weights[PROPOSALS])
    first = store.publish(network, info, {})
    second = store.publish(network, replace(info, version=first.version), {})
    second.path.write_bytes(second.path.read_bytes()[:-1] + b"?")
    arguments = ros_arguments(weights, **learning(tmp_path / "store"))
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        updates = made.observe(ModelUpdate, UPDATE) if made.nodes["learner"].start() else None
        assert updates == []
        learner = made.nodes["learner"]
        assert "call ~/rollback" in learner.health.status("learner", "active", {}).message
        assert made.call(Trigger, "/learner/rollback").success
        made.wait(lambda: [u.version for u in updates] == [first.version], "the parent")
        assert learner.health.status("learner", "active", {}).message == "active"


def test_learner_does_not_change_a_store_that_another_process_is_changing(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    """And it starts with a damaged one; clips are stored all the same."""
    store = Store(tmp_path / "store")
    network, info = load_mask_rcnn(weights[PROPOSALS])
    version = store.models.publish(network, info, {})
    (version.path.parent / "manifest.json").write_text("{")
    arguments = ros_arguments(weights, **learning(tmp_path / "store"))
    with with_learner(ros_domain_id, arguments) as made:
        made.start()
        progress = made.observe(TrainingProgress, PROGRESS, LINK_QOS)
        with store.writing("gbopt learn"):
            play(made, 4)
            made.wait(lambda: made.nodes["learner"].health.counted("clips stored") == 1, "the clip")
            reply = made.call(Trigger, "/learner/rollback")
            assert not reply.success and "gbopt learn is under way in process" in reply.message
            assert made.call(Trigger, "/learner/train").success
            made.wait(lambda: progress[-1].state == TrainingProgress.STATE_FAILED, "the refusal")
            assert "gbopt learn is under way in process" in progress[-1].message
        assert made.call(Trigger, "/learner/rollback").success
    assert store.models.current() is None


def test_deactivate_stops_training(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ros_arguments(
        weights, **learning(tmp_path / "store", **{"learning.iterations": 10_000})
    )
    with with_learner(ros_domain_id, arguments) as made:
        made.start()
        progress = made.observe(TrainingProgress, PROGRESS, LINK_QOS)
        learner = made.nodes["learner"]
        play(made, 4)
        made.wait(lambda: learner.health.counted("clips stored") == 1, "the clip")
        made.call(Trigger, "/learner/train")
        made.wait(lambda: any(p.iteration for p in progress), "the first step")
        learner.trigger_deactivate()
        made.wait(lambda: progress[-1].state == TrainingProgress.STATE_FAILED, "the end")
    assert Store(tmp_path / "store").models.current() is None


def test_progress_counts_the_steps_of_the_training_that_runs(
    ros_domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parameter that is set meanwhile is that of the next one."""

    def learn(store: Store, config: Any, *, on_step: Any, **_: Any) -> None:
        changed = Parameter("learning.iterations", value=2)
        assert learner.set_parameters([changed])[0].successful
        for step in (2, config.learning.iterations):
            learner._last_progress = 0.0
            on_step(step, 0.0)
        raise GboptError("enough")

    monkeypatch.setattr(Store, "learn", learn)
    arguments = ros_arguments(None, **learning(tmp_path / "store", **{"learning.iterations": 3}))
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        made.start()
        learner = made.nodes["learner"]
        progress = made.observe(TrainingProgress, PROGRESS, LINK_QOS)
        learner._masks_stored = 1
        assert made.call(Trigger, "/learner/train").success
        made.wait(lambda: progress and progress[-1].state == TrainingProgress.STATE_FAILED, "it")
    told = [(p.state, p.iteration, p.iterations) for p in progress if p.iteration]
    assert told == [
        (TrainingProgress.STATE_TRAINING, 2, 3),
        (TrainingProgress.STATE_CHECKING, 3, 3),
    ]


def test_deactivate_stops_training_before_the_first_step(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    """While the confidences of the training set are recalibrated."""
    looking = threading.Event()
    original = AppearanceExtractor.extract

    def slowly(self: AppearanceExtractor, *arguments: Any, **options: Any) -> Any:
        looking.set()
        time.sleep(0.2)
        return original(self, *arguments, **options)

    arguments = ros_arguments(weights, **learning(tmp_path / "store"))
    with pytest.MonkeyPatch.context() as patch, with_learner(ros_domain_id, arguments) as made:
        patch.setattr(AppearanceExtractor, "extract", slowly)
        made.start()
        progress = made.observe(TrainingProgress, PROGRESS, LINK_QOS)
        learner = made.nodes["learner"]
        play(made, 7)
        made.wait(lambda: learner.health.counted("clips stored") == 2, "the clips")
        made.call(Trigger, "/learner/train")
        made.wait(looking.is_set, "the comparison")
        learner.trigger_deactivate()
        made.wait(lambda: progress[-1].state == TrainingProgress.STATE_FAILED, "the end")
    assert all(p.iteration == 0 and math.isnan(p.loss) for p in progress)
    assert Store(tmp_path / "store").models.current() is None


def test_training_that_outlives_its_node_ends_without_a_traceback(
    ros_domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As a long check that is not waited for: there is no topic left to tell it on."""
    began, go_on = threading.Event(), threading.Event()

    def learn(store: Store, config: Any, *, on_step: Any, **_: Any) -> None:
        began.set()
        assert go_on.wait(60)
        on_step(1, 0.0)

    monkeypatch.setattr(Store, "learn", learn)
    for module in (base, learner_node):
        monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    arguments = ros_arguments(None, **learning(tmp_path / "store"))
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        made.start()
        learner = made.nodes["learner"]
        learner._masks_stored = 1
        assert made.call(Trigger, "/learner/train").success
        made.wait(began.is_set, "the training")
        thread = learner._training._thread
        assert learner.trigger_deactivate() == learner.trigger_cleanup() == SUCCESS
        go_on.set()
        thread.join(60)
        assert learner.health.counted("failures") == 0
    log = capfd.readouterr().err
    assert "training was stopped: the node was deactivated" in log and "Traceback" not in log


@pytest.mark.parametrize("goes_down", ["deactivated", "cleaned up", "deactivated for a moment"])
def test_version_that_outlives_its_node_is_not_announced_before_it_is_active_again(
    ros_domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_down: str
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def learn(store: Store, *_: Any, **__: Any) -> Any:
        began.set()
        assert go_on.wait(60)
        manifest = {"parent": "", "sha256": "0" * 64}
        version = SimpleNamespace(version="v0001", path=tmp_path / "v1", manifest=manifest)
        decision = SimpleNamespace(reason="better")
        return SimpleNamespace(version=version, decision=decision, comparison=None)

    monkeypatch.setattr(Store, "learn", learn)
    for module in (base, learner_node):
        monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    arguments = ros_arguments(None, **learning(tmp_path / "store"))
    with Graph(ros_domain_id, lambda context: [LearnerNode(context=context)], arguments) as made:
        made.start()
        updates = made.observe(ModelUpdate, UPDATE)
        learner = made.nodes["learner"]
        learner._masks_stored = 1
        assert made.call(Trigger, "/learner/train").success
        made.wait(began.is_set, "the training")
        thread = learner._training._thread
        assert learner.trigger_deactivate() == SUCCESS
        if goes_down == "cleaned up":
            assert learner.trigger_cleanup() == SUCCESS
        is_back = goes_down == "deactivated for a moment"
        if is_back:
            assert learner.trigger_activate() == SUCCESS
        go_on.set()
        thread.join(60)
        time.sleep(0.5)
        assert [update.version for update in updates] == ["v0001"] * is_back
        assert learner.health.counted("failures") == 0
        assert learner.health.counted("versions published") == 1


def test_learner_killed_in_training_starts_again(
    ros_domain_id: int, weights: dict[str, Path], tmp_path: Path
) -> None:
    """The training set is intact, no incomplete version serves, and learning works again."""
    store = tmp_path / "store"

    with ExitStack() as started:

        def start(iterations: int) -> ForkedProgram:
            changes = {"train_every_clips": 1, "learning.iterations": iterations}
            arguments = ros_arguments(weights, **learning(store, **changes))
            process = ForkedProgram("gbopt_ros.nodes", ["learner", *arguments])
            started.callback(process.kill)
            return process

        made = started.enter_context(
            Graph(ros_domain_id, lambda context: compose(context=context), ros_arguments(weights))
        )
        made.start()
        first = start(iterations=10_000)
        progress = made.observe(TrainingProgress, PROGRESS, LINK_QOS)
        updates = made.observe(ModelUpdate, UPDATE, LINK_QOS)

        def play_until_it_trains(iterations: int) -> None:
            """It misses messages sent before it subscribes: clips go on until it has one."""

            def told() -> set[int]:
                return {p.state for p in progress if p.iterations == iterations}

            def step() -> bool:
                play(made, 4)
                return bool(told() - {TrainingProgress.STATE_IDLE})

            made.wait(lambda: bool(told()), "a learner that is active")
            made.wait(step, "training to start")

        play_until_it_trains(10_000)
        made.wait(lambda: any(p.iteration for p in progress), "the first step")
        first.kill()
        assert Store(store).models.current() is None
        with Store(store).training_set() as stored:
            kept = stored.instance_count
        assert kept > 0

        second = start(iterations=2)
        play_until_it_trains(2)
        made.wait(lambda: len(updates) >= 1, "a version")
        second.interrupt()
        assert second.wait(20) == 0
    assert Store(store).models.current() is not None
