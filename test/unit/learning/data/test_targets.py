"""Training targets by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gbopt_ros.learning.data.augmentation import Example
from gbopt_ros.learning.data.targets import detection_target, semantic_target


def example(*is_object: bool) -> Example:
    """A rectangle, and a mask of two single pixels."""
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:7] = True
    masks[1, 5, 0] = masks[1, 3, 1] = True
    return Example(np.zeros((6, 8, 3), np.uint8), masks, np.array(is_object or (True, True)))


def nothing() -> Example:
    return example().only(np.zeros(2, bool))


def test_detection_target_by_hand() -> None:
    target = detection_target(example())
    assert target["boxes"].tolist() == [[2, 1, 7, 3], [0, 3, 2, 6]]  # right and bottom exclusive
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 1]
    assert target["labels"].dtype == torch.int64
    assert target["masks"].dtype == torch.uint8
    np.testing.assert_array_equal(target["masks"].numpy(), example().masks)


def test_detection_target_of_an_ignore_region() -> None:
    assert detection_target(example(True, False))["labels"].tolist() == [1, -1]


def test_detection_target_of_no_instance() -> None:
    assert {name: tuple(value.shape) for name, value in detection_target(nothing()).items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 6, 8),
        "complete": (),
    }


def test_semantic_target_by_hand() -> None:
    target = semantic_target(example())
    assert target["foreground"].dtype == target["known"].dtype == torch.float32
    np.testing.assert_array_equal(target["foreground"], example().masks.any(axis=0))
    assert target["known"].all()


def test_semantic_target_of_no_instance() -> None:
    target = semantic_target(nothing())
    assert target["foreground"].shape == target["known"].shape == (6, 8)
    assert target["foreground"].sum() == 0 and target["known"].all()


def test_semantic_target_of_an_ignore_region() -> None:
    masks = np.zeros((2, 4, 6), bool)
    masks[0, :2, :3] = True  # an ignore region,
    masks[1, 1:3, 2:4] = True  # and an instance that covers one of its pixels
    target = semantic_target(Example(np.zeros((4, 6, 3), np.uint8), masks, np.array([False, True])))
    known = np.ones((4, 6))
    known[:2, :3] = 0
    known[1, 2] = 1
    np.testing.assert_array_equal(target["known"], known)
    np.testing.assert_array_equal(target["foreground"], masks[1])


@pytest.mark.parametrize("complete", [True, False])
def test_detection_target_says_whether_all_objects_are_labelled(complete: bool) -> None:
    target = detection_target(replace(example(), complete=complete))
    assert target["complete"].item() is complete


def test_semantic_target_knows_only_the_objects_where_labels_are_missing() -> None:
    target = semantic_target(replace(example(), complete=False))
    np.testing.assert_array_equal(target["known"], example().masks.any(axis=0))
    np.testing.assert_array_equal(target["foreground"], target["known"])


@pytest.mark.parametrize("complete", [True, False])
def test_semantic_target_takes_the_teacher_where_nothing_is_labelled(complete: bool) -> None:
    teacher = np.full((6, 8), 51, np.uint8)  # a fifth of 255
    teacher[0, 0] = 255
    target = semantic_target(replace(example(True, False), complete=complete, foreground=teacher))
    expected = np.full((6, 8), 0.2, np.float32)
    expected[0, 0] = expected[example().masks[0]] = 1.0  # the ignore region stays the teacher's
    np.testing.assert_allclose(target["foreground"], expected, atol=1e-6)
    assert target["known"].all()


def test_targets_of_a_rejected_region_are_background_where_labels_are_missing() -> None:
    given = replace(example(True, False), complete=False, is_rejected=np.array([False, True]))
    assert detection_target(given)["labels"].tolist() == [1, 0]
    target = semantic_target(given)
    np.testing.assert_array_equal(target["known"], given.masks.any(axis=0))
    np.testing.assert_array_equal(target["foreground"], given.masks[0])
