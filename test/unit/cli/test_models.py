"""What `gbopt models` says of a store."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.networks import Point

from gbopt_ros.cli.main import main
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo


def test_models_list_tells_teachers_and_what_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ModelStore(tmp_path)
    for parent, teachers, passed in (
        ("seed", ["seed"], None),
        ("v0001", ["seed", "yolo-12345678"], True),
        ("v0002", ["v0002", "yolo-12345678"], False),
    ):
        facts: dict[str, object] = {"teachers": teachers, "gate": {"reason": "forgot nothing"}}
        if passed is not None:
            facts["teacher_gate"] = {"passed": passed, "reason": "saves 99 %"}
        store.publish(Point(), WeightsInfo(PROPOSALS, "slim18-fpn", parent), facts)
    assert main(["models", "list", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE", line) for line in lines] == [
        "  v0001  parent seed   DATE  forgot nothing",
        "* v0002  parent v0001  DATE  teachers seed, yolo-12345678; forgot nothing; saves 99 %",
        "> v0003  parent v0002  DATE  teachers yolo-12345678; forgot nothing; saves 99 %",
    ]
    assert main(["models", "rollback", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{store.get('v0001').path}\n"
