"""The short form of the system tests of kills, full disks and two writers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.full_disk import on_small_disk
from support.kills import VERBS, Kills
from support.two_writers import second_writers
from support.verbs import PATIENCE_S, Bench, Runner, hidden, make_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))


def test_command_that_is_killed_loses_nothing(tmp_path: Path, bench: Bench) -> None:
    kills = Kills(tmp_path, bench, seed=0)
    for verb in VERBS:
        kills.kill(verb, 0)
    assert kills.counts.total() > 0


def test_second_writer_is_told_who_holds_the_store(tmp_path: Path, bench: Bench) -> None:
    for line in second_writers(tmp_path, bench).values():
        assert "gbopt learn is under way in process" in line
        assert line.endswith("; wait until it is done, or stop it")


def test_commands_on_a_full_disk_lose_nothing(tmp_path: Path, bench: Bench) -> None:
    assert on_small_disk(tmp_path, bench, tries=1, seed=0) > 0


@pytest.mark.parametrize("resume", [False, True])
def test_replay_that_is_terminated_cleans_up_or_keeps_what_is_done(
    tmp_path: Path, bench: Bench, resume: bool
) -> None:
    """As after Ctrl-C; with --resume, the next run goes on."""
    runner, out = Runner(tmp_path, bench), tmp_path / "results" / "out"
    out.parent.mkdir()
    arguments = bench.replay(out, *(["--resume"] if resume else []))
    with runner.start(arguments) as (process, log):
        deadline = time.monotonic() + PATIENCE_S
        while not any("clip_id" in j.read_text() for j in out.parent.glob(".out.*/journal")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join(PATIENCE_S)
        assert process.exitcode == 143
    assert "gbopt: terminated" in log.read_text()
    assert bool(hidden(out.parent)) == resume
    if resume:
        told = runner.check(arguments).told
        assert "goes on after" in told and hidden(out.parent) == []
