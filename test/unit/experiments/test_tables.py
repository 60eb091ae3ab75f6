"""What the tables of the experiment say, of one run and of several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from experiments import tables
from experiments.training_masks import TrainingMasks
from gbopt_ros.structures import GboptError


def results(unseen: list[float], seen: list[float]) -> list[dict]:
    return [
        {
            "seed": seed,
            "shown": [],
            "unseen": dict.fromkeys(("AP", "AP50", "AP75", "AR1", "AR3", "AR5"), u),
            "seen": {"AP": s},
        }
        for seed, (u, s) in enumerate(zip(unseen, seen, strict=True))
    ]


TABLE = {
    "before": results([35.0], [58.0]),
    "control": results([36.0, 37.0], [58.0, 57.0]),
    "threshold": results([36.5, 37.5], [57.0, 57.0]),
    "ours": results([39.0, 41.0], [57.5, 58.0]),
    "gt": results([40.0, 42.0], [57.0, 57.0]),
}


def test_differences_are_taken_seed_by_seed() -> None:
    assert tables.differences(TABLE, "ours", "control") == [3.0, 4.0]
    assert tables.differences(TABLE, "ours", "before", "seen") == [-0.5, 0.0]
    partly = TABLE | {"control": TABLE["control"][1:]}  # a run that was cut off
    assert tables.differences(partly, "ours", "control") == [4.0]
    assert tables.differences(TABLE, "truth", "control") == []


def test_share_of_bound_compares_gains_over_the_control() -> None:
    assert tables.share_of_bound(TABLE) == pytest.approx(100 * 3.5 / 4.5)
    assert tables.share_of_bound(TABLE | {"gt": TABLE["control"]}) is None
    assert tables.share_of_bound({"ours": TABLE["ours"]}) is None


def test_markdown_and_to_dict_tell_results_and_masks() -> None:
    quality = {"precision": 57.12, "recall": 60.0, "mean_iou": 80.0}
    masks = dict.fromkeys(TABLE, TrainingMasks()) | {
        "ours": TrainingMasks(quality=quality, facts={"threshold": 0.5})
    }
    text = tables.markdown(TABLE, masks)
    lines = text.splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| before | 35.0 | 35.0 | 35.0 | 35.0 | 35.0 | 35.0 | 58.0 |  |  |  | 1 |" in lines
    (ours,) = [line for line in lines if line.startswith("| ours")]
    assert ours.startswith("| ours | 40.0 ± 1.4 |")
    assert ours.endswith("| 57.8 ± 0.4 | 57.1 | 60.0 | 80.0 | 2 |")
    assert "- Ours reaches 78 % of what selecting with ground truth gains" in text
    assert "Ours minus score threshold: +3.00 ± 0.71 AP" in text
    assert "Ours, seen AP after learning: -0.25 ± 0.35." in text
    assert tables.statements(TABLE)["ours_minus_before"]["mean"] == 5.0
    plain = json.loads(json.dumps(tables.to_dict(TABLE, masks)))
    assert list(plain) == list(TABLE)
    assert plain["ours"]["masks"] == quality
    assert plain["ours"]["chosen"] == {"threshold": 0.5}
    assert [cell["seen"]["AP"] for cell in plain["ours"]["cells"]] == [57.5, 58.0]
    assert all("shown" not in cell for cell in plain["ours"]["cells"])


def test_markdown_tells_what_of_photographs_is_forgotten() -> None:
    with_photographs = {
        name: [cell | {"photographs": {"AP": 7.5 - (name == "ours")}} for cell in cells]
        for name, cells in TABLE.items()
    }
    text = tables.markdown(with_photographs, dict.fromkeys(TABLE, TrainingMasks()))
    (ours,) = [line for line in text.splitlines() if line.startswith("| ours")]
    assert "| 57.8 ± 0.4 | 6.5 ± 0.0 |" in ours
    assert "- Ours, photographs AP after learning: -1.00 ± 0.00." in text
    assert "photographs" not in tables.markdown(TABLE, dict.fromkeys(TABLE, TrainingMasks()))


def test_markdown_tells_the_share_of_the_bound_where_labelled() -> None:
    gains = {"before": 0.0, "control": 1.0, "threshold": 2.0, "ours": 7.0, "gt": 9.0}
    where_labelled = {
        name: [cell | {"labelled": {"AP": 50 + gains[name]}} for cell in cells]
        for name, cells in TABLE.items()
    }
    text = tables.markdown(where_labelled, dict.fromkeys(TABLE, TrainingMasks()))
    (ours,) = [line for line in text.splitlines() if line.startswith("| ours")]
    assert "| 57.0 ± 0.0 | 57.8 ± 0.4 |" in ours
    assert "- Where labelled, 75 % (+6.00 ± 0.00 of +8.00 ± 0.00 AP)." in text
    found = tables.statements(where_labelled)
    assert found["ours_share_of_bound_where_labelled"] == pytest.approx(75)
    assert "where labelled" not in tables.markdown(TABLE, dict.fromkeys(TABLE, TrainingMasks()))


def write_run(path: Path, run: dict, precision: float, **others: object) -> Path:
    quality = {"precision": precision, "recall": 60.0, "mean_iou": 80.0}
    learnt = {"ours": TrainingMasks(quality=quality)}
    cells = {name: [cell | {"masks": [quality]} for cell in run[name]] for name in run}
    known = tables.to_dict(cells, dict.fromkeys(run, TrainingMasks()) | learnt)
    result = {
        "world": "environment-5",
        "unseen_split": "test",
        "rounds": 2,
        "config": {},
        "methods": known,
    }
    path.write_text(json.dumps(result | others))
    return path


def test_together_joins_several_runs(tmp_path: Path) -> None:
    few = {name: TABLE[name] for name in ("before", "control", "ours")}
    again = TABLE | {"ours": results([35.0], [58.0])}
    first = write_run(tmp_path / "first.json", few, 50.0)
    second = write_run(tmp_path / "second.json", again, 80.0)
    joined, learnt = tables.together([first, second])
    assert [(name, len(cells)) for name, cells in joined.items()] == [
        ("before", 1), ("control", 4), ("threshold", 2), ("ours", 3), ("gt", 2),
    ]  # fmt: skip
    assert tables.differences(joined, "ours", "control") == [3.0, 4.0, -1.0]
    assert tables.differences(joined, "ours", "before") == [4.0, 6.0, 0.0]
    assert tables.differences(joined, "ours", "threshold") == [-1.5]
    quality = tables.quality_of(joined["ours"], learnt["ours"])
    assert quality == {"precision": 60.0, "recall": 60.0, "mean_iou": 80.0}  # of three cells
    assert learnt["control"].quality is None


def test_together_reads_results_of_version_0_1_0(tmp_path: Path) -> None:
    new = write_run(tmp_path / "new.json", TABLE, 50.0)
    old = json.loads(new.read_text())
    old["rows"] = old.pop("methods") | {"adapted": {}}  # a method that is gone
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    assert tables.together([path]) == tables.together([new])


def test_together_refuses_runs_of_two_experiments(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first.json", TABLE, 50.0)
    other = write_run(tmp_path / "other.json", TABLE, 50.0, world="environment-6", rounds=1)
    with pytest.raises(GboptError, match=r"other\.json: another world, rounds than in .*first"):
        tables.together([first, other])
    other.write_text("{}")
    with pytest.raises(GboptError, match="no 'methods'"):
        tables.together([other])
    other.write_text("{")
    with pytest.raises(GboptError, match="expected a result"):
        tables.together([other])


def test_quality_of_rounds_is_that_of_the_last_one() -> None:
    first = {"precision": 50.0, "recall": 60.0, "mean_iou": 80.0}
    cells = [
        cell | {"masks": [first, first | {"precision": precision}]}
        for cell, precision in zip(TABLE["ours"], (70.0, 80.0), strict=True)
    ]
    assert tables.quality_of(cells, TrainingMasks(quality=first)) == first | {"precision": 75}
    control = [cell | {"masks": [None, None]} for cell in TABLE["control"]]
    assert tables.quality_of(control, TrainingMasks()) is None
    text = tables.markdown({"ours": cells}, {"ours": TrainingMasks(quality=first)})
    assert "| 75.0 | 60.0 | 80.0 | 2 |" in text


@pytest.mark.parametrize("names", [["before", "control", "ours"], ["before", "ours"], ["before"]])
def test_figure_draws_the_methods_that_are_there(tmp_path: Path, names: list[str]) -> None:
    tables.figure({name: TABLE[name] for name in names}, tmp_path / "figure.svg")
    assert "</svg>" in (tmp_path / "figure.svg").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["figure.svg"]
