"""The teacher's gate: a student serves once it proposes as well as the teacher, on recent clips.

The comparison needs no label. The masks of a clip are selected twice, from the proposals of the
student and from those of the teacher, with the same background maps and the same flow. The score
prior is left out, since the scores of two networks mean different things. Two numbers decide, both
at 95 % confidence by the choice of the clips:

- The energy (Eq. 2) that the student's selections save, as a share of what the teacher's save
  against selecting nothing. The energy has no favourite. Agreement with the masks of the teacher
  calls every difference an error of the student, which then could never be better.
- The agreement: the share of the masks selected from one network that the other one proposes, too,
  in both directions. The energy alone is not enough. It knows only the union of the masks of a
  frame, so it does not see that a student merges objects; and it believes the background network,
  which may share the errors of a student that was trained on the same images. Agreement with
  proposals, many of which were not selected, leaves a student room to be better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from gbopt_ros.config import Config, LearningConfig
from gbopt_ros.config.learning import MIN_STUDENT_CLIPS
from gbopt_ros.learning.data.datasets import SelectedDataset, SelectedImage
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.masks import iou_matrix
from gbopt_ros.perception.flow import high_detail_flow, make_flow
from gbopt_ros.perception.load import load_background_network
from gbopt_ros.perception.motion import clip_with_motion
from gbopt_ros.selection.two_stage import select_clip
from gbopt_ros.structures import (
    BackgroundNetwork,
    Clip,
    FlowNetwork,
    Frame,
    ProposalNetwork,
    Proposals,
    Selection,
)

_MAX_FRAMES = 30  # of a clip: more of the same scene tell little
_SAME_MASK = 0.5  # IoU


@dataclass(frozen=True)
class ClipComparison:
    """A student and its teacher on one clip; energies are means over its frames.

    Attributes:
        nothing: energy of selecting nothing (Eq. 2 without score prior).
        teacher, student: energy of the selection from the proposals of each.
        agreement: share of the masks of both selections that the other network proposes; 1 where
            nothing was selected.
    """

    nothing: float
    teacher: float
    student: float
    agreement: float


@dataclass(frozen=True)
class TeacherDecision:
    """Whether the student may serve in place of its teacher, and why.

    Attributes:
        passed: whether it may.
        reason: one sentence with the decisive numbers.
        clips: number of clips compared on.
        held_out: whether the student had not learnt them in this round.
        saved: energy that the student saves, as a share of what the teacher saves.
        standard_error: standard error of `saved` by the choice of the clips.
        agreement: mean share of the masks of either selection that the other network proposes.
        agreement_error: standard error of `agreement`.

    Numbers that were not measured are None.
    """

    passed: bool
    reason: str
    clips: int
    held_out: bool = False
    saved: float | None = None
    standard_error: float | None = None
    agreement: float | None = None
    agreement_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_student(
    clips: Sequence[ClipComparison], config: LearningConfig, held_out: bool
) -> TeacherDecision:
    """Refuse a student that proposes worse than its teacher.

    It passes if it can be excluded at 95 % that it saves less than 1 - `student_margin` of the
    energy that the teacher saves, and that they agree in less than `student_agreement` of the
    masks. The error of the energy is that of a ratio of two means over clips, which are paired. The
    quantile is Student's, since errors are estimated from a few clips.

    Args:
        held_out: whether the student did not learn these clips.
    """
    count = len(clips)
    if count < MIN_STUDENT_CLIPS:
        return _too_few(count)
    teacher = np.array([clip.nothing - clip.teacher for clip in clips])
    student = np.array([clip.nothing - clip.student for clip in clips])
    mean = float(teacher.mean())
    if not np.isfinite([teacher, student]).all() or mean <= 0:
        reason = "its teacher selects no mask in the newest clips that saves energy"
        return TeacherDecision(False, reason, count, held_out)
    saved = float(student.mean()) / mean
    saved_error = _standard_error(student - saved * teacher) / mean
    agreements = np.array([clip.agreement for clip in clips])
    agreement, agreement_error = float(agreements.mean()), _standard_error(agreements)
    least, quantile = 1 - config.student_margin, float(stdtrit(count - 1, 0.95))
    reason = (
        f"saves {_percent(saved, saved_error)} of the energy that its teacher saves, more than "
        f"{100 * least:.0f} % needed; they agree in {_percent(agreement, agreement_error)} of the "
        f"masks, more than {100 * config.student_agreement:.0f} % needed; at 95 % confidence over "
        f"{count} clips{'' if held_out else ' that it learnt from'}"
    )
    passed = (
        saved - quantile * saved_error >= least
        and agreement - quantile * agreement_error >= config.student_agreement
    )
    return TeacherDecision(
        passed, reason, count, held_out, saved, saved_error, agreement, agreement_error
    )


def hold_out_newest_clips(
    training_set: TrainingSet, selected: SelectedDataset, count: int
) -> tuple[SelectedDataset, list[SelectedDataset]]:
    """Take the newest clips out of the frames that are learnt.

    Args:
        selected: all frames of the training set.
        count: maximum number of clips.

    Returns:
        What is learnt, and the frames of each of the newest clips, newest first. If fewer clips
        remain than were taken out, they are learnt, too.
    """
    newest = training_set.newest_clips(count)
    frames: dict[tuple[str, int], list[SelectedImage]] = {}
    for entry in selected.entries:
        frames.setdefault((entry.recording, entry.clip_id), []).append(entry)
    taken = [SelectedDataset(frames[clip][:_MAX_FRAMES]) for clip in newest if clip in frames]
    if len(frames) < 2 * len(taken):
        return selected, taken
    rest = (e for e in selected.entries if (e.recording, e.clip_id) not in newest)
    return SelectedDataset(rest), taken


def compare_with_teacher(
    student: ProposalNetwork,
    teacher: ProposalNetwork,
    clips: Sequence[SelectedDataset],
    config: Config,
    *,
    held_out: bool,
    on_frame: Callable[[], None] = lambda: None,
) -> TeacherDecision:
    """Compare a student with its teacher on the frames of some clips.

    Frames without a mask are not in the training set. So objects that the student alone sees there
    do not count for it, nor false proposals against it.

    Args:
        clips: the frames of each, in order.
        config: sections `background`, `flow`, `motion`, `selection` and `learning` are used.
        held_out: whether the student did not learn these clips.
        on_frame: called before every frame.

    Raises:
        GboptError: an image, or the weights of the background network or of RAFT, cannot be read.
    """
    if len(clips) < MIN_STUDENT_CLIPS:  # nothing need be loaded
        return _too_few(len(clips))
    background = load_background_network(config)
    flow_network = make_flow(config.flow, config.device)
    compared = [
        compare_on_clip(
            _clip_of(frames), student, teacher, background, flow_network, config, on_frame
        )
        for frames in clips
    ]
    return check_student(compared, config.learning, held_out)


def compare_on_clip(
    clip: Clip,
    student: ProposalNetwork,
    teacher: ProposalNetwork,
    background: BackgroundNetwork,
    flow_network: FlowNetwork,
    config: Config,
    on_frame: Callable[[], None] = lambda: None,
) -> ClipComparison:
    """The energies of one clip, and the agreement in its masks.

    Args:
        config, on_frame: as of `compare_with_teacher`.
    """
    images = [frame.image for frame in clip.frames]
    maps, of_student, of_teacher = [], list[Proposals](), list[Proposals]()
    for image in images:
        on_frame()
        maps += background.background([image])
        of_student += student.propose([image])
        of_teacher += teacher.propose([image])
    maps = clip_with_motion(clip.frames, maps, high_detail_flow(flow_network), config.motion)
    flows = list(flow_network.flow(images[:-1], images[1:]))
    # Scores, and cuts that one network sees, would make the energies of two networks incomparable.
    objective = replace(
        config.selection, score_weight=0.0, score_propagation=0.0, detect_cuts=False,
        exhaustive=False,
    )  # fmt: skip
    none = Proposals(clip.size, (), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
    nothing, by_teacher, by_student = (
        select_clip(clip, proposals, maps, flows, flow_network, objective)
        for proposals in ([none] * len(clip), of_teacher, of_student)
    )
    same = [*_also_proposed(by_teacher, of_student), *_also_proposed(by_student, of_teacher)]
    return ClipComparison(
        nothing.energy / len(clip),
        by_teacher.energy / len(clip),
        by_student.energy / len(clip),
        float(np.mean(same)) if same else 1.0,
    )


def _also_proposed(selection: Selection, proposals: Sequence[Proposals]) -> list[bool]:
    """Whether each mask of a selection is among the proposals of the other network."""
    found: list[bool] = []
    for frame, others in zip(selection.frames, proposals, strict=True):
        overlap = iou_matrix(others.rles, frame.rles)  # (N, S)
        found += (overlap.max(axis=0, initial=0.0) >= _SAME_MASK).tolist()
    return found


def _clip_of(frames: SelectedDataset) -> Clip:
    """A clip of frames with masks; those between them without a mask are missing."""
    return Clip(
        frames.entries[0].clip_id,
        tuple(
            Frame(frames[index].image, entry.stamp_ns, index)
            for index, entry in enumerate(frames.entries)
        ),
    )


def _too_few(count: int) -> TeacherDecision:
    reason = f"{count} clips with masks, at least {MIN_STUDENT_CLIPS} needed to compare"
    return TeacherDecision(False, reason, count)


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _percent(value: float, error: float) -> str:
    return f"{100 * value:.1f} ± {100 * error:.1f} %"
