"""The demo on a recording of the user's own: its plan, its size, its sentences."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.recordings import noise_frames, write_images

from gbopt_ros.config import Config, LearningConfig, ProposalConfig, SelectionConfig
from gbopt_ros.demo import own_report
from gbopt_ros.demo.duration import Speed, expected_seconds, in_words
from gbopt_ros.demo.own_recording import OwnRecording, too_short
from gbopt_ros.demo.own_report import changed_settings, describe_outcome
from gbopt_ros.io.sources.base import SourceOptions
from gbopt_ros.perception.load import proposal_weights

RESULTS: dict[str, Any] = {
    "rounds": [
        {
            "masks": 50,
            "masks_learnt": 40,
            "gate": {"passed": True, "reason": "seen AP 58.00 against 58.20"},
        }
    ],
    "counts": {"frames": 30, "masks": {"before": 50, "after": 60}},
    "found_new": {"masks": 17, "frames": 12, "lost_masks": 7, "lost_frames": 5},
    "seen": {"before": {"AP": 58.25}, "after": {"AP": 58.06}},
    "ap_change": {"seen": {"difference": -0.2, "standard_error": 0.3}},
    "shortage": "",
    "planned_rounds": 2,
}


def test_expected_seconds_adds_up() -> None:
    data: Any = SimpleNamespace(seen=range(100), validation=range(50))
    config = Config(learning=LearningConfig(iterations=10, batch_size=4))
    seconds = expected_seconds(Speed(frame=2.0, still=0.1), 30, data, config, rounds=2)
    selecting, training = 3 * 30 * 2.0, 2 * 10 * 4 * 1.7 * 0.1
    looking_alike, measuring, gate = 2 * 30 * 0.1, 2 * 100 * 0.1, 5 * 50 * 0.1
    assert seconds == pytest.approx(selecting + training + looking_alike + measuring + gate)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(20, "about a minute"), (400, "about 7 minutes"), (7000, "about 1.9 hours")],
)
def test_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((36, 64), None, (36, 64)),
        ((720, 1280), None, (360, 640)),
        ((900, 600), None, (640, 427)),
        ((720, 1280), (320, 180), (180, 320)),
    ],
)
def test_own_recording_scales_large_frames(
    size: tuple[int, int],
    resize: tuple[int, int] | None,
    expected: tuple[int, int],
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "images", noise_frames(2, size))
    recording = OwnRecording(tmp_path / "images", options=SourceOptions(resize=resize))
    assert [frame.size for frame in recording.open(clip_length=5)] == [expected] * 2


def test_own_recording_takes_whole_clips(tmp_path: Path) -> None:
    write_images(tmp_path / "images", noise_frames(10))
    source = OwnRecording(tmp_path / "images", frames=4).open(clip_length=2)
    assert [frame.index for frame in source] == [0, 1, 8, 9]


def test_too_short(tmp_path: Path) -> None:
    write_images(tmp_path / "images", noise_frames(2))
    source = OwnRecording(tmp_path / "images").open(clip_length=5)
    assert too_short(source, Config()) == "2 frames are too few to learn from, every step takes 4"
    assert too_short(source, Config(learning=LearningConfig(batch_size=4))) == ""


def test_describe_outcome_tells_what_changed() -> None:
    first, seen, _, round_1, round_2 = describe_outcome(RESULTS)
    assert first == (
        "In 30 frames without a label, the network selected 50 masks before it learnt from them, "
        "and 60 after. New: 17, in 12 frames. Gone: 7."
    )
    assert seen == (
        "On labelled images of seen classes, mask AP went from 58.2 to 58.1: -0.2 ± 0.3 "
        "(± standard error)."
    )
    assert round_1 == (
        "Round 1: 50 masks selected, 40 learnt. Gate: passed; seen AP 58.00 against 58.20."
    )
    assert round_2 == "Round 2: no mask was selected, nothing was learnt."
    assert len(describe_outcome(RESULTS | {"planned_rounds": 1})) == 4


@pytest.mark.parametrize(
    ("shortage", "rounds", "reason"),
    [
        ("no mask was selected", [], "no mask was selected"),
        (
            "",
            [{"masks": 50, "masks_learnt": None, "gate": {"passed": False, "reason": "forgot"}}],
            "the gate refused what was learnt",
        ),
    ],
)
def test_describe_outcome_tells_that_nothing_was_learnt(
    shortage: str, rounds: list[dict[str, Any]], reason: str
) -> None:
    counts = {"frames": 30, "masks": {"before": 50}}
    nothing = {"found_new": None, "shortage": shortage, "rounds": rounds, "counts": counts}
    first, *others = describe_outcome(RESULTS | nothing)
    assert first == (
        f"Nothing was learnt: {reason}. As it is, the network selects 50 masks in 30 frames."
    )
    assert len(others) == len(rounds)


def test_describe_outcome_tells_whether_a_student_may_serve() -> None:
    teacher = {"passed": False, "reason": "saves 80 % of the energy"}
    rounds = [RESULTS["rounds"][0] | {"teacher": teacher}]
    *_, last = describe_outcome(RESULTS | {"rounds": rounds, "planned_rounds": 1})
    assert last == "It may not serve in place of its teacher: saves 80 % of the energy."


def test_model_card_says_whose_licence_holds(tmp_path: Path) -> None:
    outcome: Any = SimpleNamespace(learnt=None)
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"")
    card = own_report._model_card(Config(), outcome, RESULTS)
    assert card["learnt"] == "nothing"
    notice = proposal_weights(Config()).with_name("NOTICE")
    assert card["licence"] == (
        "Apache-2.0; what it was trained on: demo/weights/NOTICE of gbopt_ros"
    )
    assert notice.is_file()
    own = replace(Config(), proposal=ProposalConfig(weights=str(mine)))
    card = own_report._model_card(own, outcome, RESULTS)
    assert card["licence"] == "that of the seed network: ask its publisher"
    assert card["its SHA-256"] == hashlib.sha256(b"").hexdigest()


def test_changed_settings() -> None:
    assert changed_settings(Config()) == {}
    config = Config(selection=SelectionConfig(k=5))
    config = replace(config, proposal=replace(config.proposal, weights="mine.safetensors"))
    assert changed_settings(config) == {"proposal.weights": "mine.safetensors", "selection.k": 5}
