"""Frames and clips are complete when all of their topics are there, in whatever order."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from gbopt_ros.msg import ClipFrames
from gbopt_ros.nodes.assembly import AssembledClip, ClipAssembly
from gbopt_ros.nodes.messages import Stamped, VersionedProposals, make_header, make_time, stamp_ns
from gbopt_ros.structures import Proposals

SIZE = (4, 6)


class Assembled:
    """An assembly, and what it called back with: ("ready", clip, stamps) and the like."""

    def __init__(self, capacity: int = 50) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.clips: list[AssembledClip] = []
        self.assembly = ClipAssembly(self._ready, self._finished, self._lost, capacity)

    def image(self, stamp: int) -> None:
        value = np.full((*SIZE, 3), stamp % 256, np.uint8)
        self.assembly.add_image(Stamped(make_header(stamp, "camera"), value))

    def proposals(self, stamp: int) -> None:
        none = Proposals(SIZE, (), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
        value = VersionedProposals(none, f"v{stamp}")
        self.assembly.add_proposals(Stamped(make_header(stamp, "camera"), value))

    def background(self, stamp: int) -> None:
        value = np.full(SIZE, stamp, np.float32)
        self.assembly.add_background(Stamped(make_header(stamp, "camera"), value))

    def flow(self, stamp: int) -> None:
        value = np.full((*SIZE, 2), stamp, np.float32)
        self.assembly.add_flow(Stamped(make_header(stamp, "camera"), value))

    def frame(self, stamp: int, last: int | None = None) -> None:
        """A frame, and the flow to it from the last one."""
        self.image(stamp)
        self.proposals(stamp)
        self.background(stamp)
        if last is not None:
            self.flow(last)

    def announce(self, clip_id: int, stamps: Sequence[int], *, partial: bool = False) -> None:
        message = ClipFrames(
            clip_id=clip_id,
            stamps=[make_time(stamp) for stamp in stamps],
            frame_indices=list(stamps),
            header=make_header(stamps[-1], "camera"),
        )
        (self.assembly.add_partial_clip if partial else self.assembly.add_clip)(message)

    def _ready(self, clip: AssembledClip) -> None:
        self.clips.append(clip)
        stamps = [frame.stamp_ns for frame in clip.clip.frames]
        self.calls.append(("whole" if clip.is_whole else "partial", clip.clip.clip_id, stamps))

    def _finished(self, header: Any) -> None:
        self.calls.append(("finished", stamp_ns(header.stamp)))

    def _lost(self, message: Any) -> None:
        self.calls.append(("lost", message.clip_id))


@pytest.mark.parametrize("seed", range(8))
def test_clip_assembly_takes_topics_in_any_order(seed: int) -> None:
    """Each topic keeps its own order, as they do over DDS."""
    made = Assembled()
    topics = [[(add, stamp) for stamp in (1, 2, 3, 4)] for add in ("image", "proposals")]
    topics += [[("background", s) for s in (1, 2, 3, 4)], [("flow", s) for s in (1, 2, 3)]]
    turns = [i for i, topic in enumerate(topics) for _ in topic]
    random.Random(seed).shuffle(turns)
    made.announce(0, [1, 2])
    made.announce(1, [3, 4])
    rest = [iter(topic) for topic in topics]
    for turn in turns:
        add, stamp = next(rest[turn])
        getattr(made, add)(stamp)
    assert [call for call in made.calls if call[0] != "finished"] == [
        ("whole", 0, [1, 2]),
        ("whole", 1, [3, 4]),
    ]
    assert {call[1] for call in made.calls if call[0] == "finished"} == {1, 3}
    first = made.clips[0]
    assert [frame.image[0, 0, 0] for frame in first.clip.frames] == [1, 2]
    assert [background[0, 0] for background in first.cues.backgrounds] == [1, 2]
    assert [flow[0, 0, 0] for flow in first.cues.flows] == [1]
    assert first.versions == ["v1", "v2"]


def test_clip_assembly_finishes_a_frame_with_its_flow() -> None:
    made = Assembled()
    made.frame(1)
    made.frame(2)
    assert made.calls == [("finished", 1)]
    made.flow(1)
    assert made.calls == [("finished", 1), ("finished", 2)]


def test_clip_assembly_gives_partial_clips() -> None:
    made = Assembled()
    made.announce(0, [1], partial=True)
    made.frame(1)
    made.announce(0, [1, 2], partial=True)
    made.frame(2, last=1)
    made.announce(0, [1, 2, 3])
    made.frame(3, last=2)
    assert made.calls == [("partial", 0, [1]), ("partial", 0, [1, 2]), ("whole", 0, [1, 2, 3])]


def test_clip_assembly_shares_frames_of_overlapping_clips() -> None:
    made = Assembled()
    made.announce(0, [1, 2])
    made.frame(1)
    made.frame(2, last=1)
    made.announce(1, [2, 3])
    made.frame(3, last=2)
    assert made.calls[1:] == [("whole", 0, [1, 2]), ("whole", 1, [2, 3])]
    assert len(made.assembly) == 2


def test_clip_assembly_loses_a_clip_before_a_complete_one() -> None:
    made = Assembled()
    made.announce(0, [1])
    made.announce(1, [2])
    made.image(1)
    made.proposals(1)  # and no background
    made.frame(2, last=1)
    made.announce(2, [3])
    made.flow(2)
    made.frame(3)
    assert made.calls == [("lost", 0), ("whole", 1, [2]), ("whole", 2, [3])]


def test_clip_assembly_takes_another_frame_of_the_same_stamp() -> None:
    made = Assembled()
    made.announce(0, [1])
    made.frame(1)
    made.announce(1, [1])
    assert made.calls == [("whole", 0, [1])]  # the frame of clip 1 is on its way
    made.frame(1)
    assert made.calls[1:] == [("whole", 1, [1])]


def test_clip_assembly_holds_at_most_its_capacity_and_clears() -> None:
    made = Assembled(capacity=3)
    for stamp in range(10):
        made.frame(stamp, last=stamp - 1 if stamp else None)
    assert len(made.assembly) == 3
    made.announce(0, [8, 9])
    assert made.calls[-1] == ("whole", 0, [8, 9])
    made.assembly.clear()
    assert len(made.assembly) == 0
    made.announce(1, [8, 9])
    assert made.calls[-1] == ("whole", 0, [8, 9])


def test_give_up_loses_a_clip_that_was_overtaken() -> None:
    """While frames are finished it is waited for, but not for ever."""
    made = Assembled()
    made.announce(7, [1])
    time.sleep(0.3)
    for stamp in (2, 3, 4):
        made.frame(stamp, last=stamp - 1)
    made.assembly.give_up(patience_s=0.25, overtaken_by=3)
    assert ("lost", 7) not in made.calls
    made.frame(5, last=4)
    made.assembly.give_up(patience_s=60.0, overtaken_by=3)
    assert ("lost", 7) not in made.calls
    made.assembly.give_up(patience_s=0.25, overtaken_by=3)
    assert made.calls[-1] == ("lost", 7)


def test_give_up_loses_a_clip_if_nothing_is_finished_any_more() -> None:
    made = Assembled()
    made.frame(2)
    made.announce(7, [1])
    made.assembly.give_up(patience_s=0.3, overtaken_by=3)
    assert made.calls == [("finished", 2)]
    time.sleep(0.35)
    made.assembly.give_up(patience_s=0.3, overtaken_by=3)
    assert made.calls == [("finished", 2), ("lost", 7)]
