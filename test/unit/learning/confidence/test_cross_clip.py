"""Confidences that know what was selected in other clips."""

from __future__ import annotations

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
from gbopt_ros.learning.confidence import appearance as looks_of_masks
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
from gbopt_ros.learning.data.training_set import SelectedDataset, SelectedImage
from gbopt_ros.masks import decode, encode, encode_all, iou_matrix

CHANNELS = 3  # of each level of the pyramid
FEATURES = LEVELS * CHANNELS
CONFIG = ProposalConfig(max_proposals=4)


def described(*kinds: int, around: tuple[int, ...] = ()) -> Descriptors:
    """What masks of some kinds look like: a feature and a colour of its own each.

    Args:
        around: the colour around each, none seen where it is not given.
    """
    inside = np.zeros((len(kinds), FEATURES + COLOURS), np.float32)
    for row, kind in zip(inside, kinds, strict=True):
        row[[kind, CHANNELS + kind, FEATURES + kind]] = 1.0
    surroundings = np.zeros((len(kinds), COLOURS), np.float32)
    for row, colour in zip(surroundings, around, strict=bool(around)):
        row[colour] = 1.0
    return Descriptors(inside, surroundings)


def look(
    clip: int, masks: tuple[int, ...], proposals: tuple[int, ...], *agreement: float
) -> FrameAppearance:
    return FrameAppearance(
        clip, described(*masks), described(*proposals), np.array(agreement, np.float32)
    )


def placed(clip: int, kinds: tuple[int, ...], around: tuple[int, ...]) -> FrameAppearance:
    """All that is proposed is selected."""
    masks = described(*kinds, around=around)
    return FrameAppearance(clip, masks, masks, np.ones(len(kinds), np.float32))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def boxes(*corners: tuple[int, int, int, int]) -> tuple:
    """RLEs of rectangles, from row, column to row, column."""
    masks = np.zeros((len(corners), SIDE, SIDE), bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return encode_all(masks)


# ------------------------------------------------------------------------------- confidences


def test_what_is_selected_elsewhere_becomes_surer_and_what_is_not_less_sure() -> None:
    appearances = [look(clip, (0, 1), (0, 1, 2), 0.9, 0.1, 0.0) for clip in range(4)]
    appearances[0] = look(0, (0, 1), (0, 1, 2), 0.9, 0.9, 0.0)  # here the print was selected
    found = cross_clip_confidences(appearances, [np.array([0.6, 0.6])] * 4)
    assert found[0][0] > 0.7 and found[0][1] < 0.3
    assert all(values.dtype == np.float32 for values in found)


def test_what_is_new_keeps_its_confidence_however_much_recurs() -> None:
    """Hundreds of clips of other things say little of it, one by one and together."""
    rng = np.random.default_rng(0)

    def some(count: int) -> np.ndarray:
        return rng.normal(0, 1, (count, 64 + COLOURS)).astype(np.float32)

    def anywhere(inside: np.ndarray) -> Descriptors:
        return Descriptors(inside, np.abs(some(len(inside)))[:, :COLOURS])

    kinds = np.abs(some(14))  # eight things and six prints
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
    confidences = [np.full(len(look.masks), 0.8) for look in appearances]
    assert cross_clip_confidences(appearances, confidences)[0][0] == pytest.approx(0.8, abs=0.1)


def test_what_looks_like_nothing_else_keeps_its_confidence() -> None:
    appearances = [
        look(0, (0, 2), (0, 2), 1.0, 1.0),
        *(look(c, (0, 1), (0, 1), 1.0, 0.0) for c in (1, 2)),
    ]
    first, second, _ = cross_clip_confidences(appearances, [np.array([0.4, 0.4])] * 3)
    assert first[1] == pytest.approx(0.4)
    assert first[0] > 0.45 and second[1] < 0.3


def test_what_is_found_elsewhere_becomes_surer_and_what_stays_with_its_place_less_sure() -> None:
    """A mug in four places, and a print on the same table in each of the four clips."""
    appearances = [placed(clip, (0, 1), (4 + clip, 3)) for clip in range(4)]
    for mug, picture in cross_clip_confidences(appearances, [np.array([0.5, 0.5])] * 4):
        assert mug > 0.8 and picture < 0.2
    for mug, lamp in cross_clip_confidences(appearances, [np.array([0.9, 0.9])] * 4):
        assert mug > 0.9 and 0.5 < lamp < 0.6  # so sure as it was, it may be a thing that stays
    appearances[0] = replace(
        appearances[0], masks=described(0, 1, around=(3, 3))
    )  # the mug is on the print
    mug, picture = cross_clip_confidences(appearances, [np.array([0.5, 0.5])] * 4)[0]
    assert mug > 0.8 and picture < 0.2


def test_the_kernel_is_as_wide_as_tells_agreement_best() -> None:
    rng = np.random.default_rng(0)
    clips, numbers = np.repeat(np.arange(6), 20), np.arange(120)

    def length(vectors: np.ndarray, agreements: np.ndarray) -> float:
        directions = torch.from_numpy(cross_clip._units(vectors.astype(np.float32)))
        chosen, similarity = cross_clip._most_alike(directions, clips, directions, clips)
        counts = similarity > -np.inf  # three of each other clip, best first
        assert (counts.sum(axis=1) == 15).all() and counts[:, :15].all()
        assert (np.diff(similarity[:, :15]) <= 0).all()
        assert (clips[chosen] != clips[:, None])[counts].all()
        agreements = agreements.astype(np.float32)
        return cross_clip._best_length(agreements, agreements[chosen], similarity)

    two = rng.normal(0, 1, (2, 8))[numbers % 2] + rng.normal(0, 1, (120, 8))
    assert length(two, numbers % 2) >= 0.3  # what is a little alike is of the same kind
    ten = rng.normal(0, 1, (1, 8)) + 0.7 * rng.normal(0, 1, (10, 8))
    assert length(ten[numbers % 10] + 0.05 * rng.normal(0, 1, (120, 8)), numbers % 10 == 0) <= 0.15


def test_a_scene_that_stays_as_it_is_says_nothing_of_surroundings() -> None:
    """Beside one in which things are moved."""
    static = [placed(clip, (0, 1), (3, 4)) for clip in range(4)]
    moved = [placed(clip, (2, 5), (6 + clip, 16)) for clip in range(4, 8)]
    confidences = cross_clip_confidences([*static, *moved], [np.array([0.5, 0.5])] * 8)
    np.testing.assert_allclose(confidences[:4], 0.5, atol=1e-6)
    assert np.ptp(confidences[4]) > 0.6


def test_surroundings_that_are_not_seen_say_nothing() -> None:
    appearances = [placed(clip, (0, 1), (4 + clip, 3)) for clip in range(4)]
    hidden = described(0, 1, around=(4, 3))
    hidden.around[1] = 0.0
    appearances[0] = replace(appearances[0], masks=hidden)
    found = cross_clip_confidences(appearances, [np.array([0.5, 0.5])] * 4)
    assert found[0][1] == pytest.approx(0.5) and found[1][1] < 0.2


@pytest.mark.parametrize("remembered", [(0, 1), ()])
def test_one_clip_says_nothing(remembered: tuple[int, ...]) -> None:
    appearances = [look(7, (0, 1), remembered, *(1.0 for _ in remembered)), look(7, (), ())]
    found = cross_clip_confidences(appearances, [np.array([0.2, 0.9]), np.zeros(0)])
    np.testing.assert_array_equal(found[0], np.float32([0.2, 0.9]))
    assert found[1].shape == (0,)


def test_no_frame_at_all() -> None:
    assert cross_clip_confidences([], []) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), clips=st.integers(2, 5), frames=st.integers(2, 8))
@example(seed=0, clips=35, frames=35)  # more look-alikes than are compared
def test_revision_is_its_formula(seed: int, clips: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    kinds, places = rng.random((3, FEATURES + COLOURS)), rng.random((2, COLOURS))

    def some(kind: np.ndarray) -> Descriptors:
        count = len(kind)
        place = rng.integers(0, 2, count)
        inside = kinds[kind] + 0.2 * rng.random((count, FEATURES + COLOURS))
        around = places[place] + 0.2 * rng.random((count, COLOURS))
        around *= rng.random((count, 1)) < 0.8  # of the others nothing is seen
        return Descriptors(inside.astype(np.float32), around.astype(np.float32))

    appearances = []
    for frame in range(frames):
        candidates = int(rng.integers(0, 6)) if frame >= clips else 2
        masks, proposals = (rng.integers(0, 3, n) for n in (int(rng.integers(0, 4)), candidates))
        agreement = 0.4 * proposals + 0.2 * rng.random(candidates)
        appearances.append(
            FrameAppearance(
                frame % clips, some(masks), some(proposals), agreement.astype(np.float32)
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
    """The docstrings of the module, mask by mask."""
    middle = np.concatenate([one.proposals.inside for one in appearances]).mean(axis=0)
    rings = np.concatenate([one.proposals.around for one in appearances])
    middle_around = rings[rings.any(axis=1)].mean(axis=0) if rings.any() else 0.0

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

    def around(mask: np.ndarray, proposal: np.ndarray) -> float | None:
        if not mask.any() or not proposal.any():
            return None
        return cosine(mask - middle_around, proposal - middle_around)

    def look_alikes(own: FrameAppearance, mask: np.ndarray, ring: np.ndarray) -> list[tuple]:
        """Similarity, agreement and surroundings of each."""
        alike = []
        for clip in {one.clip for one in appearances} - {own.clip}:
            there = [
                (
                    similarity(mask, one.proposals.inside[number]),
                    float(one.agreement[number]),
                    around(ring, one.proposals.around[number]),
                )
                for one in appearances
                if one.clip == clip
                for number in range(len(one.proposals))
            ]
            alike += sorted(there, key=lambda row: -row[0])[:3]
        return sorted(alike, key=lambda row: -row[0])[:60]

    def kernel(similarity: float, length: float) -> float:
        least = np.exp((0.2 - 1) / length)
        return max(0.0, (np.exp((similarity - 1) / length) - least) / (1 - least))

    def mean(pairs: list[tuple[float, float]]) -> float:
        return sum(w * value for w, value in pairs) / max(sum(w for w, _ in pairs), 1e-9)

    def expected(weighted: list[list[tuple]]) -> tuple[list[float], float]:
        overall = mean([(w, a) for alike in weighted for w, a, _ in alike])
        return [
            (sum(w * a for w, a, _ in alike) + 2 * overall) / (sum(w for w, _, _ in alike) + 2)
            for alike in weighted
        ], overall

    def loss(length: float) -> float:
        """Of the agreements of proposals, told from those of other clips."""
        told, _ = expected([[(kernel(s, length), a, r) for s, a, r in one] for one in of_proposals])
        pairs = zip(agreements, np.clip(told, 1e-3, 1 - 1e-3), strict=True)
        return -float(np.mean([a * np.log(p) + (1 - a) * np.log(1 - p) for a, p in pairs]))

    agreements = [float(a) for own in appearances for a in own.agreement]
    of_proposals = [
        look_alikes(own, inside, ring)
        for own in appearances
        for inside, ring in zip(own.proposals.inside, own.proposals.around, strict=True)
    ]
    length = min((0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 3.0), key=loss)
    found = [  # of each mask: its clip, and weight, agreement and surroundings of its look-alikes
        (own.clip, [(kernel(s, length), a, r) for s, a, r in look_alikes(own, mask, ring)])
        for own in appearances
        for mask, ring in zip(own.masks.inside, own.masks.around, strict=True)
    ]
    if not found:
        return [[] for _ in appearances]

    def logit(p: float) -> float:
        p = min(max(p, 1e-3), 1 - 1e-3)
        return float(np.log(p / (1 - p)))

    told, overall = expected([alike for _, alike in found])
    revised = []
    for (clip, alike), agreed, confidence in zip(
        found, told, np.concatenate(confidences), strict=True
    ):
        others = [row for c, rows in found if c == clip for row in rows]
        there = mean([(w, s) for w, _, s in others if s is not None])
        seen = [(w, s) for w, _, s in alike if s is not None]
        moved = sum(w * (s - there) for w, s in seen) / (sum(w for w, _ in seen) + 2)
        change = 1.5 * (logit(agreed) - logit(overall)) - min(max(16 * moved, -2.0), 2.0)
        log_odds = logit(confidence) + change
        revised.append(1 / (1 + np.exp(-log_odds)))
    values = iter(revised)
    return [[next(values) for _ in range(len(one.masks))] for one in appearances]


# --------------------------------------------------------------------------------------- appearances


@pytest.mark.parametrize("scale", [1, 2])
def test_masks_are_described_where_they_are(scale: int) -> None:
    """The features below the mask, and its colours, whatever size the network sees."""
    network = tiny_mask_rcnn()
    network.transform.min_size, network.transform.max_size = (scale * SIDE,), 4 * SIDE
    image = picture(0)
    image[16:48, 32:64] = (255, 0, 0)
    rles = boxes((16, 32, 48, 64), (0, 0, 16, 16))
    observed = AppearanceExtractor(network, CONFIG, CPU).look("clip", image, rles)
    tensor = torch.from_numpy(image).permute(2, 0, 1) / 255
    with torch.inference_mode():
        pyramid = network.backbone(network.transform([tensor])[0].tensors)
    levels = np.split(observed.masks.inside[:, :-COLOURS], LEVELS, axis=1)
    for (name, cell), means in zip((("1", 8), ("2", 16)), levels, strict=True):
        features = pyramid[name][0].numpy()
        top, left, bottom, right = (scale * pixels // cell for pixels in (16, 32, 48, 64))
        middle, corner = features[:, top:bottom, left:right], features[:, :top, :top]
        np.testing.assert_allclose(means[0], middle.mean((1, 2)), atol=1e-5)
        np.testing.assert_allclose(means[1], corner.mean((1, 2)), atol=1e-5)
    colours = observed.masks.inside[:, -COLOURS:]
    assert np.count_nonzero(colours[0]) == 1 and colours[0].max() == 1.0
    np.testing.assert_allclose((colours**2).sum(axis=1), 1.0, rtol=1e-5)
    assert len(observed.proposals) == len(observed.agreement) <= 4
    assert observed.proposals.inside.shape[1] == observed.masks.inside.shape[1]


def test_what_surrounds_a_mask_begins_beyond_its_outline() -> None:
    """A red thing of 40 x 40 pixels in a green square, both with black beyond."""
    image = np.zeros((200, 200, 3), np.uint8)
    image[60:140, 60:140] = (0, 255, 0)
    image[78:122, 78:122] = (255, 0, 0)  # its outline is drawn 2 pixels within it
    everything = np.zeros((2, 200, 200), bool)
    everything[0, 80:120, 80:120] = everything[1] = True
    features = [np.ones((1, 12, 12), np.float32)]
    found = looks_of_masks._described(image, features, encode_all(everything))
    lab = cv2.cvtColor(np.uint8([[[0, 255, 0]]]), cv2.COLOR_RGB2LAB)
    green = cv2.calcHist([lab], [0, 1, 2], None, looks_of_masks._BINS, [0, 256] * 3).ravel()
    np.testing.assert_allclose(found.around[0], green, atol=1e-6)  # 17 pixels, all of them green
    assert found.around[0] @ found.inside[0, 1:] == 0
    assert not found.around[1].any()
    corner = np.zeros((1, 200, 200), bool)
    corner[0, :40, :40] = True  # half of what surrounds it would be beyond the image
    image[:] = (0, 255, 0)
    found = looks_of_masks._described(image, features, encode_all(corner))
    np.testing.assert_allclose(found.around[0], green, atol=1e-6)


def test_padding_is_not_looked_at() -> None:
    network = tiny_mask_rcnn()
    image = picture(1)[:, :40]  # the network sees it 64 wide and 102 high, padded to 128
    whole = np.zeros((1, SIDE, SIDE), bool)[:, :, :40] | True
    observed = AppearanceExtractor(network, CONFIG, CPU).look(0, image, encode_all(whole))
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    network.transform.min_size, network.transform.max_size = (SIDE,), 2 * SIDE
    with torch.inference_mode():
        images, _ = network.transform([tensor])
        pyramid = network.backbone(images.tensors)
    assert images.image_sizes == [(102, 64)] and pyramid["2"].shape[2:] == (8, 4)
    fine, coarse = np.split(observed.masks.inside[0, :-COLOURS], LEVELS)
    np.testing.assert_allclose(fine, pyramid["1"][0, :, :13].mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(coarse, pyramid["2"][0, :, :6].mean((1, 2)), atol=1e-5)


def test_proposals_agree_with_what_was_selected() -> None:
    network = tiny_mask_rcnn()
    observer = AppearanceExtractor(network, CONFIG, CPU)
    image = picture(2)
    (proposals,) = observer._proposer.propose([image])
    chosen = proposals.rles[1:2]
    observed = observer.look(0, image, chosen)
    np.testing.assert_allclose(
        observed.agreement, iou_matrix(proposals.rles, chosen)[:, 0], rtol=1e-6
    )
    assert observed.agreement[1] == 1.0
    np.testing.assert_array_equal(observed.proposals.inside[1], observed.masks.inside[0])
    assert observer.look(0, image, ()).masks.inside.shape == (0, observed.masks.inside.shape[1])
    assert len(observer.look(0, image, chosen, remember=False).proposals) == 0


def test_nothing_is_left_on_the_network() -> None:
    network = tiny_mask_rcnn()
    AppearanceExtractor(network, CONFIG, CPU).look(0, picture(0), ())
    assert not network.backbone._forward_hooks


# ----------------------------------------------------------------------------------- whole sets


@pytest.fixture
def pool(tmp_path: Path) -> SelectedDataset:
    """Two clips of seven frames of one scene, one of two masks proposed."""
    observer = AppearanceExtractor(tiny_mask_rcnn(), CONFIG, CPU)
    (proposals,) = observer._proposer.propose([picture(3)])
    half = decode(
        proposals.rles[1]
    )  # every second row of it appearances the same, and agrees by half
    half[::2] = False
    rles = (proposals.rles[0], encode(half))
    entries = []
    for clip in range(2):
        for number in range(7):
            path = tmp_path / f"{clip}-{number}.png"
            cv2.imwrite(str(path), picture(3)[..., ::-1])  # BGR
            entries.append(SelectedImage(path, rles, (0.4, 0.7), recording="home", clip_id=clip))
    return SelectedDataset(entries)


def test_a_pool_is_revised_frame_by_frame(pool: SelectedDataset) -> None:
    frames: list[int] = []
    revised = recalibrate(pool, tiny_mask_rcnn(), CONFIG, CPU, lambda: frames.append(len(frames)))
    assert len(frames) == len(revised) == 14
    assert [entry.rles for entry in revised.entries] == [entry.rles for entry in pool.entries]
    confidences = np.array([entry.confidences for entry in revised.entries])
    assert np.ptp(confidences, axis=0).max() < 1e-6  # every frame shows the same
    assert np.abs(confidences[0] - (0.4, 0.7)).min() > 0.01
    appearances = [
        AppearanceExtractor(tiny_mask_rcnn(), CONFIG, CPU).look(clip, picture(3), entry.rles)
        for clip in range(2)
        for entry in pool.entries[:5]  # as many as are remembered
    ]
    expected = cross_clip_confidences(appearances, [np.array([0.4, 0.7])] * 10)
    np.testing.assert_allclose(confidences[0], expected[0], rtol=1e-5)


def test_a_few_frames_of_each_clip_are_remembered() -> None:
    kept = cross_clip._remembered(["a"] * 11 + ["b"] * 2 + ["a"])
    assert kept == {0, 3, 6, 8, 13, 11, 12}


def test_one_clip_is_not_looked_at(pool: SelectedDataset) -> None:
    single = SelectedDataset(pool.entries[:7])
    assert (
        recalibrate(single, tiny_mask_rcnn(), CONFIG, CPU, lambda: pytest.fail("appearances"))
        is single
    )


def test_what_stops_the_training_stops_it_here_too(pool: SelectedDataset) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate(pool, tiny_mask_rcnn(), CONFIG, CPU, stop)


def test_unsure_masks_are_not_learnt(pool: SelectedDataset) -> None:
    config = Config(device="cpu")
    plain = replace(config, learning=replace(config.learning, recurrence=False, min_confidence=0.5))
    sure = confident_masks(pool, tiny_mask_rcnn(), plain, 100)
    assert len(sure) == 14
    assert all(sure[i].rles == pool[i].rles[1:] for i in range(14))
    assert sure[0].ignored == ()


def test_no_more_frames_are_looked_at_than_are_drawn(pool: SelectedDataset) -> None:
    sure = confident_masks(pool, tiny_mask_rcnn(), Config(device="cpu"), 4)
    assert [entry.path.name for entry in sure.entries] == [
        "0-0.png",
        "0-3.png",
        "1-0.png",
        "1-3.png",
    ]
    assert len(pool.subsample(14)) == len(pool.subsample(15)) == 14
    assert len(SelectedDataset([]).subsample(3)) == 0


def test_learning_revises_before_it_decides(
    pool: SelectedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gbopt_ros.learning.round.recalibrate",
        lambda pool, *_: pool.with_confidences([(0.9, 0.1)] * len(pool)),
    )
    sure = confident_masks(pool, tiny_mask_rcnn(), Config(device="cpu"), 100)
    assert sure[0].rles == pool[0].rles[:1]
