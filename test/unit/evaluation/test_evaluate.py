"""How AP is measured, whatever selects masks."""

from __future__ import annotations

import pytest

from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.evaluation.evaluate import evaluation_config


@pytest.mark.parametrize(("nms_iou", "expected"), [(0.7, 0.5), (0.5, 0.5), (0.3, 0.3)])
def test_evaluation_config_keeps_100_masks_without_duplicates(
    nms_iou: float, expected: float
) -> None:
    config = Config(proposal=ProposalConfig(nms_iou=nms_iou, max_proposals=15))
    proposal = evaluation_config(config).proposal
    assert (proposal.nms_iou, proposal.max_proposals) == (expected, 100)
    assert config.proposal.max_proposals == 15
