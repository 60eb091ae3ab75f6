"""Recordings as experiments use them: clips, proposals and replays, each made once and cached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from experiments.cache import Cache, digest_of_weights
from experiments.methods.run import from_json, to_json
from experiments.test_time_augmentation import SCALES, EnsembleProposals
from gbopt_ros.config import Config
from gbopt_ros.io.clip_cutter import cut_clips
from gbopt_ros.io.datasets.davis import load_sequence, object_masks
from gbopt_ros.io.files import replacing_folder
from gbopt_ros.io.selection_format import SelectionWriter
from gbopt_ros.io.sources.images import encode_image
from gbopt_ros.models.catalogue import find_weights
from gbopt_ros.perception.load import background_weights, load_proposal_network, proposal_weights
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Clip, Frame, GboptError, ProposalNetwork, Proposals, Rle

_JPEG_QUALITY = 95  # of frames, the same as in the output of a replay

FrameKey = tuple[str, int]
"""Name of a recording and index of a frame in it."""
Masks = dict[FrameKey, Proposals]


class Recording(Protocol):
    """Frames with their ground truth.

    Attributes:
        name: no other recording of the same experiment has it.
        digest: SHA-256 of frames and ground truth.
        truth: the instances of every labelled frame, by frame index; masks of others are neither
            learnt nor judged.
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def truth(self) -> Mapping[int, tuple[Rle, ...]]: ...

    def open(self) -> Iterable[Frame]:
        """The frames, from the first one again at every call."""
        ...


class CachedRecordings:
    """What is derived from recordings with the networks of a configuration.

    Args:
        config: sections of the networks, `clip`, and for replays those of the selection.
        cache: folder of proposals, replays and frames.
    """

    def __init__(self, config: Config, cache: Cache) -> None:
        self._config, self._cache = config, cache
        self._last: tuple[str, list[Clip]] = ("", [])
        self._sizes: dict[str, dict[int, tuple[int, int]]] = {}

    def clips(self, recording: Recording) -> list[Clip]:
        """The clips of a recording, of the last one that was asked for from memory."""
        if self._last[0] != recording.digest:
            self._last = "", []  # before the next one is there: each may fill the memory
            config = self._config.clip
            clips = list(
                cut_clips(
                    recording.open(),
                    config.length,
                    max_gap_s=config.max_gap_s,
                    overlap=config.overlap,
                )
            )
            self._last = recording.digest, clips
        return self._last[1]

    def sizes(self, recording: Recording) -> dict[int, tuple[int, int]]:
        """(height, width) of the frames of a recording, by index."""
        if recording.digest not in self._sizes:
            self._sizes[recording.digest] = {
                frame.index: frame.size for clip in self.clips(recording) for frame in clip.frames
            }
        return self._sizes[recording.digest]

    def all_clips(
        self, recordings: Sequence[Recording], title: str
    ) -> Iterator[tuple[Recording, Clip]]:
        """The clips of recordings, with a progress bar."""
        clips = ((each, clip) for each in recordings for clip in self.clips(each))
        total = len(self.clips(recordings[0])) if len(recordings) == 1 else None
        yield from tqdm(clips, title, total, unit="clip", dynamic_ncols=True)

    def truth(self, recordings: Sequence[Recording]) -> dict[FrameKey, tuple[Rle, ...]]:
        """The instances of the labelled frames."""
        return {
            (recording.name, index): recording.truth[index]
            for recording in recordings
            for index in self.sizes(recording)
            if index in recording.truth
        }

    def proposals(self, recordings: Sequence[Recording], ensemble: bool = False) -> Masks:
        """The candidates of every frame for selection, or those of an ensemble of views."""
        networks = networks_of(self._config, "proposal")
        load = load_proposal_network
        if ensemble:
            networks["views"] = SCALES
            load = EnsembleProposals.from_config
        network: ProposalNetwork | None = None
        found: Masks = {}
        title = f"proposals{' of views' * ensemble}"
        for recording, clip in self.all_clips(recordings, title):
            inputs = {"recording": recording.digest, "networks": networks, "clip": clip.clip_id}
            known = self._cache.get("proposals", inputs)
            if known is None:
                network = network or load(self._config)
                candidates = network.propose([frame.image for frame in clip.frames])
                known = [to_json(each) for each in candidates]
                self._cache.put("proposals", inputs, known)
            for frame, value in zip(clip.frames, known, strict=True):
                found[recording.name, frame.index] = from_json(value)
        return found

    def replay(self, recording: Recording, config: Config, title: str) -> Path:
        """The folder of what a configuration selects in a recording, as `gbopt replay` writes it.

        Args:
            title: of the progress bar.
        """
        inputs = {
            "recording": recording.digest,
            "networks": networks_of(config),
            "motion": config.motion,
            "selection": config.selection,
            "outline": config.outline,
            "tracks": config.tracks,
        }
        folder = self._cache.path("replay", inputs)
        if not folder.exists():
            pipeline, clips = Pipeline(config), self.clips(recording)
            with (
                SelectionWriter(folder, recording.name) as writer,
                tqdm(clips, title, unit="clip", dynamic_ncols=True) as progress,
            ):
                for clip in progress:
                    writer.add(pipeline.select(clip, pipeline.perceive(clip)))
                writer.finish(config=config.to_dict(), seconds=dict(pipeline.seconds))
        return folder

    def frames(self, recording: Recording) -> Path:
        """The frames of a recording as image files."""
        folder = self._cache.path("frames", [recording.digest, self._config.clip])
        if not folder.exists():
            with replacing_folder(folder) as aside:
                aside.mkdir()
                for clip in self.clips(recording):
                    for frame in clip.frames:
                        encoded = encode_image(frame.image, "jpeg", _JPEG_QUALITY)
                        (aside / f"{frame.index:06d}.jpg").write_bytes(encoded)
        return folder


class LabelledFrame(NamedTuple):
    """A frame with the objects of its label image.

    Attributes:
        index: position among all frames of its sequence.
        path: file of the frame.
        size: (height, width) of the labels.
    """

    index: int
    path: Path
    size: tuple[int, int]
    rles: tuple[Rle, ...]


def frames_with_labels(folder: Path) -> list[LabelledFrame]:
    """The labelled frames of a folder of frames with a PNG of labels beside each.

    Raises:
        GboptError: it is not one such sequence, or a label image cannot be read.
    """
    sequence = load_sequence(folder)
    if not sequence.frames:
        raise GboptError(f"{folder}: label images (.png) without frames beside them")
    labelled = zip(sequence.frame_indices, sequence.frames, sequence.labels(), strict=True)
    return [
        LabelledFrame(index, path, label.shape, tuple(object_masks(label).values()))
        for index, path, label in labelled
    ]


def truth_of(folder: Path, frames: Iterable[Frame]) -> dict[int, tuple[Rle, ...]]:
    """The objects of these frames of such a folder, by index; raises as `frames_with_labels`."""
    labels = {labelled.index: labelled.rles for labelled in frames_with_labels(folder)}
    indices = [frame.index for frame in frames]
    if missing := [index for index in indices if index not in labels]:
        raise GboptError(f"{folder}: frame {missing[0]} has no label image beside it")
    return {index: labels[index] for index in indices}


def networks_of(config: Config, *sections: str) -> dict[str, Any]:
    """All that the results of networks depend on, by default of all three."""
    weights = {
        "proposal": lambda: digest_of_weights(proposal_weights(config)),
        "background": lambda: ",".join(
            digest_of_weights(path) for path in background_weights(config)
        ),
        "flow": lambda: (
            digest_of_weights(find_weights(config.flow.weights)) if config.flow.weights else ""
        ),
    }
    return {
        "clip": config.clip,
        **{
            name: [asdict(getattr(config, name)) | {"weights": weights[name]()}]
            for name in sections or weights
        },
    }
