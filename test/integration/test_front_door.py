"""The names that `gbopt_ros` exports work as its documentation says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from support.demo import DEMO, copy_few_images, demo_frames

import gbopt_ros
from gbopt_ros import (
    Config,
    Pipeline,
    Store,
    best_combinations,
    evaluate,
    learn,
    load_config,
    open_source,
    select_clip,
)
from gbopt_ros.io.datasets.coco import load_coco_dir
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.selection_format import SelectionWriter
from gbopt_ros.structures import Clip, Cues, Frame, GboptError, Image, Proposals, Selection

FRAMES = 2
SEED_WEIGHTS = DEMO / "weights" / "proposals.safetensors"


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return demo_frames(FRAMES)


@pytest.fixture(scope="module")
def bag(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("front-door") / "bag"
    write_rosbag(frames, path, topic="/camera/image_raw")
    return path


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture(scope="module")
def clip(pipeline: Pipeline, frames: list[Frame]) -> Clip:
    (clip,) = pipeline.clips(frames)
    return clip


@pytest.fixture(scope="module")
def cues(pipeline: Pipeline, clip: Clip) -> Cues:
    return pipeline.perceive(clip)


@pytest.fixture(scope="module")
def selection(pipeline: Pipeline, clip: Clip, cues: Cues) -> Selection:
    return pipeline.select(clip, cues)


@pytest.fixture(scope="module")
def replay(selection: Selection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("front-door") / "replay"
    with SelectionWriter(out, "table") as writer:
        writer.add(selection)
        writer.finish()
    return out


# --------------------------------------------------------------------------------------- the module


def test_gbopt_ros_all_names_exist_and_are_listed() -> None:
    assert gbopt_ros.__all__ == sorted(gbopt_ros.__all__)
    for name in gbopt_ros.__all__:
        assert getattr(gbopt_ros, name) is not None
        assert name in dir(gbopt_ros)
        if name != "__version__":
            assert getattr(gbopt_ros, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = gbopt_ros.Pipelin


def test_gbopt_ros_version_is_that_of_the_manifest() -> None:
    manifest = ElementTree.parse(DEMO.parent / "package.xml")
    assert gbopt_ros.__version__ == manifest.findtext("version")


def test_gbopt_ros_import_is_light() -> None:
    code = (
        "import gbopt_ros, sys; print(*(m for m in ('torch', 'cv2', 'numpy') if m in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""


# ----------------------------------------------------------------------------------------- Pipeline


def masks_of(selections: Iterable[Selection]) -> list[Any]:
    return [frame.rles for selection in selections for frame in selection.frames]


def test_pipeline_without_argument_selects_in_a_recording(bag: Path, selection: Selection) -> None:
    expected = masks_of([selection])
    assert len(expected) == FRAMES and selection.mask_count >= 2 * FRAMES
    assert masks_of(Pipeline().run(str(bag))) == expected


class Known:
    """Networks of a user, which know the answers for the recording."""

    version = "known"

    def __init__(self, cues: Cues) -> None:
        self.cues = cues

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        return list(self.cues.proposals)

    def background(self, images: Sequence[Image]) -> list[np.ndarray]:
        return list(self.cues.backgrounds)


def test_pipeline_run_takes_whatever_holds_the_frames(
    bag: Path, frames: list[Frame], cues: Cues, selection: Selection
) -> None:
    known = Known(cues)
    pipeline = Pipeline(proposal_network=known, background_network=known)
    images = [frame.image for frame in frames]
    for source in (
        bag,
        str(bag),
        open_source(bag),
        frames,
        tuple(frames),
        iter(frames),
        images,
        np.stack(images),
    ):
        found = list(pipeline.run(source))
        assert masks_of(found) == masks_of([selection]), type(source)
        assert found[0].model_version == "known"


def test_pipeline_run_stamps_images_at_ten_hertz(pipeline: Pipeline, frames: list[Frame]) -> None:
    (clip,) = pipeline.clips([frame.image for frame in frames])
    assert [(f.index, f.stamp_ns) for f in clip.frames] == [(0, 0), (1, 100_000_000)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "got NoneType"),
        (3, "got int"),
        (np.zeros((8, 8, 3), np.uint8), "got one array"),
        (["a.png", "b.png"], "got str at place 0"),
        ([np.zeros((8, 8, 3), np.uint8), None], "got NoneType at place 1"),
    ],
)
def test_pipeline_run_says_what_it_expected(pipeline: Pipeline, source: Any, expected: str) -> None:
    with pytest.raises(TypeError, match=f"source: expected .*{expected}"):
        pipeline.run(source)  # at once, before anything is iterated


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)]
)
def test_pipeline_run_says_which_images_it_takes(pipeline: Pipeline, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\) uint8, got"):
        list(pipeline.run([image]))


def test_pipeline_run_of_a_path_that_does_not_exist(pipeline: Pipeline) -> None:
    with pytest.raises(GboptError, match="nowhere: no such file or folder"):
        list(pipeline.run("nowhere"))


def test_repr_is_short_and_holds_no_array(clip: Clip, cues: Cues, selection: Selection) -> None:
    for shown in (selection, selection.frames[0], clip, clip.frames[0], cues, cues.proposals[0]):
        text = repr(shown)
        assert text.startswith(type(shown).__name__)
        assert len(text) < 400, text
        assert "array" not in text and "counts" not in text, text


# ------------------------------------------------------------------- selection from arrays of yours


def test_best_combinations_contract() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2, :2], masks[1, 2:, 2:], masks[2, :, :2] = True, True, True  # 2 holds all of 0
    background = np.where(masks[0] | masks[1], 0.1, 0.9)
    found = best_combinations(masks, background, 10)
    assert [c.indices for c in found[:2]] == [(0, 1), (1, 2)]
    assert {c.indices for c in found} == {(), (0,), (1,), (2,), (0, 1), (1, 2)}
    assert [c.loss for c in found] == sorted(c.loss for c in found)
    assert found[0].loss == pytest.approx(-np.log(0.9))
    assert found[1].loss == pytest.approx(-(12 * np.log(0.9) + 4 * np.log(0.1)) / 16)
    assert [c.indices for c in best_combinations(masks, background, 2)] == [(0, 1), (1, 2)]
    all_of_them = best_combinations(masks, background, 10, overlap_tolerance=1.0)
    assert len(all_of_them) == 8
    assert all(list(c.indices) == sorted(c.indices) for c in all_of_them)


def test_select_clip_contract(pipeline: Pipeline, clip: Clip, cues: Cues) -> None:
    config = Config().selection
    found = select_clip(
        clip, cues.proposals, cues.backgrounds, cues.flows, pipeline.flow_network, config
    )
    assert isinstance(found, Selection) and len(found) == FRAMES
    assert found.optimal and found.lower_bound == found.energy
    assert found.energy == pytest.approx(sum(frame.energy.total for frame in found.frames))
    assert 0 <= found.flow_runs <= config.k**2 * (FRAMES - 1)
    for frame, candidates in zip(found.frames, cues.proposals, strict=True):
        assert list(frame.indices) == sorted(set(frame.indices))
        np.testing.assert_array_equal(frame.scores, candidates.scores[list(frame.indices)])
        assert frame.boxes.shape == (len(frame), 4)
        assert np.all(frame.margins >= 0)
        assert np.all((frame.confidences >= 0) & (frame.confidences <= 1))
    with pytest.raises(ValueError, match=f"expected {FRAMES} proposals"):
        select_clip(clip, [], cues.backgrounds, cues.flows, pipeline.flow_network, config)


# ----------------------------------------------------------------------------- settings, recordings


def test_load_config_overrides(tmp_path: Path) -> None:
    assert load_config() == Config()
    profile = tmp_path / "mine.yaml"
    profile.write_text("selection: {k: 5}\nclip: {length: 12}\n")
    config = load_config(profile, ["selection.k=3", "device=cpu"])
    assert (config.selection.k, config.clip.length, config.device) == (3, 12, "cpu")
    assert load_config(str(profile)).selection.k == 5
    with pytest.raises(GboptError, match=r"selection\.k"):
        load_config(overrides=["selection.k=none"])


def test_open_source_streams_frames(bag: Path, frames: list[Frame]) -> None:
    for source in (open_source(bag), open_source(str(bag), stride=1)):
        assert source.count == FRAMES
        for _ in range(2):  # every iteration starts afresh
            found = list(source)
            assert [f.stamp_ns for f in found] == [f.stamp_ns for f in frames]
            np.testing.assert_array_equal(found[-1].image, frames[-1].image)
    assert [f.index for f in open_source(bag, stride=2)] == [0]


# ------------------------------------------------------------------------------ learning, measuring


def test_evaluate_on_a_few_images_of_the_demo(tmp_path: Path) -> None:
    """Two images, so the values say how it is called, not how good the network is."""
    folder = copy_few_images("seen-test", tmp_path / "few", 2)
    found = evaluate(SEED_WEIGHTS, load_coco_dir(folder))
    assert 71 < found.AP < 75
    assert found.AP50 > 98
    assert evaluate(str(SEED_WEIGHTS), str(folder)) == found
    with pytest.raises(GboptError, match="no such weights file"):
        evaluate("none.safetensors", folder)


def test_store_learns_from_a_replay(replay: Path, selection: Selection, tmp_path: Path) -> None:
    config = load_config(overrides=["learning.iterations=1", "learning.batch_size=2"])
    store = Store(str(tmp_path / "store"))
    with pytest.raises(GboptError, match="the training set is empty"):
        store.learn(config)
    assert store.add(replay, str(replay)) == [FRAMES, FRAMES]
    with store.training_set() as training_set:
        assert len(training_set) == FRAMES
        assert training_set.instance_count == selection.mask_count
    learnt = store.learn(config)
    assert len(learnt.log.total) == 1
    assert learnt.decision.passed, learnt.decision.reason
    assert learnt.version == store.models.current()
    assert learnt.version.path.is_file()
    assert store.forget("replay/table") == [FRAMES]


def test_learn_is_what_a_store_calls(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        store.training_set() as training_set,
        pytest.raises(GboptError, match="the training set is empty"),
    ):
        learn(training_set, store.models, Config())
