"""The whole flow on one screen: frames, clips, outputs of the networks, selected masks.

Replay, the demo and the experiments use this class. The live nodes call the same parts, so both
give the same masks.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import numpy as np

from gbopt_ros.config import Config
from gbopt_ros.io.clip_cutter import cut_clips
from gbopt_ros.io.files import sha256_of
from gbopt_ros.io.limits import MAX_PIXELS
from gbopt_ros.io.prefetch import prefetch as prefetched
from gbopt_ros.io.selection_format import versions
from gbopt_ros.io.sources import open_source
from gbopt_ros.models.cuda_streams import CudaStreams
from gbopt_ros.models.device import has_idle_core, resolve_device
from gbopt_ros.perception.flow import make_flow
from gbopt_ros.perception.load import (
    load_background_network,
    load_proposal_network,
    network_files,
)
from gbopt_ros.selection import make_selector
from gbopt_ros.structures import (
    BackgroundNetwork,
    Clip,
    Cues,
    FlowNetwork,
    Frame,
    GboptError,
    Image,
    ProposalNetwork,
    Selection,
)

T = TypeVar("T")

FRAME_PERIOD_NS = 100_000_000
"""Time between two images without stamps: 10 frames a second."""


class Pipeline:
    """Frames in, selected masks out.

        for selection in Pipeline().run("my_video.mp4"):
            for frame in selection.frames:
                print(frame.frame.index, len(frame), frame.confidences)

    Args:
        config: all settings; None: the recommended settings.
        proposal_network, background_network, flow_network: your own networks, instead of those of
            the configuration. On a GPU they are called at the same time, in threads; if clips are
            prefetched, the selection may call the flow network at the same time, too.

    Attributes:
        seconds: wall time of each step so far; on a GPU the networks run at the same time.

    Raises:
        GboptError: weights are missing, corrupt or of another network, or there is no such GPU.
        TypeError: `config` is no `Config`.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        proposal_network: ProposalNetwork | None = None,
        background_network: BackgroundNetwork | None = None,
        flow_network: FlowNetwork | None = None,
    ) -> None:
        if not isinstance(config, Config | None):
            raise TypeError(
                f"config: expected a Config, such as load_config(...) gives, got {config!r}"
            )
        self.config = config = config or Config()
        self.proposal_network = proposal_network or load_proposal_network(config)
        self.background_network = background_network or load_background_network(config)
        self.flow_network = flow_network or make_flow(config.flow, config.device)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._selector = make_selector(self.flow_network, config, self._timed)
        self._cuda_streams = CudaStreams(resolve_device(config.device))

    def run(
        self,
        source: str | Path | Iterable[Frame] | Iterable[Image],
        prefetch: bool | None = None,
        *,
        first_clip: int = 0,
    ) -> Iterator[Selection]:
        """The selection of every clip, in order.

        With `selection.lag` >= 0 the masks are those that the live nodes publish with this lag.

        Args:
            source: path of a recording (rosbag2, video, folder of images), a source, frames, or
                images (H, W, 3) uint8 RGB (a list or one array), taken at 10 frames a second.
            prefetch: decode, run the networks, select, and use the masks at the same time, in a
                thread each, one clip apart. Four clips are in memory then, else one; the masks are
                the same. None: only if the networks leave a core idle.
            first_clip: number of the first clip to select; earlier ones are read and left out. The
                masks of a clip do not depend on other clips.

        Raises:
            GboptError: the recording cannot be opened, or breaks off.
            TypeError: `source` is something else.
            ValueError: an image has another shape or dtype.
        """
        if prefetch is None:
            prefetch = has_idle_core(resolve_device(self.config.device))
        stage: Callable[[Generator[T, None, None]], Iterator[T]] = (
            partial(prefetched, stopping=Event()) if prefetch else iter
        )
        clips = stage(clip for clip in self.clips(source) if clip.clip_id >= first_clip)
        perceived = stage((clip, self.perceive(clip)) for clip in clips)
        return stage(self.select(clip, cues) for clip, cues in perceived)

    def clips(self, source: str | Path | Iterable[Frame] | Iterable[Image]) -> Iterator[Clip]:
        """Cut a recording into clips; `source` as in `run`."""
        config = self.config.clip
        return cut_clips(
            frames_of(source, config.max_pixels),
            config.length,
            max_gap_s=config.max_gap_s,
            overlap=config.overlap,
            max_pixels=config.max_pixels,
        )

    def perceive(self, clip: Clip) -> Cues:
        """Run the three networks on a clip."""
        images = [frame.image for frame in clip.frames]
        propose, background = self.proposal_network.propose, self.background_network.background
        proposals, backgrounds, flows = self._cuda_streams.run(
            lambda: self._call("proposals", propose, images),
            lambda: self._call("background", background, images),
            lambda: self._call("flow", self.flow_network.flow, images[:-1], images[1:]),
        )
        return Cues(proposals, backgrounds, list(flows))

    def select(self, clip: Clip, cues: Cues) -> Selection:
        """Choose the masks of a clip jointly, with motion and new outlines."""
        return self._selector.select(clip, cues, self.proposal_network.version)

    def _call(self, step: str, call: Callable[..., T], *arguments: Any) -> T:
        with self._timed(step):
            return call(*arguments)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start


def identity(config: Config) -> dict[str, Any]:
    """All but the recording and the device that decides the masks: plain values by name.

    Raises:
        GboptError: a file of the configuration is missing or cannot be read.
    """
    files = network_files(config)
    if config.selection.photograph:
        files["selection.photograph"] = Path(config.selection.photograph)
    try:
        digests = {name: sha256_of(path) for name, path in files.items()}
    except OSError as error:
        raise GboptError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return {"config": config.to_dict(), "files": digests, "versions": versions()}


def frames_of(
    source: str | Path | Iterable[Frame] | Iterable[Image], max_pixels: int = MAX_PIXELS
) -> Iterable[Frame]:
    """The frames of a `source` of `Pipeline.run`; images with more pixels are not decoded.

    Raises:
        GboptError: the recording cannot be opened.
        TypeError: `source` is something else.
        ValueError: an image has another shape or dtype.
    """
    if isinstance(source, str | Path):
        return open_source(Path(source), max_pixels=max_pixels)
    is_one_image = isinstance(source, np.ndarray) and source.ndim != 4
    if is_one_image or not isinstance(source, Iterable):
        raise TypeError(
            "source: expected a path, frames, or a list of images (H, W, 3) uint8 RGB, "
            f"got {'one array' if is_one_image else type(source).__name__}"
        )
    items: Iterable[Any] = source
    frames = (_frame(item, index) for index, item in enumerate(items))
    return list(frames) if isinstance(source, list | tuple) else frames


def _frame(item: Frame | Image, index: int) -> Frame:
    if isinstance(item, Frame):
        return item
    if not isinstance(item, np.ndarray):
        raise TypeError(
            f"source: expected frames or images, got {type(item).__name__} at place {index}"
        )
    return Frame(item, index * FRAME_PERIOD_NS, index)
