"""The two stages together, against exhaustive search over the equations themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.clips import CALIBRATION, SIZE, brute_force, calibrated, paper, random_inputs, run
from support.fakes import HashFlow, make_clip, make_proposals

from gbopt_ros import masks as mask_ops
from gbopt_ros.selection import best_combinations, combinations, independent_sets, select_clip
from gbopt_ros.structures import Image


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    t=st.integers(1, 3),
    n=st.integers(0, 4),
    k=st.integers(1, 4),
    tolerance=st.sampled_from([0.0, 0.3]),
    exhaustive=st.booleans(),
    scores=st.sampled_from([0.0, 1.0]),
)
def test_select_clip_energy_is_the_optimum(
    seed: int, t: int, n: int, k: int, tolerance: float, exhaustive: bool, scores: float
) -> None:
    inputs = random_inputs(seed, t, n)
    config = paper(k=k, overlap_tolerance=tolerance, exhaustive=exhaustive, score_weight=scores)
    selection, network = run(inputs, config)
    assert selection.energy == pytest.approx(brute_force(inputs, config), abs=1e-6)
    assert selection.optimal
    assert selection.lower_bound == selection.energy
    assert selection.flow_runs == network.runs <= k * k * (t - 1)
    total = sum(frame.energy.total for frame in selection.frames)
    assert total == pytest.approx(selection.energy, abs=1e-9)
    for frame in selection.frames:
        masks = mask_ops.decode_all(frame.rles, SIZE)
        assert masks.sum(axis=0).max(initial=0) <= 1, "published masks overlap"
        assert (frame.margins >= 0).all()
        assert ((frame.confidences >= 0) & (frame.confidences <= 1)).all()


def test_select_clip_is_not_optimal_if_stage_1_of_a_frame_came_to_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = random_inputs(1, 3, 3)
    assert run(inputs, paper())[0].optimal
    monkeypatch.setattr(combinations, "_LARGEST_LIST", 0)
    monkeypatch.setattr(independent_sets, "_MAX_WORK", 0)
    selection, _ = run(inputs, paper())
    assert not selection.optimal
    assert selection.lower_bound == selection.energy  # stage 2 is


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_scores_count_only_where_the_network_has_a_calibration(memory: float) -> None:
    """Nor are scores of a network without one followed into a frame of a network with one."""
    images, masks, backgrounds, flows = random_inputs(2, 3, 4)

    def energy(weight: float, known: Sequence[bool]) -> float:
        proposals = [
            calibrated(frame) if is_known else make_proposals(frame)
            for frame, is_known in zip(masks, known, strict=True)
        ]
        config = paper(k=4, lambda_flow=0.0, score_weight=weight, score_propagation=memory)
        clip = make_clip(list(images))
        return select_clip(clip, proposals, backgrounds, flows, HashFlow(), config).energy

    assert energy(1.0, [False] * 3) == energy(0.0, [False] * 3) == energy(0.0, [True] * 3)
    assert energy(1.0, [True] * 3) != energy(0.0, [True] * 3)
    first = (images[2:], masks[2:], backgrounds[2:], [])
    config = paper(k=4, lambda_flow=0.0, lambda_regularization=0.0, score_propagation=memory)
    alone = run(first, replace(config, score_weight=1.0))[0].frames[0]
    mixed = [make_proposals(masks[1]), calibrated(masks[2])]
    pair = select_clip(
        make_clip(list(images[1:])), mixed, backgrounds[1:], flows[1:], HashFlow(),
        replace(config, score_weight=1.0),
    )  # fmt: skip
    assert pair.frames[1].indices == alone.indices
    assert pair.frames[1].energy.background == alone.energy.background


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_select_clip_lazy_finds_what_exhaustive_finds_with_fewer_runs(seed: int) -> None:
    inputs = random_inputs(seed, 4, 5)
    lazy, _ = run(inputs, paper(k=5))
    full, _ = run(inputs, paper(k=5, exhaustive=True))
    assert lazy.energy == pytest.approx(full.energy, abs=1e-12)
    assert [f.indices for f in lazy.frames] == [f.indices for f in full.frames]
    assert lazy.flow_runs <= full.flow_runs
    for some, exact in zip(lazy.frames, full.frames, strict=True):
        assert (some.margins <= exact.margins + 1e-12).all(), "a lazy margin is a lower bound"


def test_select_clip_clips_the_background_to_epsilon() -> None:
    masks = np.zeros((1, 1, *SIZE), bool)
    masks[0, 0, 1:4, 2:6] = True
    inputs = np.zeros((1, *SIZE, 3), np.uint8), masks, [1.0 - masks[0, 0]], []
    assert run(inputs, paper(epsilon=0.05))[0].energy == pytest.approx(-np.log(0.95))


def test_select_clip_hands_propagated_scores_on_from_frame_to_frame() -> None:
    """With a share of a half: 0.8, then (0.4 + 0.8) / 2 = 0.6, then (0.4 + 0.6) / 2 = 0.5."""
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 1:4, 2:6] = True
    proposals = [
        replace(make_proposals(mask, [score]), calibration=CALIBRATION) for score in (0.8, 0.4, 0.4)
    ]
    config = paper(score_weight=1.0, score_propagation=0.5, lambda_flow=0.0)
    still = [np.zeros((*SIZE, 2), np.float32)] * 2
    background = np.where(mask[0], 0.01, 0.99)
    clip = make_clip([np.zeros((*SIZE, 3), np.uint8)] * 3)
    found = select_clip(clip, proposals, [background] * 3, still, HashFlow(), config)
    assert [frame.indices for frame in found.frames] == [(0,)] * 3
    first, second, third = (frame.energy.background for frame in found.frames)
    assert (second - first, third - first) == (pytest.approx(0.2), pytest.approx(0.3))


def test_select_clip_ends_the_search_within_the_optimality_gap_of_each_frame() -> None:
    inputs = random_inputs(0, 6, 5)
    optimum, _ = run(inputs, paper(k=5))
    near, _ = run(inputs, paper(k=5, optimality_gap=0.05))
    assert near.flow_runs < optimum.flow_runs
    assert near.lower_bound <= optimum.energy <= near.energy
    assert 0.05 < near.energy - near.lower_bound <= 6 * 0.05
    assert not near.optimal


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_select_clip_exhaustive_margin_is_the_cost_of_doing_without_the_mask(seed: int) -> None:
    images, masks, backgrounds, flows = random_inputs(seed, 2, 3)
    config = paper(k=8, exhaustive=True, overlap_tolerance=0.0)
    selection, _ = run((images, masks, backgrounds, flows), config)
    for t, frame in enumerate(selection.frames):
        for i, margin in zip(frame.indices, frame.margins, strict=True):
            without = masks.copy()
            without[t, i] = False  # an empty mask is never selected
            energy = brute_force((images, without, backgrounds, flows), config)
            assert margin == pytest.approx(energy - selection.energy, abs=1e-6)


def test_select_clip_margin_of_a_mask_that_all_combinations_hold_is_from_the_background() -> None:
    """Two sure masks, two that hardly matter: none of 3 combinations leaves out a sure one."""
    masks = np.zeros((1, 4, *SIZE), bool)
    for i, column in enumerate((0, 2, 4, 6)):
        masks[0, i, 0, column] = True
    background = np.full(SIZE, 0.9)
    background[0, [0, 2]], background[0, [4, 6]] = 0.01, 0.49
    images = np.zeros((1, *SIZE, 3), np.uint8)
    selection, _ = run((images, masks, [background], []), paper(k=3))
    (frame,) = selection.frames
    assert frame.indices == (0, 1, 2, 3)
    odds = np.log(0.51 / 0.49) / np.prod(SIZE)  # what leaving out one of the others costs
    np.testing.assert_allclose(frame.margins, [odds] * 4, rtol=1e-4)


def test_select_clip_without_candidates() -> None:
    inputs = random_inputs(0, 3, 0)
    selection, network = run(inputs, paper())
    assert [f.indices for f in selection.frames] == [(), (), ()]
    assert network.runs == 0
    assert selection.mask_count == 0


def test_select_clip_of_a_single_frame_needs_no_flow() -> None:
    inputs = random_inputs(1, 1, 4)
    selection, network = run(inputs, paper())
    assert network.runs == 0
    assert selection.frames[0].energy.flow == 0


def test_select_clip_counts_the_background_loss_of_the_last_frame() -> None:
    """Eq. 17 drops it; without it the last frame's selection would be free."""
    images = np.zeros((2, *SIZE, 3), np.uint8)
    masks = np.zeros((2, 1, *SIZE), bool)
    masks[:, 0, 2:5, 2:5] = True
    background = np.where(masks[0, 0], 0.01, 0.99)
    inputs = (images, masks, [background, background], [np.zeros((*SIZE, 2), np.float32)])
    config = paper(lambda_flow=0.0, lambda_regularization=0.0)
    selection, _ = run(inputs, config)
    assert [f.indices for f in selection.frames] == [(0,), (0,)]
    assert selection.frames[-1].energy.background == pytest.approx(-np.log(0.99), abs=1e-6)


def test_select_clip_keeps_a_mask_through_a_bad_frame_by_consistency() -> None:
    """L_p carries an object over a frame in which the background network misses it."""
    images = np.zeros((3, *SIZE, 3), np.uint8)
    masks = np.zeros((3, 1, *SIZE), bool)
    masks[:, 0, 2:5, 2:5] = True
    good = np.where(masks[0, 0], 0.05, 0.95)
    bad = np.where(masks[0, 0], 0.6, 0.95)
    flows = [np.zeros((*SIZE, 2), np.float32)] * 2
    inputs = (images, masks, [good, bad, good], flows)
    without = paper(lambda_flow=0.0, lambda_regularization=0.0)
    assert [len(f) for f in run(inputs, without)[0].frames] == [1, 0, 1]
    assert [len(f) for f in run(inputs, paper(lambda_flow=0.0))[0].frames] == [1, 1, 1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scores=st.sampled_from([0.0, 1.0]))
def test_select_clip_selects_a_frame_after_a_cut_as_if_alone(seed: int, scores: float) -> None:
    """Here the masks of frame 1 are on the other side of the image."""
    images, masks, backgrounds, flows = random_inputs(seed, 2, 3)
    masks[0, :, :, 4:] = masks[1, :, :, :4] = False
    masks[0, :, 0, 0] = masks[1, :, 0, 8] = True
    flows[0] *= 0
    propagated = {"score_weight": scores, "score_propagation": 0.5}
    together, network = run(
        (images, masks, backgrounds, flows), paper(**propagated, detect_cuts=True)
    )
    assert network.runs == 0
    for t, frame in enumerate(together.frames):
        one = slice(t, t + 1)
        alone, _ = run((images[one], masks[one], backgrounds[one], []), paper(**propagated))
        assert frame.indices == alone.frames[0].indices
        assert frame.energy == alone.frames[0].energy
        np.testing.assert_allclose(frame.margins, alone.frames[0].margins, atol=1e-12)


@pytest.mark.parametrize(("detect_cuts", "second"), [(False, (0,)), (True, ())])
def test_select_clip_joins_frames_whatever_they_show_unless_it_detects_cuts(
    detect_cuts: bool, second: tuple[int, ...]
) -> None:
    """L_p, as in the paper, selects what slightly looks like background, for an IoU of 1/7."""
    masks = np.zeros((2, 1, *SIZE), bool)
    masks[0, 0, :4, :4] = masks[1, 0, :4, 3:7] = True
    backgrounds = [np.where(masks[0, 0], 0.01, 0.99), np.where(masks[1, 0], 0.51, 0.99)]
    inputs = (np.zeros((2, *SIZE, 3), np.uint8), masks, backgrounds, [np.zeros((*SIZE, 2))])
    selection, network = run(inputs, paper(detect_cuts=detect_cuts, lambda_flow=0.01))
    assert [frame.indices for frame in selection.frames] == [(0,), second]
    assert (network.runs == 0) is detect_cuts
    assert selection.frames[0].energy.regularization == pytest.approx(-0.5 / 7 * (not detect_cuts))


@pytest.mark.parametrize("width", [20, 21])
def test_select_clip_measures_the_flow_of_small_composites_in_pixels_of_the_frame(
    width: int,
) -> None:
    """All moves by 4 pixels; on composites of half the height the network sees 2 or less."""

    class TwoPixels(HashFlow):
        def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
            assert first[0].shape == (8, 10, 3)
            return np.broadcast_to(np.float32([4 * 10 / width, 0]), (len(first), 8, 10, 2))

    masks = np.zeros((2, 1, 16, width), bool)
    masks[0, 0, 4:8, 4:8] = masks[1, 0, 4:8, 8:12] = True
    flow = np.broadcast_to(np.float32([4, 0]), (16, width, 2))
    selection = select_clip(
        make_clip([np.zeros((16, width, 3), np.uint8)] * 2), [make_proposals(m) for m in masks],
        [np.where(m[0], 0.01, 0.99) for m in masks], [flow], TwoPixels(),
        paper(composite_side=8),
    )  # fmt: skip
    assert [frame.indices for frame in selection.frames] == [(0,), (0,)]
    assert selection.frames[0].energy.flow == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_select_clip_takes_maps_of_any_precision(dtype: type) -> None:
    images, masks, *maps = random_inputs(0, 3, 3)
    halves = [[value.astype(np.float16) for value in values] for values in maps]

    def energy(dtype: type) -> float:
        converted = ([value.astype(dtype) for value in values] for values in halves)
        return run((images, masks, *converted), paper(composite_side=4))[0].energy

    assert energy(dtype) == energy(np.float32)


def test_select_clip_gives_shared_pixels_to_the_higher_score() -> None:
    images = np.zeros((1, *SIZE, 3), np.uint8)
    masks = np.zeros((1, 2, *SIZE), bool)
    masks[0, 0, 1:3, 0:4], masks[0, 1, 1:3, 3:9] = True, True
    background = np.where(masks[0].any(axis=0), 0.1, 0.9)
    config = paper(overlap_tolerance=0.3)
    proposals = [make_proposals(masks[0], scores=[0.8, 0.4])]
    selection = select_clip(
        make_clip(list(images)), proposals, [background], [], HashFlow(), config
    )
    first, second = mask_ops.decode_all(selection.frames[0].rles, SIZE)
    np.testing.assert_array_equal(first, masks[0, 0])
    np.testing.assert_array_equal(second, masks[0, 1] & ~masks[0, 0])
    np.testing.assert_array_equal(selection.frames[0].boxes[1], [4, 1, 9, 3])


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("proposals", "select_clip: expected 3 proposals"),
        ("backgrounds", "select_clip: expected 3 proposals"),
        ("flows", "select_clip: expected 3 proposals"),
        ("size", "frame 1: expected background of size"),
        ("nan", "frame 1: expected a finite flow"),
        ("logits", r"frame 1: expected background probabilities, from 0 to 1; got -3 to 3"),
        ("nan background", r"frame 1: expected background probabilities, .*; got nan to nan"),
    ],
)
def test_select_clip_refuses_inputs_that_do_not_fit(broken: str, words: str) -> None:
    images, masks, backgrounds, flows = random_inputs(0, 3, 2)
    proposals = [make_proposals(frame) for frame in masks]
    if broken == "proposals":
        proposals.pop()
    elif broken == "backgrounds":
        backgrounds.append(backgrounds[0])
    elif broken == "flows":
        flows.pop()
    elif broken == "size":
        backgrounds[1] = np.zeros((3, 3))
    elif broken == "logits":
        backgrounds[1] = np.linspace(-3, 3, np.prod(SIZE)).reshape(SIZE)
    elif broken == "nan background":
        backgrounds[1][2, 2] = np.nan
    else:
        flows[0] = np.full((*SIZE, 2), np.nan)
    with pytest.raises(ValueError, match=words):
        select_clip(make_clip(list(images)), proposals, backgrounds, flows, HashFlow(), paper())


@pytest.mark.parametrize("exhaustive", [False, True])
def test_select_clip_refuses_a_synthetic_flow_that_is_not_finite(exhaustive: bool) -> None:
    class NanFlow(HashFlow):
        def flow(self, first: Sequence[Image], second: Sequence[Image]) -> NDArray[np.float32]:
            return super().flow(first, second) * np.float32("nan")

    images, masks, backgrounds, flows = random_inputs(3, 4, 4)
    with pytest.raises(ValueError, match="not finite"):
        select_clip(
            make_clip(list(images)), [make_proposals(frame) for frame in masks], backgrounds,
            flows, NanFlow(), paper(exhaustive=exhaustive),
        )  # fmt: skip


def test_select_clip_weighs_300_combinations_of_a_frame() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((2, 9, *SIZE), bool)
    for i in range(9):  # 512 combinations of disjoint masks
        masks[:, i, i // 3 * 2 : i // 3 * 2 + 2, i % 3 * 3 : i % 3 * 3 + 2] = True
    images = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    backgrounds, flows = [*rng.random((2, *SIZE))], [np.zeros((*SIZE, 2), np.float32)]
    settings = {"k": 300, "lambda_flow": 0.0, "lambda_regularization": 1.0}
    found, _ = run((images, masks, backgrounds, flows), paper(**settings))

    layers = [best_combinations(m, b, 300) for m, b in zip(masks, backgrounds, strict=True)]
    assert [len(layer) for layer in layers] == [300, 300]
    losses = [np.array([each.loss for each in layer]) for layer in layers]
    # All masks have 4 pixels, so that areas are numbers of masks.
    a, b = (np.array([np.isin(range(9), each.indices) for each in layer], int) for layer in layers)
    either = a.sum(axis=1)[:, None] + b.sum(axis=1) - a @ b.T
    costs = losses[0][:, None] + losses[1] - a @ b.T / np.maximum(either, 1)
    assert found.energy == pytest.approx(costs.min(), abs=1e-9)
