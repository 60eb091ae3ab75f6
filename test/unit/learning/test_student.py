"""Which network learns, and which other one is its teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.networks import save_random_weights

from gbopt_ros.config import Config, LearningConfig, ProposalConfig
from gbopt_ros.learning.student import has_teacher, is_compared, load_teacher, student_config
from gbopt_ros.models.weights import PROPOSALS
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.structures import GboptError


def config(weights: str = "", student: str = "", clips: int = 8, detectron2: str = "") -> Config:
    return Config(
        proposal=ProposalConfig(weights=weights, detectron2_config=detectron2, max_proposals=7),
        learning=LearningConfig(student=student, student_clips=clips),
        device="cpu",
    )


@pytest.mark.parametrize(
    ("weights", "student", "learns", "taught"),
    [
        ("", "", "", False),  # the bundled network proposes and learns
        ("mine.safetensors", "", "mine.safetensors", False),
        ("yolo.onnx", "", "", True),  # the bundled network learns
        ("yolo.ONNX", "mine.pth", "mine.pth", True),
        ("big.pth", "small.safetensors", "small.safetensors", True),
        ("mine.safetensors", "./mine.safetensors", "./mine.safetensors", False),
        ("", "mine.safetensors", "mine.safetensors", True),  # the bundled network teaches
    ],
)
def test_student_config_names_the_network_that_learns(
    weights: str, student: str, learns: str, taught: bool
) -> None:
    given = config(weights, student)
    found = student_config(given)
    assert found.proposal.weights == learns
    assert (found.proposal.max_proposals, found.learning) == (7, given.learning)
    assert has_teacher(given) == is_compared(given) == taught
    assert not is_compared(config(weights, student, clips=0))


def test_student_config_keeps_the_detectron2_configuration_of_the_proposer_only() -> None:
    own = config("model.pth", detectron2="r50.yaml")
    assert student_config(own) is own
    other = student_config(config("model.pth", "small.safetensors", detectron2="r50.yaml"))
    assert other.proposal.detectron2_config == ""


def test_load_teacher_is_the_network_that_proposes(tmp_path: Path) -> None:
    weights = str(save_random_weights(tmp_path)[PROPOSALS])
    assert load_teacher(config(weights)) is None
    teacher = load_teacher(config(weights, student=str(proposal_weights(config()))))
    assert teacher is not None and teacher.version == "random"
    with pytest.raises(GboptError, match=r"gone\.safetensors: no such weights file"):
        load_teacher(config("gone.safetensors", weights))
