"""The layouts of ONNX networks that propose masks: what each gives for an image.

- Ultralytics' export of YOLO segmentation: `images` (1, 3, h, w), letterboxed; `output0`
  (1, 4 + classes + c, A), x, y, w, h in pixels of the input, class probabilities and c
  coefficients of A regions; `output1` (1, c, h / 4, w / 4), prototypes of masks.
- torchvision's export of Mask R-CNN: an image (3, H, W); `boxes` (n, 4), `labels` (n,), `scores`
  (n,) and `masks` (n, 1, H, W), probabilities at the size of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gbopt_ros.models.onnx import OnnxNetwork
from gbopt_ros.structures import GboptError, Image

_GREY = 114  # of the letterbox, as Ultralytics trains
_MASKS_AT_ONCE = 16  # at the size of input and image
_GRID = 4  # cells of the prototypes for each region of the finest grid: strides 4 and 8


@dataclass(frozen=True)
class Regions:
    """What a network gives for an image of size (H, W), in any order.

    Attributes:
        boxes: (A, 4) float32, xyxy pixels of the image; they may leave it.
        scores: (A,) float32, as the network gives them.
        masks: takes n indices, gives the masks (n, H, W) float32, probabilities.
    """

    boxes: Tensor
    scores: Tensor
    masks: Callable[[Tensor], Tensor]


class OnnxLayout(Protocol):
    """A layout of a network that proposes masks."""

    def __call__(self, image: Image) -> Regions: ...


def layout_of(network: OnnxNetwork, size: int, device: torch.device) -> OnnxLayout:
    """The layout of a file, by the shapes of its input and outputs.

    Args:
        size: height and width of the input where the file leaves them open.
        device: where regions are computed from the outputs.

    Raises:
        GboptError: it has another one.
    """
    if TorchvisionLayout.fits(network):
        return TorchvisionLayout(network, device)
    if UltralyticsLayout.fits(network):
        return UltralyticsLayout(network, size, device)
    raise GboptError(
        f"{network.path}: expected the segmentation layout of Ultralytics, input (1, 3, h, w) and "
        "outputs (1, 4 + classes + c, regions), (1, c, h / 4, w / 4), or Mask R-CNN of "
        "torchvision, input (3, H, W) and outputs boxes (n, 4), labels (n), scores (n), masks "
        f"(n, 1, H, W); the file has {network.layout}"
    )


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in the input of a network: scaled, in the middle, grey around it.

    Attributes:
        size: (height, width) of the input, pixels.
        image_size: (height, width) of the image, pixels.
    """

    size: tuple[int, int]
    image_size: tuple[int, int]

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the image in the input, pixels."""
        (outer_h, outer_w), (image_h, image_w) = self.size, self.image_size
        scale = min(outer_h / image_h, outer_w / image_w)
        height, width = max(1, round(image_h * scale)), max(1, round(image_w * scale))
        # An odd rest is larger at the bottom and on the right, as Ultralytics' is.
        return (outer_h - height) // 2, (outer_w - width) // 2, height, width

    def place(self, image: Image) -> NDArray[np.uint8]:
        """(h, w, 3) uint8, the input of an image (H, W, 3)."""
        top, left, height, width = self.inner
        placed = np.full((*self.size, 3), _GREY, np.uint8)
        if image.shape[:2] != (height, width):
            image = np.asarray(cv2.resize(image, (width, height)), np.uint8)
        placed[top : top + height, left : left + width] = image
        return placed

    def boxes_of_image(self, boxes: Tensor) -> Tensor:
        """(A, 4) xyxy in pixels of the image, from pixels of the input."""
        top, left, height, width = self.inner
        offset = boxes.new_tensor([left, top, left, top])
        scale = self.image_size[1] / width, self.image_size[0] / height
        return (boxes - offset) * boxes.new_tensor([*scale, *scale])

    def maps_of_image(self, maps: Tensor) -> Tensor:
        """(n, H, W) of the image, from (n, h, w) of the input."""
        top, left, height, width = self.inner
        return _resized(maps[:, top : top + height, left : left + width], self.image_size)


class UltralyticsLayout:
    """Prototypes, weighted with the coefficients of a region, are its mask."""

    def __init__(self, network: OnnxNetwork, size: int, device: torch.device) -> None:
        height, width = (
            side if isinstance(side, int) else size for side in network.input.shape[2:]
        )
        self._network, self._size, self._device = network, (height, width), device

    @classmethod
    def fits(cls, network: OnnxNetwork) -> bool:
        """Whether the file may have this layout, as far as it gives shapes."""
        outputs = network.outputs
        return (
            network.input.fits(1, 3, None, None)
            and len(outputs) == 2
            and outputs[0].fits(1, None, None)
            and outputs[1].fits(1, None, None, None)
            and cls._agree(outputs[0].shape, outputs[1].shape)
        )

    @staticmethod
    def _agree(regions: tuple[Any, ...], prototypes: tuple[Any, ...]) -> bool:
        """Whether two outputs fit each other; lengths that are no numbers always do.

        The same shapes without suppressed regions, or transposed, have too few regions for their
        grid.
        """
        _, channels, count = regions
        _, coefficients, *grid = prototypes
        has_class = _unknown(channels, coefficients) or channels > 4 + coefficients
        has_grid = _unknown(count, *grid) or count >= grid[0] * grid[1] // _GRID
        return has_class and has_grid

    def __call__(self, image: Image) -> Regions:
        letterbox = Letterbox(self._size, (image.shape[0], image.shape[1]))
        x = letterbox.place(image).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        regions, prototypes = self._network.run(x)
        if not (regions.ndim == 3 and prototypes.ndim == 4) or not self._agree(
            regions.shape, prototypes.shape
        ):
            raise GboptError(
                f"{self._network.path}: expected outputs (1, 4 + classes + c, regions) and "
                f"(1, c, h / 4, w / 4), got {regions.shape} and {prototypes.shape}"
            )
        of_regions = torch.from_numpy(regions[0]).to(self._device).T  # (A, 4 + classes + c)
        of_masks = torch.from_numpy(prototypes[0]).to(self._device)  # (c, h / 4, w / 4)
        c = len(of_masks)
        centre, extent = of_regions[:, :2], of_regions[:, 2:4]
        boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)

        def masks(kept: Tensor) -> Tensor:
            return self._masks(of_regions[kept, -c:], of_masks, boxes[kept], letterbox)

        scores = of_regions[:, 4:-c].amax(dim=1)
        return Regions(letterbox.boxes_of_image(boxes), scores, masks)

    def _masks(
        self, coefficients: Tensor, prototypes: Tensor, boxes: Tensor, letterbox: Letterbox
    ) -> Tensor:
        """(n, H, W) probabilities, 0 outside of the box.

        Args:
            coefficients: (n, c).
            prototypes: (c, h / 4, w / 4).
            boxes: (n, 4) xyxy, pixels of the input.
        """
        parts = [coefficients.new_zeros((0, *letterbox.image_size))]
        for some, inside in zip(
            coefficients.split(_MASKS_AT_ONCE), boxes.split(_MASKS_AT_ONCE), strict=True
        ):
            maps = torch.sigmoid(torch.einsum("nc,chw->nhw", some, prototypes))
            maps = _resized(maps, self._size) * _inside(inside, self._size)
            parts.append(letterbox.maps_of_image(maps))
        return torch.cat(parts)


class TorchvisionLayout:
    """The outputs of torchvision's Mask R-CNN in evaluation mode."""

    NAMES = ("boxes", "labels", "scores", "masks")

    def __init__(self, network: OnnxNetwork, device: torch.device) -> None:
        height, width = network.input.shape[1:]
        self._size = height, width
        self._network, self._device = network, device
        names = tuple(output.name for output in network.outputs)
        order = names if {*names} == {*self.NAMES} else self.NAMES
        self._positions = {name: order.index(name) for name in self.NAMES}

    @classmethod
    def fits(cls, network: OnnxNetwork) -> bool:
        """Whether the file has this layout: by the names, or by the shapes in their order."""
        outputs = network.outputs
        shapes = (None, 4), (None,), (None,), (None, 1, None, None)
        named = {output.name for output in outputs} == {*cls.NAMES}
        shaped = len(outputs) == 4 and all(
            output.fits(*shape) for output, shape in zip(outputs, shapes, strict=True)
        )
        return network.input.fits(3, None, None) and (named or shaped)

    def __call__(self, image: Image) -> Regions:
        height, width = image.shape[:2]
        seen_h, seen_w = (
            side if isinstance(side, int) else of_image
            for side, of_image in zip(self._size, (height, width), strict=True)
        )
        x = np.ascontiguousarray(image)
        if (seen_h, seen_w) != (height, width):
            x = np.asarray(cv2.resize(x, (seen_w, seen_h)), np.uint8)
        found = self._network.run(x.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
        boxes, scores, maps = (
            torch.from_numpy(found[self._positions[name]]).to(self._device)
            for name in ("boxes", "scores", "masks")
        )
        n = len(scores) if scores.ndim == 1 else -1
        if boxes.shape != (n, 4) or maps.shape != (n, 1, seen_h, seen_w):
            raise GboptError(
                f"{self._network.path}: expected boxes (n, 4), scores (n) and masks "
                f"(n, 1, {seen_h}, {seen_w}), got {tuple(boxes.shape)}, {tuple(scores.shape)} and "
                f"{tuple(maps.shape)}"
            )
        scale = boxes.new_tensor(2 * [width / seen_w, height / seen_h])
        return Regions(boxes * scale, scores, lambda kept: _resized(maps[kept, 0], (height, width)))


def _unknown(*lengths: Any) -> bool:
    return not all(isinstance(length, int) for length in lengths)


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, h, w) bool, the pixels whose upper left corner is in a box xyxy, as Ultralytics crops."""
    left, top, right, bottom = (side[:, None, None] for side in boxes.unbind(dim=1))
    rows = torch.arange(size[0], device=boxes.device)[None, :, None]
    columns = torch.arange(size[1], device=boxes.device)[None, None, :]
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (n, h, w) to another height and width."""
    if maps.shape[-2:] == size or len(maps) == 0:
        return maps.reshape(len(maps), *size)
    return functional.interpolate(
        maps[:, None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[:, 0]
