"""Optical flow: known motion for DIS, and the choice between DIS and RAFT."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.textures import moved, texture

from gbopt_ros.config import FlowConfig
from gbopt_ros.models.raft import RaftFlow
from gbopt_ros.perception.flow import DisFlow, high_detail_flow, low_detail_flow, make_flow


@pytest.mark.parametrize(("dx", "dy"), [(3, -2), (-4, 0), (0, 5)])
def test_dis_flow_finds_a_translation(dx: int, dy: int) -> None:
    first, second = moved(64, 96, dx, dy)
    flow = DisFlow().flow([first], [second])
    assert flow.shape == (1, 64, 96, 2)
    assert flow.dtype == np.float32
    error = np.linalg.norm(flow[0] - [dx, dy], axis=2)  # x to the right, y down
    assert np.median(error) < 0.3


def test_dis_flow_without_motion_is_zero() -> None:
    image = texture(48, 64)
    assert np.abs(DisFlow().flow([image], [image])).max() < 1e-3


def test_dis_flow_does_not_carry_state_between_pairs() -> None:
    pairs = [moved(64, 64, 3, -2), moved(64, 64, -3, 2), moved(64, 64, 3, -2)]
    together = DisFlow().flow(*zip(*pairs, strict=True))
    apart = np.concatenate([DisFlow().flow([a], [b]) for a, b in pairs])
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_array_equal(together[0], together[2])


@pytest.mark.parametrize("detail", ["low", "normal", "high"])
@pytest.mark.parametrize("size", [(32, 40), (48, 36), (64, 80), (60, 88), (96, 96), (100, 130)])
def test_dis_flow_depends_on_the_pair_alone(size: tuple[int, int], detail: str) -> None:
    pairs = [(texture(*size, seed=n), texture(*size, seed=n + 9)) for n in range(4)]
    network = DisFlow(detail)
    first = [network.flow([a], [b]) for a, b in pairs]
    for n in np.random.default_rng(0).permutation(12) % 4:  # shuffled, after other pairs
        a, b = pairs[n]
        np.testing.assert_array_equal(network.flow([a], [b]), first[n])
        np.testing.assert_array_equal(DisFlow(detail).flow([a], [b]), first[n])


@pytest.mark.parametrize(
    "size", [(1, 1), (8, 8), (8, 64), (64, 8), (15, 17), (240, 1), (3, 130), (16, 640), (31, 160)]
)
def test_dis_flow_of_tiny_images(size: tuple[int, int]) -> None:
    first, second = texture(*size, seed=1), texture(*size, seed=2)
    flow = DisFlow().flow([first], [second])
    assert flow.shape == (1, *size, 2)
    assert np.isfinite(flow).all()
    assert np.abs(DisFlow().flow([first], [first])).max() < 1e-3


def test_dis_flow_of_no_pairs() -> None:
    assert DisFlow().flow([], []).shape == (0, 0, 0, 2)
    with pytest.raises(ValueError):
        DisFlow().flow([texture(32, 32)], [])


def test_make_flow_without_weights_is_dis() -> None:
    assert isinstance(make_flow(FlowConfig(), "cpu"), DisFlow)
    assert isinstance(make_flow(FlowConfig(backend="dis", weights="absent"), "cpu"), DisFlow)


def test_dis_flow_gives_every_thread_the_same_flow() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(4)]
    network = DisFlow()
    expected = network.flow(images[:-1], images[1:])
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(network.flow, images[:-1], images[1:]) for _ in range(24)]
        for job in jobs:
            np.testing.assert_array_equal(job.result(), expected)


def test_high_and_low_detail_flow_differ_only_where_there_are_such_networks() -> None:
    class Other(RaftFlow):
        def __init__(self) -> None:
            pass

    other = Other()
    assert high_detail_flow(other) is low_detail_flow(other) is other
    first, second = moved(64, 96, 3, -2)
    plain = DisFlow().flow([first], [second])
    for other_detail in (high_detail_flow, low_detail_flow):
        found = other_detail(DisFlow()).flow([first], [second])
        assert np.median(np.linalg.norm(found[0] - [3, -2], axis=2)) < 0.3
        assert (found != plain).any()
