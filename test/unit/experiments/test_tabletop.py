"""The data of the experiments: what is rendered, and how recordings are read."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.labelled import labelled

from experiments import tabletop
from gbopt_ros.io.datasets.coco import CocoImage, write_coco
from gbopt_ros.simulation.dataset import WorldConfig


def test_rendered_makes_a_world_of_the_size_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, tuple[str, int | None, int]] = {}

    def generate(folder: Path, splits: list[str], config: WorldConfig) -> None:
        written[splits[0]] = (folder.name, config.count, config.clips)

    monkeypatch.setattr(tabletop, "generate", generate)
    monkeypatch.setattr(tabletop, "load_coco_dir", lambda folder: folder)
    tabletop.rendered(tmp_path, 7, (), "test", choose=True)
    assert written["unseen-train"] == ("validation", None, 12)  # the last of two
    assert written["rehearsal"] == ("world-7", 95, 24)
    tabletop.rendered(tmp_path, 7, (), "test", choose=False, clips=128, rehearsal=1200)
    assert written["unseen-train"] == ("world-7-128-1200", None, 128)
    assert written["rehearsal"][:2] == ("world-7-128-1200", 1200)
    assert written["unseen-test"][:2] == ("world-7-128-1200", 110)


def test_recording_gives_instances_and_names_by_frame(tmp_path: Path) -> None:
    instances = labelled().rles + labelled(columns=2).rles
    images = [
        CocoImage(number, f"{number}.jpg", 4, 6, {"frame_index": number + 6}) for number in (1, 2)
    ]
    path = tmp_path / "annotations.json"
    rles, names = {1: instances, 2: instances[1:]}, {1: ("mug 0", "duck 1"), 2: ("duck 1",)}
    write_coco(path, images, rles, names_by_image=names)
    recording = tabletop.Recording(tmp_path, path)
    assert recording.truth == {7: instances, 8: instances[1:]}
    assert recording.names == {7: names[1], 8: names[2]}
    write_coco(path, images, rles)
    assert tabletop.Recording(tmp_path, path).names == {}
