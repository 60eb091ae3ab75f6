"""Teacher and student: the network that proposes the masks, and the one that is trained on them.

In general they are one network, and the student of a round becomes the next teacher. A network that
cannot be trained here, such as one in an ONNX file, stays the teacher until a student proposes as
well as it does (`learning.store.teacher_gate`).
"""

from __future__ import annotations

from dataclasses import replace

from gbopt_ros.config import Config
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.onnx import is_onnx
from gbopt_ros.perception.load import proposal_weights, read_proposals
from gbopt_ros.structures import ProposalNetwork


def student_config(config: Config) -> Config:
    """The configuration with the student as its proposal network.

    That is `learning.student`. Where it is empty, it is the network that proposes or, if that one
    cannot be trained, the bundled network.

    Raises:
        GboptError: weights are named by a name of the catalogue, and were not pulled.
    """
    student = config.learning.student
    if not student and not is_onnx(proposal_weights(config)):
        return config
    # The detectron2 configuration describes the network that proposes.
    proposal = replace(config.proposal, weights=student, detectron2_config="")
    return replace(config, proposal=proposal)


def has_teacher(config: Config) -> bool:
    """Whether another network than the student proposes; raises as `student_config`."""
    proposer, student = proposal_weights(config), proposal_weights(student_config(config))
    return proposer.resolve() != student.resolve()


def is_compared(config: Config) -> bool:
    """Whether the student may serve only after a comparison with its teacher."""
    return config.learning.student_clips > 0 and has_teacher(config)


def load_teacher(config: Config) -> ProposalNetwork | None:
    """The network that proposes; None where it is the student itself.

    Raises:
        GboptError: weights are missing, corrupt or of another network.
    """
    if not has_teacher(config):
        return None
    return read_proposals(proposal_weights(config), config.proposal, resolve_device(config.device))
