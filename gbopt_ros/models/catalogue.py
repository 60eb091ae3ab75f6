"""The weights that `gbopt models pull` can download, and where they are kept.

Nothing is downloaded unless `pull` is called. torchvision publishes the first digits of the SHA-256
in the name of a file. They are checked, as torch.hub does. The ONNX files have their whole SHA-256
here. It is recorded beside the file, so that later damage is found.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gbopt_ros.io.files import collect_leftovers, make_parents, sync, write_text
from gbopt_ros.models.download import FAILURES, check_digest, fetch, lock_unfinished, reason_of
from gbopt_ros.structures import GboptError

_TORCHVISION = {
    "maskrcnn_resnet50_fpn": "MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
    "maskrcnn_resnet50_fpn_v2": "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1",
    "raft_large": "Raft_Large_Weights.C_T_SKHT_V2",
    "raft_large_things": "Raft_Large_Weights.C_T_V1",  # the paper's: FlyingChairs, FlyingThings3D
    "raft_small": "Raft_Small_Weights.C_T_V2",
}
"""Name: torchvision's name of the weights."""


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue from 0 to 1: the normalisation of most networks."""


@dataclass(frozen=True)
class Pixels:
    """How a foreground network takes an image, and what its first output means.

    Attributes:
        mean, std: of red, green and blue, for values from 0 to 1.
        output: `probability` of the foreground, or its `logits`.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    output: str = "probability"


@dataclass(frozen=True)
class Published:
    """Weights on a server.

    Attributes:
        name: name in the catalogue.
        url: address of the file.
        digest: first hexadecimal digits of the SHA-256, or all of them.
        licence: of the network, with its source; the data of its training have terms of their own.
        pixels: for a foreground network in an ONNX file.
    """

    name: str
    url: str
    digest: str
    licence: str
    pixels: Pixels | None = None

    @property
    def path(self) -> Path:
        """Place of the file, whether it is there or not."""
        return models_folder() / self.url.rpartition("/")[2]


_U2NET_LICENCE = "Apache-2.0 (xuebinqin/U-2-Net; converted by danielgatis/rembg)"
_REMBG = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"

# Mean and deviation are those of the repository that the licence names; rembg has another mean for
# IS-Net.
_FOREGROUND = (
    Published(
        "u2netp",
        f"{_REMBG}/u2netp.onnx",
        "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        _U2NET_LICENCE,
        Pixels(),
    ),
    Published(
        "u2net",
        f"{_REMBG}/u2net.onnx",
        "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
        _U2NET_LICENCE,
        Pixels(),
    ),
    Published(
        "isnet-general-use",
        f"{_REMBG}/isnet-general-use.onnx",
        "60920e99c45464f2ba57bee2ad08c919a52bbf852739e96947fbb4358c0d964a",
        "Apache-2.0 (xuebinqin/DIS; converted by danielgatis/rembg)",
        Pixels((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)),
    ),
    Published(
        "birefnet-general-lite",
        "https://github.com/ZhengPeng7/BiRefNet/releases/download/v1/"
        "BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx",
        "5600024376f572a557870a5eb0afb1e5961636bef4e1e22132025467d0f03333",
        "MIT (ZhengPeng7/BiRefNet)",
        Pixels(output="logits"),
    ),
)

CATALOGUE = (*_TORCHVISION, *(entry.name for entry in _FOREGROUND))
"""All names."""


def models_folder() -> Path:
    """`gbopt_ros/models` in `$XDG_CACHE_HOME`, by default in `~/.cache`."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "gbopt_ros" / "models"


def published(name: str) -> Published:
    """An entry of the catalogue. Raises GboptError if there is no such name."""
    if name not in CATALOGUE:
        raise GboptError(f"{name}: no such weights; known: {', '.join(CATALOGUE)}")
    for entry in _FOREGROUND:
        if entry.name == name:
            return entry
    from torchvision.models import get_weight

    url = str(get_weight(_TORCHVISION[name]).value.url)
    digest = re.search(r"-([0-9a-f]{8,64})\.", url.rpartition("/")[2])
    assert digest is not None  # torch.hub relies on it as well
    return Published(name, url, digest[1], "BSD-3-Clause (torchvision)")


def pixels_of(sha256: str) -> Pixels | None:
    """How the foreground network in a file of this SHA-256 takes images; None if it is unknown."""
    return next((entry.pixels for entry in _FOREGROUND if entry.digest == sha256), None)


def find_weights(path: Path | str) -> Path:
    """The path itself or, for a name of the catalogue, the pulled file.

    Raises:
        GboptError: the weights were not pulled yet, or the file was damaged since.
    """
    path = Path(path)
    if str(path) not in CATALOGUE or path.exists():
        return path
    entry = published(str(path))
    if not entry.path.is_file():
        raise GboptError(
            f"{entry.name}: not on this machine; `gbopt models pull {entry.name}` downloads it, "
            f"or put {entry.url} at {entry.path}"
        )
    facts = entry.path.stat()
    _check_once(entry, facts.st_size, facts.st_mtime_ns)
    return entry.path


@lru_cache
def _check_once(entry: Published, size: int, modified_ns: int) -> None:
    """Check the digest of a pulled file, once a process as long as the file stays the same."""
    check_digest(entry.path, _recorded(entry.path) or entry.digest)


def pull(name: str, url: str = "") -> tuple[Path, str]:
    """Download weights unless they are there, and verify them.

    If the connection breaks, the next call continues the download.

    Args:
        name: name in the catalogue.
        url: address of a mirror; the digest must be the same.

    Returns:
        The file and its SHA-256.

    Raises:
        GboptError: no such name, the file cannot be downloaded, or its digest is wrong.
    """
    entry = published(name)
    path, url = entry.path, url or entry.url
    if path.is_file():
        return path, _verify(path, entry)
    part = path.with_name(f"{path.name}.part")
    try:
        make_parents(path)
        collect_leftovers(path.parent)
        with part.open("a+b") as file:
            lock_unfinished(part, file)
            fetch(url, file, name)
            file.flush()
            try:
                digest = check_digest(part, entry.digest)
            except GboptError:
                part.unlink()
                raise
            _record(path, digest)
            sync(part)
            os.replace(part, path)
            sync(path.parent)
    except FAILURES as error:
        raise GboptError(
            f"{name}: cannot be downloaded ({reason_of(error)}); try again, or fetch {url} "
            f"and put it at {path}"
        ) from error
    return path, digest


def _verify(path: Path, entry: Published) -> str:
    """The SHA-256 of a file that is there, checked against the recorded or published digest."""
    recorded = _recorded(path)
    digest = check_digest(path, recorded or entry.digest)
    if not recorded:
        _record(path, digest)
    return digest


def _recorded(path: Path) -> str:
    """The digest beside the file, "" if there is none."""
    with suppress(OSError, ValueError, IndexError):
        return _record_of(path).read_text(encoding="ascii").split()[0]
    return ""


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _record(path: Path, digest: str) -> None:
    """Write the digest beside the file, as `sha256sum --check` reads it."""
    write_text(_record_of(path), f"{digest}  {path.name}\n")
