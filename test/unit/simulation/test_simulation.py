"""The Tabletop world: its splits on disk, and a few tiny renderings where pybullet is there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gbopt_ros.cli import world as world_verb
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco, load_coco_dir
from gbopt_ros.io.sources import open_source
from gbopt_ros.masks import areas, decode_all, encode_all
from gbopt_ros.simulation import dataset as world
from gbopt_ros.simulation import rendering
from gbopt_ros.simulation.camera import HEIGHT, WIDTH
from gbopt_ros.simulation.dataset import SPLITS, WorldConfig, generate
from gbopt_ros.simulation.environment import (
    ENVIRONMENT_OBJECTS,
    ENVIRONMENT_TABLES,
    ENVIRONMENT_WALLS,
    Environment,
)
from gbopt_ros.simulation.objects import PRIMITIVES, UNSEEN, draw_kind, unseen_kinds
from gbopt_ros.simulation.rendering import Job, Still, VideoClip, render_still
from gbopt_ros.simulation.scene import MIN_VISIBLE_PIXELS, Scene, Visible
from gbopt_ros.simulation.simulator import Simulator
from gbopt_ros.structures import GboptError


@pytest.fixture(scope="module")
def pybullet() -> None:
    pytest.importorskip("pybullet", reason="rendering needs the extra `sim` (pybullet)")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------------------------- what is shown


def test_environment_draws_the_same_in_every_scene() -> None:
    environment = Environment(3)
    scenes = [np.random.default_rng(seed) for seed in range(40)]
    tables = {float(environment.table(scene).random()) for scene in scenes}
    walls = {float(environment.wall(scene).random()) for scene in scenes}
    assert (len(tables), len(walls)) == (ENVIRONMENT_TABLES, ENVIRONMENT_WALLS)
    assert not tables & walls
    assert (
        environment.object(2).random()
        == environment.object(2).random()
        != environment.object(1).random()
    )
    assert (
        environment.camera().random()
        == Environment(3).camera().random()
        != Environment(4).camera().random()
    )


def test_draw_kind_keeps_seen_and_unseen_kinds_disjoint() -> None:
    rng = np.random.default_rng(0)
    seen = {draw_kind(rng, seen=True) for _ in range(3000)}
    unseen = {draw_kind(rng, seen=False) for _ in range(1000)}
    assert unseen == set(UNSEEN)
    assert len({kind.name for kind in UNSEEN}) == len(UNSEEN)
    assert not {kind.name for kind in seen} & {kind.name for kind in unseen}
    assert not {kind.file for kind in seen} & {kind.file for kind in unseen}
    models = [kind for kind in seen if kind.file]
    assert {kind.name for kind in seen} - {kind.name for kind in models} == set(PRIMITIVES)
    assert all(kind.file.startswith("random_urdfs/") for kind in models)
    assert all(int(kind.name) % 2 == 0 for kind in models)


def test_unseen_kinds_limits_draw_kind() -> None:
    rng = np.random.default_rng(0)
    chosen = unseen_kinds(["mug", "duck"])
    assert [kind.name for kind in chosen] == ["mug", "duck"]
    assert {draw_kind(rng, seen=False, unseen=chosen) for _ in range(50)} == set(chosen)
    assert unseen_kinds([]) == UNSEEN
    with pytest.raises(GboptError, match=r"unknown kind 'cat': expected some of duck, teddy"):
        WorldConfig(kinds=("mug", "cat"))


def test_unseen_kinds_have_their_models(pybullet: None) -> None:
    data = pytest.importorskip("pybullet_data")
    assert [k.file for k in UNSEEN if not Path(data.getDataPath(), k.file).is_file()] == []


# ----------------------------------------------------------------- splits on disk, nothing rendered


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Stills without a simulator: grey, with one mask; gives the jobs asked for."""
    asked: list[Job] = []
    mask = np.zeros((1, HEIGHT, WIDTH), bool)
    mask[0, 10:20, 30:50] = True

    def paint(_: object, jobs: list[Job], processes: int) -> Iterator[Still]:
        for job in jobs:
            asked.append(job)
            grey = np.full((HEIGHT, WIDTH, 3), job.index % 256, np.uint8)
            shown = (Visible("mug", encode_all(mask)[0], (0.0, 0.0, 0.0)),)
            yield Still(cv2.imencode(".jpg", grey)[1].tobytes(), shown)

    monkeypatch.setattr(world, "run_parallel", paint)
    monkeypatch.setattr(world, "require_pybullet", lambda: None)
    return asked


def test_generate_writes_stills_as_a_coco_folder(tmp_path: Path, painted: list[Job]) -> None:
    generate(tmp_path, ["seen-val"], WorldConfig(seed=3, count=4, jpeg_quality=70))
    assert painted == [Job(3, "seen-val", True, i, jpeg_quality=70) for i in range(4)]
    data = load_coco_dir(tmp_path / "seen-val")
    assert [image.id for image in data.images] == [1, 2, 3, 4]
    assert [data.load_image(image)[0, 0, 0] for image in data.images] == [0, 1, 2, 3]
    assert all(areas(rles).tolist() == [200] for rles in data.rles_by_image.values())
    assert data.names_by_image == {number: ("mug",) for number in (1, 2, 3, 4)}


def test_generate_passes_kinds_to_the_scenes(tmp_path: Path, painted: list[Job]) -> None:
    generate(tmp_path, ["unseen-test"], WorldConfig(count=2, kinds=("mug",)))
    assert [job.kinds for job in painted] == [("mug",)] * 2


def test_generate_numbers_of_stills(tmp_path: Path, painted: list[Job]) -> None:
    assert SPLITS["seen-train"].count == 5000
    generate(tmp_path, ["validation", "unseen-test"], WorldConfig())
    validation = [job for job in painted if job.split == SPLITS["validation"].drawn_as]
    test = [job for job in painted if job.split == "unseen-test"]
    assert (len(validation), len(test)) == (SPLITS["validation"].count, SPLITS["unseen-test"].count)
    assert all(job.seen for job in validation)
    assert not any(job.seen for job in test)


def test_generate_samples_rehearsal_from_the_training_split(
    tmp_path: Path, painted: list[Job]
) -> None:
    generate(tmp_path / "a", ["rehearsal"], WorldConfig(seed=1))
    indices = [job.index for job in painted]
    assert {job.split for job in painted} == {"seen-train"}
    assert len(set(indices)) == len(indices) == SPLITS["rehearsal"].count
    assert indices == sorted(indices)
    assert 4000 < max(indices) < 5000
    painted.clear()
    generate(tmp_path / "b", ["rehearsal"], WorldConfig(seed=1))
    assert [job.index for job in painted] == indices
    painted.clear()
    generate(tmp_path / "c", ["rehearsal"], WorldConfig(seed=2))
    assert [job.index for job in painted] != indices


def test_generate_gives_a_split_its_name_when_it_is_complete(
    tmp_path: Path, painted: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        assert not (tmp_path / "seen-val").exists()
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(world, "write_coco", crash)
        with pytest.raises(Crash):
            generate(tmp_path, ["seen-val"], WorldConfig(count=2))
    assert list(tmp_path.iterdir()) == []
    generate(tmp_path, ["seen-val"], WorldConfig(count=2))
    assert [path.name for path in tmp_path.iterdir()] == ["seen-val"]


def test_generate_makes_a_split_with_usual_permissions(tmp_path: Path, painted: list[Job]) -> None:
    generate(tmp_path, ["seen-val"], WorldConfig(count=1))
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "seen-val").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_generate_keeps_existing_splits(tmp_path: Path, painted: list[Job]) -> None:
    generate(tmp_path, ["seen-val"], WorldConfig(count=1))
    before = files(tmp_path)
    with pytest.raises(GboptError, match="exists already"):
        generate(tmp_path, ["validation", "seen-val"], WorldConfig(count=2))
    assert files(tmp_path) == before
    assert len(painted) == 1


def test_generate_refuses_an_unknown_split(tmp_path: Path, painted: list[Job]) -> None:
    with pytest.raises(GboptError, match=r"unknown split 'seen'.*seen-train"):
        generate(tmp_path / "out", ["seen-val", "seen"], WorldConfig())
    assert list(tmp_path.iterdir()) == []


def test_generate_reports_an_unwritable_folder(tmp_path: Path, painted: list[Job]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GboptError, match="cannot be written"):
        generate(tmp_path / "file" / "out", ["seen-val"], WorldConfig(count=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"jobs": 0}, "jobs: expected 1 or more, got 0"),
        ({"count": 0}, "count"),
        ({"clips": 0}, "clips"),
        ({"frames_per_clip": -2}, "frames_per_clip"),
        ({"object_count": 1}, "object_count: expected 2 to 8, got 1"),
        ({"object_count": 9}, "object_count"),
        ({"first": -1}, "first: expected 0 or more, got -1"),
        ({"jpeg_quality": 0}, "jpeg_quality: expected 1 to 100, got 0"),
        ({"jpeg_quality": 101}, "jpeg_quality: expected 1 to 100, got 101"),
    ],
)
def test_world_config_refuses_numbers_out_of_range(changes: dict[str, int], words: str) -> None:
    with pytest.raises(GboptError, match=words):
        WorldConfig(**changes)


@pytest.mark.parametrize("package", ["pybullet", "pybullet_data"])
def test_generate_without_pybullet_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(GboptError, match=r"pip install '?gbopt_ros\[sim\]'?"):
        generate(tmp_path / "out", ["seen-val"], WorldConfig(count=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "splits", "expected"),
    [
        (["--jobs", "1"], list(SPLITS), WorldConfig()),
        (
            [
                "--splits=seen-val,seen-val",
                "--seed=5",
                "--jobs=2",
                "--count=3",
                "--clips=4",
                "--frames-per-clip=6",
                "--jpeg-quality=40",
                "--kinds=duck, soccer ball",
                "--environment",
            ],
            ["seen-val"],
            WorldConfig(5, 2, 3, 4, 6, 40, ("duck", "soccer ball"), True),
        ),
    ],
)
def test_world_verb_passes_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    splits: list[str],
    expected: WorldConfig,
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(world_verb, "generate", lambda *values: calls.append(values))
    parser = argparse.ArgumentParser()
    world_verb.add_arguments(parser)
    world_verb.run(parser.parse_args(["--out", "there", *arguments]))
    assert calls == [(Path("there"), splits, expected)]
    assert expected.jpeg_quality in (88, 40)


# --------------------------------------------------------------------------------------- rendering


@pytest.fixture(scope="module")
def in_this_process(pybullet: None) -> Iterator[None]:
    """Rendering without worker processes, each of which begins with 16 pictures of its own."""
    workers = lru_cache(rendering._Worker)

    def run(render: Callable[[Job], Any], jobs: list[Job], _: int) -> Iterator[Any]:
        patch.setattr(rendering, "_worker", workers(jobs[0].seed))
        return map(render, jobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "run_parallel", run)
        yield


@pytest.fixture(scope="module")
def stills(in_this_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    generate(out, ["unseen-test"], WorldConfig(count=3))
    return out / "unseen-test"


def assert_sound(data: CocoDataset) -> None:
    """Masks of one image do not overlap, and each is large enough to be seen."""
    for image in data.images:
        assert (image.height, image.width) == (HEIGHT, WIDTH)
        rles = data.rles_by_image[image.id]
        masks = decode_all(rles, (HEIGHT, WIDTH))
        assert masks.sum(axis=0).max(initial=0) <= 1
        assert (areas(rles) >= MIN_VISIBLE_PIXELS).all()


def test_generate_labels_stills(stills: Path) -> None:
    data = load_coco_dir(stills)
    assert_sound(data)
    assert all(len(rles) >= 2 for rles in data.rles_by_image.values())
    kinds = {kind.name for kind in UNSEEN}
    assert data.names_by_image.keys() == data.rles_by_image.keys()
    assert all(set(names) <= kinds for names in data.names_by_image.values())
    images = [data.load_image(image) for image in data.images]
    assert all(image.std() > 5 for image in images)
    assert not np.array_equal(images[0], images[1])


def test_scene_render_names_masks_after_their_objects(pybullet: None) -> None:
    """Where an object is taken away, its name is gone, and the others keep their masks."""
    sim, rng = Simulator(), np.random.default_rng(1)
    scene = Scene(sim, rng, seen=False, settle_s=0, environment=Environment(7))

    def shown() -> dict[str, np.ndarray]:
        _, visible = scene.render(scene.camera, rng)
        masks = decode_all([each.rle for each in visible], (HEIGHT, WIDTH))
        return {each.name: mask for each, mask in zip(visible, masks, strict=True)}

    before = shown()
    assert len(before) >= 3
    for taken in [body for body in scene.bodies if body.name in before]:
        place, pose = sim.bullet.getBasePositionAndOrientation(taken.body)
        sim.bullet.resetBasePositionAndOrientation(taken.body, (0, 0, -50), pose)
        after = shown()
        sim.bullet.resetBasePositionAndOrientation(taken.body, place, pose)
        assert before.keys() - after.keys() == {taken.name}
        for name in before.keys() & after.keys():  # nothing but pixels at an edge may go
            assert (before[name] & ~after[name]).sum() < 0.05 * before[name].sum()


def test_generate_environment_shows_its_recurring_objects(stills: Path, tmp_path: Path) -> None:
    generate(tmp_path, ["unseen-test", "seen-val"], WorldConfig(count=1, environment=True))
    data = load_coco_dir(tmp_path / "unseen-test")
    assert_sound(data)
    appearances = [Environment(0).object(number) for number in range(ENVIRONMENT_OBJECTS)]
    known = [f"{draw_kind(each, seen=False).name} {i}" for i, each in enumerate(appearances)]
    (names,) = data.names_by_image.values()
    assert len(set(names)) == len(names) >= 2
    assert set(names) <= set(known)
    generate(tmp_path / "none", ["seen-val"], WorldConfig(count=1))
    assert files(tmp_path / "seen-val") == files(tmp_path / "none" / "seen-val")
    first = "images/000000.jpg"
    assert (tmp_path / "unseen-test" / first).read_bytes() != (stills / first).read_bytes()


def test_environment_objects_and_tables_recur_in_scenes(pybullet: None) -> None:
    def known(environment: Environment) -> set[tuple[str, float]]:
        """Kind and size of the recurring objects."""
        objects = set()
        for number in range(environment.object_count):
            appearance = environment.object(number)
            kind = draw_kind(appearance, seen=False)
            objects.add((kind.name, float(appearance.uniform(*kind.target))))
        return objects

    def shown(seed: int, environment: Environment) -> set[tuple[str, float]]:
        scene = Scene(
            sim, np.random.default_rng(seed), seen=False, settle_s=0, environment=environment
        )
        tables.add(float(scene._table.texture.sum()))
        objects = {(body.kind.name, body.size) for body in scene.bodies}
        assert len(objects) == len(scene.bodies)
        return objects

    sim, tables = Simulator(), set[float]()
    all_shown = set().union(*(shown(seed, Environment(7)) for seed in range(8)))
    assert all_shown <= known(Environment(7))
    assert len(all_shown) > ENVIRONMENT_OBJECTS / 2
    assert len(tables) <= ENVIRONMENT_TABLES
    few = Environment(7, object_count=2)
    for seed in range(4):
        assert shown(seed, few) <= known(few)


def test_generate_first_selects_other_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[Job] = []

    def clips(_: object, jobs: list[Job], __: int) -> list[VideoClip]:
        rendered.extend(jobs)
        return [VideoClip((np.zeros((240, 320, 3), np.uint8),), ((),))] * len(jobs)

    monkeypatch.setattr(world, "run_parallel", clips)
    for first in (0, 2):
        config = WorldConfig(
            clips=2, frames_per_clip=1, environment=True, object_count=4, first=first
        )
        generate(tmp_path / str(first), ["unseen-train"], config)
    assert [(job.index, job.object_count) for job in rendered] == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_generate_does_not_depend_on_the_number_of_processes(
    stills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "run_parallel", rendering.run_parallel)
    generate(tmp_path, ["unseen-test"], WorldConfig(count=3, jobs=2))
    assert files(tmp_path / "unseen-test") == files(stills)


def test_render_still_depends_on_seed_and_quality(stills: Path) -> None:
    jobs = [
        Job(0, "unseen-test", False, 2, jpeg_quality=30),
        Job(0, "unseen-test", False, 2),  # another scene was rendered before
    ]
    rough, fine = world.run_parallel(render_still, jobs, 1)
    assert fine.jpeg == (stills / "images" / "000002.jpg").read_bytes()
    assert len(rough.jpeg) < 0.7 * len(fine.jpeg)
    assert rough.objects == fine.objects


@pytest.fixture(scope="module")
def video(in_this_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    generate(out, ["unseen-train"], WorldConfig(clips=2, frames_per_clip=3, jpeg_quality=50))
    return out / "unseen-train"


def test_generate_gives_recording_and_labels_the_same_stamps(video: Path) -> None:
    data = load_coco(video / "annotations.json")
    assert_sound(data)
    frames = list(open_source(video / "recording"))
    assert [f.stamp_ns for f in frames] == [image.extra["stamp_ns"] for image in data.images]
    assert [f.index for f in frames] == [image.extra["frame_index"] for image in data.images]
    assert {f.size for f in frames} == {(HEIGHT, WIDTH)}
    gaps = np.diff([f.stamp_ns for f in frames])
    assert gaps.tolist() == [10**8, 10**8, 5 * 10**9, 10**8, 10**8]
    assert sorted(path.name for path in video.iterdir()) == ["annotations.json", "recording"]


def test_generate_moves_clips_and_changes_scenes(video: Path) -> None:
    frames = [frame.image.astype(int) for frame in open_source(video / "recording")]
    within = [np.abs(frames[i + 1] - frames[i]).mean() for i in (0, 1, 3, 4)]
    assert max(within) < np.abs(frames[3] - frames[2]).mean()
    assert max(within) > 0
