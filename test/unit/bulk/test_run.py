"""A run gives the masks of `gbopt replay`, whatever fails or ends on the way."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from support.bulk import InlineWorkers, masks_of, save_networks
from support.recordings import noise_frames, write_images

from gbopt_ros import pipeline
from gbopt_ros.bulk.recordings import Recording
from gbopt_ros.bulk.run import BulkRun, Outcome
from gbopt_ros.bulk.shards import PlanTask, ShardTask, ShardWorker, read_report
from gbopt_ros.cli.main import main
from gbopt_ros.cli.options import add_config_arguments, config_from_args
from gbopt_ros.config import Config
from gbopt_ros.io.locks import try_lock, unlock
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.sources.base import SourceOptions
from gbopt_ros.structures import GboptError

SMALL, WIDE = (32, 32), (32, 40)
OVERLAP = "--set=clip.overlap=1"


@pytest.fixture(scope="module", autouse=True)
def networks_are_loaded_once(small_networks: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_proposal_network", "load_background_network"):
            patch.setattr(pipeline, name, lru_cache(getattr(pipeline, name)))
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*save_networks(tmp_path_factory.mktemp("weights")), OVERLAP]


@pytest.fixture(scope="module")
def config(options: list[str]) -> Config:
    parser = argparse.ArgumentParser()
    add_config_arguments(parser, weights=True)
    return config_from_args(parser.parse_args(options))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bag in SQLite, and images of which one is broken and some have another size."""
    root = tmp_path_factory.mktemp("recordings")
    write_rosbag(noise_frames(9, SMALL), root / "bag", topic="/image", storage="sqlite3")
    odd = noise_frames(11, SMALL, seed=1)
    odd[7:9] = [replace(f, index=f.index + 7) for f in noise_frames(2, WIDE, seed=2)]
    write_images(root / "odd", odd)
    (root / "odd" / "1.png").write_bytes(b"")
    return {name: root / name for name in ("bag", "odd")}


@pytest.fixture(scope="module")
def serial(
    tmp_path_factory: pytest.TempPathFactory, recordings: dict[str, Path], options: list[str]
) -> Path:
    """What `gbopt replay` gives, a folder a recording."""
    root = tmp_path_factory.mktemp("serial")
    for name, path in recordings.items():
        assert main(["replay", str(path), f"--out={root / name}", *options]) == 0
    return root


Run = Callable[..., tuple[Outcome, InlineWorkers]]


@pytest.fixture
def run(tmp_path: Path, recordings: dict[str, Path], config: Config) -> Run:
    """Runs both recordings, or those that are given, into one folder."""

    def start(
        named: dict[str, Path] = recordings,
        overlay: bool = False,
        frames: bool = True,
        **how: object,
    ) -> tuple[Outcome, InlineWorkers]:
        found = [Recording(name, path, SourceOptions()) for name, path in named.items()]
        worker = ShardWorker(config, frames, False, Path.cwd())
        workers = InlineWorkers(worker, **how)  # type: ignore[arg-type]
        bulk = BulkRun(found, tmp_path / "out", config, {}, shard_frames=3)
        try:
            return bulk.run(lambda: workers), workers
        finally:
            worker._leave_recording()

    return start


def shards_of(workers: InlineWorkers) -> list[tuple[str, int, int]]:
    return [
        (task.recording.name, task.shard.first, task.shard.last)
        for _, task in workers.tasks
        if isinstance(task, ShardTask)
    ]


def assert_serial(out: Path, serial: Path) -> None:
    for name in ("bag", "odd"):
        found = masks_of(out / "selected.json", name)
        assert any(masks for _, _, masks in found)
        assert found == masks_of(serial / name / "selected.json", name)
        for _, image, _ in found:
            jpeg = next((out / "frames" / name).glob(f"*/frames/{image['frame_index']:06d}.jpg"))
            own = serial / name / "frames" / jpeg.name
            assert jpeg.read_bytes() == own.read_bytes()


def test_run_gives_the_masks_of_replay_and_then_has_nothing_to_do(
    run: Run, serial: Path, tmp_path: Path
) -> None:
    outcome, workers = run()
    assert_serial(tmp_path / "out", serial)
    assert (outcome.failures, outcome.recordings) == ((), 2)
    counts = [len(masks) for name in ("bag", "odd")
              for _, _, masks in masks_of(serial / name / "selected.json", name)]  # fmt: skip
    assert (outcome.frames, outcome.masks) == (9 + 10, sum(counts))
    # All are planned first; then a worker goes on with its recording.
    kinds = [type(task) for _, task in workers.tasks]
    assert kinds[:2] == [PlanTask, PlanTask] and PlanTask not in kinds[2:]
    begun_by = {(number, task.recording.name) for number, task in workers.tasks[2:6]}
    assert len(begun_by) == 2
    # Shards after the broken image and at the other size are cut anew, no other.
    begun = shards_of(workers)
    assert len(begun) == len(set(begun))
    assert [shard for shard in begun if shard[0] == "bag"] == [
        ("bag", 0, 2), ("bag", 2, 6), ("bag", 6, 8),
    ]  # fmt: skip
    held = sorted(path.name for path in (tmp_path / "out/frames/odd").iterdir())
    again, workers = run()
    assert workers.tasks == [] and again.selected_frames == 0
    assert (again.frames, again.masks) == (outcome.frames, outcome.masks)
    assert sorted(path.name for path in (tmp_path / "out/frames/odd").iterdir()) == held
    assert_serial(tmp_path / "out", serial)


def test_run_tries_a_shard_again_whose_worker_ended(run: Run, serial: Path, tmp_path: Path) -> None:
    ended: set[object] = set()

    def end_once(task: object) -> str:
        first = task not in ended
        ended.add(task)
        return "it was ended" if first else ""

    outcome, _ = run(before=end_once)
    assert outcome.failures == ()
    assert_serial(tmp_path / "out", serial)


def test_run_goes_on_without_what_fails_and_does_it_the_next_time(
    run: Run, serial: Path, tmp_path: Path, recordings: dict[str, Path]
) -> None:
    def end(task: object) -> str:
        is_second = isinstance(task, ShardTask) and task.shard.first == 2
        return "it was ended" if is_second and task.recording.name == "bag" else ""

    bad = tmp_path / "bad"
    write_rosbag(noise_frames(4, SMALL), bad, topic="/image")
    (storage,) = bad.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[: 2 * 32 * 32 * 3])
    outcome, _ = run({**recordings, "bad": bad, "gone": tmp_path / "gone"}, before=end)
    bag, broken, gone = outcome.failures
    assert bag == "bag, from frame 2: it was ended"
    assert broken.startswith(f"bad: {bad}") and "damage" in broken
    assert gone == f"gone: {tmp_path / 'gone'}: cannot be read (No such file or directory)"
    assert outcome.table().splitlines()[-3:] == [f"failed: {line}" for line in outcome.failures]
    held = masks_of(tmp_path / "out/selected.json", "bag")
    assert [image["frame_index"] for _, image, _ in held] == [0, 1, 2, 7, 8]
    outcome, workers = run()
    assert outcome.failures == () and shards_of(workers) == [("bag", 2, 6)]
    assert_serial(tmp_path / "out", serial)


def test_run_without_frames_and_overlay(
    run: Run, serial: Path, tmp_path: Path, recordings: dict[str, Path]
) -> None:
    run({"bag": recordings["bag"]}, frames=False)
    assert list((tmp_path / "out").rglob("*.jpg")) == []
    assert list((tmp_path / "out").rglob("*.mp4")) == []
    found = masks_of(tmp_path / "out/selected.json", "bag")
    assert found == masks_of(serial / "bag/selected.json", "bag")


def test_run_of_networks_that_cannot_be_loaded_stops_at_once(
    recordings: dict[str, Path], config: Config, tmp_path: Path
) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    proposal = replace(config.proposal, weights=str(tmp_path / "bad.safetensors"))
    config = replace(config, proposal=proposal)
    workers = InlineWorkers(ShardWorker(config, True, True, Path.cwd()))
    bulk = BulkRun(
        [Recording("bag", recordings["bag"], SourceOptions())], tmp_path / "out", config, {}
    )
    with pytest.raises(GboptError, match=r"the networks cannot be loaded: .*bad\.safetensors"):
        bulk.run(lambda: workers)
    assert len(shards_of(workers)) == 1


def test_run_refuses_a_folder_that_another_process_writes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    lock = try_lock(tmp_path / "out")
    assert lock is not None
    try:
        with pytest.raises(GboptError, match="out: another process is writing it; wait"):
            run()
    finally:
        unlock(lock)


def test_read_report_refuses_a_damaged_report(tmp_path: Path) -> None:
    report = {"counts": {"frames": 1, "masks": 0}, "skipped": ["x"], "sizes": []}
    (tmp_path / "run.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(GboptError, match=r"run\.json: skipped: '0': expected a whole number"):
        read_report(tmp_path)
