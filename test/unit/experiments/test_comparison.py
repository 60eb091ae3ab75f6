"""What the comparison is asked for, and the cells that it trains."""

from __future__ import annotations

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")

from experiments import comparison, training_masks
from gbopt_ros.config import load_config

CONFIG = load_config(None, ["device=cpu"])


def test_plan_has_every_seed_of_every_method_and_before_once() -> None:
    masks = {name: training_masks.TrainingMasks() for name in ("before", "control", "ours")}
    cells = comparison.plan(list(masks), masks, CONFIG, [4, 5])
    assert [(c.method, c.seed, c.config.learning.seed, c.learns) for c in cells] == [
        ("before", 4, 4, False),
        ("control", 4, 4, True),
        ("ours", 4, 4, True),
        ("control", 5, 5, True),
        ("ours", 5, 5, True),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kinds", "duck"],
        ["--clips", "9"],
        ["--rehearsal", "9"],
        ["--clips", "0", "--world-seed", "7"],
        ["--jobs", "0"],
        ["--rounds", "0"],
        ["--methods", "nothing"],
        ["--on", "train"],
    ],
)
def test_parse_arguments_refuses_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        comparison.parse_arguments(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err
