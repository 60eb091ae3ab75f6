"""A textured disc that moves over a textured background, which pans the other way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.methods.contract import Inputs
from gbopt_ros.masks import decode_all
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.structures import Proposals
from support.fakes import make_clip
from support.textures import texture

SIZE, RADIUS = (96, 128), 18
FRAMES, STEP = 6, 4  # pixels a frame, to the right


def discs() -> np.ndarray:
    """(T, H, W) bool."""
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    centres = SIZE[1] // 2 + STEP * (np.arange(FRAMES) - FRAMES // 2)
    return (rows - SIZE[0] // 2) ** 2 + (columns - centres[:, None, None]) ** 2 < RADIUS**2


def disc_inputs(pan: int = 1) -> Inputs:
    """What a method gets; the background goes `pan` pixels a frame to the left."""
    wide = texture(SIZE[0], SIZE[1] + pan * FRAMES, seed=1)
    own = texture(*SIZE, seed=2)
    images = []
    for t, disc in enumerate(discs()):
        image = wide[:, pan * t : pan * t + SIZE[1]] // 2
        reddish = np.roll(own, STEP * t, axis=1) // 2
        reddish[..., 0] += 120
        image[disc] = reddish[disc]
        images.append(np.ascontiguousarray(image))
    return Inputs(make_clip(images), (), DisFlow(), None, None)


def iou(found: Sequence[Proposals]) -> float:
    """Mean over the frames, of the union of all masks with the disc."""
    unions = [decode_all(p.rles, p.size).any(axis=0) for p in found]
    pairs = zip(unions, discs(), strict=True)
    return float(np.mean([(mask & disc).sum() / (mask | disc).sum() for mask, disc in pairs]))
