"""Networks in ONNX files, on onnxruntime, an optional package that is imported when needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gbopt_ros.models.catalogue import models_folder
from gbopt_ros.models.weights import sha256_of, version_of_file
from gbopt_ros.structures import GboptError, first_line

log = logging.getLogger(__name__)

SUFFIX = ".onnx"

TENSORRT, CUDA, CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU"))
"""Execution providers of onnxruntime."""

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def is_onnx(path: Path) -> bool:
    """Whether a file is taken for an ONNX network, by its suffix."""
    return path.suffix.lower() == SUFFIX


@dataclass(frozen=True)
class OnnxTensor:
    """An input or an output of a network.

    Attributes:
        name: name in the file.
        shape: length of each axis; a name or None for a length that the file leaves open.
        dtype: as onnxruntime writes it, such as `tensor(float)`.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str

    def fits(self, *expected: int | None) -> bool:
        """Whether the shape may be the expected one; None stands for any length."""
        return len(self.shape) == len(expected) and all(
            known == wanted or wanted is None or not isinstance(known, int)
            for known, wanted in zip(self.shape, expected, strict=True)
        )

    def __str__(self) -> str:
        lengths = ", ".join("?" if length is None else str(length) for length in self.shape)
        return f"{self.name} ({lengths})"


class OnnxNetwork:
    """A network with one float input, ready to run. Any thread may call it.

    Attributes:
        path: the file.
        input: its input.
        outputs: its outputs, in order.
        metadata: the custom metadata of the file.
        version: see `version_of_file`.
        sha256: hexadecimal SHA-256 of the file.
        providers: the execution providers of onnxruntime that it may use, best first.
    """

    def __init__(self, path: Path, session: Any) -> None:
        inputs, outputs = (
            tuple(OnnxTensor(tensor.name, tuple(tensor.shape), tensor.type) for tensor in tensors)
            for tensors in (session.get_inputs(), session.get_outputs())
        )
        if len(inputs) != 1 or inputs[0].dtype not in _FLOATS:
            found = ", ".join(f"{tensor} {tensor.dtype}" for tensor in inputs) or "none"
            raise GboptError(f"{path}: expected one input of floats, the file has {found}")
        self.path, self.input, self.outputs = path, inputs[0], outputs
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.sha256 = sha256_of(path)
        self.version = version_of_file(path, self.sha256)
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self._session = session

    @property
    def layout(self) -> str:
        """Names and shapes of input and outputs, for errors."""
        outputs = ", ".join(map(str, self.outputs))
        return f"input {self.input}, outputs {outputs}"

    def run(self, values: NDArray[np.float32]) -> list[NDArray[Any]]:
        """All outputs for the input, in order; floats are float32.

        Raises:
            GboptError: onnxruntime fails, which names an operator or a shape.
        """
        fed = {self.input.name: values.astype(_FLOATS[self.input.dtype], copy=False)}
        try:
            found = self._session.run(None, fed)
        except Exception as error:  # onnxruntime's errors have no common class
            raise GboptError(
                f"{self.path}: fails on an input {values.shape} ({first_line(error)})"
            ) from error
        return [
            value.astype(np.float32, copy=False) if value.dtype == np.float16 else value
            for value in found
        ]


def load_onnx(
    path: Path, device: torch.device, offered: Sequence[str] | None = None
) -> OnnxNetwork:
    """The network of an ONNX file.

    It runs on TensorRT or CUDA if the device is a GPU and onnxruntime offers them, else on as many
    CPU threads as torch uses. TensorRT builds an engine at the first start, for minutes, and keeps
    it in the folder of the pulled weights.

    Args:
        offered: the execution providers to choose from; None: all that onnxruntime has.

    Raises:
        GboptError: onnxruntime is not installed, or the file is missing, damaged, no ONNX, or has
            not exactly one input of floats.
    """
    if not path.is_file():
        raise GboptError(f"{path}: no such ONNX file")
    try:
        import onnxruntime
    except ImportError as error:
        raise GboptError(
            f"{path}: an ONNX network needs the package onnxruntime, which cannot be imported "
            f"({error}); pip install 'gbopt_ros[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what fails is raised too, in one line
    # Threads that wait in a loop would take the cores from torch's networks.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if offered is None:
        offered = onnxruntime.get_available_providers()
    providers = providers_for(device, offered)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers)
    except Exception as error:  # onnxruntime's errors have no common class
        raise GboptError(
            f"{path}: cannot be opened as an ONNX network ({first_line(error)})"
        ) from error
    if device.type == "cuda" and not {TENSORRT, CUDA} & {*session.get_providers()}:
        log.warning(
            "%s: runs on the CPU, since this onnxruntime cannot use the GPU; pip install "
            "onnxruntime-gpu in its place", path,
        )  # fmt: skip
    return OnnxNetwork(path, session)


def providers_for(device: torch.device, offered: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The execution providers of onnxruntime for a device and their options, best first.

    Args:
        offered: what onnxruntime was built with.
    """
    wanted: dict[str, dict[str, str]] = {}
    if device.type == "cuda":
        number = {"device_id": str(device.index or 0)}
        cache = str(models_folder() / "tensorrt")
        engines = {"trt_engine_cache_enable": "True", "trt_engine_cache_path": cache}
        wanted = {TENSORRT: number | engines, CUDA: number}
    chosen = [(name, options) for name, options in wanted.items() if name in offered]
    return [*chosen, (CPU, {})]
