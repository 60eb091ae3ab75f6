"""What leaves a training set that is full; frames with a verdict of a person leave last."""

from __future__ import annotations

import logging

from gbopt_ros.learning.data.catalogue import Catalogue
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)

_UNJUDGED = "NOT EXISTS (SELECT 1 FROM instances WHERE frame = frames.id AND verdict != 0)"


class Eviction:
    """Thins out a training set until its images keep a size limit.

    Args:
        max_bytes: maximum size of the image files; 0: no limit.
        policy: "oldest" removes the oldest clips, "balanced" halves the longest ones.
        name: of the training set, for messages.
    """

    def __init__(self, catalogue: Catalogue, max_bytes: int, policy: str, name: str) -> None:
        self._catalogue, self._max_bytes, self._name = catalogue, max_bytes, name
        self._thin_out = {"oldest": self._drop_oldest, "balanced": self._halve_longest}[policy]

    def run(self) -> None:
        """Remove frames, within a transaction that is under way; log what leaves, and count it.

        Raises:
            GboptError: the limit is too small for a single clip or frame.
        """
        if not self._max_bytes or self._bytes() <= self._max_bytes:
            return
        before = self._held()
        while self._bytes() > self._max_bytes:
            self._thin_out()
        after = self._held()
        gone = {
            name: n - after.get(name, 0) for name, n in before.items() if n > after.get(name, 0)
        }
        self._catalogue.executemany(
            "INSERT INTO evictions (recording, frames) VALUES (?, ?) "
            "ON CONFLICT (recording) DO UPDATE SET frames = frames + excluded.frames",
            list(gone.items()),
        )
        log.warning(
            "the training set is full (learning.max_bytes %d): %d frames leave it: %s",
            self._max_bytes,
            sum(gone.values()),
            ", ".join(f"{count} of {name}" for name, count in gone.items()),
        )
        if self._counts()[0] == 0:
            log.warning(
                "frames that a person looked at fill the training set: no other frame stays, and "
                "nothing new is learnt; raise learning.max_bytes"
            )

    def _drop_oldest(self) -> None:
        """Remove the oldest clip."""
        expendable, are_all = self._expendable()
        clips = self._catalogue.query(
            f"SELECT recording, clip_id FROM frames WHERE {expendable} "
            "GROUP BY recording, clip_id ORDER BY min(id) LIMIT 2"
        )
        if len(clips) == 1 and are_all:
            raise self._too_small("clip")
        self._catalogue.execute(
            f"DELETE FROM frames WHERE recording = ? AND clip_id = ? AND {expendable}", clips[0]
        )

    def _halve_longest(self) -> None:
        """Remove every second frame of the longest clip; of equally long clips, the oldest.

        Where each clip has one frame left, the longest recording is thinned out instead; where
        each recording has one frame left, the oldest recording is removed.
        """
        expendable, are_all = self._expendable()
        for group in ("recording, clip_id", "recording"):
            *key, count = self._catalogue.query(
                f"SELECT {group}, count(*) FROM frames WHERE {expendable} GROUP BY {group} "
                "ORDER BY count(*) DESC, min(id) LIMIT 1"
            )[0]
            if count > 1:
                columns = (f"{column} = ?" for column in group.split(", "))
                where = " AND ".join((expendable, *columns))
                frames = self._catalogue.query(
                    f"SELECT id FROM frames WHERE {where} ORDER BY frame_index", tuple(key)
                )
                self._catalogue.executemany("DELETE FROM frames WHERE id = ?", frames[1::2])
                return
        if are_all and sum(self._held().values()) == 1:
            raise self._too_small("frame")
        self._catalogue.execute(
            f"DELETE FROM frames WHERE id = (SELECT min(id) FROM frames WHERE {expendable})"
        )

    def _expendable(self) -> tuple[str, bool]:
        """The frames that leave first, as a condition; and whether these are all that there are."""
        unjudged, count = self._counts()
        return (_UNJUDGED, unjudged == count) if unjudged else ("1", True)

    def _counts(self) -> tuple[int, int]:
        """The number of frames without a verdict, and of all."""
        ((unjudged, count),) = self._catalogue.query(
            f"SELECT count(*) FILTER (WHERE {_UNJUDGED}), count(*) FROM frames"
        )
        return unjudged, count

    def _held(self) -> dict[str, int]:
        """The number of frames of each recording."""
        return dict(
            self._catalogue.query("SELECT recording, count(*) FROM frames GROUP BY recording")
        )

    def _bytes(self) -> int:
        return int(self._catalogue.query("SELECT coalesce(sum(bytes), 0) FROM frames")[0][0])

    def _too_small(self, what: str) -> GboptError:
        return GboptError(
            f"{self._name}: one {what} alone takes {self._bytes()} bytes, the training set "
            f"may hold {self._max_bytes}; raise learning.max_bytes"
        )
