"""What the tests of bulk runs share: workers without processes, and the masks of a recording."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gbopt_ros.bulk.shards import ShardWorker
from gbopt_ros.bulk.workers import Event
from support.networks import save_random_weights

CLIP = 3


def save_networks(folder: Path) -> list[str]:
    """Random networks, and the options of a replay with them that takes little time."""
    paths = save_random_weights(folder)
    settings = (
        "device=cpu", f"background.weights={paths['background']}", f"clip.length={CLIP}",
        "selection.k=2", "proposal.max_proposals=4", "motion.weight=0", "outline.method=network",
        "proposal.short_side=64", "background.short_side=64",
        "selection.detect_cuts=false",  # frames of noise would all be cuts
    )  # fmt: skip
    return [f"--weights={paths['proposals']}", *(f"--set={setting}" for setting in settings)]


def masks_of(selected: Path, recording: str) -> list[tuple[Any, ...]]:
    """Everything that `selected.json` says of the frames and masks of a recording, but numbers.

    Tracks are counted from 0.
    """
    content = json.loads(selected.read_text(encoding="utf-8"))
    name = content["info"]["recording"]
    found: dict[int, tuple[dict[str, Any], list[dict[str, Any]]]] = {
        image["id"]: (image, [])
        for image in content["images"]
        if image.get("recording", name) == recording
    }
    for annotation in content["annotations"]:
        if annotation["image_id"] in found:
            found[annotation["image_id"]][1].append(annotation)
    first_clip = min((image["clip_id"] for image, _ in found.values()), default=0)
    tracks = [each["track_id"] for _, annotations in found.values() for each in annotations]
    numbers = {"id", "image_id", "file_name", "recording", "clip_id"}

    def rest(entry: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in entry.items() if key not in numbers}
        return kept | ({"track": kept.pop("track_id") - min(tracks)} if "track_id" in kept else {})

    return [
        (image["clip_id"] - first_clip, rest(image), [rest(each) for each in annotations])
        for image, annotations in found.values()
    ]


class InlineWorkers:
    """Workers that do each task at once, in this process.

    Args:
        worker: does the tasks.
        before: called before a task; what it returns is an event in place of the task's.

    Attributes:
        tasks: all tasks so far, with the number of the worker.
    """

    def __init__(
        self,
        worker: ShardWorker,
        count: int = 2,
        before: Callable[[Any], str] = lambda task: "",
    ) -> None:
        self._worker, self._before = worker, before
        self._events = [Event(number) for number in range(count)]
        self.tasks: list[tuple[int, Any]] = []

    def start(self, worker: int, task: Any) -> None:
        self.tasks.append((worker, task))
        lost = self._before(task)
        if lost:
            self._events += [Event(worker, lost=lost), Event(worker)]
        else:
            self._events.append(Event(worker, self._worker.do(task)))

    def wait(self) -> list[Event]:
        assert self._events, "the run waits for nothing"
        events, self._events = self._events, []
        return events

    def close(self) -> None: ...


def children(process: int) -> Iterator[int]:
    """The worker processes of a process."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    for child in map(int, listed.split()):
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            yield child
