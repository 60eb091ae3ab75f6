"""What `gbopt models` says of a store, and what verbs say of a changed version of one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.labelled_store import make_store
from support.networks import Point

from gbopt_ros.cli.main import main
from gbopt_ros.io.datasets.coco import write_coco
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


def test_models_shows_damaged_versions_and_rolls_back_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ModelStore(tmp_path)
    for parent in ("seed", "v0001", "v0002", "v0003"):
        store.publish(Point(), WeightsInfo(PROPOSALS, "slim18-fpn", parent), {})
    (tmp_path / "models" / "v0004" / "manifest.json").write_text("{")
    store.get("v0003").path.write_bytes(b"damaged")
    assert main(["models", "list", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["v0001", "parent"], ["v0002", "parent"], ["!", "v0003"],
        ["!", "v0003"], ["!", "v0004"], ["!", "current.json"],
    ]  # fmt: skip
    assert "SHA-256 is" in lines[3] and "expected JSON" in lines[4]
    assert "v0004 was damaged, roll back" in lines[5]
    assert main(["models", "verify", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert [line[:7] for line in told.out.splitlines()[:3]] == ["  v0001", "  v0002", "! v0003"]
    assert told.err.startswith(f"gbopt: error: {tmp_path}: damaged: v0003, v0004, current.json; ")
    assert main(["models", "rollback", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{store.get('v0002').path}\n"


def test_models_list_and_rollback_without_a_readable_pointer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ModelStore(tmp_path)
    for parent in ("seed", "v0001"):
        store.publish(Point(), WeightsInfo(PROPOSALS, "slim18-fpn", parent), {})
    (tmp_path / "models" / "current.json").write_bytes(b"")
    assert main(["models", "list", str(tmp_path)]) == 0
    assert "! current.json" in capsys.readouterr().out.splitlines()[2]
    assert main(["models", "rollback", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{store.get('v0002').path}\n"
    assert main(["models", "verify", str(tmp_path)]) == 0


@pytest.mark.parametrize("action", ["list", "verify", "rollback", "card"])
def test_models_of_a_folder_that_is_no_store(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify` of a mistyped path must not pass, and `rollback` must not make the folder."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for wrong in (tmp_path / "stroe", photographs):
        assert main(["models", action, str(wrong)]) == 1
        told = capsys.readouterr()
        assert told.err.startswith(f"gbopt: error: {wrong}: no store, for it has no folder `models")
        assert not told.out
    assert [*tmp_path.rglob("*")] == [photographs]


@pytest.mark.parametrize("action", ["list", "verify"])
def test_models_of_a_store_all_of_whose_rounds_were_refused(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path)
    store = tmp_path / "store"
    assert main(["models", action, str(store)]) == 0
    assert capsys.readouterr() == (
        "",
        f"{store}: no version yet, for no round has passed the gate\n",
    )


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "bag", "--weights", "VERSION"],
        ["replay", "bag", "--set", "proposal.weights=VERSION"],
        ["bulk", "bags", "--out", "o", "--weights", "VERSION"],
        ["learn", "replay", "--weights", "VERSION"],
        ["learn", "replay", "--set", "learning.student=VERSION"],
        ["calibrate", "--recording", "bag", "--labels", "l", "--out", "o.safetensors",
         "--weights", "VERSION"],
        ["demo", "--weights", "VERSION"],
        ["run", "--set", "proposal.weights=VERSION"],
        ["evaluate", "--gt", "LABELS", "--weights", "VERSION"],
        ["models", "export", "VERSION", "--out", "o.onnx"],
    ],
    ids=lambda words: " ".join(words[::3]),
)  # fmt: skip
def test_verbs_refuse_a_version_whose_weights_were_changed(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels" / "images").mkdir(parents=True)
    write_coco(tmp_path / "labels" / "annotations.json", [], {})
    path = ModelStore(tmp_path).publish(Point(), WeightsInfo(PROPOSALS, "a", "seed"), {}).path
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    version = str(path.relative_to(tmp_path))
    words = [word.replace("VERSION", version).replace("LABELS", "labels") for word in words]
    assert main(words) == 1
    assert re.search(
        r"model\.safetensors: SHA-256 is .* the file was damaged", capsys.readouterr().err
    )
