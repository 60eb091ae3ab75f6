"""The methods that the paper compares with, one file each, written from their papers.

Each is a `Method`: it sees one clip with its proposals, and gives scored masks of every frame.
`experiments.training_masks` makes training sets of them, `experiments.methods_table` judges the
masks themselves. A new method is a file here and a line in `METHODS`. Masks of other programs come
as `file:PATH` (`mask_file`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from experiments.methods.contract import Inputs, Method
from experiments.methods.mask_file import MaskFile
from experiments.methods.tractor import Tractor
from experiments.methods.unovost import UnOvost, UnOvostPlus
from experiments.methods.uvc import Uvc

__all__ = ["FILE", "METHODS", "ON_SELECTED", "Inputs", "Method", "make_method"]


def _imported(module: str, name: str) -> Method:
    """A method whose libraries take seconds to load, so that only who asks for it waits."""
    return getattr(import_module(f"{__name__}.{module}"), name)()


METHODS: dict[str, Callable[[], Method]] = {
    "nlc": partial(_imported, "nlc", "Nlc"),
    "ioa": partial(_imported, "ioa", "Ioa"),
    "video-pca": partial(_imported, "video_pca", "VideoPca"),
    "fst": partial(_imported, "fst", "Fst"),
    "unovost": UnOvost,
    "unovost+": UnOvostPlus,
    "twb": Tractor,
    "zs-uvc": Uvc,
    "os-uvc": partial(Uvc, one_shot=True),
}
"""What makes the method of a name, in the order of tables."""

ON_SELECTED = ("unovost+",)  # their proposals are the masks that ours selects, by confidence
FILE = "file:"  # before the path of masks that another program made


def make_method(name: str) -> Method:
    """The method of a name of `METHODS`, or the masks of `file:PATH`."""
    if name.startswith(FILE):
        return MaskFile(Path(name.removeprefix(FILE)))
    return METHODS[name]()
