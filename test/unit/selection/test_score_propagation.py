"""Score propagation from the frame before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbopt_ros.masks import encode_all, iou_matrix
from gbopt_ros.selection.atoms import Atoms, atoms_of_rles
from gbopt_ros.selection.score_propagation import is_cut, propagated_scores, warped_iou


def atoms(*drawn: list[str]) -> Atoms:
    masks = np.array([[[c == "#" for c in row] for row in mask] for mask in drawn], bool)
    return atoms_of_rles(encode_all(masks), masks.shape[1:])


LEFT = ["##..", "##..", "...."]
MIDDLE = [".##.", ".##.", "...."]
RIGHT = ["..##", "..##", "...."]


def flow(x: float, y: float) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.float32), (3, 4, 2)).copy()


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (flow(0, 0), [1.0, 1 / 3, 0.0]),
        (flow(1, 0), [1 / 3, 1.0, 1 / 3]),
        (flow(1.4, 0.4), [1 / 3, 1.0, 1 / 3]),  # to the nearest pixel
        (flow(2, 0), [0.0, 1 / 3, 1.0]),
        (flow(1, 1), [1 / 7, 1 / 3, 1 / 7]),  # half of it moves below the others
    ],
)
def test_warped_iou_by_hand(move: np.ndarray, expected: list[float]) -> None:
    iou = warped_iou(atoms(LEFT), atoms(LEFT, MIDDLE, RIGHT), move)
    np.testing.assert_allclose(iou, [expected])


def test_warped_iou_of_pixels_that_crowd_at_the_border_is_at_most_one() -> None:
    out = warped_iou(atoms(LEFT), atoms(["...#", "...#", "...."]), flow(9, 0))
    assert out.shape == (1, 1)
    assert 0 <= out[0, 0] <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.integers(0, 4))
def test_warped_iou_without_motion_is_the_iou(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.random((count, 5, 6)) < 0.4 for count in (n, m))
    first[:, 0, 0] = second[:, 4, 5] = True
    rles = encode_all(first), encode_all(second)
    before, after = (atoms_of_rles(each, (5, 6)) for each in rles)
    still = np.zeros((5, 6, 2), np.float32)
    np.testing.assert_allclose(warped_iou(before, after, still), iou_matrix(*rles), atol=1e-12)


def test_warped_iou_of_a_large_image_is_that_of_the_small_one() -> None:
    """Masks whose outlines lie on a grid of two pixels, moved by whole steps of it."""
    rng = np.random.default_rng(0)
    small = np.kron(rng.random((2, 3, 16, 20)) < 0.3, np.ones((1, 1, 15, 16), bool))
    move = np.rint(rng.normal(0, 3, (240, 320, 2))).astype(np.float32)
    large, larger_move = small.repeat(2, 2).repeat(2, 3), 2 * move.repeat(2, 0).repeat(2, 1)
    found = [
        warped_iou(*(atoms_of_rles(encode_all(each), each.shape[1:]) for each in masks), flow)
        for masks, flow in ((small, move), (large, larger_move))
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    assert 0.05 < found[0].min() < found[0].max() < 1


def test_warped_iou_of_ragged_masks_takes_no_memory_for_pairs_of_atoms_that_never_occur() -> None:
    """Nearly every pixel is an atom: a table of all pairs of atoms would take 170 GB."""
    shape = 20, 400, 400
    rles = encode_all(np.random.default_rng(0).random(shape) < 0.5)
    ragged = atoms_of_rles(rles, shape[1:])
    assert len(ragged.areas) > 140_000
    iou = warped_iou(ragged, ragged, np.zeros((*shape[1:], 2), np.float32))
    np.testing.assert_allclose(iou, iou_matrix(rles, rles))


def test_propagated_scores_by_hand() -> None:
    iou = np.array([[0.9, 0.0], [0.5, 0.0]])
    found = propagated_scores(np.array([0.8, 0.6]), np.array([0.4, 1.0]), iou, 0.5)
    np.testing.assert_allclose(found, [0.5 * 0.8 + 0.5 * 0.5, 0.5 * 0.6])


@pytest.mark.parametrize(
    ("iou", "cut"),
    [
        ([[0.78, 0.0], [0.3, 0.0]], True),  # 0.78 * 0.8 / 1.4 < 0.45
        ([[0.79, 0.0], [0.3, 0.0]], False),
        ([[0.3, 0.0], [0.79, 0.0]], False),  # the best one counts
        (np.zeros((2, 2)), True),
        (np.zeros((0, 2)), False),  # nothing tells
    ],
)
def test_is_cut_by_hand(iou: list[list[float]], cut: bool) -> None:
    assert is_cut(np.array([0.8, 0.6], np.float32), np.asarray(iou)) is cut


def test_a_frame_without_masks_is_not_after_a_cut() -> None:
    assert not is_cut(np.zeros(0, np.float32), np.zeros((3, 0)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99))
def test_propagated_scores_stay_scores(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    scores, before = rng.random(4), rng.random(3)
    found = propagated_scores(scores, before, rng.random((3, 4)), share)
    assert np.all((found >= 0) & (found <= np.maximum(scores, before.max())))
    same = propagated_scores(scores, scores, np.eye(4), share)
    np.testing.assert_allclose(same, scores)  # a still scene changes nothing
