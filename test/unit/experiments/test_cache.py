"""The cache of results: what is known by which inputs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
from support.labelled import labelled

from experiments import cache
from experiments.cache import (
    Cache,
    digest,
    digest_of_dataset,
    digest_of_files,
    digest_of_stills,
    digest_of_weights,
)
from gbopt_ros.config import LearningConfig
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage
from gbopt_ros.io.files import sha256_of


def test_cache_makes_a_value_once(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path / "cache"), []

    def make() -> dict[str, float]:
        made.append(1)
        return {"AP": 0.1 + 0.2}

    inputs = {"learning": LearningConfig(), "n": np.float32(0.5), "path": Path("a")}
    assert cache.get("cell", inputs) is None
    first = cache.get_or_make("cell", inputs, make)
    assert Cache(tmp_path / "cache").get_or_make("cell", dict(inputs), make) == first
    assert first == {"AP": 0.1 + 0.2}
    assert len(made) == 1
    (path,) = (tmp_path / "cache").iterdir()
    assert json.loads(path.read_text())["inputs"]["learning"]["momentum"] == 0.9


def test_cache_tells_inputs_and_kinds_apart(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("cell", LearningConfig(seed=1), 1)
    assert cache.get("cell", LearningConfig(seed=2)) is None
    assert cache.get("masks", LearningConfig(seed=1)) is None
    assert cache.get("cell", LearningConfig(seed=1)) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_cache_makes_a_damaged_value_again(tmp_path: Path, content: str) -> None:
    cache = Cache(tmp_path)
    cache.put("cell", 1, "good")
    cache.path("cell", 1, ".json").write_text(content)
    assert cache.get_or_make("cell", 1, lambda: "again") == "again"
    assert cache.get("cell", 1) == "again"


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_digest_of_dataset_sees_images_masks_and_ignore_regions() -> None:
    base = [labelled(), labelled(7)]
    ignored = replace(labelled(7), ignore_regions=labelled().rles)
    others = [
        [labelled(7), labelled()],
        [labelled()],
        [labelled(), labelled(8)],
        [labelled(), labelled(7, columns=4)],
        [labelled(), ignored],
    ]
    digests = [digest_of_dataset(each) for each in [base, *others]]
    assert len(set(digests)) == len(digests)
    assert digest_of_dataset([labelled(), labelled(7)]) == digests[0]


def test_digest_of_files_is_of_their_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"1")
    assert digest_of_files(tmp_path / "a") == digest_of_files(tmp_path / "b")
    (tmp_path / "b" / "x").write_bytes(b"2")
    assert digest_of_files(tmp_path / "a") != digest_of_files(tmp_path / "b")


def test_digest_of_weights_is_computed_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, computed = tmp_path / "weights", []

    def counted(of: Path) -> str:
        computed.append(of)
        return sha256_of(of)

    monkeypatch.setattr(cache, "sha256_of", counted)
    for content in (b"one", b"three"):
        path.write_bytes(content)
        for _ in range(2):
            assert digest_of_weights(path) == hashlib.sha256(content).hexdigest()
    assert computed == [path, path]


def test_digest_of_stills_is_of_labels_and_pixels() -> None:
    class Painted(CocoDataset):
        def load_image(self, image: CocoImage) -> np.ndarray:
            return labelled(image.extra["value"]).image

    def dataset(value: int, columns: int, crowd: int = 0) -> CocoDataset:
        image = CocoImage(1, "a.jpg", 4, 6, {"value": value})
        crowds = {1: labelled(0, crowd).rles} if crowd else {}
        return Painted((image,), {1: labelled(0, columns).rles}, crowd_by_image=crowds)

    different = (0, 3), (1, 3), (0, 4), (0, 3, 1), (0, 3, 2)
    digests = [digest_of_stills(dataset(*parts)) for parts in different]
    assert len(set(digests)) == 5
    assert digest_of_stills(dataset(0, 3)) == digests[0]
