"""The experiment around learning: what is cached under what, what is left to do, what is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the benchmarks' baselines need scipy (extra `dev`)")
from experiments import cache as stored
from experiments import comparison as experiment
from experiments import continual, tabletop, training
from experiments import methods as rows
from gbopt_ros.config import Config, LearningConfig, load_config
from gbopt_ros.io.datasets.coco import CocoDataset, CocoImage, write_coco
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.masks import boxes_xyxy, encode, encode_all
from gbopt_ros.simulation.dataset import WorldConfig
from gbopt_ros.simulation.objects import UNSEEN
from gbopt_ros.structures import LabelledImage, Proposals

CONFIG = load_config(None, ["device=cpu"])
STILLS = {"rehearsal": "r", "unseen": "u", "seen": "s"}


def labelled(value: int = 0, columns: int = 3) -> LabelledImage:
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 1:3, :columns] = True
    return LabelledImage(np.full((4, 6, 3), value, np.uint8), encode_all(mask))


# ------------------------------------------------------------------------------------------ stored


def test_a_value_is_made_once(tmp_path: Path) -> None:
    cache, made = stored.Cache(tmp_path / "cache"), []

    def make() -> dict[str, float]:
        made.append(1)
        return {"AP": 0.1 + 0.2}

    inputs = {"learning": LearningConfig(), "n": np.float32(0.5), "path": Path("a")}
    assert cache.get("cell", inputs) is None
    first = cache.get_or_make("cell", inputs, make)
    assert stored.Cache(tmp_path / "cache").get_or_make("cell", dict(inputs), make) == first
    assert first == {"AP": 0.1 + 0.2}
    assert len(made) == 1
    (path,) = (tmp_path / "cache").iterdir()
    assert json.loads(path.read_text())["inputs"]["learning"]["momentum"] == 0.9


def test_other_inputs_are_another_value(tmp_path: Path) -> None:
    cache = stored.Cache(tmp_path)
    cache.put("cell", LearningConfig(seed=1), 1)
    assert cache.get("cell", LearningConfig(seed=2)) is None
    assert cache.get("masks", LearningConfig(seed=1)) is None
    assert cache.get("cell", LearningConfig(seed=1)) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_value_is_made_again(tmp_path: Path, content: str) -> None:
    cache = stored.Cache(tmp_path)
    cache.put("cell", 1, "good")
    cache.path("cell", 1, ".json").write_text(content)
    assert cache.get_or_make("cell", 1, lambda: "again") == "again"
    assert cache.get("cell", 1) == "again"


def test_the_order_of_keys_does_not_count() -> None:
    assert stored.digest({"a": 1, "b": [2]}) == stored.digest({"b": [2], "a": 1})
    assert stored.digest({"a": 1}) != stored.digest({"a": 2})


def test_the_digest_of_a_pool_sees_images_masks_and_ignored_regions() -> None:
    base = [labelled(), labelled(7)]
    ignored = replace(labelled(7), ignored=labelled().rles)
    others = [
        [labelled(7), labelled()],
        [labelled()],
        [labelled(), labelled(8)],
        [labelled(), labelled(7, columns=4)],
        [labelled(), ignored],
    ]
    digests = [stored.digest_of_dataset(pool) for pool in [base, *others]]
    assert len(set(digests)) == len(digests)
    assert stored.digest_of_dataset([labelled(), labelled(7)]) == digests[0]


def test_the_digest_of_files_is_of_their_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"1")
    assert stored.digest_of_files(tmp_path / "a") == stored.digest_of_files(tmp_path / "b")
    (tmp_path / "b" / "x").write_bytes(b"2")
    assert stored.digest_of_files(tmp_path / "a") != stored.digest_of_files(tmp_path / "b")


# ------------------------------------------------------------------------------------------- cells


def cell(row: str = "ours", seed: int = 0, digest: str = "m", **learning: object) -> training.Cell:
    config = replace(CONFIG, learning=replace(CONFIG.learning, seed=seed, **learning))
    masks = rows.TrainingMasks(digest=digest)
    return training.Cell(row, seed, masks, config, learns=row != "before")


def key(of: training.Cell) -> str:
    return stored.digest(of.inputs(STILLS))


def test_a_cell_is_known_by_what_it_learns_from_not_by_its_name() -> None:
    assert key(cell("ours")) == key(cell("L_p"))
    assert key(cell("ours")) != key(cell("ours", digest="other"))
    assert key(cell("ours")) != key(cell("ours", seed=1))
    assert key(cell("ours")) != key(cell("ours", learning_rate=0.1))
    assert stored.digest(cell().inputs(STILLS | {"unseen": "v"})) != key(cell())


def test_what_no_training_depends_on_is_not_in_the_key() -> None:
    other = cell(gate_margin=9.0, max_bytes=5, policy="oldest", min_confidence=0.9)
    assert key(other) == key(cell())


def test_rounds_are_known_by_all_that_their_selection_depends_on() -> None:
    of = replace(cell(), rounds=2)
    of = replace(of, masks=replace(of.masks, folder=Path("set")))
    clip = replace(CONFIG.clip, length=CONFIG.clip.length + 1)
    assert len({key(of), key(cell()), key(replace(of, rounds=3)), key(replace(of, row="gt"))}) == 4
    assert key(replace(of, config=replace(of.config, clip=clip))) != key(of)
    assert key(replace(cell("before"), rounds=2)) == key(cell("before"))
    control = replace(cell("control"), rounds=2)
    assert key(replace(control, config=replace(of.config, clip=clip))) == key(control)


def test_every_round_has_all_steps_and_a_seed_of_its_own() -> None:
    of = replace(cell(seed=5, iterations=8), rounds=3)
    learning = [config.learning for config in of.configs()]
    assert [each.iterations for each in learning] == [8, 8, 8]
    assert of.steps == 24 and replace(cell("before"), rounds=3).steps == 0
    assert len({each.seed for each in learning}) == 3
    assert learning[0].seed == 5


def test_each_round_learns_what_the_network_of_the_one_before_selects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Networks are numbers here: learning adds its steps to the parent's."""
    saved: dict[str, int] = {}
    selected_with: list[int] = []

    def select(row: str, config: Config) -> rows.TrainingMasks:
        assert row == "ours"
        selected_with.append(saved[config.proposal.weights])
        return rows.TrainingMasks(quality={"masks": 10.0 * len(selected_with)})

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
    stills = SimpleNamespace(unseen=one, seen=one, rehearsal=one)
    of = replace(cell(iterations=2), rounds=3, select=select)
    result = training.run_cell(of, stills, lambda: None)
    assert selected_with == [102, 104]
    assert judged == [106, 106]
    assert result["masks"] == [None, {"masks": 10.0}, {"masks": 20.0}]


def test_before_has_no_seed_and_no_steps() -> None:
    assert key(cell("before", learning_rate=0.1)) == key(cell("before", seed=3))
    assert cell("before").steps == 0
    assert cell("ours", iterations=7).steps == 7


def test_every_seed_of_every_row_and_before_once() -> None:
    masks = {row: rows.TrainingMasks() for row in ("before", "control", "ours")}
    cells = experiment.plan(list(masks), masks, CONFIG, [4, 5])
    assert [(c.row, c.seed, c.config.learning.seed, c.learns) for c in cells] == [
        ("before", 4, 4, False),
        ("control", 4, 4, True),
        ("ours", 4, 4, True),
        ("control", 5, 5, True),
        ("ours", 5, 5, True),
    ]


def test_what_is_left_is_told_with_the_time_that_done_cells_took() -> None:
    cells = [cell("before"), *(cell(seed=s, iterations=10) for s in range(3))]
    done = {"seconds": 120.0}
    assert training.outlook(cells, cells, [None] * 4, 1) == "4 of 4 cells left, 30 steps"
    assert training.outlook(cells[2:], cells, [done, done, None, None], 2) == (
        "2 of 4 cells left, 20 steps, about 2 minutes in 2 processes"
    )
    assert training.outlook([], cells, [done] * 4, 2) == "0 of 4 cells left, 0 steps"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kinds", "duck"],
        ["--clips", "9"],
        ["--rehearsal", "9"],
        ["--clips", "0", "--world-seed", "7"],
        ["--jobs", "0"],
        ["--rounds", "0"],
        ["--rows", "nothing"],
        ["--on", "train"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        experiment.parse_arguments(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_size_of_another_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, tuple[str, int | None, int]] = {}

    def generate(folder: Path, splits: list[str], config: WorldConfig) -> None:
        written[splits[0]] = (folder.name, config.count, config.clips)

    monkeypatch.setattr(tabletop, "generate", generate)
    monkeypatch.setattr(tabletop, "load_coco_dir", lambda folder: folder)
    tabletop.rendered(tmp_path, 7, (), "test", 1, choose=True)
    assert written["unseen-train"] == ("validation", None, 12)  # the last of two
    assert written["rehearsal"] == ("world-7", 95, 24)
    tabletop.rendered(tmp_path, 7, (), "test", 1, choose=False, clips=128, rehearsal=1200)
    assert written["unseen-train"] == ("world-7-128-1200", None, 128)
    assert written["rehearsal"][:2] == ("world-7-128-1200", 1200)
    assert written["unseen-test"][:2] == ("world-7-128-1200", 110)


def test_the_rows_of_table_4() -> None:
    assert experiment.parse_arguments(["--rows", "ours", "--terms"]).rows == ["ours", *rows.TERMS]
    limits = experiment.parse_arguments(["--rows", "right", "gt", "--limits"]).rows
    assert limits == ["right", "gt", "complete"]
    config = CONFIG.selection
    alone = rows.selection_of("L_I", config)
    assert (alone.lambda_flow, alone.lambda_regularization, alone.overlap_tolerance) == (0, 0, 1)
    constraint = rows.selection_of("constraint", config)
    assert constraint == replace(config, lambda_flow=0.0, lambda_regularization=0.0)
    assert rows.selection_of("L_F", config) == replace(config, lambda_regularization=0.0)
    assert rows.selection_of("L_p", config) == rows.selection_of("ours", config) == config


def test_what_is_below_the_minimum_is_left_out_but_never_most() -> None:
    rles = labelled().rles
    frame = SelectedFrame("r", 0, 0, 0, Path("0.jpg"), (4, 6), rles * 2, (0.7, 0.8), (0.9, 0.4))
    other = replace(frame, frame_index=1, rles=rles, scores=(0.6,), confidences=(0.6,))

    def kept(minimum: float) -> list[SelectedFrame]:
        config = replace(CONFIG, learning=LearningConfig(min_confidence=minimum))
        return rows.sure([frame, other], config)

    first = replace(frame, rles=rles, scores=(0.7,), confidences=(0.9,))
    assert kept(0.5) == [first, other]
    assert kept(0.0) == [frame, other]
    assert kept(0.95) == [first, other]  # from the median on


def test_instances_and_names_of_a_recording_by_frame(tmp_path: Path) -> None:
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


# --------------------------------------------------------------------------------------- continual


def test_groups_hold_every_unseen_kind_once() -> None:
    found = continual.groups(5)
    assert len(found) == 5
    assert sorted(name for group in found for name in group) == sorted(k.name for k in UNSEEN)
    assert {len(group) for group in found} <= {4, 5}


def test_another_thing_of_the_home_arrives_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, WorldConfig]] = []

    def generated(folder: Path, splits: list[str], config: WorldConfig) -> None:
        made.extend((f"{folder.name}/{split}", config) for split in splits)
        for split in splits:
            (folder / split).mkdir(parents=True)

    monkeypatch.setattr(continual, "generate", generated)
    monkeypatch.setattr(continual, "load_coco_dir", lambda folder: folder)
    rounds = continual.environment_stream(tmp_path, 7, 3)
    assert [len(each.shown) for each in rounds] == [6, 7, 8]
    videos = [config for name, config in made if name.endswith("unseen-train")]
    assert [(c.seed, c.environment, c.things, c.first, c.clips) for c in videos] == [
        (7, True, 6, 0, 8),
        (7, True, 7, 8, 8),
        (7, True, 8, 16, 8),
    ]
    count = len(made)
    assert len(continual.environment_stream(tmp_path, 7, 3)) == 3
    assert len(made) == count == 6  # what is there is not rendered again


def test_poisoned_frames_bear_the_masks_of_another_scene() -> None:
    frames = [
        SelectedFrame("r", i // 2, i, i, Path(f"{i}.jpg"), (4, 6), labelled(0, i + 1).rles,
                      (0.1 * i,), (0.5,))
        for i in range(4)
    ]  # fmt: skip
    poisoned = continual.shuffled(iter(frames))
    assert [f.image_path.name for f in poisoned] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert [f.rles for f in poisoned] == [frames[i].rles for i in (2, 3, 0, 1)]
    assert [f.scores for f in poisoned] == [frames[i].scores for i in (2, 3, 0, 1)]
    assert continual.shuffled([]) == []


def test_the_digest_of_stills_is_of_labels_and_pixels() -> None:
    class Painted(CocoDataset):
        def load_image(self, image: CocoImage) -> np.ndarray:
            return labelled(image.extra["value"]).image

    def dataset(value: int, columns: int) -> CocoDataset:
        image = CocoImage(1, "a.jpg", 4, 6, {"value": value})
        return Painted((image,), {1: labelled(0, columns).rles})

    digests = [stored.digest_of_stills(dataset(v, c)) for v, c in ((0, 3), (1, 3), (0, 4))]
    assert len(set(digests)) == 3
    assert stored.digest_of_stills(dataset(0, 3)) == digests[0]


# ------------------------------------------------------------------------------------------- masks


class Oracle:
    """Proposes every instance of a few frames of the demo recording, and a corner that is none."""

    version = "oracle"

    def __init__(self, recordings: list[tabletop.Recording]) -> None:
        self.truth = {
            frame.image.tobytes(): recording.truth[frame.index]
            for recording in recordings
            for frame in recording.open()
        }
        self.frames = 0

    def propose(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        self.frames += len(images)
        return [self._of(image) for image in images]

    def _of(self, image: np.ndarray) -> Proposals:
        corner = np.zeros(image.shape[:2], bool)
        corner[:4, :4] = True
        rles = (*self.truth[image.tobytes()], encode(corner))
        scores = np.array([*np.linspace(0.9, 0.8, len(rles) - 1), 0.1], np.float32)
        return Proposals(image.shape[:2], rles, scores, boxes_xyxy(rles))


def test_masks_of_rows_are_made_once_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tabletop.few()
    assert data.validation is not None
    oracle = Oracle([data.train, data.validation])
    monkeypatch.setattr(rows, "load_proposal_network", lambda config: oracle)

    def masks() -> dict[str, rows.TrainingMasks]:
        cache = stored.Cache(tmp_path / "cache")
        maker = rows.MaskMaker([data.train], data.validation, data.rehearsal, CONFIG, cache)
        names = ("control", "threshold", "tracklets", "distillation", "gt", "truth")
        return {name: maker.masks_of(name) for name in names}

    found = masks()
    assert found["control"] == rows.TrainingMasks()
    assert found["control"].pool(CONFIG) is None
    for name in ("threshold", "gt", "truth"):
        quality = found[name].quality
        assert quality is not None
        assert (quality["precision"], quality["recall"], quality["mean_iou"]) == (100, 100, 100)
        assert quality["frames"] == 5
    assert 0.1 < found["threshold"].facts["threshold"] <= np.float32(0.8)
    assert found["threshold"].digest == found["gt"].digest == found["truth"].digest
    pool = found["truth"].pool(CONFIG)
    assert pool is not None
    first = next(iter(data.train.open()))
    assert pool[0].rles == tuple(data.train.truth[first.index])
    assert np.abs(pool[0].image.astype(int) - first.image).mean() < 4  # as JPEG
    done = oracle.frames
    assert done == 5 + 4 + 5  # train, validation, and train again by several views
    assert masks() == found
    assert oracle.frames == done


def test_ground_truth_mends_what_ours_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three objects one is found, one only by an unsure mask; a sure mask is no object."""
    data = tabletop.few()
    oracle = Oracle([data.train])
    monkeypatch.setattr(rows, "load_proposal_network", lambda config: oracle)
    index = next(i for i, rles in data.train.truth.items() if len(rles) >= 3)
    truth = data.train.truth[index]
    size = tuple(truth[0]["size"])
    corner = np.zeros(size, bool)
    corner[:4, :4] = True
    frame = SelectedFrame(
        data.train.name, 0, index, 0, tmp_path / "frame.jpg", size,
        (truth[0], truth[1], encode(corner)), (0.9, 0.8, 0.7), (0.9, 0.3, 0.8),
    )  # fmt: skip
    cache = stored.Cache(tmp_path / "cache")
    maker = rows.MaskMaker([data.train], None, data.rehearsal, CONFIG, cache)

    (right,) = maker._mended("right", [frame])
    assert right.rles == (truth[0],) and right.scores == (0.9,)
    (complete,) = maker._mended("complete", [frame])
    assert complete.rles == (truth[0], encode(corner), *truth[1:])
    assert complete.scores[:2] == (0.9, 0.7)
    assert complete.confidences == (1.0,) * len(complete.rles)
