"""The whole selection in one call: motion, the two stages, outlines, confidences by track.

Replay, the live selector node and the demo call one of these two classes. Both take a clip and the
outputs of the networks on it (`Cues`). Neither needs torch or ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from gbopt_ros.config import Config
from gbopt_ros.perception.flow import high_detail_flow
from gbopt_ros.perception.motion import clip_with_motion, frame_with_motion, has_partner
from gbopt_ros.selection.confidence import TrackConfidence, with_track_confidence
from gbopt_ros.selection.fixed_lag import FixedLagSelector
from gbopt_ros.selection.outlines import redraw_outlines, with_outlines
from gbopt_ros.selection.synthesis import background_photograph
from gbopt_ros.selection.two_stage import select_clip
from gbopt_ros.structures import Clip, Cues, FlowNetwork, Frame, FrameSelection, Selection

Timed = Callable[[str], AbstractContextManager[object]]
"""Takes the name of a step and gives a context that measures it."""


def _untimed(step: str) -> AbstractContextManager[object]:
    return nullcontext()


class ClipSelector:
    """Selects the masks of whole clips.

    Args:
        flow_network: g, for the composites and for motion.
        config: sections `motion`, `selection`, `outline` and `tracks` are used.
        timed: measures the steps "motion", "selection", "outlines" and "tracks".

    Attributes:
        config: may be replaced between two clips.
    """

    def __init__(self, flow_network: FlowNetwork, config: Config, timed: Timed = _untimed) -> None:
        self.config = config
        self._flow_network, self._timed = flow_network, timed
        self._detailed_flow = high_detail_flow(flow_network)

    def select(self, clip: Clip, cues: Cues, model_version: str = "") -> Selection:
        """Choose the masks of a clip jointly.

        Raises:
            ValueError: lengths or shapes of the cues do not fit the clip.
        """
        config = self.config
        with self._timed("motion"):
            backgrounds = clip_with_motion(
                clip.frames, cues.backgrounds, self._detailed_flow, config.motion
            )
        with self._timed("selection"):
            selection = select_clip(
                clip,
                cues.proposals,
                backgrounds,
                cues.flows,
                self._flow_network,
                config.selection,
                model_version,
            )
        with self._timed("outlines"):
            selection = with_outlines(selection, config.outline)
        if not config.tracks.average_confidence:
            return selection
        with self._timed("tracks"):
            return with_track_confidence(selection, config.tracks.linker())

    def advance(self, clip: Clip, cues: Cues, *, is_whole: bool) -> list[FrameSelection]:
        """As `StreamSelector.advance`; all frames are decided when the clip is whole."""
        if not is_whole:
            return []
        self._selection = self.select(clip, cues)
        return list(self._selection.frames)

    def finish(self, model_version: str = "") -> Selection:
        """The selection of the clip that is whole now."""
        return replace(self._selection, model_version=model_version)


class StreamSelector:
    """Selects the masks of a clip while it grows, each frame at most `selection.lag` frames later.

    The masks do not depend on how many frames come at a time: a whole clip gives the same masks as
    its frames one by one. Motion is taken from the frames that have come; the first ones of a clip
    wait for later ones, as long as the lag allows. `ClipSelector` takes it from all frames. In the
    same way, the confidence of a mask knows its track up to the frames that are decided with it.

    Args:
        flow_network: g, for the composites and for motion.
        config: as for `ClipSelector`; the lag must not be -1.
        timed: measures the steps "motion", "selection", "outlines" and "tracks".

    Attributes:
        config: may be replaced; the next clip uses it, except for the lag.
    """

    def __init__(self, flow_network: FlowNetwork, config: Config, timed: Timed = _untimed) -> None:
        self.config = config
        self._flow_network, self._timed = flow_network, timed
        self._detailed_flow = high_detail_flow(flow_network)
        self._lag = config.selection.lag
        self._clip_id = -1
        self._stamps: list[int] = []  # of the frames taken so far
        self._decided: list[FrameSelection] = []

    def advance(self, clip: Clip, cues: Cues, *, is_whole: bool) -> list[FrameSelection]:
        """Take the new frames of a clip.

        Args:
            clip: the whole clip, or a partial clip: its first frames. It is taken from its first
                frame if it has another number than the clip before, or does not continue it.
            cues: outputs of the networks on the clip.
            is_whole: no frame follows, so all frames are decided.

        Returns:
            The frames that are decided now, in order.

        Raises:
            ValueError: shapes of the cues do not fit the clip.
        """
        stamps = [frame.stamp_ns for frame in clip.frames]
        seen = len(self._stamps)
        if clip.clip_id != self._clip_id or stamps[:seen] != self._stamps:
            self._begun_with = config = self.config
            self._selector = FixedLagSelector(self._flow_network, config.selection, self._lag)
            self._tracks = TrackConfidence(config.tracks.linker())
            self._decided, self._added, seen = [], 0, 0
        config = self._begun_with
        self._clip_id = -1  # if an error ends this call, the next one takes the clip afresh
        new: list[FrameSelection] = []
        for come in range(seen + 1, len(clip) + 1):
            new += self._described(self._add(clip.frames[:come], cues, self._lag))
        if is_whole:
            last = self._add(clip.frames, cues, 0)
            with self._timed("selection"):
                last += self._selector.finish()
            new += self._described(last)
        self._decided += new
        self._clip_id, self._stamps = clip.clip_id, stamps
        return new

    def _described(self, decided: list[FrameSelection]) -> list[FrameSelection]:
        """Frames that were decided at one time, with their outlines and confidences by track."""
        config = self._begun_with
        with self._timed("outlines"):
            decided = [redraw_outlines(frame, config.outline) for frame in decided]
        if not decided or not config.tracks.average_confidence:
            return decided
        with self._timed("tracks"):
            ids = [self._tracks.add(frame) for frame in decided]
            return list(map(self._tracks.apply, decided, ids))

    def _add(self, frames: Sequence[Frame], cues: Cues, patience: int) -> list[FrameSelection]:
        """Take the frames before the first one that waits for another to compare its motion with.

        Args:
            frames: those of the clip that have come.
            patience: number of frames for which a frame waits at most.

        Returns:
            The frames that are decided now, before their outlines are drawn.
        """
        motion, new = self._begun_with.motion, list[FrameSelection]()
        for t in range(self._added, len(frames)):
            waits = motion.weight and not has_partner(frames, t, motion.baseline_s)
            if waits and len(frames) - t <= patience:
                break
            with self._timed("motion"):
                background = frame_with_motion(
                    frames, t, cues.backgrounds[t], self._detailed_flow, motion
                )
            with self._timed("selection"):
                flow = cues.flows[t - 1] if t else None
                new += self._selector.add(
                    frames[t], cues.proposals[t], background, flow, len(frames) - t - 1
                )
            self._added = t + 1
        return new

    def finish(self, model_version: str = "") -> Selection:
        """The selection of a whole clip, which is forgotten then."""
        selection = Selection(
            clip_id=self._clip_id,
            frames=tuple(self._decided),
            energy=self._selector.energy,
            lower_bound=self._selector.lower_bound,
            optimal=self._selector.optimal,
            flow_runs=self._selector.flow_runs,
            model_version=model_version,
        )
        self._clip_id, self._stamps, self._decided = -1, [], []
        return selection

    def select(self, clip: Clip, cues: Cues, model_version: str = "") -> Selection:
        """The masks of a whole clip, equal to those that it gives while it grows."""
        self.advance(clip, cues, is_whole=True)
        return self.finish(model_version)


def make_selector(
    flow_network: FlowNetwork, config: Config, timed: Timed = _untimed
) -> ClipSelector | StreamSelector:
    """The selector for `selection.lag`; -1 selects whole clips.

    Raises:
        GboptError: `selection.photograph` is no image.
    """
    background_photograph((1, 1), 0, config.selection.photograph)  # an error now, not in a clip
    kind = StreamSelector if config.selection.lag >= 0 else ClipSelector
    return kind(flow_network, config, timed)
