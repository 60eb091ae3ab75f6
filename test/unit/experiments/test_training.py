"""The cells of an experiment: what they depend on, what they learn, what is left to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.labelled import labelled

from experiments import training, training_masks
from experiments.cache import digest
from experiments.tabletop import Stills
from gbopt_ros.config import Config, LearningConfig, load_config
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage

CONFIG = load_config(None, ["device=cpu"])
STILLS = {"rehearsal": "r", "unseen": "u", "seen": "s"}


def cell(
    method: str = "ours", seed: int = 0, masks: str = "m", **learning: object
) -> training.Cell:
    config = replace(CONFIG, learning=replace(CONFIG.learning, seed=seed, **learning))
    learnt = training_masks.TrainingMasks(digest=masks)
    return training.Cell(method, seed, learnt, config, learns=method != "before")


def key(of: training.Cell) -> str:
    return digest(of.inputs(STILLS))


def test_cell_inputs_hold_what_it_learns_from_and_not_its_name() -> None:
    assert key(cell("ours")) == key(cell("L_p"))
    assert key(cell("ours")) != key(cell("ours", masks="other"))
    assert key(cell("ours")) != key(cell("ours", seed=1))
    assert key(cell("ours")) != key(cell("ours", learning_rate=0.1))
    assert digest(cell().inputs(STILLS | {"unseen": "v"})) != key(cell())


def test_cell_inputs_leave_out_what_no_training_depends_on() -> None:
    other = cell(gate_margin=9.0, max_bytes=5, policy="oldest", min_confidence=0.9)
    assert key(other) == key(cell())


def test_cell_inputs_of_rounds_hold_all_that_their_selection_depends_on() -> None:
    of = replace(cell(), rounds=2)
    of = replace(of, masks=replace(of.masks, folder=Path("set")))
    clip = replace(CONFIG.clip, length=CONFIG.clip.length + 1)
    assert (
        len({key(of), key(cell()), key(replace(of, rounds=3)), key(replace(of, method="gt"))}) == 4
    )
    assert key(replace(of, config=replace(of.config, clip=clip))) != key(of)
    assert key(replace(cell("before"), rounds=2)) == key(cell("before"))
    control = replace(cell("control"), rounds=2)
    assert key(replace(control, config=replace(of.config, clip=clip))) == key(control)


def test_cell_configs_give_every_round_all_steps_and_its_own_seed() -> None:
    of = replace(cell(seed=5, iterations=8), rounds=3)
    learning = [config.learning for config in of.configs()]
    assert [each.iterations for each in learning] == [8, 8, 8]
    assert of.steps == 24 and replace(cell("before"), rounds=3).steps == 0
    assert len({each.seed for each in learning}) == 3
    assert learning[0].seed == 5


def test_run_cell_learns_what_the_network_of_the_round_before_selects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Networks are numbers here: learning adds its steps to the parent's."""
    saved: dict[str, int] = {}
    selected_with: list[int] = []

    def select(method: str, config: Config) -> training_masks.TrainingMasks:
        assert method == "ours"
        selected_with.append(saved[config.proposal.weights])
        return training_masks.TrainingMasks(quality={"masks": 10.0 * len(selected_with)})

    def fine_tune(parent: int, *arguments: object, **_: object) -> tuple[int, None]:
        learning = arguments[2]
        assert isinstance(learning, LearningConfig)
        return parent + learning.iterations, None

    monkeypatch.setattr(training, "load_mask_rcnn", lambda path: (saved.get(str(path), 100), None))
    monkeypatch.setattr(
        training, "save_weights", lambda path, network, _: saved.update({str(path): network})
    )
    monkeypatch.setattr(training, "fine_tune", fine_tune)
    monkeypatch.setattr(training, "MaskRcnnProposals", lambda network, *_: network)
    judged: list[int] = []

    def evaluate(network: int, *_: object, **__: object) -> tuple[SimpleNamespace, list[object]]:
        judged.append(network)
        return SimpleNamespace(to_dict=dict), []

    monkeypatch.setattr(training, "evaluate_network", evaluate)
    one = CocoDataset((CocoImage(1, "a.png", 4, 6),), {1: labelled().rles}, Path())
    stills = Stills(one, one, one, photographs=one)
    of = replace(cell(iterations=2), rounds=3, select=select)
    result = training.run_cell(of, stills, lambda: None)
    assert selected_with == [102, 104]
    assert judged == [106] * 3
    assert {"unseen", "seen", "photographs"} <= set(result)
    assert result["masks"] == [None, {"masks": 10.0}, {"masks": 20.0}]


def test_cell_before_has_no_seed_and_no_steps() -> None:
    assert key(cell("before", learning_rate=0.1)) == key(cell("before", seed=3))
    assert cell("before").steps == 0
    assert cell("ours", iterations=7).steps == 7


def test_outlook_tells_what_is_left_and_how_long_it_takes() -> None:
    cells = [cell("before"), *(cell(seed=s, iterations=10) for s in range(3))]
    done = {"seconds": 120.0}
    assert training.outlook(cells, cells, [None] * 4, 1) == "4 of 4 cells left, 30 steps"
    assert training.outlook(cells[2:], cells, [done, done, None, None], 2) == (
        "2 of 4 cells left, 20 steps, about 2 minutes in 2 processes"
    )
    assert training.outlook([], cells, [done] * 4, 2) == "0 of 4 cells left, 0 steps"
