"""Selected masks against thresholds, by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.clips import paper, random_inputs, run
from support.disk import files_of_at_most
from support.fakes import make_clip, make_proposals

from experiments import real_selection
from experiments.ablation import Recording
from experiments.real_selection import Counts, compared, confidence_rows, counts_of, row
from gbopt_ros.config import Config, TrackConfig
from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.selection.confidence import with_track_confidence
from gbopt_ros.structures import Cues, GboptError


def counts(
    matched: int, masks: int, scores: list[float], right: list[int], instances: int = 10
) -> Counts:
    """A sequence whose proposals have these scores; `right` of them match from each score on."""
    return Counts(
        matched, masks, instances, np.array(scores), np.array(right, float),
        np.arange(1.0, len(scores) + 1),
    )  # fmt: skip


def test_compared_takes_the_best_threshold_that_reaches_the_recall() -> None:
    """From score 0.6 on 2 of 4 proposals are right, from 0.3 on 3 of 8: the recall needs 3."""
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.3]
    one = counts(3, 4, scores, [1, 1, 1, 2, 2, 2, 2, 3])
    assert compared([one]) == pytest.approx((3 / 4, 3 / 10, 3 / 8))
    fewer = counts(2, 4, scores, [1, 1, 1, 2, 2, 2, 2, 3])
    assert compared([fewer]) == pytest.approx((2 / 4, 2 / 10, 2 / 4))


def test_compared_applies_one_threshold_to_all_sequences() -> None:
    first = counts(1, 1, [0.9, 0.2], [1, 2])
    second = counts(1, 1, [0.5, 0.1], [0, 1])
    # 3 of 4 are right from 0.1 on, 2 of 3 from 0.2 on; two are needed.
    assert compared([first, second]) == pytest.approx((1.0, 2 / 20, 3 / 4))


def test_counts_of_proposals_of_one_score_that_are_all_wrong() -> None:
    """Two wrong proposals have score 0.9; the right one follows at 0.5."""
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :2, :2] = masks[1, 2:, :2] = masks[2, :, 3:] = True
    proposals = make_proposals(masks, [0.9, 0.9, 0.5])
    clip = make_clip([np.zeros((4, 6, 3), np.uint8)])
    truth = {0: proposals.rles[2:]}
    cues = Cues([proposals], [np.ones((4, 6), np.float32)], [])
    found = counts_of(Recording([(clip, cues)], [], CocoDataset((), {}), truth, {}), [])
    np.testing.assert_allclose(found.thresholds, [0.9, 0.5])
    np.testing.assert_allclose(found.matched_from, [0, 1])
    np.testing.assert_allclose(found.masks_from, [2, 3])


def test_remembering_keeps_no_part_of_a_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    maps = [np.full((30, 40), 0.25, np.float32)]
    network = SimpleNamespace(background=lambda images: maps)
    monkeypatch.setattr(real_selection, "load_background_network", lambda config: network)
    remembering = real_selection.Remembering(Config(), tmp_path)
    with pytest.raises(GboptError, match="cannot be written"), files_of_at_most(1000):
        remembering.background([image])
    np.testing.assert_array_equal(remembering.background([image]), maps)
    monkeypatch.delattr(network, "background")
    np.testing.assert_array_equal(remembering.background([image]), maps)


def test_row_has_an_interval_of_no_width_for_equal_sequences() -> None:
    one = counts(3, 4, [0.9, 0.8, 0.7, 0.6], [1, 2, 2, 3])
    found = row([one, one])
    assert found["difference"] == found["low"] == found["high"] == 0.0
    assert (found["precision"], found["recall"], found["masks"]) == pytest.approx((75, 30, 8))


def test_confidence_rows_count_the_masks_of_all_recordings() -> None:
    """The first recording labels what is selected, the second nothing."""
    selections = [run(random_inputs(seed, 2, 4), paper(lambda_flow=0.0))[0] for seed in (1, 2)]
    frames = [frame for selection in selections for frame in selection.frames]
    labels = (
        {frame.frame.index: frame.rles for frame in selections[0].frames},
        {frame.frame.index: () for frame in selections[1].frames},
    )
    recordings = [Recording([], [], CocoDataset((), {}), masks, {}) for masks in labels]
    tracks = TrackConfig()
    shared, alone, score = confidence_rows(recordings, [[each] for each in selections], tracks)
    first, second = (selection.mask_count for selection in selections)
    assert min(first, second) > 0
    by_track = [with_track_confidence(selection, tracks.linker()) for selection in selections]
    values = np.concatenate([f.confidences for selection in by_track for f in selection.frames])
    assert shared["mean"] == pytest.approx(values.mean())
    for found, name in ((alone, "confidences"), (score, "scores")):
        values = np.concatenate([getattr(frame, name) for frame in frames])
        assert found["masks"] == first + second
        assert found["right"] == pytest.approx(first / (first + second))
        assert found["mean"] == pytest.approx(values.mean())
    # All that is labelled was selected; AP is 1 only if no mask of the other recording comes first.
    assert 0 < shared["AP"] < 100
    (only,) = {row["AP"] for row in confidence_rows(recordings[:1], [selections[:1]], tracks)}
    assert only == pytest.approx(100)
    assert confidence_rows(recordings[:1], [[]], tracks) == []
