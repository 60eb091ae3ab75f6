"""Cross-clip confidences, against their formula and on small datasets."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.networks import CPU, SIDE, tiny_mask_rcnn

from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.learning.confidence import cross_clip
from gbopt_ros.learning.confidence.appearance import (
    COLOURS,
    LEVELS,
    AppearanceExtractor,
    Descriptors,
    FrameAppearance,
)
from gbopt_ros.learning.confidence.cross_clip import (
    confident_masks,
    cross_clip_confidences,
    recalibrate,
)
from gbopt_ros.learning.data.datasets import SelectedDataset, SelectedImage
from gbopt_ros.masks import decode, encode

CHANNELS = 3  # of each pyramid level
FEATURES = LEVELS * CHANNELS
CONFIG = ProposalConfig(max_proposals=4)


def descriptors(*kinds: int, context: tuple[int, ...] = ()) -> Descriptors:
    """Descriptors of masks of some kinds: each kind has its own features and its own colour.

    Args:
        context: the colour around each mask; without it no surroundings are visible.
    """
    inside = np.zeros((len(kinds), FEATURES + COLOURS), np.float32)
    for row, kind in zip(inside, kinds, strict=True):
        row[[kind, CHANNELS + kind, FEATURES + kind]] = 1.0
    surroundings = np.zeros((len(kinds), COLOURS), np.float32)
    for row, colour in zip(surroundings, context, strict=bool(context)):
        row[colour] = 1.0
    return Descriptors(inside, surroundings)


def frame(
    clip: int, masks: tuple[int, ...], proposals: tuple[int, ...], *agreement: float
) -> FrameAppearance:
    return FrameAppearance(
        clip, descriptors(*masks), descriptors(*proposals), np.array(agreement, np.float32)
    )


def placed(clip: int, kinds: tuple[int, ...], context: tuple[int, ...]) -> FrameAppearance:
    """A frame in which all proposals are selected."""
    masks = descriptors(*kinds, context=context)
    return FrameAppearance(clip, masks, masks, np.ones(len(kinds), np.float32))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


# ------------------------------------------------------------------------------- confidences


def test_cross_clip_confidences_follow_the_selection_in_other_clips() -> None:
    appearances = [frame(clip, (0, 1), (0, 1, 2), 0.9, 0.1, 0.0) for clip in range(4)]
    appearances[0] = frame(0, (0, 1), (0, 1, 2), 0.9, 0.9, 0.0)  # here the print was selected
    found = cross_clip_confidences(appearances, [np.array([0.6, 0.6])] * 4)
    assert found[0][0] > 0.7 and found[0][1] < 0.3
    assert all(values.dtype == np.float32 for values in found)


def test_cross_clip_confidences_keep_a_new_object_among_many_clips() -> None:
    """Hundreds of clips of other objects say little about it."""
    rng = np.random.default_rng(0)

    def some(count: int) -> np.ndarray:
        return rng.normal(0, 1, (count, 64 + COLOURS)).astype(np.float32)

    def anywhere(inside: np.ndarray) -> Descriptors:
        return Descriptors(inside, np.abs(some(len(inside)))[:, :COLOURS])

    kinds = np.abs(some(14))  # eight objects and six prints
    appearances = [
        FrameAppearance(
            clip,
            anywhere(kinds[rng.permutation(8)[:3]] + 0.2 * some(3)),
            anywhere(kinds + 0.2 * some(14)),
            np.array([0.9] * 8 + [0.1] * 6, np.float32),
        )
        for clip in range(300)
    ]
    appearances[0] = replace(appearances[0], masks=anywhere(np.abs(some(1))))
    confidences = [np.full(len(one.masks), 0.8) for one in appearances]
    assert cross_clip_confidences(appearances, confidences)[0][0] == pytest.approx(0.8, abs=0.1)


def test_cross_clip_confidences_keep_a_mask_without_neighbours() -> None:
    appearances = [
        frame(0, (0, 2), (0, 2), 1.0, 1.0),
        *(frame(c, (0, 1), (0, 1), 1.0, 0.0) for c in (1, 2)),
    ]
    first, second, _ = cross_clip_confidences(appearances, [np.array([0.4, 0.4])] * 3)
    assert first[1] == pytest.approx(0.4)
    assert first[0] > 0.45 and second[1] < 0.3


def test_cross_clip_confidences_rise_in_new_context_and_fall_in_the_same() -> None:
    """A mug in four places, and a print on the same table in each of the four clips."""
    appearances = [placed(clip, (0, 1), (4 + clip, 3)) for clip in range(4)]
    for mug, picture in cross_clip_confidences(appearances, [np.array([0.5, 0.5])] * 4):
        assert mug > 0.8 and picture < 0.2
    for mug, lamp in cross_clip_confidences(appearances, [np.array([0.9, 0.9])] * 4):
        assert (
            mug > 0.9 and 0.5 < lamp < 0.6
        )  # an object that is never moved may be as sure as that
    appearances[0] = replace(
        appearances[0], masks=descriptors(0, 1, context=(3, 3))
    )  # the mug is on the print
    mug, picture = cross_clip_confidences(appearances, [np.array([0.5, 0.5])] * 4)[0]
    assert mug > 0.8 and picture < 0.2


def test_best_bandwidth_predicts_agreement() -> None:
    rng = np.random.default_rng(0)
    clips, numbers = np.repeat(np.arange(6), 20), np.arange(120)

    def bandwidth(vectors: np.ndarray, agreements: np.ndarray) -> float:
        units = torch.from_numpy(cross_clip._normalised(vectors.astype(np.float32)))
        chosen, similarity = cross_clip._nearest(units, clips, units, clips)
        counts = similarity > -np.inf  # three of each other clip, best first
        assert (counts.sum(axis=1) == 15).all() and counts[:, :15].all()
        assert (np.diff(similarity[:, :15]) <= 0).all()
        assert (clips[chosen] != clips[:, None])[counts].all()
        agreements = agreements.astype(np.float32)
        return cross_clip._best_bandwidth(agreements, agreements[chosen], similarity)

    two = rng.normal(0, 1, (2, 8))[numbers % 2] + rng.normal(0, 1, (120, 8))
    assert bandwidth(two, numbers % 2) >= 0.3  # of the same kind even at low similarity
    ten = rng.normal(0, 1, (1, 8)) + 0.7 * rng.normal(0, 1, (10, 8))
    many = ten[numbers % 10] + 0.05 * rng.normal(0, 1, (120, 8))
    assert bandwidth(many, numbers % 10 == 0) <= 0.15


def test_cross_clip_confidences_ignore_context_in_a_static_scene() -> None:
    """Beside a scene in which objects are moved."""
    static = [placed(clip, (0, 1), (3, 4)) for clip in range(4)]
    moved = [placed(clip, (2, 5), (6 + clip, 16)) for clip in range(4, 8)]
    confidences = cross_clip_confidences([*static, *moved], [np.array([0.5, 0.5])] * 8)
    np.testing.assert_allclose(confidences[:4], 0.5, atol=1e-6)
    assert np.ptp(confidences[4]) > 0.6


def test_cross_clip_confidences_ignore_context_that_is_not_visible() -> None:
    appearances = [placed(clip, (0, 1), (4 + clip, 3)) for clip in range(4)]
    hidden = descriptors(0, 1, context=(4, 3))
    hidden.context[1] = 0.0
    appearances[0] = replace(appearances[0], masks=hidden)
    found = cross_clip_confidences(appearances, [np.array([0.5, 0.5])] * 4)
    assert found[0][1] == pytest.approx(0.5) and found[1][1] < 0.2


@pytest.mark.parametrize("proposals", [(0, 1), ()])
def test_cross_clip_confidences_of_one_clip_stay(proposals: tuple[int, ...]) -> None:
    appearances = [frame(7, (0, 1), proposals, *(1.0 for _ in proposals)), frame(7, (), ())]
    found = cross_clip_confidences(appearances, [np.array([0.2, 0.9]), np.zeros(0)])
    np.testing.assert_array_equal(found[0], np.float32([0.2, 0.9]))
    assert found[1].shape == (0,)


def test_cross_clip_confidences_of_no_frame() -> None:
    assert cross_clip_confidences([], []) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), clips=st.integers(2, 5), frames=st.integers(2, 8))
@example(seed=0, clips=35, frames=35)  # more neighbours than are used
def test_cross_clip_confidences_are_their_formula(seed: int, clips: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    kinds, places = rng.random((3, FEATURES + COLOURS)), rng.random((2, COLOURS))

    def some(kind: np.ndarray) -> Descriptors:
        count = len(kind)
        place = rng.integers(0, 2, count)
        inside = kinds[kind] + 0.2 * rng.random((count, FEATURES + COLOURS))
        context = places[place] + 0.2 * rng.random((count, COLOURS))
        context *= rng.random((count, 1)) < 0.8  # the context of the others is not visible
        return Descriptors(inside.astype(np.float32), context.astype(np.float32))

    appearances = []
    for number in range(frames):
        candidates = int(rng.integers(0, 6)) if number >= clips else 2
        masks, proposals = (rng.integers(0, 3, n) for n in (int(rng.integers(0, 4)), candidates))
        agreement = 0.4 * proposals + 0.2 * rng.random(candidates)
        appearances.append(
            FrameAppearance(
                number % clips, some(masks), some(proposals), agreement.astype(np.float32)
            )
        )
    confidences = [rng.random(len(one.masks)) for one in appearances]
    found = cross_clip_confidences(appearances, confidences)
    expected = by_the_formula(appearances, confidences)
    assert len(found) == len(appearances)
    for values, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, right, rtol=1e-3, atol=1e-5)


def by_the_formula(
    appearances: list[FrameAppearance], confidences: list[np.ndarray]
) -> list[list[float]]:
    """The docstring of `cross_clip_confidences`, mask by mask."""
    middle = np.concatenate([one.proposals.inside for one in appearances]).mean(axis=0)
    rings = np.concatenate([one.proposals.context for one in appearances])
    mean_context = rings[rings.any(axis=1)].mean(axis=0) if rings.any() else 0.0

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = [max(float(np.linalg.norm(vector)), 1e-5) for vector in (a, b)]
        return float(a @ b) / (lengths[0] * lengths[1])

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - middle, b - middle
        finer, coarser, colours = (
            cosine(*parts)
            for parts in zip(
                np.split(a, [CHANNELS, FEATURES]), np.split(b, [CHANNELS, FEATURES]), strict=True
            )
        )
        return 0.25 * finer + 0.25 * coarser + 0.5 * colours

    def of_context(mask: np.ndarray, proposal: np.ndarray) -> float | None:
        if not mask.any() or not proposal.any():
            return None
        return cosine(mask - mean_context, proposal - mean_context)

    def neighbours(own: FrameAppearance, mask: np.ndarray, ring: np.ndarray) -> list[tuple]:
        """Similarity in appearance, agreement and similarity of context of each."""
        alike = []
        for clip in {one.clip for one in appearances} - {own.clip}:
            there = [
                (
                    similarity(mask, one.proposals.inside[number]),
                    float(one.agreement[number]),
                    of_context(ring, one.proposals.context[number]),
                )
                for one in appearances
                if one.clip == clip
                for number in range(len(one.proposals))
            ]
            alike += sorted(there, key=lambda row: -row[0])[:3]
        return sorted(alike, key=lambda row: -row[0])[:60]

    def kernel(similarity: float, bandwidth: float) -> float:
        least = np.exp((0.2 - 1) / bandwidth)
        return max(0.0, (np.exp((similarity - 1) / bandwidth) - least) / (1 - least))

    def mean(pairs: list[tuple[float, float]]) -> float:
        return sum(w * value for w, value in pairs) / max(sum(w for w, _ in pairs), 1e-9)

    def expected(weighted: list[list[tuple]]) -> tuple[list[float], float]:
        overall = mean([(w, a) for alike in weighted for w, a, _ in alike])
        return [
            (sum(w * a for w, a, _ in alike) + 2 * overall) / (sum(w for w, _, _ in alike) + 2)
            for alike in weighted
        ], overall

    def loss(bandwidth: float) -> float:
        """Cross-entropy of the agreements of proposals, expected from other clips."""
        told, _ = expected(
            [[(kernel(s, bandwidth), a, r) for s, a, r in one] for one in of_proposals]
        )
        pairs = zip(agreements, np.clip(told, 1e-3, 1 - 1e-3), strict=True)
        return -float(np.mean([a * np.log(p) + (1 - a) * np.log(1 - p) for a, p in pairs]))

    agreements = [float(a) for own in appearances for a in own.agreement]
    of_proposals = [
        neighbours(own, inside, ring)
        for own in appearances
        for inside, ring in zip(own.proposals.inside, own.proposals.context, strict=True)
    ]
    bandwidth = min((0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 3.0), key=loss)
    found = [  # for each mask: its clip, and weight, agreement and context of its neighbours
        (own.clip, [(kernel(s, bandwidth), a, r) for s, a, r in neighbours(own, mask, ring)])
        for own in appearances
        for mask, ring in zip(own.masks.inside, own.masks.context, strict=True)
    ]
    if not found:
        return [[] for _ in appearances]

    def logit(p: float) -> float:
        p = min(max(p, 1e-3), 1 - 1e-3)
        return float(np.log(p / (1 - p)))

    told, overall = expected([alike for _, alike in found])
    recalibrated = []
    for (clip, alike), agreed, confidence in zip(
        found, told, np.concatenate(confidences), strict=True
    ):
        others = [row for c, rows in found if c == clip for row in rows]
        there = mean([(w, s) for w, _, s in others if s is not None])
        seen = [(w, s) for w, _, s in alike if s is not None]
        moved = sum(w * (s - there) for w, s in seen) / (sum(w for w, _ in seen) + 2)
        change = 1.5 * (logit(agreed) - logit(overall)) - min(max(16 * moved, -2.0), 2.0)
        log_odds = logit(confidence) + change
        recalibrated.append(1 / (1 + np.exp(-log_odds)))
    values = iter(recalibrated)
    return [[next(values) for _ in range(len(one.masks))] for one in appearances]


# ----------------------------------------------------------------------------------- whole sets


@pytest.fixture
def dataset(tmp_path: Path) -> SelectedDataset:
    """Two clips of seven equal frames; one of the two masks is a proposal."""
    extractor = AppearanceExtractor(tiny_mask_rcnn(), CONFIG, CPU)
    (proposals,) = extractor._proposer.propose([picture(3)])
    half = decode(proposals.rles[1])
    half[::2] = False  # every second row: the same appearance, an agreement of one half
    rles = (proposals.rles[0], encode(half))
    entries = []
    for clip in range(2):
        for number in range(7):
            path = tmp_path / f"{clip}-{number}.png"
            cv2.imwrite(str(path), picture(3)[..., ::-1])  # BGR
            entries.append(SelectedImage(path, rles, (0.4, 0.7), recording="a", clip_id=clip))
    return SelectedDataset(entries)


def test_recalibrate_a_dataset(dataset: SelectedDataset) -> None:
    frames: list[int] = []
    found = recalibrate(dataset, tiny_mask_rcnn(), CONFIG, CPU, lambda: frames.append(len(frames)))
    assert len(frames) == len(found) == 14
    assert [entry.rles for entry in found.entries] == [entry.rles for entry in dataset.entries]
    confidences = np.array([entry.confidences for entry in found.entries])
    assert np.ptp(confidences, axis=0).max() < 1e-6  # all frames are equal
    assert np.abs(confidences[0] - (0.4, 0.7)).min() > 0.01
    appearances = [
        AppearanceExtractor(tiny_mask_rcnn(), CONFIG, CPU).extract(clip, picture(3), entry.rles)
        for clip in range(2)
        for entry in dataset.entries[:5]  # as many as reference frames
    ]
    expected = cross_clip_confidences(appearances, [np.array([0.4, 0.7])] * 10)
    np.testing.assert_allclose(confidences[0], expected[0], rtol=1e-5)


def test_reference_frames_are_a_few_of_each_clip() -> None:
    kept = cross_clip._reference_frames(["a"] * 11 + ["b"] * 2 + ["a"])
    assert kept == {0, 3, 6, 8, 13, 11, 12}


def test_recalibrate_leaves_a_dataset_of_one_clip(dataset: SelectedDataset) -> None:
    single = SelectedDataset(dataset.entries[:7])
    fail = lambda: pytest.fail("a frame was read")  # noqa: E731
    assert recalibrate(single, tiny_mask_rcnn(), CONFIG, CPU, fail) is single


def test_recalibrate_is_stopped_by_on_frame(dataset: SelectedDataset) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate(dataset, tiny_mask_rcnn(), CONFIG, CPU, stop)


def test_confident_masks_drops_masks_below_min_confidence(dataset: SelectedDataset) -> None:
    """Without cross-clip confidence, it looks at no image."""
    config = Config(device="cpu")
    plain = replace(config, learning=replace(config.learning, cross_clip_confidence=False))
    fail = lambda: pytest.fail("a frame was read")  # noqa: E731
    sure = confident_masks(dataset, tiny_mask_rcnn(), plain, 100, fail)
    assert len(sure) == 14
    assert all(sure[i].rles == dataset[i].rles[1:] for i in range(14))


def test_confident_masks_takes_no_more_frames_than_draws(
    dataset: SelectedDataset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="gbopt_ros"):
        sure = confident_masks(dataset, tiny_mask_rcnn(), Config(device="cpu"), 4)
    learnt = f"learning {sure.instance_count} of 28 masks, from 4 of 14 frames"
    assert caplog.messages == [learnt]
    assert [entry.path.name for entry in sure.entries] == [
        "0-0.png",
        "0-3.png",
        "1-0.png",
        "1-3.png",
    ]


def test_confident_masks_recalibrates_before_filtering(
    dataset: SelectedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cross_clip, "recalibrate", lambda given, *_: given.with_confidences([(0.9, 0.1)] * 14)
    )
    sure = confident_masks(dataset, tiny_mask_rcnn(), Config(device="cpu"), 100)
    assert sure[0].rles == dataset[0].rles[:1]
