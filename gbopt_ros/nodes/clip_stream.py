"""Selection on a clip that is still growing, behind the selector's setting `selection.lag`."""

from __future__ import annotations

from gbopt_ros.config import Config
from gbopt_ros.nodes.assembly import ClipCues
from gbopt_ros.perception.flow import finer
from gbopt_ros.perception.motion import last_with_motion
from gbopt_ros.selection import FixedLagSelector
from gbopt_ros.structures import FlowNetwork, FrameSelection, Selection


class ClipStream:
    """Fixed-lag selection, one clip after the other.

    Args:
        flow_network: g, for the composites.
        lag: frames to wait at most before a frame is decided.
    """

    def __init__(self, flow_network: FlowNetwork, lag: int) -> None:
        self._flow_network, self._lag = flow_network, lag
        self._finer_flow = finer(flow_network)
        self._clip_id = -1
        self._stamps: list[int] = []  # of the frames that the selector has seen
        self._decided: list[FrameSelection] = []

    def advance(self, cues: ClipCues, config: Config) -> list[FrameSelection]:
        """Take what is new of a clip.

        Args:
            cues: the clip up to now, or the whole of it. If it does not continue what came
                before, or has another number, it is taken from its first frame.
            config: of selection and motion; a change counts from the next clip on.

        Returns:
            The frames that are decided now; of a whole clip, all that are left.
        """
        clip = cues.clip
        stamps = [frame.stamp_ns for frame in clip.frames]
        seen = len(self._stamps)
        if clip.clip_id != self._clip_id or stamps[:seen] != self._stamps:
            self._selector = FixedLagSelector(self._flow_network, config.selection, self._lag)
            self._motion = config.motion
            self._decided, seen = [], 0
        self._clip_id = -1  # until this has gone well: else the clip is taken afresh
        new: list[FrameSelection] = []
        for t in range(seen, len(clip)):
            flow = cues.flows[t - 1] if t else None
            background = last_with_motion(
                clip.frames[: t + 1], cues.backgrounds[t], self._finer_flow, self._motion
            )
            new += self._selector.add(clip.frames[t], cues.proposals[t], background, flow)
        if cues.is_whole:
            new += self._selector.finish()
        self._decided += new
        self._clip_id, self._stamps = clip.clip_id, stamps
        return new

    def finish(self, model_version: str) -> Selection:
        """All that was selected in a clip of which the whole was taken; the stream forgets it."""
        selection = Selection(
            clip_id=self._clip_id,
            frames=tuple(self._decided),
            energy=self._selector.energy,
            lower_bound=self._selector.lower_bound,
            optimal=self._selector.lower_bound == self._selector.energy,
            flow_runs=self._selector.flow_runs,
            model_version=model_version,
        )
        self._clip_id, self._stamps, self._decided = -1, [], []
        return selection
