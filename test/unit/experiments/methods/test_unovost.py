"""UnOVOST: tracklets, the forest of hypotheses, and tracks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.fakes import make_proposals
from support.moving_squares import GREEN, RED, SIZE, inputs_of, picture, place

from experiments.methods import unovost
from experiments.methods.unovost import Tracklet, UnOvost
from gbopt_ros.masks import decode, decode_all


def strip(start: int, end: int) -> np.ndarray:
    mask = np.zeros((1, 20), bool)
    mask[0, start:end] = True
    return mask


def test_tracks_have_the_sum_of_their_scores_and_go_on_after_a_gap() -> None:
    """Two squares move right by 4; of five frames, the red one is not proposed in the third."""
    reds = [place(4, 4 + 4 * t) for t in range(5)]
    greens = [place(30, 8 + 4 * t) for t in range(5)]
    images = [picture({RED: r, GREEN: g}) for r, g in zip(reds, greens, strict=True)]
    clutter = place(4, 46)
    found = [
        make_proposals(np.array([r, g]), (0.8, 0.6)) for r, g in zip(reds, greens, strict=True)
    ]
    found[2] = make_proposals(greens[2][None], (0.6,))
    found[4] = make_proposals(np.array([clutter, reds[4], greens[4]]), (0.9, 0.8, 0.6))
    tracked = UnOvost().masks(inputs_of(images, found, flow=4))
    for t in (0, 1, 3):
        assert tracked[t].scores == pytest.approx([4 * 0.8 / 5, 0.6]), t
        np.testing.assert_array_equal(decode_all(tracked[t].rles, SIZE), [reds[t], greens[t]])
    np.testing.assert_array_equal(decode_all(tracked[2].rles, SIZE), [greens[2]])
    assert tracked[4].scores == pytest.approx([4 * 0.8 / 5, 0.6, 0.9 / 5])  # clutter is seen once
    np.testing.assert_array_equal(decode(tracked[4].rles[2]), clutter)


def test_tracks_share_no_pixel_and_the_better_one_has_it() -> None:
    steady, brief = place(10, 10), place(20, 20)  # share 2 x 2 pixels, an IoU of 0.014
    image = picture({RED: steady})
    found = [make_proposals(np.array([brief, steady]), (0.9, 0.7))]
    found += [make_proposals(steady[None], (0.7,))] * 2
    first = UnOvost().masks(inputs_of([image] * 3, found))[0]
    assert first.scores == pytest.approx([0.7, 0.3])
    np.testing.assert_array_equal(decode_all(first.rles, SIZE), [steady, brief & ~steady])


def test_at_most_20_tracks() -> None:
    cells = [
        np.pad(np.ones((4, 4), bool), ((r, SIZE[0] - 4 - r), (c, SIZE[1] - 4 - c)))
        for r in range(0, 40, 8)
        for c in range(0, 40, 8)
    ]
    found = make_proposals(np.array(cells))
    (tracked,) = UnOvost().masks(inputs_of([picture({})], [found]))
    assert tracked.rles == found.rles[:20]


def test_frames_without_proposals_have_no_masks() -> None:
    none = make_proposals(np.zeros((0, *SIZE), bool))
    assert [len(p) for p in UnOvost().masks(inputs_of([picture({})] * 2, [none] * 2))] == [0, 0]


def test_best_of_overlapping_leaves_out_from_an_iou_of_0_2() -> None:
    masks = np.array([strip(0, 6), strip(4, 10), strip(3, 9), strip(12, 20)])
    kept = unovost.best_of_overlapping(make_proposals(masks))  # IoUs with the first: 1/5, 1/3, 0
    assert [decode(rle).nonzero()[1][0] for rle in kept.rles] == [0, 12]
    masks[1] = strip(5, 10)  # 1 / 10
    assert len(unovost.best_of_overlapping(make_proposals(masks[[0, 1, 3]]))) == 3


def test_warp_follows_the_backward_flow() -> None:
    backward = np.zeros((1, 20, 2), np.float32)
    backward[..., 0] = -3.0  # everything moved three pixels to the right
    np.testing.assert_array_equal(unovost.warp(strip(5, 9)[None], backward)[0], strip(8, 12))


def test_link_is_one_to_one_with_the_largest_sum() -> None:
    """The first mask overlaps both of the next frame; greedily it would take the wrong one."""
    now = np.array([strip(2, 10), strip(9, 14)])
    later = np.array([strip(0, 6), strip(4, 12)])  # IoUs 0.4 and 0.6; 0 and 0.3
    still = np.zeros((1, 1, 20, 2), np.float32)
    tracklets = unovost.link([now, later], still)
    assert [t.masks for t in tracklets] == [[0, 0], [1, 1]]
    far = np.array([strip(13, 20)])  # an IoU of 1/11 is above 0.05, of 0 is not
    assert [t.masks for t in unovost.link([now[1:], far], still)] == [[0, 0]]
    assert [t.masks for t in unovost.link([now[:1], far], still)] == [[0], [0]]


def test_grow_forest_follows_the_nearest_or_its_continuation() -> None:
    # Frames 0, 1-2, 3 and 3. The last two are nearest to the first, which 1 follows already.
    tracklets = [Tracklet(0, [0]), Tracklet(1, [0, 0]), Tracklet(3, [0]), Tracklet(3, [1])]
    distances = np.array(
        [[0, 0.2, 0.1, 0.1], [0.2, 0, 0.3, 0.9], [0.1, 0.3, 0, 1], [0.1, 0.9, 1, 0]]
    )
    unovost.grow_forest(tracklets, distances)
    assert [t.parent for t in tracklets] == [None, 0, 1, 1]
    tracklets[1].start = 0  # not after the first any more
    for each in tracklets:
        each.parent = None
    unovost.grow_forest(tracklets, distances)
    assert [t.parent for t in tracklets] == [None, None, 0, 0]


def test_cut_takes_the_path_that_covers_most_and_leaves_its_branches() -> None:
    # 0 - 1 - 3 and 0 - 2 and 4; in a clip of 10 frames they have 2, 3, 4, 1 and 5.
    lengths, parents = (2, 3, 4, 1, 5), (None, 0, 0, 1, None)
    tracklets = [
        Tracklet(start, [0] * n, parent=parent)
        for start, n, parent in zip((0, 2, 3, 9, 0), lengths, parents, strict=True)
    ]
    paths = unovost.paths_of(tracklets)
    assert paths == [(0, 2), (0, 1, 3), (4,)]
    alike = np.zeros((5, 5))
    # 0.9 * 0.6 + 0.1 for both: the later end wins.
    assert unovost.cut(paths, tracklets, alike, 10) == [(0, 1, 3), (2,), (4,)]
    apart = 1 - np.eye(5)
    apart[0, 2] = apart[2, 0] = 0.0  # only 2 looks like 0
    assert unovost.cut(paths, tracklets, apart, 10) == [(0, 2), (1, 3), (4,)]


def test_normalised_distances_have_a_largest_of_one() -> None:
    tracklets = [Tracklet(0, [0], np.array(v, np.float32)) for v in ([0, 0], [3, 4], [0, 1])]
    distances = unovost.normalised_distances(tracklets)
    np.testing.assert_allclose(distances[0], [0, 1, 0.2])
    assert not unovost.normalised_distances(tracklets[:1]).any()
