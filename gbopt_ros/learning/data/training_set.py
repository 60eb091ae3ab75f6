"""The training set of selected masks: a SQLite catalogue and image files.

    DIR/catalogue.sqlite    frames and their instances (WAL, one transaction per addition)
    DIR/images/             one image file per frame, named by the SHA-256 of its content

An image file is written before the transaction that adds its frame ends. So a crash can leave an
image without a frame, never a frame without an image; `collect_garbage` removes such images. An
image is decoded, and compared with its masks, before its frame is committed. When the set
exceeds its size limit, a policy evicts frames: "oldest" removes the oldest clips; "balanced" thins
out the longest clips, then the longest recordings, so that old recordings stay represented. Frames
with a verdict of a person (`learning.data.verdicts`) leave last.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gbopt_ros.config import LearningConfig
from gbopt_ros.io.datasets.coco import CocoImage, write_coco
from gbopt_ros.io.files import collect_leftovers, make_parents, replacing
from gbopt_ros.io.json_file import Fields
from gbopt_ros.io.selection_format import SelectedFrame
from gbopt_ros.learning.data.catalogue import CATALOGUE_NAME, Catalogue, stored_frame, unwritable
from gbopt_ros.learning.data.datasets import SelectedDataset, SelectedImage
from gbopt_ros.learning.data.eviction import Eviction
from gbopt_ros.learning.data.image_file import (
    ImageFile,
    check_labels,
    checked_image,
    is_intact,
    shows_the_same,
)
from gbopt_ros.learning.data.verdicts import (
    FRAME_FACTS,
    StoredFrame,
    StoredMask,
    Verdict,
    stored_masks,
    with_verdicts,
)
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)

_IMAGES = "images"
_WITH_MASKS = "EXISTS (SELECT 1 FROM instances WHERE frame = frames.id AND verdict >= 0)"


class TrainingSet:
    """Frames with selected masks on disk, limited in size.

    Args:
        folder: created if it does not exist.
        max_bytes: maximum size of the image files; 0: no limit.
        policy: what leaves a full set, as in `LearningConfig`.

    Raises:
        GboptError: the folder cannot be written, or its catalogue is damaged.
    """

    def __init__(self, folder: Path, max_bytes: int, policy: str = LearningConfig.policy) -> None:
        self._folder, self._images = folder, folder / _IMAGES
        try:
            make_parents(self._images / "any")
            collect_leftovers(self._images)
        except OSError as error:
            raise unwritable(folder, error) from error
        self._catalogue = Catalogue(folder)
        self._eviction = Eviction(self._catalogue, max_bytes, policy, str(folder))

    def close(self) -> None:
        self._catalogue.close()

    def __enter__(self) -> TrainingSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of frames."""
        return int(self._catalogue.query("SELECT count(*) FROM frames")[0][0])

    @property
    def instance_count(self) -> int:
        """Number of masks, without rejected ones."""
        return int(self._catalogue.query("SELECT count(*) FROM instances WHERE verdict >= 0")[0][0])

    @property
    def bytes(self) -> int:
        """Size of all images, bytes."""
        return int(self._catalogue.query("SELECT coalesce(sum(bytes), 0) FROM frames")[0][0])

    @contextmanager
    def together(self, may_collect: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Make several changes at once: all of them, or none after an error.

        Args:
            may_collect: asked after the changes, whether image files that belong to no frame any
                more may be removed at once. A training that began before may still read them. If
                not, they stay until `collect_garbage`.

        Raises:
            GboptError: the set cannot be written.
        """
        if self._catalogue.in_transaction:
            yield
            return
        try:
            with self._catalogue.transaction():
                yield
        except Exception:
            if may_collect():  # images without a frame take space on a full disk
                with suppress(GboptError):
                    self.collect_garbage()
            raise
        if may_collect():
            self.collect_garbage()

    def add(
        self, frames: Iterable[SelectedFrame], *, may_collect: Callable[[], bool] = lambda: True
    ) -> int:
        """Add frames, all or none of them; returns how many have masks.

        A frame replaces the one with the same recording and index, and those of other recordings
        with the same image: when a recording is replayed with a newer network, its latest masks
        are kept, even under another name. A frame without a mask only removes what it replaces,
        since it does not say that its image shows no object. Masks on which a person has spoken
        stay, see `with_verdicts`; so does a judged frame of another size or time.

        Args:
            may_collect: as of `together`.

        Raises:
            GboptError: an image is damaged, masks or confidences do not fit it, the set cannot be
                written, or the byte limit is too small for a single clip (policy "oldest") or frame
                ("balanced").
        """
        added = replaced = 0
        with self.together(may_collect):
            for frame in frames:
                image = checked_image(frame)
                judged = self._judged(frame, image)
                if judged is None:
                    continue
                self._catalogue.execute(
                    "DELETE FROM frames WHERE recording = ? AND frame_index = ?",
                    (frame.recording, frame.frame_index),
                )
                # Not in the same recording: where nothing moves, its frames are equal.
                replaced += self._catalogue.execute(
                    "DELETE FROM frames WHERE file_name = ? AND recording != ?",
                    (image.name, frame.recording),
                ).rowcount
                masks = with_verdicts(stored_masks(frame), judged)
                if masks:
                    added += 1
                    self._insert(frame, image, masks)
            self._eviction.run()
        if replaced:
            log.info("%d frames were known already; their masks are replaced", replaced)
        return added

    def judge(self, verdicts: Iterable[tuple[StoredFrame, Sequence[StoredMask]]]) -> None:
        """Replace the masks of frames, all or none of them, by what a person says.

        Args:
            verdicts: frames, read in the same `together`, and all masks that they have now.

        Raises:
            GboptError: a mask does not fit its frame or is empty, or the set cannot be written.
        """
        with self._catalogue.transaction():
            for frame, masks in verdicts:
                check_labels(frame.path, frame.size, [mask.rle for mask in masks])
                self._catalogue.execute("DELETE FROM instances WHERE frame = ?", (frame.id,))
                self._insert_masks(frame.id, masks)

    def unjudged(self, order: str, count: int) -> list[tuple[str, str]]:
        """Name of the image and counts of some masks on which nobody has spoken.

        Args:
            order: "unsure": the mask of each clip with the lowest confidence, then the next one of
                each clip, and so on. "newest": those that were added last.
            count: maximum number.
        """
        ranks = "row_number() OVER (PARTITION BY recording, clip_id ORDER BY confidence)"
        by = {"unsure": f"{ranks}, confidence", "newest": "frames.id DESC, confidence"}[order]
        masks = self._catalogue.query(
            "SELECT file_name, counts FROM instances JOIN frames ON frames.id = frame "
            f"WHERE verdict = 0 ORDER BY {by} LIMIT ?",
            (count,),
        )
        return list(dict.fromkeys(masks))  # frames with equal images have equal masks

    def verdicts(self) -> dict[Verdict, int]:
        """The number of masks by what a person said about them."""
        rows = self._catalogue.query("SELECT verdict, count(*) FROM instances GROUP BY verdict")
        return {verdict: dict(rows).get(int(verdict), 0) for verdict in Verdict}

    def remove(self, recording: str) -> int:
        """Remove a recording; returns how many frames it had.

        Raises:
            GboptError: there is no such recording; the message lists those that there are.
        """
        with self.together():
            removed = self._catalogue.execute(
                "DELETE FROM frames WHERE recording = ?", (recording,)
            ).rowcount
            if not removed:
                held = self._catalogue.query(
                    "SELECT DISTINCT recording FROM frames ORDER BY recording"
                )
                names = ", ".join(name for (name,) in held) or "none"
                raise GboptError(f"{self._folder}: no recording {recording!r}; there are: {names}")
        return removed

    def labelled_images(self) -> SelectedDataset:
        """All frames but those whose image file is damaged or missing, with a warning.

        A frame whose masks were all rejected is among them: it teaches what is no object.
        """
        frames = self.frames()
        entries = [SelectedImage.of(frame) for frame in frames]
        sizes = {frame.path: frame.bytes for frame in frames}
        damaged = {path for path, size in sizes.items() if not is_intact(path, size)}
        if damaged:
            recordings = sorted({entry.recording for entry in entries if entry.path in damaged})
            log.warning(
                "%d images are damaged and left out, such as %s; they are of %s: learn their "
                "replays again, or --forget them",
                len(damaged), min(damaged), ", ".join(recordings),
            )  # fmt: skip
        return SelectedDataset(entry for entry in entries if entry.path not in damaged)

    def frames(self, image: str | None = None) -> list[StoredFrame]:
        """All frames, or those with one image, with all their masks; images are not read.

        Args:
            image: name of an image file.
        """
        with self._catalogue.transaction("DEFERRED"):
            return self._read() if image is None else self._read("file_name = ?", (image,))

    def _read(self, where: str = "1", values: tuple[object, ...] = ()) -> list[StoredFrame]:
        """As `frames`, in a transaction that is under way."""
        instances: dict[int, list[Fields]] = defaultdict(list)
        for row in self._catalogue.rows(
            f"SELECT * FROM instances WHERE frame IN (SELECT id FROM frames WHERE {where}) "
            "ORDER BY rowid", values,
        ):  # fmt: skip
            instances[row.integer("frame")].append(row)
        query = f"SELECT * FROM frames WHERE {where} ORDER BY recording, frame_index"
        return [
            stored_frame(row, instances[row.integer("id")], self._images)
            for row in self._catalogue.rows(query, values)
        ]

    def newest_clips(self, count: int) -> list[tuple[str, int]]:
        """Recording and number of the clips with two frames or more, of one size, added last.

        The clip that was added last comes first. Stamps would not tell: the clock of a robot may
        show the same time at every start.
        """
        return self._catalogue.query(
            f"SELECT recording, clip_id FROM frames WHERE {_WITH_MASKS} "
            "GROUP BY recording, clip_id HAVING count(*) > 1 "
            "AND min(height) = max(height) AND min(width) = max(width) "  # stills may differ
            "ORDER BY max(id) DESC LIMIT ?",
            (count,),
        )

    def export_coco(self, path: Path) -> None:
        """Write the set as a COCO dataset whose file names are relative to `images/`."""
        frames = sorted(self.frames(), key=lambda frame: frame.id)
        write_coco(
            path,
            [
                CocoImage(
                    f.id, f.path.name, *f.size, {name: getattr(f, name) for name in FRAME_FACTS}
                )
                for f in frames
            ],
            {frame.id: [mask.rle for mask in frame.selected] for frame in frames},
        )

    def collect_garbage(self) -> None:
        """Remove image files that belong to no frame."""
        with self._catalogue.transaction():  # waits for a process that is adding images
            named = {row[0] for row in self._catalogue.query("SELECT file_name FROM frames")}
            for path in self._images.iterdir():
                if path.name not in named and path.is_file():
                    path.unlink(missing_ok=True)
        collect_leftovers(self._images)

    def _judged(self, frame: SelectedFrame, image: ImageFile) -> tuple[StoredMask, ...] | None:
        """What a person said about masks of a frame; None if it must not replace what is there."""
        there = self._read(
            "file_name = ? OR (recording = ? AND frame_index = ?)",
            (image.name, frame.recording, frame.frame_index),
        )
        held = [other for other in there if other.is_judged]
        if not all(_is_the_same(other, frame, image) for other in held):
            log.warning(
                "frame %d of %s has another size, stamp or image now: the one with masks that a "
                "person verified or rejected stays", frame.frame_index, frame.recording,
            )  # fmt: skip
            return None
        masks = (mask for other in held for mask in other.masks if mask.verdict != Verdict.NONE)
        return tuple({mask.rle["counts"]: mask for mask in masks}.values())

    def _insert(self, frame: SelectedFrame, image: ImageFile, masks: Sequence[StoredMask]) -> None:
        target = self._images / image.name
        if not is_intact(target, len(image.content)):
            with replacing(target) as aside:
                aside.write_bytes(image.content)
        cursor = self._catalogue.execute(
            "INSERT INTO frames (recording, clip_id, frame_index, stamp_ns, file_name, height, "
            "width, bytes, model_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                frame.recording,
                frame.clip_id,
                frame.frame_index,
                frame.stamp_ns,
                image.name,
                *frame.size,
                len(image.content),
                frame.model_version,
            ),
        )
        self._insert_masks(int(cursor.lastrowid or 0), masks)

    def _insert_masks(self, frame: int, masks: Sequence[StoredMask]) -> None:
        self._catalogue.executemany(
            "INSERT INTO instances (frame, counts, score, confidence, verdict, track_id) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [
                (frame, m.rle["counts"], m.score, m.confidence, int(m.verdict), m.track_id)
                for m in masks
            ],
        )

    @property
    def evicted(self) -> dict[str, int]:
        """How many frames have left the full set so far, by recording."""
        return dict(
            self._catalogue.query("SELECT recording, frames FROM evictions ORDER BY recording")
        )


def _is_the_same(judged: StoredFrame, frame: SelectedFrame, image: ImageFile) -> bool:
    """Whether a frame shows what a judged one of its name shows, or one with an equal image.

    Names and stamps alone do not tell: videos begin at 0 and may have one name in two folders.
    """
    if judged.size != tuple(frame.size) or judged.path.name == image.name:
        return judged.size == tuple(frame.size)
    rles = [mask.rle for mask in judged.masks if mask.verdict != Verdict.NONE]
    return judged.stamp_ns == frame.stamp_ns and shows_the_same(judged.path, image.content, rles)


def drop_images(folder: Path, recordings: Iterable[str]) -> None:
    """Remove the image files of recordings from a training set, before `remove` removes the frames.

    On a full disk this makes the room that SQLite needs to remove anything. It writes nothing. If
    the process ends in between, the frames are left out of what is learnt until they are removed.

    Raises:
        GboptError: the catalogue cannot be read.
    """
    gone, images = set(recordings), folder / _IMAGES
    query = "SELECT file_name, recording FROM frames"
    try:
        database = sqlite3.connect(folder / CATALOGUE_NAME, isolation_level=None)
        try:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")  # else it needs a file for sharing
            rows = database.execute(query).fetchall()
        finally:
            database.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise GboptError(f"{folder}: training set catalogue cannot be read: {error}") from error
    alone = {name for name, _ in rows} - {name for name, held in rows if held not in gone}
    for path in images.iterdir() if images.is_dir() else ():
        if path.name in alone:
            path.unlink(missing_ok=True)
