"""Learning to better segment objects from unseen classes with unlabeled videos, for ROS 2.

A robot learns from its own video, with no label of the new objects, to segment objects of classes
that it was never taught:

    from gbopt_ros import Pipeline, Store

    for selection in Pipeline().run("my_video.mp4"):
        for frame in selection.frames:
            print(frame.frame.index, frame.boxes, frame.confidences)

Where things are:

    structures   the vocabulary: Frame, Clip, Proposals, Selection ...
    masks        run lengths, boxes and overlaps of masks
    tracks       ids of masks over time
    config       every setting, its default and its meaning
    io           recordings and datasets in, selected masks out
    models       the networks and their weights
    perception   proposals, background, optical flow and motion of images
    selection    the two-stage optimisation of the paper, and outlines
    evaluation   COCO and DAVIS metrics, the report
    learning     training set, fine-tuning, gate, store of versions
    simulation   the Tabletop world that the bundled networks and tests come from
    pipeline     the whole flow on one screen
    bulk         many recordings at once, as one dataset
    demo         what `make demo` runs
    nodes        the ROS 2 nodes
    web          the page of `gbopt review`, and the server of versions
    cli          the command `gbopt`, one verb a file

The names below are the public ones. They are imported when they are first used, so that
`import gbopt_ros` needs neither torch nor ROS.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbopt_ros.config import Config, load_config
    from gbopt_ros.evaluation.evaluate import evaluate
    from gbopt_ros.io.sources import open_source
    from gbopt_ros.learning.round import learn
    from gbopt_ros.learning.store.store import Store
    from gbopt_ros.pipeline import Pipeline
    from gbopt_ros.selection import best_combinations, select_clip
    from gbopt_ros.tracks import TrackLinker

    __version__: str

__all__ = [
    "Config",
    "Pipeline",
    "Store",
    "TrackLinker",
    "__version__",
    "best_combinations",
    "evaluate",
    "learn",
    "load_config",
    "open_source",
    "select_clip",
]

_HOMES = {
    "Config": "gbopt_ros.config",
    "Pipeline": "gbopt_ros.pipeline",
    "Store": "gbopt_ros.learning.store.store",
    "TrackLinker": "gbopt_ros.tracks",
    "best_combinations": "gbopt_ros.selection",
    "evaluate": "gbopt_ros.evaluation.evaluate",
    "learn": "gbopt_ros.learning.round",
    "load_config": "gbopt_ros.config",
    "open_source": "gbopt_ros.io.sources",
    "select_clip": "gbopt_ros.selection",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("gbopt_ros")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
