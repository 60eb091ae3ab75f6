"""Weights files: safetensors with a description of the network in their metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gbopt_ros.io.files import replacing
from gbopt_ros.io.files import sha256_of as sha256_of  # those who read weights look for it here
from gbopt_ros.io.json_file import Fields, parse_json
from gbopt_ros.structures import Calibration, GboptError

M = TypeVar("M", bound=nn.Module)

PROPOSALS = "proposals"
BACKGROUND = "background"
DETECTRON2 = "detectron2"
"""The architecture of proposal networks that detectron2 builds from a configuration."""

_KEY = "gbopt_ros"


class HasState(Protocol):
    """A network, or anything else with tensors by name."""

    def state_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class WeightsInfo:
    """The description in a weights file.

    Attributes:
        network: `proposals` or `background`.
        architecture: key of the network's architecture table, or `DETECTRON2`.
        version: name of the version, unique in its model store.
        config: YAML that detectron2 builds the network from, else "".
        calibration: model of the confidences for a proposal network; None where it was not fitted.
    """

    network: str
    architecture: str
    version: str
    config: str = ""
    calibration: Calibration | None = None


def save_weights(path: Path, network: HasState, info: WeightsInfo, half: bool = False) -> str:
    """Write a network's weights atomically; returns the SHA-256 of the file.

    Args:
        half: store floating-point tensors in half precision.

    Raises:
        GboptError: the file cannot be written.
    """
    tensors = {
        name: (value.half() if half and value.is_floating_point() else value)
        .detach().cpu().contiguous()
        for name, value in network.state_dict().items()
    }  # fmt: skip
    return _write(path, tensors, info)


def write_calibration(path: Path, calibration: Calibration, out: Path) -> str:
    """Write a copy of a weights file with another calibration; returns its SHA-256.

    The tensors stay the same, to the last bit.

    Raises:
        GboptError: the file cannot be read or has no description, or `out` cannot be written.
    """
    info, _ = read_weights(path, PROPOSALS)
    return _write(out, load_file(path), replace(info, calibration=calibration))


def _write(path: Path, tensors: dict[str, Tensor], info: WeightsInfo) -> str:
    with replacing(path, SafetensorError) as aside:
        # Not `save_file`: it makes files that only their owner may read, whatever the umask.
        content = save(tensors, metadata=to_metadata(info))
        aside.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def tensors_digest(network: HasState) -> str:
    """SHA-256 of a network's tensors and their names, whatever its weights file says of them."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path, network: str) -> tuple[WeightsInfo, dict[str, Tensor]]:
    """The description and the tensors (float32, on the CPU) of a weights file.

    Raises:
        GboptError: no such file, not a safetensors file (a pickle is never opened), truncated, or
            weights of another network than `network`.
    """
    if not path.is_file():
        raise GboptError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise GboptError(
            f"{path}: not a readable safetensors file ({error}); "
            "the file is damaged or was cut: copy it again. A checkpoint of torch must have a name "
            "that ends with .pth"
        ) from error
    info = describe(metadata, path, network)
    if info is None:
        raise GboptError(
            f"{path}: these weights have no gbopt_ros description; expected a file written by "
            "`gbopt pretrain` or `gbopt learn`, or torchvision's weights of a proposal network"
        )
    return info, _in_float32(tensors)


def to_metadata(info: WeightsInfo) -> dict[str, str]:
    """The description as metadata of a file; `describe` reads it."""
    return {_KEY: json.dumps(asdict(info), sort_keys=True)}


def describe(metadata: Mapping[str, str], path: Path, network: str) -> WeightsInfo | None:
    """The description in the metadata of a file; None if it has none.

    Args:
        path: the file, for errors.
        network: `PROPOSALS` or `BACKGROUND`.

    Raises:
        GboptError: the description is damaged, or of another network than `network`.
    """
    if _KEY not in metadata:
        return None
    try:
        fields = Fields(parse_json(metadata[_KEY], str(path)), str(path))
        info = WeightsInfo(
            fields.text("network"),
            fields.text("architecture"),
            fields.text("version"),
            fields.text("config", default=""),
            _calibration(fields),
        )
    except GboptError as error:
        raise GboptError(f"{error}; its gbopt_ros description is damaged") from error
    if info.network != network:
        raise GboptError(f"{path}: expected weights of the {network} network, got {info.network}")
    return info


def version_of_file(path: Path, sha256: str) -> str:
    """The version of weights of another program: the file's name and first digits of its SHA-256.

    Every training of detectron2 ends with a `model_final`; names of torchvision hold the digits.
    """
    digest = sha256[:8]
    return path.stem if path.stem.endswith(digest) else f"{path.stem}-{digest}"


def _calibration(fields: Fields) -> Calibration | None:
    if fields.content.get("calibration") is None:
        return None
    numbers = fields.object("calibration")
    return Calibration(numbers.number("bias"), numbers.number("margin"), numbers.number("score"))


def _in_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def _metadata_of(path: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file; None if it is none."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return None


def is_foreign(path: Path) -> bool:
    """Whether a file is safetensors without a description of ours."""
    metadata = _metadata_of(path)
    return metadata is not None and _KEY not in metadata


def architecture_of(path: Path) -> str:
    """The architecture in the description of a weights file; "" if there is none."""
    return _described(path, "architecture")


def network_of(path: Path) -> str:
    """`proposals` or `background`, from the description of a weights file; "" if there is none."""
    return _described(path, "network")


def _described(path: Path, field: str) -> str:
    description = (_metadata_of(path) or {}).get(_KEY, "{}")
    try:
        return Fields(parse_json(description, str(path)), str(path)).text(field, default="")
    except GboptError:
        return ""


def read_state_dict(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors (float32, on the CPU) of a state dict of another program.

    Args:
        path: a `.safetensors` file, or a `.pth` that holds only tensors, by name or below the key
            `model`, as torchvision's training scripts write it.
        what: name of the network, for errors.

    Raises:
        GboptError: no such file, no state dict, or not readable without running code.
    """
    if not path.is_file():
        raise GboptError(f"{path}: no such {what} weights file")
    tensors: Any
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        raise GboptError(
            f"{path}: {what} weights cannot be read ({type(error).__name__}); expected a "
            "safetensors file, or a .pth that holds tensors only"
        ) from error
    if isinstance(tensors, dict) and isinstance(tensors.get("model"), dict):
        tensors = tensors["model"]
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise GboptError(f"{path}: {what} weights: expected a state dict, only named tensors")
    return _in_float32(tensors)


class NoRandomValues(TorchFunctionMode):
    """Within it a network is built several times faster, with arbitrary values: for `load_into`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _RANDOM:
            return func(*args, **(kwargs or {}))
        return args[0] if args else kwargs["tensor"]


# What the initialisers of torch draw with, and those of them that a mode is asked for first.
_RANDOM = {
    Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_
}  # fmt: skip


def load_into(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a network.

    Raises:
        GboptError: names or shapes do not match, or a value is not finite.
    """
    expected = network.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected)
    if missing or extra:
        raise GboptError(
            f"{path}: weights do not fit their architecture: {len(missing)} tensors missing "
            f"(first: {missing[:1]}), {len(extra)} unknown (first: {extra[:1]})"
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise GboptError(
                f"{path}: {name}: expected shape {tuple(expected[name].shape)}, "
                f"got {tuple(value.shape)}"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise GboptError(f"{path}: {name} holds values that are not finite")
    network.load_state_dict(tensors)


def load_network(path: Path, kind: str, build: Callable[[str], M]) -> tuple[M, WeightsInfo]:
    """The network of a weights file, float32, on the CPU, in evaluation mode.

    Args:
        kind: `PROPOSALS` or `BACKGROUND`.
        build: makes the network of an architecture; raises GboptError if it is unknown.

    Raises:
        GboptError: the file is missing, corrupt, or does not fit its architecture.
    """
    info, tensors = read_weights(path, kind)
    try:
        with NoRandomValues():
            network = build(info.architecture)
    except GboptError as error:
        raise GboptError(f"{path}: {error}") from error
    load_into(network, tensors, path)
    return network.eval(), info
