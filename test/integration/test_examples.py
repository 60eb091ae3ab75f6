"""The examples and the notebook run, on a few frames of the demo recording."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from support.demo import DEMO, copy_few_images, demo_frames

import gbopt_ros
from gbopt_ros import config
from gbopt_ros.config import Config
from gbopt_ros.io.resources import find_resource
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.learning.store.store import Store

EXAMPLES = DEMO.parent / "examples"
FRAMES = 2


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "bag"
    write_rosbag(demo_frames(FRAMES), path, topic="/camera/image_raw")
    return path


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few labelled images in place of those of the demo."""
    folder = tmp_path_factory.mktemp("demo")
    for split in ("rehearsal", "validation", "unseen-test"):
        copy_few_images(split, folder / split, 2)
    return folder


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images a step in place of eight."""

    def load_config(overrides: Sequence[str]) -> Config:
        return config.load_config(overrides=[*overrides, "learning.batch_size=2"])

    monkeypatch.setattr(gbopt_ros, "load_config", load_config)


def load(name: str) -> ModuleType:
    """An example as a module that does not run."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str | Path) -> None:
    """Run an example as its user does."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 50


@pytest.mark.parametrize(
    "name", ["bring_your_own_network", "learn_from_a_bag", "select_in_a_video"]
)
def test_examples_say_in_a_line_that_there_is_no_recording(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of their own, where there is no demo either; nothing is written."""
    monkeypatch.chdir(tmp_path)
    expected = "error: .*nowhere: no such file or folder"
    with pytest.raises(SystemExit, match=f"^{expected}$"):
        run(monkeypatch, name, "nowhere")
    copied = tmp_path / "examples" / f"{name}.py"
    copied.parent.mkdir()
    copied.write_bytes((EXAMPLES / copied.name).read_bytes())
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(SystemExit, match=r"^error: .*demo/recording: no such file or folder$"):
        runpy.run_path(str(copied), run_name="__main__")
    assert list(tmp_path.iterdir()) == [copied.parent]


def test_label_studio_tasks_says_in_a_line_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_sdk", None)
    with pytest.raises(SystemExit, match="pip install label-studio-sdk"):
        run(monkeypatch, "label_studio_tasks", tmp_path, "tasks.json")
    for part in ("label_studio_sdk", "label_studio_sdk.converter"):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    brush = SimpleNamespace(mask2rle=None)
    monkeypatch.setitem(sys.modules, "label_studio_sdk.converter.brush", brush)
    with pytest.raises(SystemExit, match="usage"):
        run(monkeypatch, "label_studio_tasks")
    with pytest.raises(SystemExit, match=r"no annotations\.json"):
        run(monkeypatch, "label_studio_tasks", tmp_path, "tasks.json")


@pytest.mark.parametrize("name", ["learn_from_a_bag", "select_in_a_video"])
def test_examples_write_to_an_ignored_folder(name: str) -> None:
    assert 'Path("example-output/' in (EXAMPLES / f"{name}.py").read_text()
    assert "example-output/" in (EXAMPLES.parent / ".gitignore").read_text().splitlines()


def test_select_in_a_video(
    bag: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, "select_in_a_video", bag, "--out", tmp_path / "out", "--frames", "2")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Selection(clip_id=0")
    assert int(said[-1].split()[0]) >= 2 * FRAMES
    drawn = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in drawn] == ["000000.jpg", "000001.jpg"]
    for path, frame in zip(drawn, demo_frames(FRAMES), strict=True):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        changed = np.abs(image.astype(int) - frame.image).max(axis=2) > 40
        assert 0.01 < changed.mean() < 0.5  # the masks, and nothing but them


@pytest.mark.usefixtures("small_batches")
def test_learn_from_a_bag(
    bag: Path,
    small_demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = load("learn_from_a_bag")
    monkeypatch.setattr(example, "DEMO", small_demo)
    published = example.main(bag, tmp_path / "store", frames=FRAMES, steps=1)
    store = Store(tmp_path / "store")
    assert published is (store.models.current() is not None)
    assert "seen AP" in capsys.readouterr().out
    with store.training_set() as training_set:
        assert len(training_set) == FRAMES
        assert training_set.instance_count >= 2 * FRAMES


def test_bring_your_own_network(
    bag: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "bring_your_own_network", bag)
    version, _, masks, _ = capsys.readouterr().out.split()
    assert version == "colourful-1"
    assert int(masks) >= FRAMES


def test_bring_your_own_network_proposes_what_is_colourful() -> None:
    image = np.full((40, 60, 3), 128, np.uint8)
    image[5:15, 5:15], image[20:35, 30:50] = (255, 0, 0), (60, 60, 200)
    (proposals,) = load("bring_your_own_network").Colourful().propose([image])
    np.testing.assert_array_equal(proposals.boxes, [[5, 5, 15, 15], [30, 20, 50, 35]])
    np.testing.assert_allclose(proposals.scores, [1.0, 0.7], atol=0.01)


@pytest.mark.usefixtures("small_batches")
def test_first_steps_notebook_runs(
    bag: Path, small_demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cells one after the other, as Jupyter runs them."""
    shown: list[bytes] = []
    stand_in = SimpleNamespace(Image=lambda data: data, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", stand_in)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)

    def resource(name: str) -> Path:
        small = small_demo / name.removeprefix("demo/")
        return small if small.exists() else find_resource(name)

    settings, *cells = code_cells()
    names: dict[str, Any] = {}
    exec(settings, names)
    names |= {"VIDEO": bag, "FRAMES": FRAMES, "STEPS": 1, "IMAGES": 1, "find_resource": resource}
    for cell in cells:
        exec(cell, names)
    names["pyplot"].close("all")

    said = capsys.readouterr().out
    counts = re.search(r"(\d+) masks were selected in (\d+) frames", said)
    assert counts is not None and int(counts[1]) >= 2 * FRAMES and int(counts[2]) == FRAMES
    assert names["learnt"].decision.reason in said
    assert "before: AP" in said
    assert len(shown) == 3
    for jpeg in shown:
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (240, 960, 3)


def test_first_steps_notebook_is_executed_and_small() -> None:
    path = EXAMPLES / "first_steps.ipynb"
    assert path.stat().st_size < 1_000_000
    cells = json.loads(path.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/jpeg") == 3 and kinds.count("image/png") == 1
    assert not [output for output in outputs if output["output_type"] == "error"]
    for cell in cells:
        assert "/tmp" not in json.dumps(cell) and "/work" not in json.dumps(cell)


def code_cells() -> list[str]:
    content = json.loads((EXAMPLES / "first_steps.ipynb").read_text())
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]
