"""Selection on a stream: the offline optimum at unlimited lag, bounded memory at any other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clips import calibrated, paper, random_inputs, run
from support.fakes import HashFlow, make_clip

from gbopt_ros.config import SelectionConfig
from gbopt_ros.selection import FixedLagSelector, combinations, independent_sets
from gbopt_ros.structures import FrameSelection


def stream(
    inputs: tuple, config: SelectionConfig, lag: int | None
) -> tuple[list[list[FrameSelection]], FixedLagSelector]:
    """The frames that were decided at each step, `finish` last, and the selector."""
    images, masks, backgrounds, flows = inputs
    selector = FixedLagSelector(HashFlow(), config, lag)
    steps = []
    for frame, candidates, background, flow in zip(
        make_clip(list(images)).frames, masks, backgrounds, [None, *flows], strict=True
    ):
        steps.append(list(selector.add(frame, calibrated(candidates), background, flow)))
    steps.append(list(selector.finish()))
    return steps, selector


def published(frames: list[FrameSelection]) -> list[tuple]:
    return [(f.frame.index, f.indices, f.rles) for f in frames]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    t=st.integers(1, 7),
    n=st.integers(0, 5),
    k=st.integers(1, 5),
    flow=st.sampled_from([0.0, 0.1, 1.0]),
    exhaustive=st.booleans(),
    memory=st.sampled_from([0.0, 0.5]),
)
def test_fixed_lag_selector_with_unlimited_lag_equals_the_whole_clip(
    seed: int, t: int, n: int, k: int, flow: float, exhaustive: bool, memory: float
) -> None:
    inputs = random_inputs(seed, t, n)
    config = SelectionConfig(
        k=k, lambda_flow=flow, exhaustive=exhaustive, score_weight=1.0, score_propagation=memory
    )
    steps, selector = stream(inputs, config, None)
    whole = run(inputs, config)[0]
    assert published([f for step in steps for f in step]) == published(list(whole.frames))
    assert selector.energy == pytest.approx(whole.energy, abs=1e-9)
    assert selector.lower_bound == selector.energy
    assert selector.flow_runs <= k * k * (t - 1)
    assert selector.finish() == ()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), lag=st.integers(0, 4), k=st.integers(1, 4))
def test_fixed_lag_selector_lets_no_frame_wait_longer_than_the_lag(
    seed: int, lag: int, k: int
) -> None:
    inputs = random_inputs(seed, 7, 4)
    config = SelectionConfig(k=k)
    steps, selector = stream(inputs, config, lag)
    assert [f.frame.index for step in steps for f in step] == list(range(7))
    for now, step in enumerate(steps[:-1]):
        assert all(now - f.frame.index <= lag for f in step)
    optimum = run(inputs, config)[0].energy
    assert selector.lower_bound - 1e-9 <= optimum <= selector.energy + 1e-9
    if lag == 0 and k > 1:
        assert selector.lower_bound == -np.inf, "a decision at once can seldom be proven"


def test_fixed_lag_selector_proves_a_clip_after_one_in_which_the_lag_forced_decisions() -> None:
    selector = FixedLagSelector(HashFlow(), paper(k=5), lag=1)
    images, masks, backgrounds, flows = random_inputs(1, 6, 4)
    frames = make_clip(list(images)).frames
    for count in (6, 1):
        for t, flow in enumerate([None, *flows][:count]):
            selector.add(frames[t], calibrated(masks[t]), backgrounds[t], flow)
        selector.finish()
        assert selector.optimal is (count == 1)
    assert selector.lower_bound == selector.energy


def test_fixed_lag_selector_decides_early_where_all_paths_agree() -> None:
    """Seen from far enough ahead, competing paths share their beginning."""
    inputs = random_inputs(3, 12, 4)
    steps, _ = stream(inputs, SelectionConfig(k=3, lambda_flow=0.0), None)
    assert sum(len(step) for step in steps[:-1]) >= 8
    assert len(steps[-1]) < 4


def test_fixed_lag_selector_decides_a_single_combination_at_once() -> None:
    steps, _ = stream(random_inputs(0, 4, 3), SelectionConfig(k=1, exhaustive=True), None)
    assert [len(step) for step in steps] == [1, 1, 1, 1, 0]


def test_fixed_lag_selector_is_ready_for_another_clip_after_finish() -> None:
    """Nothing of a clip is left for the next, whose frames have the same indices."""
    config = SelectionConfig(k=3, exhaustive=True)
    selector = FixedLagSelector(HashFlow(), config)
    for seed in (1, 2):
        inputs = random_inputs(seed, 3, 3)
        images, masks, backgrounds, flows = inputs
        frames: list[FrameSelection] = []
        for frame, candidates, background, flow in zip(
            make_clip(list(images)).frames, masks, backgrounds, [None, *flows], strict=True
        ):
            frames += selector.add(frame, calibrated(candidates), background, flow)
        frames += selector.finish()
        whole = run(inputs, config)[0]
        assert published(frames) == published(list(whole.frames))
        assert selector.energy == pytest.approx(whole.energy, abs=1e-9)
    assert selector.finish() == ()


def test_fixed_lag_selector_is_not_optimal_in_a_clip_whose_stage_1_came_to_its_limit() -> None:
    selector = FixedLagSelector(HashFlow(), SelectionConfig(k=3))
    images, masks, backgrounds, flows = random_inputs(1, 3, 3)
    frames = make_clip(list(images)).frames
    for first_limit in (0, 10**7):
        for t, flow in enumerate([None, *flows]):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(combinations, "_LARGEST_LIST", 0)
                patch.setattr(independent_sets, "_MAX_WORK", 10**7 if t else first_limit)
                selector.add(frames[t], calibrated(masks[t]), backgrounds[t], flow)
        selector.finish()
        assert selector.lower_bound == selector.energy
        assert selector.optimal is (first_limit > 0)


def test_fixed_lag_selector_refuses_what_does_not_fit() -> None:
    images, masks, backgrounds, flows = random_inputs(1, 2, 2)
    frames = make_clip(list(images)).frames
    selector = FixedLagSelector(HashFlow(), SelectionConfig())
    with pytest.raises(ValueError, match="no flow"):
        selector.add(frames[0], calibrated(masks[0]), backgrounds[0], flows[0])
    selector.add(frames[0], calibrated(masks[0]), backgrounds[0], None)
    with pytest.raises(ValueError, match="no flow"):
        selector.add(frames[1], calibrated(masks[1]), backgrounds[1], None)
    other = make_clip([np.zeros((4, 4, 3), np.uint8)]).frames[0]
    with pytest.raises(ValueError, match="of size"):
        selector.add(other, calibrated(masks[1]), backgrounds[1], flows[0])
    with pytest.raises(ValueError, match="background of size"):
        selector.add(frames[1], calibrated(masks[1]), np.full((8, 8), 0.1), flows[0])
    with pytest.raises(ValueError, match="finite flow"):
        selector.add(frames[1], calibrated(masks[1]), backgrounds[1], flows[0][:-1])
    damaged = flows[0].copy()
    damaged[2, 3] = np.nan
    selector = FixedLagSelector(HashFlow(), SelectionConfig())  # with nothing to synthesise
    selector.add(frames[0], calibrated(masks[0, :0]), backgrounds[0], None)
    with pytest.raises(ValueError, match="finite"):
        selector.add(frames[1], calibrated(masks[1]), backgrounds[1], damaged)
    with pytest.raises(ValueError, match="lag"):
        FixedLagSelector(HashFlow(), SelectionConfig(), -1)
