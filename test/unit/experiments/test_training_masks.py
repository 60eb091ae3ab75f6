"""The training masks of every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.disk import files_of_at_most
from support.fakes import make_proposals
from support.labelled import labelled

from experiments import comparison, recordings, tabletop, training_masks
from experiments.cache import Cache
from gbopt_ros.config import LearningConfig, load_config
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.verdicts import stored_masks
from gbopt_ros.masks import boxes_xyxy, encode, encode_all
from gbopt_ros.structures import GboptError, Proposals

CONFIG = load_config(None, ["device=cpu"])
SIZE = (4, 6)


class Oracle:
    """Proposes every instance of a few frames of the demo recording, and a corner that is none."""

    version = "oracle"

    def __init__(self, recordings: list[tabletop.Recording]) -> None:
        self.truth = {
            frame.image.tobytes(): recording.truth[frame.index]
            for recording in recordings
            for frame in recording.open()
        }
        self.frames = 0

    def propose(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        self.frames += len(images)
        return [self._of(image) for image in images]

    def _of(self, image: np.ndarray) -> Proposals:
        corner = np.zeros(image.shape[:2], bool)
        corner[:4, :4] = True
        rles = (*self.truth[image.tobytes()], encode(corner))
        scores = np.array([*np.linspace(0.9, 0.8, len(rles) - 1), 0.1], np.float32)
        return Proposals(image.shape[:2], rles, scores, boxes_xyxy(rles))


def test_selection_of_gives_the_methods_of_table_4() -> None:
    assert comparison.parse_arguments(["--methods", "ours", "--ablation"]).methods == [
        "ours",
        *training_masks.ABLATION,
    ]
    limits = comparison.parse_arguments(["--methods", "right", "gt", "--limits"]).methods
    assert limits == ["right", "gt", "complete"]
    config = CONFIG.selection
    terms = replace(config, score_weight=0.0)
    alone = training_masks.selection_of("L_I", config)
    assert (alone.lambda_flow, alone.lambda_regularization, alone.overlap_tolerance) == (0, 0, 1)
    constraint = training_masks.selection_of("constraint", config)
    assert constraint == replace(terms, lambda_flow=0.0, lambda_regularization=0.0)
    assert training_masks.selection_of("L_F", config) == replace(terms, lambda_regularization=0.0)
    assert training_masks.selection_of("L_p", config) == terms
    assert training_masks.selection_of("ours", config) == config != terms


def test_filter_by_confidence_leaves_out_the_unsure_but_never_most() -> None:
    rles = labelled().rles
    frame = SelectedFrame(
        "r", 0, 0, 0, Path("0.jpg"), (4, 6), rles * 2, (0.7, 0.8), (0.9, 0.4), track_ids=(3, 5)
    )
    alone = {"rles": rles, "track_ids": (3,)}
    other = replace(frame, frame_index=1, **alone, scores=(0.6,), confidences=(0.6,))

    def kept(minimum: float) -> list[SelectedFrame]:
        config = replace(CONFIG, learning=LearningConfig(min_confidence=minimum))
        return training_masks.filter_by_confidence([frame, other], config)

    first = replace(frame, **alone, scores=(0.7,), confidences=(0.9,))
    assert kept(0.5) == [first, other]
    assert kept(0.0) == [frame, other]
    assert kept(0.95) == [first, other]  # from the median on


def test_frames_of_a_recording_on_a_full_disk_are_not_kept_in_part(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    kept = recordings.CachedRecordings(CONFIG, cache)
    with pytest.raises(GboptError, match="cannot be written"), files_of_at_most(1000):
        kept.frames(tabletop.few().train)
    assert not list(cache.folder.glob("*"))
    assert len(list(kept.frames(tabletop.few().train).iterdir())) == 5


def test_masks_of_methods_are_made_once_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tabletop.few()
    assert data.validation is not None
    oracle = Oracle([data.train, data.validation])
    monkeypatch.setattr(recordings, "load_proposal_network", lambda config: oracle)
    monkeypatch.setattr(recordings.EnsembleProposals, "from_config", lambda config: oracle)

    def masks() -> dict[str, training_masks.TrainingMasks]:
        cache = Cache(tmp_path / "cache")
        maker = training_masks.MaskMaker(
            [data.train], data.validation, data.rehearsal, CONFIG, cache
        )
        names = ("control", "threshold", "unovost", "distillation", "gt", "truth")
        return {name: maker.masks_of(name) for name in names}

    found = masks()
    assert found["control"] == training_masks.TrainingMasks()
    assert found["control"].dataset(CONFIG) is None
    for name in ("threshold", "gt", "truth"):
        quality = found[name].quality
        assert quality is not None
        assert (quality["precision"], quality["recall"], quality["mean_iou"]) == (100, 100, 100)
        assert quality["frames"] == 5
    assert 0.1 < found["threshold"].facts["threshold"] <= np.float32(0.8)
    assert found["threshold"].digest == found["gt"].digest == found["truth"].digest
    dataset = found["truth"].dataset(CONFIG)
    assert dataset is not None
    first = next(iter(data.train.open()))
    assert dataset[0].rles == tuple(data.train.truth[first.index])
    assert np.abs(dataset[0].image.astype(int) - first.image).mean() < 4  # as JPEG
    done = oracle.frames
    assert done == 5 + 4 + 5  # train, validation, and train again by several views
    assert masks() == found
    assert oracle.frames == done


@pytest.mark.parametrize(
    ("method", "scores", "right", "kept", "facts"),
    [
        ("unovost", (0.9, 0.8, 0.2), True, 2, {"threshold": 0.8}),
        ("unovost", (0.9, 0.8, 0.2), False, 3, {"threshold": 0.0}),  # none is right in validation
        ("os-uvc", (1.0, 1.0, 1.0), True, 3, {}),  # there is nothing to choose by
        ("file:masks.json", (0.9, 0.8, 0.2), True, 3, {}),
    ],
)
def test_masks_of_other_methods_count_from_the_threshold_of_validation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    scores: tuple[float, ...],
    right: bool,
    kept: int,
    facts: dict[str, float],
) -> None:
    data = tabletop.few()
    masks = np.zeros((3, *SIZE), bool)
    masks[:, 0, :3] = np.eye(3, dtype=bool)
    found = make_proposals(masks, scores)

    def scored(method: str, recordings: list[tabletop.Recording]) -> tuple[object, float]:
        return {("recording", 0): found}, 0.0

    cache = Cache(tmp_path / "cache")
    maker = training_masks.MaskMaker([data.train], data.validation, data.rehearsal, CONFIG, cache)
    truth = encode_all(masks[:2] if right else ~masks[:1])
    monkeypatch.setattr(maker, "scored", scored)
    monkeypatch.setattr(maker._shared, "truth", lambda recordings: {("recording", 0): truth})
    chosen, said = maker.chosen(method)
    assert len(chosen["recording", 0]) == kept
    assert said == pytest.approx(facts)


def test_limits_correct_what_ours_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three objects one is found, one only by an unsure mask; a sure mask is no object."""
    data = tabletop.few()
    oracle = Oracle([data.train])
    monkeypatch.setattr(recordings, "load_proposal_network", lambda config: oracle)
    index = next(i for i, rles in data.train.truth.items() if len(rles) >= 3)
    truth = data.train.truth[index]
    size = tuple(truth[0]["size"])
    corner = np.zeros(size, bool)
    corner[:4, :4] = True
    frame = SelectedFrame(
        data.train.name, 0, index, 0, tmp_path / "frame.jpg", size,
        (truth[0], truth[1], encode(corner)), (0.9, 0.8, 0.7), (0.9, 0.3, 0.8),
        track_ids=(1, 2, 3),
    )  # fmt: skip
    cache = Cache(tmp_path / "cache")
    maker = training_masks.MaskMaker([data.train], None, data.rehearsal, CONFIG, cache)

    (right,) = maker.corrected("right", [frame])
    assert right.rles == (truth[0],) and right.scores == (0.9,)
    (complete,) = maker.corrected("complete", [frame])
    assert complete.rles == (truth[0], encode(corner), *truth[1:])
    assert complete.scores[:2] == (0.9, 0.7)
    assert complete.confidences == (1.0,) * len(complete.rles)
    for corrected in (right, complete):  # a training set takes them
        assert [mask.rle for mask in stored_masks(corrected)] == list(corrected.rles)
