"""A store: the training set and the versions learnt from it, in one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gbopt_ros.config import Config, LearningConfig
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco_dir
from gbopt_ros.io.files import (
    collect_leftovers,
    is_full,
    parents_of,
    temporary_folder,
    unwritable,
)
from gbopt_ros.io.selection_format import SelectionWriter, read_selection
from gbopt_ros.learning.data.imported_masks import imported_frames, is_labelled, labelled_frames
from gbopt_ros.learning.data.labels import Exported, Labels, export_labels, read_labels
from gbopt_ros.learning.data.training_set import TrainingSet, drop_images
from gbopt_ros.learning.data.verdicts import StoredFrame, StoredMask, Verdict, with_labels
from gbopt_ros.learning.round import Learnt, learn
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.learning.training.trainer import OnStep
from gbopt_ros.structures import GboptError, ProposalNetwork, Selection


@dataclass(frozen=True)
class Reviewed:
    """What a person changed in a training set.

    Attributes:
        images: number of images with labels.
        verified, rejected: number of masks in them.
        unknown: names of images that the training set does not have.
    """

    images: int
    verified: int
    rejected: int
    unknown: tuple[str, ...] = ()


class Store:
    """A training set of selected masks and the versions that were learnt from it.

    One process at a time adds, forgets, learns or rolls back; another one gets a GboptError that
    says who is at work. Reading needs no lock. What processes left that were killed is removed when
    the store is opened.

        store = Store("my-store")
        store.add_selections(Pipeline().run("monday.mp4"), "monday")
        store.add("replay-tuesday")
        learnt = store.learn(rehearsal="coco-rehearsal", validation="coco-validation")
        print(learnt.decision.reason, store.models.current())

    Args:
        root: folder; it need not exist.

    Attributes:
        root: the folder.
        models: the versions.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.models = ModelStore(self.root)
        self._open: TrainingSet | None = None  # while `together` holds it
        collect_leftovers(self.root)

    def writing(self, verb: str) -> AbstractContextManager[None]:
        """Hold the store for a block. Raises GboptError if another process has it.

        Args:
            verb: what is done, for the message that others get.
        """
        return self.models.lock.held(verb)

    @contextmanager
    def together(self, config: LearningConfig | None = None) -> Iterator[None]:
        """Make several additions and removals at once: all of them, or none after an error.

        Args:
            config: as of `training_set`.

        Raises:
            GboptError: another process has the store, or it cannot be written.
        """
        with self._changing(config) as training_set, training_set.together():
            self._open = training_set
            try:
                yield
            finally:
                self._open = None

    @contextmanager
    def _changing(self, config: LearningConfig | None) -> Iterator[TrainingSet]:
        """The training set, held for a change."""
        if self._open is not None:
            yield self._open
            return
        with (
            self.writing("a change of the training set"),
            self.training_set(config) as training_set,
        ):
            yield training_set

    def training_set(self, config: LearningConfig | None = None) -> TrainingSet:
        """Open the training set, a context manager; SQLite wants one for each thread.

        Args:
            config: size limit and policy.

        Raises:
            GboptError: the folder cannot be written, or its catalogue is damaged.
        """
        config = config or LearningConfig()
        return TrainingSet(self.root / "training", config.max_bytes, config.policy)

    def add(
        self,
        *replays: str | Path,
        only: CocoDataset | None = None,
        config: LearningConfig | None = None,
    ) -> list[int]:
        """Add the masks of outputs of `gbopt replay`; returns the number of frames of each.

        Args:
            only: learn from the frames that this dataset of `gbopt dataset` labels, and from no
                other; its masks are not used.

        Raises:
            GboptError: a folder is not a complete output, an image in it is damaged, `only` labels
                none of its frames, or the set cannot be written. Nothing was added then.
        """
        selections = [list(read_selection(Path(folder))) for folder in replays]
        if only is not None:
            labelled = labelled_frames(only)
            selections = [[f for f in each if is_labelled(f, labelled)] for each in selections]
            for folder, frames in zip(replays, selections, strict=True):
                if not frames:
                    raise GboptError(f"{folder}: none of its frames is among those to learn from")
        with self._changing(config) as training_set, training_set.together():
            return [training_set.add(frames) for frames in selections]

    def add_masks(
        self, masks: CocoDataset, recording: str, *, config: LearningConfig | None = None
    ) -> int:
        """Add masks of another method, of a person, or of ground truth, with confidence 1.

        Returns the number of frames with masks. Arguments and errors as `imported_frames`; or the
        set cannot be written.
        """
        frames = list(imported_frames(masks, recording))
        with self._changing(config) as training_set:
            return training_set.add(frames)

    def export(self, out: str | Path, layout: str = "coco") -> Exported:
        """Write images and masks for an annotation tool; arguments and errors as `export_labels`.

        A robot may learn meanwhile: frames that leave the training set before their image was read
        are left out.

        Raises:
            GboptError: there is no store here.
        """
        with self.existing_training_set() as training_set:

            def has_left(frame: StoredFrame) -> bool:
                return frame.id not in {held.id for held in training_set.frames(frame.path.name)}

            return export_labels(training_set.frames(), Path(out), layout, has_left)

    def import_labels(self, labels: str | Path) -> Reviewed:
        """Take over what a person says about images of the training set, all of it or nothing.

        The masks of every image that `labels` covers are replaced: those in it are verified, and
        those that are missing from it are rejected. Rows change in one transaction and no file
        does, so this needs no lock, and a robot may learn meanwhile.

        Args:
            labels: a COCO file, a folder with one, or a YOLO folder; see `read_labels`.

        Raises:
            GboptError: there is no store here, or as `read_labels`. Nothing was changed then.
        """
        with self.existing_training_set() as training_set:
            before = training_set.frames()
            found = read_labels(Path(labels), {frame.path.name: frame.size for frame in before})
            # A robot cannot wait that long for the catalogue: only what it changed meanwhile is
            # compared again.
            ready = {frame.id: (frame, _labelled(frame, found)) for frame in before}
            with training_set.together(lambda: False):
                judged = []
                for frame in training_set.frames():
                    known, labelled = ready.get(frame.id, (None, None))
                    if known != frame:
                        labelled = _labelled(frame, found)
                    if labelled is not None:
                        judged.append((frame, labelled))
                training_set.judge(judged)
        masks = {(f.path, m.rle["counts"]): m.verdict for f, masks in judged for m in masks}
        counts = Counter(masks.values())
        return Reviewed(
            len({frame.path for frame, _ in judged}),
            counts[Verdict.VERIFIED],
            counts[Verdict.REJECTED],
            found.unknown,
        )

    def judge(self, image: str, counts: str, verdict: Verdict) -> Verdict:
        """Say whether one mask is right; nothing is said about the others of its image.

        Args:
            image: name of the image file; frames with equal images share it.
            counts: run lengths of the mask.

        Returns:
            What was said about it before, to take this back.

        Raises:
            GboptError: the training set has no such mask any more, or cannot be written.
        """
        with self.existing_training_set() as training_set, training_set.together(lambda: False):
            frames = training_set.frames(image)
            before = [m.verdict for f in frames for m in f.masks if m.rle["counts"] == counts]
            if not before:
                raise GboptError(f"{self.root}: the mask is gone; it was replaced or has left")
            training_set.judge((frame, frame.judged(counts, verdict)) for frame in frames)
        return before[0]

    @contextmanager
    def existing_training_set(self) -> Iterator[TrainingSet]:
        """As `training_set`. Raises GboptError if there is none; opening it would make it."""
        if not (self.root / "training").is_dir():
            raise GboptError(f"{self.root}: no store with a training set; `gbopt learn` makes one")
        with self.training_set() as training_set:
            yield training_set

    def add_selections(
        self,
        selections: Iterable[Selection],
        recording: str,
        *,
        config: LearningConfig | None = None,
    ) -> int:
        """Add the masks of `Pipeline.run`; returns the number of frames with masks.

        Frames that were added under the same name are replaced, see `TrainingSet.add`. Images are
        stored as JPEG files, as `gbopt replay` writes them.

        Args:
            recording: name of the recording, by which `forget` removes it.

        Raises:
            GboptError: the store cannot be written. Errors of `selections` pass through. Nothing
                was added then.
        """
        try:
            place = self.root / "selections"
            with parents_of(place), temporary_folder(self.root, place.name) as temporary:
                folder = temporary / "replay"
                with SelectionWriter(folder, recording, overlay=False) as writer:
                    for selection in selections:
                        writer.add(selection)
                    writer.finish()
                frames = [replace(f, recording=recording) for f in read_selection(folder)]
                with self._changing(config) as training_set:
                    return training_set.add(frames)
        except OSError as error:
            raise unwritable(self.root, error) from error

    def forget(self, *recordings: str, config: LearningConfig | None = None) -> list[int]:
        """Remove recordings from the training set, on a full disk too.

        Returns:
            The number of frames of each.

        Raises:
            GboptError: there is no such recording; the message lists those that there are. Or
                there is no store, or it cannot be written.
        """
        folder = self.root / "training"
        if not folder.is_dir():  # opening it would make it
            raise GboptError(f"{self.root}: no store, nothing to forget")
        with self.writing("forgetting"):
            try:
                return self._forget(recordings, config)
            except GboptError as error:
                full = is_full(folder) or "disk is full" in str(error)
                if self._open is not None or not full:
                    raise
            drop_images(folder, recordings)
            return self._forget(recordings, config)

    def _forget(self, recordings: Iterable[str], config: LearningConfig | None) -> list[int]:
        with self._changing(config) as training_set, training_set.together():
            return [training_set.remove(recording) for recording in recordings]

    def learn(
        self,
        config: Config | None = None,
        *,
        rehearsal: CocoDataset | str | Path | None = None,
        validation: CocoDataset | str | Path | None = None,
        on_step: OnStep | None = None,
        teacher: ProposalNetwork | None = None,
    ) -> Learnt:
        """One training round on the training set; arguments and errors as `round.learn`.

        Args:
            config: None is the recommended setting.
            rehearsal, validation: labelled images, or a COCO folder.
        """
        config = config or Config()
        with self.writing("learning"), self.training_set(config.learning) as training_set:
            learnt = learn(
                training_set,
                self.models,
                config,
                rehearsal=_dataset(rehearsal),
                validation=_dataset(validation),
                on_step=on_step,
                teacher=teacher,
            )
            with suppress(GboptError):  # the next addition does it, too
                training_set.collect_garbage()  # images that were kept for this training
        return learnt


def _labelled(frame: StoredFrame, labels: Labels) -> tuple[StoredMask, ...] | None:
    """The masks of a frame once its labels are taken over; None if it has none."""
    of_image = labels.masks.get(frame.path.name)
    return None if of_image is None else with_labels(frame.masks, of_image)


def _dataset(given: CocoDataset | str | Path | None) -> CocoDataset | None:
    return load_coco_dir(given) if isinstance(given, str | Path) else given
