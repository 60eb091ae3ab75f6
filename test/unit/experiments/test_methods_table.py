"""The table of masks: numbers by hand, and a run on a small sequence."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.fakes import make_proposals
from support.moving_squares import GREEN, RED, SIZE, picture, place

from experiments import methods_table
from experiments.real_video import Beginning
from gbopt_ros.io.datasets.davis import VOID, write_label_image
from gbopt_ros.masks import encode_all

RED_AT, GREEN_AT = place(4, 8), place(30, 40)


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Four still frames; red is object 9, green 4 and only labelled from the second frame on."""
    folder = tmp_path / "squares"
    folder.mkdir()
    image = cv2.cvtColor(picture({RED: RED_AT, GREEN: GREEN_AT}), cv2.COLOR_RGB2BGR)
    for t in range(4):
        label = np.where(RED_AT, 9, 0).astype(np.uint8)
        label[GREEN_AT] = VOID if t == 0 else 4
        cv2.imwrite(str(folder / f"{t:03d}.jpg"), image)
        write_label_image(folder / f"{t:03d}.png", label, [])
    return folder


def test_union_similarity_is_the_mean_over_frames() -> None:
    none = make_proposals(np.zeros((0, *SIZE), bool))
    both = make_proposals(np.array([RED_AT, GREEN_AT]))
    truth = {
        ("a", 0): encode_all(np.array([RED_AT])),  # one half
        ("a", 1): encode_all(np.array([GREEN_AT, RED_AT])),
        ("a", 2): (),
        ("b", 0): encode_all(np.array([RED_AT])),
    }
    masks = dict(zip(truth, (both, both, none, none), strict=True))
    assert methods_table.union_similarity(truth, masks) == pytest.approx(100 * 2.5 / 4)


def test_object_labels_count_the_objects_of_the_first_frame(sequence: Path) -> None:
    labels = methods_table.object_labels(Beginning(sequence, 0.5))
    assert labels.shape == (2, *SIZE)
    assert np.unique(labels[0]).tolist() == [0, 1, VOID]
    np.testing.assert_array_equal(labels[1], RED_AT)  # green came later


def test_object_scores_follow_an_object_through_its_masks(sequence: Path) -> None:
    whole = Beginning(sequence, 1.0)
    both, red = (make_proposals(np.array(m)) for m in ([GREEN_AT, RED_AT], [RED_AT]))
    none = make_proposals(np.zeros((0, *SIZE), bool))
    masks = dict(zip([("squares", t) for t in range(4)], (both, none, red, both), strict=True))
    tracks = methods_table.parse_arguments([str(sequence)])
    config = methods_table.config_of(tracks).tracks
    (score,) = methods_table.object_scores(whole, masks, config)
    assert score.J.mean == pytest.approx(75) and score.object_id == 1


def test_run_writes_the_table_of_ground_truth_and_of_files(
    sequence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files have red in every frame, and green from the second of three labelled frames on."""
    for t in range(4):
        label = RED_AT.astype(np.uint8) + 2 * GREEN_AT.astype(np.uint8) * (t > 0)
        write_label_image(tmp_path / "masks" / f"{t}.png", label, [])
    arguments = [str(sequence), "--share", "0.75", "--out", str(tmp_path / "out"),
                 "--methods", f"file:{tmp_path / 'masks'}", "--set", "device=cpu"]  # fmt: skip
    for _ in range(2):  # the second time from the cache
        methods_table.run(methods_table.parse_arguments(arguments))
    (row,) = json.loads((tmp_path / "out/methods.json").read_text())["methods"].values()
    assert row["label"] == "masks of masks"
    found = [row[key] for key in ("AP", "AP50", "union_J", "J", "F")]
    assert found == pytest.approx([100] * 5, abs=1e-3)
    assert (
        "| masks of masks | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 0.0" in capsys.readouterr().out
    )


def test_parse_arguments_wants_video_and_a_known_method(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([], "give a SEQUENCE or --environment"),
        (["x", "--share", "0"], "--share: expected a number above 0"),
        (["x", "--methods", "magic"], "expected file:PATH or one of threshold, "),
    ):
        with pytest.raises(SystemExit):
            methods_table.parse_arguments(arguments)
        assert message in capsys.readouterr().err
