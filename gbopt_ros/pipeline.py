"""The whole flow from frames to clips to selections; `rounds` goes on from there.

Replays, the demo, benchmarks and the ROS nodes all call this module, so they agree mask for mask.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.config import Config, ProposalConfig
from gbopt_ros.evaluation.coco_metrics import AP_DETECTIONS
from gbopt_ros.perception.background import FpnBackground
from gbopt_ros.perception.catalogue import find_weights
from gbopt_ros.perception.device import has_idle_core, resolve_device
from gbopt_ros.perception.ensemble import load_proposals
from gbopt_ros.perception.flow import finer, make_flow
from gbopt_ros.perception.motion import clip_with_motion, last_with_motion, recent
from gbopt_ros.perception.streams import ThreeStreams
from gbopt_ros.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.selection import FixedLagSelector, redraw_outlines, select_clip, with_outlines
from gbopt_ros.sources.ahead import one_ahead
from gbopt_ros.sources.clips import cut_clips, interruption
from gbopt_ros.structures import (
    BackgroundNetwork,
    Clip,
    FlowNetwork,
    Frame,
    FrameSelection,
    GboptError,
    ProposalNetwork,
    Proposals,
    Selection,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cues:
    """What the three networks say of a clip.

    Attributes:
        proposals: T times the candidates of a frame.
        backgrounds: T arrays (H, W) float32, probability that a pixel belongs to no object.
        flows: T - 1 arrays (H, W, 2) float32, pixels, between consecutive frames.
    """

    proposals: list[Proposals]
    backgrounds: list[NDArray[np.float32]]
    flows: NDArray[np.float32]


class Pipeline:
    """Clips in, selections out.

    Args:
        config: of all stages.
        proposal_network, background_network, flow_network: in place of those that the
            configuration names. On a GPU they are called at once, in threads; and wherever clips
            are perceived ahead, flow also by the selection, at the same time.

    Attributes:
        seconds: wall time spent in each stage so far; on a GPU the networks' run at once.

    Raises:
        GboptError: weights are missing, corrupt or of another network, or there is no such GPU.
    """

    def __init__(
        self,
        config: Config,
        *,
        proposal_network: ProposalNetwork | None = None,
        background_network: BackgroundNetwork | None = None,
        flow_network: FlowNetwork | None = None,
    ) -> None:
        self.config = config
        self.proposal_network = proposal_network or load_proposal_network(config)
        self.background_network = background_network or load_background_network(config)
        self.flow_network = flow_network or make_flow(config.flow, config.device)
        self._finer_flow = finer(self.flow_network)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._streams = ThreeStreams(resolve_device(config.device))

    def run(self, source: Iterable[Frame], ahead: bool | None = None) -> Iterator[Selection]:
        """The selection of every clip of a stream, the same in both ways of running.

        Args:
            ahead: read the next clip and run the networks on it, in a thread, while the masks of
                this one are selected and used. Two clips are in memory then, else one. Unless
                given, that is done where the networks leave a core idle.
        """
        if ahead is None:
            ahead = has_idle_core(resolve_device(self.config.device))
        perceived = ((clip, self.perceive(clip)) for clip in self.clips(source))
        for clip, cues in one_ahead(perceived) if ahead else perceived:
            yield self.select(clip, cues)

    def stream(self, source: Iterable[Frame], lag: int | None) -> Iterator[FrameSelection]:
        """What is selected on every frame, at most `lag` frames after it came.

        Where the stream is interrupted, as between two clips of `clips`, all frames before are
        decided; clips have no length otherwise. A frame that repeats the last stamp is dropped.
        Motion (`motion.weight`) is known from earlier frames alone, in `run` from later ones too:
        with weight 0 and no limit of the lag the masks of a clip are those of `run`.
        """
        selector = FixedLagSelector(self.flow_network, self.config.selection, lag)
        motion = self.config.motion
        last: Frame | None = None
        history: list[Frame] = []  # what is compared with the next frame
        try:
            for frame in source:
                if last is not None and frame.stamp_ns == last.stamp_ns:
                    continue
                if last is not None and interruption(last, frame, self.config.clip.max_gap_s):
                    yield from self._drawn(selector.finish())
                    last, history = None, []
                cues = self._perceive((frame,) if last is None else (last, frame), new=1)
                with self._timed("motion"):
                    background = last_with_motion(
                        [*history, frame], cues.backgrounds[0], self._finer_flow, motion
                    )
                    if motion.weight > 0:
                        history = recent([*history, frame], motion.baseline_s)
                with self._timed("selection"):
                    flow = None if last is None else cues.flows[0]
                    decided = selector.add(frame, cues.proposals[0], background, flow)
                yield from self._drawn(decided)
                last = frame
        except GboptError:
            yield from self._drawn(selector.finish())
            raise
        yield from self._drawn(selector.finish())

    def clips(self, source: Iterable[Frame]) -> Iterator[Clip]:
        """Cut a stream into clips."""
        config = self.config.clip
        return cut_clips(source, config.length, max_gap_s=config.max_gap_s, overlap=config.overlap)

    def perceive(self, clip: Clip) -> Cues:
        """Run the three networks on a clip."""
        return self._perceive(clip.frames, new=len(clip))

    def _perceive(self, frames: Sequence[Frame], new: int) -> Cues:
        """Candidates and background of the last `new` frames, flow between all of them."""
        images = [frame.image for frame in frames]

        def proposals() -> list[Proposals]:
            with self._timed("proposals"):
                return self.proposal_network.propose(images[-new:])

        def backgrounds() -> list[NDArray[np.float32]]:
            with self._timed("background"):
                return self.background_network.background(images[-new:])

        def flows() -> NDArray[np.float32]:
            with self._timed("flow"):
                return self.flow_network.flow(images[:-1], images[1:])

        return Cues(*self._streams.run(proposals, backgrounds, flows))

    def select(self, clip: Clip, cues: Cues) -> Selection:
        """Choose the masks of a clip jointly, and draw their outlines."""
        with self._timed("motion"):
            backgrounds = clip_with_motion(
                clip.frames, cues.backgrounds, self._finer_flow, self.config.motion
            )
        with self._timed("selection"):
            selection = select_clip(
                clip,
                cues.proposals,
                backgrounds,
                list(cues.flows),
                self.flow_network,
                self.config.selection,
                self.proposal_network.version,
            )
        with self._timed("outlines"):
            return with_outlines(selection, self.config.outline)

    def _drawn(self, frames: Iterable[FrameSelection]) -> Iterator[FrameSelection]:
        for frame in frames:
            with self._timed("outlines"):
                drawn = redraw_outlines(frame, self.config.outline)
            yield drawn

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


def load_proposal_network(config: Config) -> ProposalNetwork:
    """The proposal network that the configuration names, on its device.

    Raises:
        GboptError: weights are missing, corrupt or of another network, or there is no such GPU.
    """
    device = resolve_device(config.device)
    return load_proposals(proposal_weights(config), config.proposal, device)


def load_background_network(config: Config) -> BackgroundNetwork:
    """The background network that the configuration names; raises as `load_proposal_network`."""
    device = resolve_device(config.device)
    return FpnBackground.from_file(background_weights(config), config.background, device)


def proposal_weights(config: Config) -> Path:
    """The weights file of the proposal network, the bundled seed network where none is named.

    Raises:
        GboptError: it is named by its name in the catalogue, and was not pulled.
    """
    return find_weights(config.proposal.weights or find_resource(SEED_PROPOSALS))


def background_weights(config: Config) -> Path:
    """The weights file of the background network, the bundled one where none is named."""
    return Path(config.background.weights or find_resource(SEED_BACKGROUND))


def evaluation_config(config: Config) -> Config:
    """The configuration of the network alone, with as many detections as COCO's AP takes."""
    proposal = replace(
        config.proposal, max_proposals=AP_DETECTIONS, ensemble=ProposalConfig.ensemble
    )
    return replace(config, proposal=proposal)
