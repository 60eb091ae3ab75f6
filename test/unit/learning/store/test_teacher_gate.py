"""The teacher's gate: what it decides on energies, and what it measures on clips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.clips import CALIBRATION
from support.fakes import make_clip, make_proposals
from support.scenes import SQUARE_SIZE, SquareNetworks, moving_square, square_frames

from gbopt_ros.config import Config, LearningConfig, MotionConfig
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.datasets import SelectedDataset
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.store import teacher_gate
from gbopt_ros.learning.store.teacher_gate import (
    ClipComparison,
    check_student,
    compare_on_clip,
    compare_with_teacher,
    hold_out_newest_clips,
)
from gbopt_ros.masks import encode_all
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.structures import Clip, Image, Proposals

SETTINGS = LearningConfig(student_margin=0.05, student_agreement=0.9)
Rectangle = tuple[int, int, int, int]
"""First and last row, first and last column; the last ones do not belong to it."""

CONFIG = Config(motion=MotionConfig(weight=0.0), device="cpu")


def clips(*saved: float, agreement: Sequence[float] = (1.0,)) -> list[ClipComparison]:
    """Clips in which the teacher saves 1, and their agreement, which is repeated."""
    shares = itertools.cycle(agreement)
    return [
        ClipComparison(nothing=0.25, teacher=-0.75, student=0.25 - s, agreement=next(shares))
        for s in saved
    ]


# ------------------------------------------------------------------------------------ the decision


@pytest.mark.parametrize(
    ("saved", "passed"),
    [
        ((1.0, 1.0, 1.0, 1.0), True),
        ((1.2, 1.1, 1.3, 1.2), True),  # better than its teacher
        ((0.95, 0.95, 0.95, 0.95), True),
        ((0.94, 0.94, 0.94, 0.94), False),
        ((0.97, 1.03) * 2, True),  # 1 - 2.353 * 0.0173 = 0.959
        ((0.96, 1.04) * 2, False),  # 1 - 2.353 * 0.0231 = 0.946: too few clips to tell
        ((0.96, 1.04) * 4, True),  # 1 - 1.895 * 0.0151 = 0.971
        ((0.92, 1.08) * 5, True),  # 1 - 1.833 * 0.0267 = 0.951
        ((1.0, 1.0, 1.0, 0.2), False),
    ],
)
def test_check_student_rules_out_that_it_saves_less_energy(
    saved: tuple[float, ...], passed: bool
) -> None:
    decision = check_student(clips(*saved), SETTINGS, held_out=True)
    assert decision.passed is passed
    assert decision.clips == len(saved)
    assert decision.saved == pytest.approx(np.mean(saved))
    assert decision.standard_error == pytest.approx(
        np.std(saved, ddof=1) / np.sqrt(len(saved)), abs=1e-9
    )


@pytest.mark.parametrize("count", [4, 8])
def test_check_student_lets_one_of_twenty_pass_at_the_limit(count: int) -> None:
    rng = np.random.default_rng(0)
    limit = 1 - SETTINGS.student_margin
    saved = limit + 0.03 * rng.standard_normal((2000, count))
    passed = [check_student(clips(*row), SETTINGS, held_out=True).passed for row in saved]
    assert np.mean(passed) == pytest.approx(0.05, abs=0.015)  # three standard errors


def test_check_student_takes_clips_in_pairs() -> None:
    """What all networks save differs from clip to clip; only the ratio counts."""
    found = [ClipComparison(0.0, -s, -0.98 * s, 1.0) for s in (0.1, 0.5, 1.0, 2.0)]
    decision = check_student(found, SETTINGS, held_out=True)
    assert decision.passed
    assert decision.saved == pytest.approx(0.98)
    assert decision.standard_error == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("agreement", "passed"),
    [
        ((0.9,), True),
        ((0.89,), False),
        ((1.0, 0.96), True),  # 0.98 - 2.353 * 0.0115 = 0.953
        ((1.0, 0.84), False),  # 0.92 - 2.353 * 0.0462 = 0.811
    ],
)
def test_check_student_needs_the_same_masks(agreement: tuple[float, ...], passed: bool) -> None:
    """The energy alone knows only their union: who merges all objects saves as much."""
    decision = check_student(clips(1, 1, 1, 1, agreement=agreement), SETTINGS, held_out=True)
    assert decision.passed is passed
    assert decision.agreement == pytest.approx(np.mean(agreement))


def test_check_student_reason_has_the_numbers() -> None:
    found = clips(0.9, 1.1, 0.9, 1.1, agreement=(1.0, 0.84))
    decision = check_student(found, SETTINGS, held_out=False)
    assert decision.reason == (
        "saves 100.0 ± 5.8 % of the energy that its teacher saves, more than 95 % needed; they "
        "agree in 92.0 ± 4.6 % of the masks, more than 90 % needed; at 95 % confidence over 4 "
        "clips that it learnt from"
    )
    assert decision.to_dict()["agreement_error"] == pytest.approx(0.0462, abs=1e-4)
    assert check_student(found, SETTINGS, held_out=True).reason.endswith("over 4 clips")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (clips(1, 1, 1), "3 clips with masks, at least 4 needed to compare"),
        ([], "0 clips with masks, at least 4 needed to compare"),
        ([ClipComparison(0.2, 0.2, 0.1, 1.0)] * 4, "its teacher selects no mask"),
        ([ClipComparison(0.2, float("nan"), 0.1, 1.0)] * 4, "its teacher selects no mask"),
    ],
)
def test_check_student_refuses_what_cannot_be_compared(
    found: list[ClipComparison], reason: str
) -> None:
    decision = check_student(found, SETTINGS, held_out=True)
    assert not decision.passed
    assert reason in decision.reason
    assert decision.saved is decision.standard_error is decision.agreement is None


@pytest.mark.parametrize("count", [1, 3])
def test_student_clips_are_none_or_enough(count: int) -> None:
    with pytest.raises(ValueError, match=rf"student_clips: expected 0 or at least 4, got {count}"):
        LearningConfig(student_clips=count)


# ------------------------------------------------------------------------------------- the energies


class Proposer:
    """Proposes rectangles, each with the score 0.01, with a calibration: scores do not count."""

    version = "fake"

    def __init__(self, *rectangles: Rectangle) -> None:
        self._rectangles = rectangles

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        masks = np.zeros((len(self._rectangles), *images[0].shape[:2]), bool)
        for mask, (y0, y1, x0, x1) in zip(masks, self._rectangles, strict=True):
            mask[y0:y1, x0:x1] = True
        proposals = make_proposals(masks, scores=[0.01] * len(masks))
        return [replace(proposals, calibration=CALIBRATION) for _ in images]


class Halves:
    """A background map that is sure of an object at the left, and of none elsewhere."""

    def background(self, images: Sequence[Image]) -> list[np.ndarray]:
        found = np.full(images[0].shape[:2], 0.9, np.float32)
        found[:, : found.shape[1] // 2] = 0.1
        return [found for _ in images]


@pytest.fixture
def clip() -> Clip:
    """Three equal grey frames of 40 x 40 pixels, in which nothing moves."""
    return make_clip([np.full((40, 40, 3), 128, np.uint8)] * 3)


def compare(clip: Clip, student: Proposer, teacher: Proposer) -> ClipComparison:
    return compare_on_clip(clip, student, teacher, Halves(), DisFlow(), CONFIG)


WHOLE, UPPER, LOWER = (0, 40, 0, 20), (0, 20, 0, 20), (20, 40, 0, 20)
QUARTERS = [(y, y + 10, 0, 20) for y in (0, 10, 20, 30)]


def test_compare_on_clip_measures_the_energy_per_frame(clip: Clip) -> None:
    """L_I is a mean over pixels; 2 of 3 frames have L_p = -0.5 where something is selected."""
    found = compare(clip, Proposer(WHOLE), Proposer(UPPER))
    sure, unsure = -np.log(0.9), -np.log(0.1)
    assert found.nothing == pytest.approx(0.5 * sure + 0.5 * unsure, abs=1e-6)
    assert found.teacher == pytest.approx(0.75 * sure + 0.25 * unsure - 1 / 3, abs=1e-6)
    assert found.student == pytest.approx(sure - 1 / 3, abs=1e-6)
    assert found.agreement == 1.0  # the IoU of the half with the whole is 0.5


def test_compare_on_clip_sees_merged_objects_in_the_masks_only(clip: Clip) -> None:
    found = compare(clip, Proposer(WHOLE), Proposer(*QUARTERS))
    assert found.student == pytest.approx(found.teacher, abs=1e-9)
    assert found.agreement == 0.0


@pytest.mark.parametrize(
    ("student", "teacher", "agreement"),
    [
        ([UPPER, LOWER], [UPPER], 2 / 3),  # the teacher lacks a mask that the student selects
        ([UPPER], [UPPER, LOWER], 2 / 3),
        ([*QUARTERS, UPPER, (0, 40, 20, 40)], [*QUARTERS], 1.0),  # what nobody selects is nothing
        ([WHOLE], [(0, 40, 20, 40)], 0.0),
        ([(0, 40, 20, 40)], [(0, 20, 20, 40)], 1.0),  # neither selects anything
    ],
)
def test_compare_on_clip_agreement_counts_both_selections(
    clip: Clip, student: list[Rectangle], teacher: list[Rectangle], agreement: float
) -> None:
    found = compare(clip, Proposer(*student), Proposer(*teacher))
    assert found.agreement == pytest.approx(agreement)


def test_compare_on_clip_with_a_student_that_proposes_nothing(clip: Clip) -> None:
    found = compare(clip, Proposer(), Proposer(WHOLE))
    assert found.student == found.nothing > found.teacher
    assert found.agreement == 0.0


# --------------------------------------------------------------------------------- the newest clips


@pytest.fixture
def training_set(tmp_path: Path) -> TrainingSet:
    """Ten clips of two frames, of two recordings; those of "b" were added first."""
    made = TrainingSet(tmp_path / "set", 10**9)
    frames = list(square_frames(2))
    for recording in "ba":
        for clip in range(5):
            made.add(selected(tmp_path, recording, clip, [f.image for f in frames]))
    return made


def selected(
    folder: Path, recording: str, clip: int, images: Sequence[Image]
) -> list[SelectedFrame]:
    found = []
    for t, image in enumerate(images):
        index = clip * len(images) + t
        path = folder / f"{recording}{index}.png"
        marked = image.copy()
        marked[0, 0] = ord(recording), clip, t  # no two images are equal
        cv2.imwrite(str(path), marked[..., ::-1])
        mask = np.zeros((1, *SQUARE_SIZE), bool)
        mask[0][moving_square(t)] = True
        found.append(
            SelectedFrame(
                recording=recording,
                clip_id=clip,
                frame_index=index,
                stamp_ns=10**8 * (index + 1),
                image_path=path,
                size=SQUARE_SIZE,
                rles=encode_all(mask),
                scores=(0.9,),
                confidences=(0.9,),
            )
        )
    return found


def clips_of(dataset: SelectedDataset) -> list[tuple[str, int]]:
    return list(dict.fromkeys((entry.recording, entry.clip_id) for entry in dataset.entries))


def test_hold_out_newest_clips(training_set: TrainingSet) -> None:
    every = training_set.labelled_images()
    rest, taken = hold_out_newest_clips(training_set, every, 3)
    assert [clips_of(clip) for clip in taken] == [[("a", 4)], [("a", 3)], [("a", 2)]]
    assert [len(clip) for clip in taken] == [2, 2, 2]
    assert clips_of(rest) == [("a", 0), ("a", 1), *(("b", clip) for clip in range(5))]
    rest, taken = hold_out_newest_clips(training_set, every, 5)
    assert (len(rest), len(taken)) == (10, 5)
    rest, taken = hold_out_newest_clips(training_set, every, 6)
    assert rest is every  # fewer than six would remain
    assert len(taken) == 6
    rest, taken = hold_out_newest_clips(training_set, every, 0)
    assert (len(rest), taken) == (20, [])


def test_compare_with_teacher_on_stored_clips(
    training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images come from the training set, and `on_frame` is called for each."""
    networks, frames = SquareNetworks(), list[None]()
    monkeypatch.setattr(teacher_gate, "load_background_network", lambda config: networks)
    _, newest = hold_out_newest_clips(training_set, training_set.labelled_images(), 4)
    decision = compare_with_teacher(
        networks, networks, newest, CONFIG, held_out=True, on_frame=lambda: frames.append(None)
    )
    assert decision.passed and decision.held_out
    assert (decision.saved, decision.standard_error, decision.agreement) == (1.0, 0.0, 1.0)
    assert len(frames) == 8
    bad = compare_with_teacher(Proposer(), networks, newest, CONFIG, held_out=True)
    assert not bad.passed and (bad.saved, bad.agreement) == (0.0, 0.0)


def test_compare_with_teacher_loads_nothing_for_too_few_clips(
    training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(teacher_gate, "load_background_network", fail)
    _, newest = hold_out_newest_clips(training_set, training_set.labelled_images(), 3)
    found = compare_with_teacher(SquareNetworks(), SquareNetworks(), newest, CONFIG, held_out=True)
    assert found.reason == "3 clips with masks, at least 4 needed to compare"
