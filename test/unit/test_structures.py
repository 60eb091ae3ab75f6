"""The vocabulary refuses what is not of the promised shape, and names the field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from gbopt_ros.config import SelectionConfig
from gbopt_ros.masks import encode_all
from gbopt_ros.selection.atoms import atoms
from gbopt_ros.selection.lattice import make_layer
from gbopt_ros.selection.path import PathResult
from gbopt_ros.structures import (
    Calibration,
    Clip,
    Combination,
    Cues,
    Frame,
    FrameEnergy,
    FrameSelection,
    LabelledImage,
    Proposals,
    Selection,
    first_line,
)


def frame(stamp_ns: int = 0, size: tuple[int, int] = (4, 6)) -> Frame:
    return Frame(np.zeros((*size, 3), np.uint8), stamp_ns, 0)


def proposals(**changes: Any) -> Proposals:
    values: dict[str, Any] = {
        "size": (4, 6),
        "rles": encode_all(np.ones((2, 4, 6), bool)),
        "scores": np.array([0.9, 0.2], np.float32),
        "boxes": np.zeros((2, 4), np.float32),
    }
    return Proposals(**(values | changes))


def frame_selection(**changes: Any) -> FrameSelection:
    values: dict[str, Any] = {
        "frame": frame(),
        "indices": (3,),
        "rles": encode_all(np.ones((1, 4, 6), bool)),
        "boxes": np.zeros((1, 4), np.float32),
        "scores": np.ones(1, np.float32),
        "margins": np.ones(1),
        "confidences": np.ones(1, np.float32),
        "energy": FrameEnergy(0.5, 0.25, -0.125),
    }
    return FrameSelection(**(values | changes))


def test_clip_has_the_length_and_size_of_its_frames() -> None:
    clip = Clip(7, (frame(10), frame(20)))
    assert len(clip) == 2
    assert clip.size == frame().size == (4, 6)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((4, 6, 3), np.float32),
        np.zeros((0, 6, 3), np.uint8),
    ],
    ids=["grey", "rgba", "float", "empty"],
)
def test_frame_refuses_other_images(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Frame\.image"):
        Frame(image, 0, 0)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ((), "at least one"),
        ((frame(0), frame(1, (4, 8))), "one image size"),
        ((frame(1), frame(0)), "increase"),
        ((frame(1), frame(1)), "increase"),
    ],
    ids=["none", "sizes", "backwards", "equal stamps"],
)
def test_clip_refuses_frames_that_do_not_fit(frames: tuple[Frame, ...], message: str) -> None:
    with pytest.raises(ValueError, match=rf"Clip\.frames.*{message}"):
        Clip(0, frames)


def test_proposals_may_have_equal_scores_or_be_none() -> None:
    assert len(proposals()) == 2
    assert len(proposals(scores=np.full(2, 0.5, np.float32))) == 2  # equal scores are in order
    nothing = proposals(rles=(), scores=np.zeros(0, np.float32), boxes=np.zeros((0, 4), np.float32))
    assert len(nothing) == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scores": np.zeros(3, np.float32)}, r"Proposals\.scores"),
        ({"scores": np.array([0.2, 0.9], np.float32)}, r"Proposals\.scores.*descending"),
        ({"scores": np.array([np.nan, 0.2], np.float32)}, "scores.*finite"),
        ({"scores": np.array([90, 20], np.float32)}, r"Proposals\.scores.*0 to 1, got 20.* 90"),
        ({"scores": np.array([0.5, -0.1], np.float32)}, r"Proposals\.scores.*0 to 1"),
        ({"boxes": np.zeros((2, 3), np.float32)}, r"Proposals\.boxes"),
        ({"boxes": np.full((2, 4), np.inf, np.float32)}, "boxes.*finite"),
        ({"size": (6, 4)}, r"Proposals\.rles"),
    ],
)
def test_proposals_refuse_what_does_not_fit(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        proposals(**changes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_refuses_what_is_no_number(value: float) -> None:
    with pytest.raises(ValueError, match=r"Calibration\.margin"):
        Calibration(bias=0.0, margin=value, score=1.0)


@pytest.mark.parametrize("indices", [(1, 0), (2, 2)])
def test_combination_is_a_sorted_set(indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Combination\.indices"):
        Combination(indices, 0.0)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_combination_has_a_finite_loss(loss: float) -> None:
    with pytest.raises(ValueError, match=r"Combination\.loss"):
        Combination((), loss)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rles", ()),
        ("boxes", np.zeros((1, 3), np.float32)),
        ("scores", np.ones(2, np.float32)),
        ("margins", np.ones((1, 1))),
        ("confidences", np.ones(0, np.float32)),
    ],
)
def test_frame_selection_refuses_shapes_that_do_not_fit(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"FrameSelection\.{field}"):
        frame_selection(**{field: value})


def test_selection_counts_its_masks() -> None:
    selection = Selection(0, (frame_selection(), frame_selection()), 1.25, 1.0, False, 3)
    assert len(selection) == 2
    assert selection.mask_count == 2
    assert selection.frames[0].energy.total == 0.625


def held(of: Any) -> Iterator[Any]:
    """A value and, where it is a dataclass, all that its fields hold."""
    yield of
    if is_dataclass(of):
        for field in fields(of):
            yield from held(getattr(of, field.name))


def test_repr_of_public_dataclasses_shows_no_array() -> None:
    clip = Clip(7, (frame(10), frame(20)))
    cues = Cues((proposals(),) * 2, (np.zeros((4, 6), np.float32),) * 2, ())
    selection = Selection(0, (frame_selection(),), 1.25, 1.0, False, 3)
    path = PathResult((0, 1), 0.5, 0.5, (np.zeros((2, 2)),), (np.ones((2, 2), bool),))
    config = SelectionConfig()
    lattice_layer = make_layer(frame(), proposals(), np.full((4, 6), 0.5), config)
    labelled = LabelledImage(frame().image, proposals().rles, proposals().rles)
    shown = [frame(), clip, proposals(), cues, frame_selection(), selection, path, lattice_layer]
    shown += [labelled, atoms(np.ones((2, 4, 6), bool)), Combination((0,), 0.5)]
    assert any(isinstance(value, np.ndarray) for of in shown for value in held(of))
    for of in shown:
        assert "array" not in repr(of) and "counts" not in repr(of), type(of)
        assert len(repr(of)) < 600
    assert "stamp_ns=10" in repr(frame(10))


def test_first_line_has_the_class_since_some_messages_are_a_key_or_nothing() -> None:
    assert first_line(KeyError("averaged")) == "KeyError: 'averaged'"
    assert first_line(RuntimeError("\nwrong shape\nin layer 1\n")) == "RuntimeError: wrong shape"
    assert first_line(AssertionError()) == "AssertionError: "
