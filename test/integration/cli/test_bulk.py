"""`gbopt bulk` in processes: the masks of `gbopt replay`, killed or not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bulk import children, masks_of, save_networks
from support.forks import ForkedProgram
from support.recordings import noise_frames

from gbopt_ros.cli.main import main
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.selection_format import read_selection

SMALL = (32, 32)
BAGS, FRAMES = ("a", "b", "c"), 12
PATIENCE_S = 120.0

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="there is no /proc")


def bulk(folder: Path, out: Path, options: list[str]) -> list[str]:
    return ["bulk", str(folder), f"--out={out}", "--workers=2", "--shard-frames=3", *options]


def wait_for(condition: Callable[[], bool], process: ForkedProgram) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.wait(0.02) is None and time.monotonic() < deadline


@needs_proc
def test_bulk_that_was_killed_does_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker is killed, then the command itself; the next one finishes, but for a bad bag."""
    options, bags, out = save_networks(tmp_path), tmp_path / "bags", tmp_path / "out"
    for seed, name in enumerate(BAGS):
        write_rosbag(noise_frames(FRAMES, SMALL, seed=seed), bags / name, topic="/image")
    (bags / "bad.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(99))

    def done() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.glob("frames/*/*/run.json")}

    process = ForkedProgram("gbopt_ros.cli", bulk(bags, out, options))
    try:
        wait_for(lambda: len(done()) >= 1, process)
        before = {*children(process.pid)}
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: killed not in {*children(process.pid)}, process)
        wait_for(lambda: len(done()) >= 3, process)
        workers = [*children(process.pid)]
    finally:
        process.kill()
    for worker in workers:  # they end with the command
        deadline = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{worker}").exists()
    kept = done()
    assert 3 <= len(kept) < len(BAGS) * FRAMES // 3
    assert not (out / "selected.json").exists()

    assert main([*bulk(bags, out, options), "--workers=1"]) == 1
    shown = capsys.readouterr()
    assert "gbopt: error: failures: 1, listed above and in" in shown.err
    assert "failed: bad: " in shown.out and "bad.mcap" in shown.out
    assert f"{'frames':16} {len(BAGS) * FRAMES:>12}" in shown.out.splitlines()
    assert len(done()) == len(BAGS) * FRAMES // 3
    assert {path: done()[path] for path in kept} == kept
    assert [path for path in out.rglob(".*")] == []
    for name in BAGS:
        replayed = tmp_path / f"replay-{name}"
        assert main(["replay", str(bags / name), f"--out={replayed}", *options]) == 0
        expected = masks_of(replayed / "selected.json", name)
        assert masks_of(out / "selected.json", name) == expected
        assert any(masks for _, _, masks in expected)
    frames = list(read_selection(out))
    assert len({frame.clip_id for frame in frames}) == len(BAGS) * FRAMES // 3
    assert {frame.recording for frame in frames} == {f"out/{name}" for name in BAGS}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out=out"], "nowhere: no such file or folder"),
        ([".", "--out=out"], "no recording in it: expected rosbag2 folders"),
        (["images", "--out=images/0.png/x"], "cannot be made a folder"),
        (["images", "--out=images"], "images: holds something else than a bulk run"),
        (["images", "--out=replay"], "replay: holds something else than a bulk run"),
    ],
)
def test_bulk_refuses(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay" / "run.json").write_text('{"recording": "a"}')
    if arguments[0] == "images":
        (tmp_path / "images" / "0.png").touch()
    assert main(["bulk", *arguments]) == 1
    assert message in capsys.readouterr().err
