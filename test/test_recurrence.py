"""Confidences that know what was selected in other clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CPU, SIDE, tiny_mask_rcnn

from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.learning import recurrence
from gbopt_ros.learning.recurrence import Look, Observer, revise, revised_confidences
from gbopt_ros.learning.training_set import PoolEntry, SelectedPool
from gbopt_ros.masks import decode, encode, encode_all, iou_matrix
from gbopt_ros.rounds import sure_masks

CHANNELS, COLOURS = 3, recurrence._COLOURS
CONFIG = ProposalConfig(max_proposals=4)


def described(*kinds: int) -> np.ndarray:
    """What masks of some kinds look like: a feature and a colour of its own each."""
    rows = np.zeros((len(kinds), CHANNELS + COLOURS), np.float32)
    for row, kind in zip(rows, kinds, strict=True):
        row[kind] = row[CHANNELS + kind] = 1.0
    return rows


def look(clip: int, masks: tuple[int, ...], proposals: tuple[int, ...], *agreement: float) -> Look:
    return Look(clip, described(*masks), described(*proposals), np.array(agreement, np.float32))


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
    looks = [look(clip, (0, 1), (0, 1, 2), 0.9, 0.1, 0.0) for clip in range(4)]
    looks[0] = look(0, (0, 1), (0, 1, 2), 0.9, 0.9, 0.0)  # here the print was selected
    found = revised_confidences(looks, [np.array([0.6, 0.6])] * 4)
    assert found[0][0] > 0.7 and found[0][1] < 0.3
    assert all(values.dtype == np.float32 for values in found)


def test_what_is_new_keeps_its_confidence_however_much_recurs() -> None:
    """Hundreds of clips of other things say little of it, one by one and together."""
    rng = np.random.default_rng(0)

    def some(count: int) -> np.ndarray:
        return rng.normal(0, 1, (count, 64 + COLOURS)).astype(np.float32)

    kinds = np.abs(some(8))
    looks = [
        Look(
            clip,
            kinds[rng.permutation(8)[:3]] + 0.2 * some(3),
            np.concatenate([kinds + 0.2 * some(8), np.abs(some(6))]),
            np.array([0.9] * 8 + [0.1] * 6, np.float32),
        )
        for clip in range(300)
    ]
    looks[0] = replace(looks[0], masks=np.abs(some(1)))
    confidences = [np.full(len(look.masks), 0.8) for look in looks]
    assert revised_confidences(looks, confidences)[0][0] == pytest.approx(0.8, abs=0.1)


def test_what_looks_like_nothing_else_keeps_its_confidence() -> None:
    looks = [
        look(0, (0, 2), (0, 2), 1.0, 1.0),
        *(look(c, (0, 1), (0, 1), 1.0, 0.0) for c in (1, 2)),
    ]
    first, second, _ = revised_confidences(looks, [np.array([0.4, 0.4])] * 3)
    assert first[1] == pytest.approx(0.4)
    assert first[0] > 0.45 and second[1] < 0.3


@pytest.mark.parametrize("remembered", [(0, 1), ()])
def test_one_clip_says_nothing(remembered: tuple[int, ...]) -> None:
    looks = [look(7, (0, 1), remembered, *(1.0 for _ in remembered)), look(7, (), ())]
    found = revised_confidences(looks, [np.array([0.2, 0.9]), np.zeros(0)])
    np.testing.assert_array_equal(found[0], np.float32([0.2, 0.9]))
    assert found[1].shape == (0,)


def test_no_frame_at_all() -> None:
    assert revised_confidences([], []) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), clips=st.integers(2, 5), frames=st.integers(2, 8))
def test_revision_is_its_formula(seed: int, clips: int, frames: int) -> None:
    rng = np.random.default_rng(seed)

    def some(count: int) -> np.ndarray:
        return rng.random((count, CHANNELS + COLOURS)).astype(np.float32)

    looks = []
    for frame in range(frames):
        candidates = int(rng.integers(0, 6)) if frame >= clips else 2
        looks.append(
            Look(
                frame % clips,
                some(int(rng.integers(0, 4))),
                some(candidates),
                rng.random(candidates).astype(np.float32),
            )
        )
    confidences = [rng.random(len(one.masks)) for one in looks]
    found = revised_confidences(looks, confidences)
    expected = by_the_formula(looks, confidences)
    assert len(found) == len(looks)
    for values, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, right, rtol=1e-3, atol=1e-5)


def by_the_formula(looks: list[Look], confidences: list[np.ndarray]) -> list[list[float]]:
    """The docstring of `revised_confidences`, mask by mask."""
    middle = np.concatenate([one.proposals for one in looks]).mean(axis=0)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - middle, b - middle
        return (cosine(a[:CHANNELS], b[:CHANNELS]) + cosine(a[CHANNELS:], b[CHANNELS:])) / 2

    sums = []
    for own in looks:
        for mask in own.masks:
            alike = []
            for clip in {one.clip for one in looks} - {own.clip}:
                there = [
                    (similarity(mask, proposal), float(agreement))
                    for one in looks
                    if one.clip == clip
                    for proposal, agreement in zip(one.proposals, one.agreement, strict=True)
                ]
                alike += sorted(there, reverse=True)[:3]
            weights = [
                (max(0.0, np.exp((s - 1) / 0.15) - np.exp((0.4 - 1) / 0.15)), a)
                for s, a in sorted(alike, reverse=True)[:60]
            ]
            sums.append((sum(w * a for w, a in weights), sum(w for w, _ in weights)))
    if not sums:
        return [[] for _ in looks]
    average = sum(a for a, _ in sums) / max(sum(s for _, s in sums), 1e-9)

    def logit(p: float) -> float:
        p = min(max(p, 1e-3), 1 - 1e-3)
        return float(np.log(p / (1 - p)))

    revised = iter(
        1 / (1 + np.exp(-logit(c) - 2 * (logit((a + average / 2) / (s + 0.5)) - logit(average))))
        for (a, s), c in zip(sums, np.concatenate(confidences), strict=True)
    )
    return [[next(revised) for _ in one.masks] for one in looks]


# --------------------------------------------------------------------------------------- looks


@pytest.mark.parametrize("scale", [1, 2])
def test_masks_are_described_where_they_are(scale: int) -> None:
    """The features below the mask, and its colours, whatever size the network sees."""
    network = tiny_mask_rcnn()
    network.transform.min_size, network.transform.max_size = (scale * SIDE,), 4 * SIDE
    image = picture(0)
    image[16:48, 32:64] = (255, 0, 0)
    rles = boxes((16, 32, 48, 64), (0, 0, 16, 16))
    observed = Observer(network, CONFIG, CPU).look("clip", image, rles)
    tensor = torch.from_numpy(image).permute(2, 0, 1) / 255
    with torch.inference_mode():
        features = network.backbone(network.transform([tensor])[0].tensors)["2"][0].numpy()
    cells = features[:, scale : 3 * scale, 2 * scale : 4 * scale]
    channels = len(features)
    np.testing.assert_allclose(observed.masks[0, :channels], cells.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(
        observed.masks[1, :channels], features[:, :scale, :scale].mean((1, 2)), atol=1e-5
    )
    colours = observed.masks[:, channels:]
    assert np.count_nonzero(colours[0]) == 1 and colours[0].max() == 1.0
    np.testing.assert_allclose((colours**2).sum(axis=1), 1.0, rtol=1e-5)
    assert len(observed.proposals) == len(observed.agreement) <= 4
    assert observed.proposals.shape[1] == observed.masks.shape[1]


def test_padding_is_not_looked_at() -> None:
    network = tiny_mask_rcnn()
    image = picture(1)[:, :40]  # the network sees it 64 wide and 102 high, padded to 128
    whole = np.zeros((1, SIDE, SIDE), bool)[:, :, :40] | True
    observed = Observer(network, CONFIG, CPU).look(0, image, encode_all(whole))
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    network.transform.min_size, network.transform.max_size = (SIDE,), 2 * SIDE
    with torch.inference_mode():
        images, _ = network.transform([tensor])
        features = network.backbone(images.tensors)["2"][0].numpy()
    height, width = (round(side / 16) for side in images.image_sizes[0])
    assert features.shape[1:] == (8, 4) and (height, width) == (6, 4)
    np.testing.assert_allclose(
        observed.masks[0, : len(features)], features[:, :height, :width].mean((1, 2)), atol=1e-5
    )


def test_proposals_agree_with_what_was_selected() -> None:
    network = tiny_mask_rcnn()
    observer = Observer(network, CONFIG, CPU)
    image = picture(2)
    (proposals,) = observer._proposer.propose([image])
    chosen = proposals.rles[1:2]
    observed = observer.look(0, image, chosen)
    np.testing.assert_allclose(
        observed.agreement, iou_matrix(proposals.rles, chosen)[:, 0], rtol=1e-6
    )
    assert observed.agreement[1] == 1.0
    np.testing.assert_array_equal(observed.proposals[1], observed.masks[0])
    assert observer.look(0, image, ()).masks.shape == (0, observed.masks.shape[1])
    assert len(observer.look(0, image, chosen, remember=False).proposals) == 0


def test_nothing_is_left_on_the_network() -> None:
    network = tiny_mask_rcnn()
    Observer(network, CONFIG, CPU).look(0, picture(0), ())
    assert not network.backbone._forward_hooks


# ----------------------------------------------------------------------------------- whole sets


@pytest.fixture
def pool(tmp_path: Path) -> SelectedPool:
    """Two clips of seven frames of one scene, one of two masks proposed."""
    observer = Observer(tiny_mask_rcnn(), CONFIG, CPU)
    (proposals,) = observer._proposer.propose([picture(3)])
    half = decode(proposals.rles[1])  # every second row of it looks the same, and agrees by half
    half[::2] = False
    rles = (proposals.rles[0], encode(half))
    entries = []
    for clip in range(2):
        for number in range(7):
            path = tmp_path / f"{clip}-{number}.png"
            cv2.imwrite(str(path), picture(3)[..., ::-1])  # BGR
            entries.append(PoolEntry(path, rles, (0.4, 0.7), recording="home", clip_id=clip))
    return SelectedPool(entries)


def test_a_pool_is_revised_frame_by_frame(pool: SelectedPool) -> None:
    frames: list[int] = []
    revised = revise(pool, tiny_mask_rcnn(), CONFIG, CPU, lambda: frames.append(len(frames)))
    assert len(frames) == len(revised) == 14
    assert [entry.rles for entry in revised.entries] == [entry.rles for entry in pool.entries]
    confidences = np.array([entry.confidences for entry in revised.entries])
    assert np.ptp(confidences, axis=0).max() < 1e-6  # every frame shows the same
    assert confidences[0, 0] > 0.41 and confidences[0, 1] < 0.69
    looks = [
        Observer(tiny_mask_rcnn(), CONFIG, CPU).look(clip, picture(3), entry.rles)
        for clip in range(2)
        for entry in pool.entries[:5]  # as many as are remembered
    ]
    expected = revised_confidences(looks, [np.array([0.4, 0.7])] * 10)
    np.testing.assert_allclose(confidences[0], expected[0], rtol=1e-5)


def test_a_few_frames_of_each_clip_are_remembered() -> None:
    kept = recurrence._remembered(["a"] * 11 + ["b"] * 2 + ["a"])
    assert kept == {0, 3, 6, 8, 13, 11, 12}


def test_one_clip_is_not_looked_at(pool: SelectedPool) -> None:
    single = SelectedPool(pool.entries[:7])
    assert revise(single, tiny_mask_rcnn(), CONFIG, CPU, lambda: pytest.fail("looks")) is single


def test_what_stops_the_training_stops_it_here_too(pool: SelectedPool) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        revise(pool, tiny_mask_rcnn(), CONFIG, CPU, stop)


def test_unsure_masks_are_not_learnt(pool: SelectedPool) -> None:
    config = Config(device="cpu")
    plain = replace(config, learning=replace(config.learning, recurrence=False, min_confidence=0.5))
    sure = sure_masks(pool, tiny_mask_rcnn(), plain, 100)
    assert len(sure) == 14
    assert all(sure[i].rles == pool[i].rles[1:] for i in range(14))
    assert sure[0].ignored == ()


def test_no_more_frames_are_looked_at_than_are_drawn(pool: SelectedPool) -> None:
    sure = sure_masks(pool, tiny_mask_rcnn(), Config(device="cpu"), 4)
    assert [entry.path.name for entry in sure.entries] == [
        "0-0.png",
        "0-3.png",
        "1-0.png",
        "1-3.png",
    ]
    assert len(pool.spread(14)) == len(pool.spread(15)) == 14
    assert len(SelectedPool([]).spread(3)) == 0


def test_learning_revises_before_it_decides(
    pool: SelectedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gbopt_ros.rounds.revise", lambda pool, *_: pool.with_confidences([(0.9, 0.1)] * len(pool))
    )
    sure = sure_masks(pool, tiny_mask_rcnn(), Config(device="cpu"), 100)
    assert sure[0].rles == pool[0].rles[:1]
