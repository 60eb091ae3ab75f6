"""The demo on its own: the masks that it measures, and the folders that it may replace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.fakes import make_proposals
from support.scenes import SQUARE_SIZE, SquareNetworks, square_frames

from gbopt_ros.config import ClipConfig, Config, SelectionConfig
from gbopt_ros.demo.rounds import Replayed
from gbopt_ros.demo.run import prepare
from gbopt_ros.io.selection_format import SelectionWriter, read_selection
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import GboptError


def test_replayed_holds_the_masks_that_the_replay_writes(tmp_path: Path) -> None:
    """A frame that two clips share keeps the decision of the first, here that of nothing."""
    networks = SquareNetworks()
    pipeline = Pipeline(
        Config(clip=ClipConfig(length=4, overlap=2), selection=SelectionConfig(score_weight=0.0)),
        proposal_network=networks,
        background_network=networks,
        flow_network=DisFlow(),
    )
    replayed = Replayed()
    with SelectionWriter(tmp_path / "replay", "square") as writer:
        for clip in pipeline.clips(square_frames(6)):
            cues = pipeline.perceive(clip)
            if clip.clip_id == 0:
                cues.proposals[3] = make_proposals(np.zeros((0, *SQUARE_SIZE), bool))
            selection = pipeline.select(clip, cues)
            writer.add(selection)
            replayed.add(selection, cues)
        writer.finish()
    written = {frame.frame_index: frame.rles for frame in read_selection(tmp_path / "replay")}
    assert written[3] == () != written[5]
    assert replayed.selected == written
    assert len(replayed.proposals[3]) == 0


@pytest.mark.parametrize("beside", ["replay-1/selected.json", "results.json", "overlay.mp4"])
def test_demo_prepare_replaces_nothing_but_a_demo(tmp_path: Path, beside: str) -> None:
    """`gbopt demo --out .` where `gbopt replay --out replay-1` has run must not empty it."""
    own = tmp_path / "thesis" / "draft.txt"
    for path in (own, tmp_path / beside):
        path.parent.mkdir(exist_ok=True)
        path.write_text("of the user")
    with pytest.raises(GboptError, match="something else than a demo"):
        prepare(tmp_path)
    assert own.is_file() and (tmp_path / beside).is_file()


def test_demo_prepare_leaves_a_replay_of_the_users_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "replay-1").mkdir(parents=True)
    with pytest.raises(GboptError, match="something else than a demo"):
        prepare(out)
    assert (out / "replay-1").is_dir()


@pytest.mark.parametrize("left", ["replay-1/frames", ".replay-1.broken-off/frames"])
def test_demo_prepare_starts_a_demo_again_that_was_ended(tmp_path: Path, left: str) -> None:
    out = tmp_path / "out"
    prepare(out)
    (out / left).mkdir(parents=True)
    prepare(out)
    assert not (out / left).exists()
    (out / "again").mkdir()  # the user's own
    with pytest.raises(GboptError, match="something else than a demo"):
        prepare(out)
