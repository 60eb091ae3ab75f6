"""Textured squares that move over a textured background, and a network that sees their colours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import clip_boxes_to_image, roi_align

from experiments.methods.contract import Inputs
from gbopt_ros.structures import Image, Proposals
from support.fakes import make_clip
from support.textures import texture

SIZE = (48, 64)
SIDE = 12
RED, GREEN = 0, 1  # channels
_DARK = 0.3  # brightness of everything but an object's own channel


def place(row: int, column: int) -> np.ndarray:
    """(H, W) bool, a square with this corner."""
    mask = np.zeros(SIZE, bool)
    mask[row : row + SIDE, column : column + SIDE] = True
    return mask


def picture(squares: dict[int, np.ndarray], seed: int = 0) -> Image:
    """A background with squares, masks (H, W) by channel, whose texture moves with them."""
    image = _DARK * texture(*SIZE, seed).astype(float)
    for channel, mask in squares.items():
        rows, columns = np.nonzero(mask)
        own = texture(SIDE, SIDE, seed + 1 + channel)[rows - rows.min(), columns - columns.min()]
        image[mask] = _DARK * own
        image[rows, columns, channel] = 180 + 0.25 * own[:, 0]
    return image.astype(np.uint8)


class ShiftFlow:
    """A flow network that sees everything move by the same number of pixels to the right."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels

    def flow(self, first: list[Image], second: list[Image]) -> np.ndarray:
        flow = np.zeros((len(first), *first[0].shape[:2], 2), np.float32)
        flow[..., 0] = self._pixels
        return flow


class Levels(nn.Module):
    """A pyramid of two levels, at half and a quarter of the resolution: colours."""

    def __init__(self) -> None:
        super().__init__()
        self.anywhere = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        half = functional.avg_pool2d(images, 2)
        return {"0": half, "1": functional.avg_pool2d(half, 2)}


class _Split(nn.Module):
    """Logits and regressions from what the fake pooling found."""

    def forward(self, found: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(found)
        return torch.stack([zero[:, 4], found[:, 4]], dim=1), torch.cat(
            [zero[:, :4], found[:, :4]], dim=1
        )


class _FindSquare(nn.Module):
    """Regresses a box to the square of the colour that it has most of; sure where it has any."""

    def __init__(self, coder: object) -> None:
        super().__init__()
        self.coder = coder

    def forward(
        self, levels: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, int]]
    ) -> Tensor:
        (regions,) = boxes
        return torch.stack([self._of(levels["0"][0], region) for region in regions])

    def _of(self, half: Tensor, region: Tensor) -> Tensor:
        x0, y0, x1, y1 = (int(v) // 2 for v in clip_boxes_to_image(region[None], SIZE)[0].round())
        inside = coloured(half)[:, y0:y1, x0:x1].sum(dim=(1, 2))
        channel = int(inside.argmax())
        if inside[channel] < 4:
            return torch.tensor([0.0, 0.0, 0.0, 0.0, -5.0])
        ys, xs = torch.nonzero(coloured(half)[channel], as_tuple=True)
        found = 2.0 * torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        (deltas,) = self.coder.encode([found[None]], [region[None]])
        return torch.cat([deltas[0], torch.tensor([2.0])])


class _Cropped(nn.Module):
    def forward(
        self, levels: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, int]]
    ) -> Tensor:
        objects = coloured(levels["0"][0]).any(dim=0, keepdim=True)[None].float()
        return roi_align(objects, boxes, 28, spatial_scale=0.5, sampling_ratio=2, aligned=True)


class _MaskLogits(nn.Module):
    def forward(self, cropped: Tensor) -> Tensor:
        return 20 * (cropped - 0.5).expand(-1, 2, -1, -1)


def coloured(level: Tensor) -> Tensor:
    """(2, h, w) bool: cells that are red, and that are green."""
    return (level[:2] > 0.5) & (level[:2] > level[:2].flip(0) + 0.2)


class SquaresNetwork(nn.Module):
    """A `DetectionNetwork` on torchvision's heads that finds the squares by their colours."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = GeneralizedRCNNTransform(min(SIZE), max(SIZE), [0.0] * 3, [1.0] * 3)
        self.backbone = Levels()
        self.roi_heads = RoIHeads(
            nn.Identity(), nn.Identity(), _Split(), 0.5, 0.5, 8, 0.5, None, 0.0, 0.7, 10,
            _Cropped(), nn.Identity(), _MaskLogits(),
        )  # fmt: skip
        self.roi_heads.box_roi_pool = _FindSquare(self.roi_heads.box_coder)
        self.eval()


def inputs_of(
    images: list[Image], proposals: list[Proposals], flow: int = 0, **others: object
) -> Inputs:
    """Inputs with the fake networks; everything moves by `flow` pixels a frame, seen backwards."""
    return Inputs(
        clip=make_clip(images),
        proposals=tuple(proposals),
        flow_network=ShiftFlow(-flow),
        background_network=None,
        network=SquaresNetwork(),
        **others,
    )
