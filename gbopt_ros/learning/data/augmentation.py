"""Training examples and their augmentation: large scale jitter, flips, colours, copy-paste."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import AugmentConfig
from gbopt_ros.structures import Image, LabelledImage

PADDING_VALUE = (124, 116, 104)  # ImageNet mean, RGB: zero after normalisation


@dataclass(frozen=True)
class Example:
    """One training image with M instances and ignore regions.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        masks: (M, H, W) bool.
        is_object: (M,) bool; False marks an ignore region or a rejected one.
        complete: whether every object has a mask.
        foreground: (H, W) uint8, a teacher's probability of an object, times 255; None without one.
        is_rejected: (M,) bool, whether a person says that a region shows no object; None: none is.
    """

    image: Image
    masks: NDArray[np.bool_]
    is_object: NDArray[np.bool_]
    complete: bool = True
    foreground: NDArray[np.uint8] | None = None
    is_rejected: NDArray[np.bool_] | None = None

    def only(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Example:
        """The example with some of its masks, chosen by a boolean or an index array."""
        rejected = None if self.is_rejected is None else self.is_rejected[keep]
        return replace(
            self, masks=self.masks[keep], is_object=self.is_object[keep], is_rejected=rejected
        )


def to_example(labelled: LabelledImage) -> Example:
    """Decode the instances and ignore regions of a labelled image."""
    regions = (*labelled.rles, *labelled.ignore_regions, *labelled.rejected)
    number = np.arange(len(regions))
    return Example(
        labelled.image,
        mask_ops.decode_all(regions, labelled.image.shape[:2]),
        number < len(labelled.rles),
        labelled.complete,
        labelled.foreground,
        number >= len(regions) - len(labelled.rejected) if labelled.rejected else None,
    )


def augment(
    example: Example,
    rng: np.random.Generator,
    config: AugmentConfig,
    size: tuple[int, int] | None = None,
) -> Example:
    """Scale, crop, flip and change the colours of one example.

    Args:
        size: (height, width) of the result; None: that of the example. Images of another size are
            first fitted into it.
    """
    example = _scale_and_crop(example, rng, config, size or example.image.shape[:2])
    if rng.random() < config.flip:
        example = _on_every_map(example, lambda pixels, _: np.ascontiguousarray(pixels[:, ::-1]))
    image = example.image
    if rng.random() < config.colour:
        image = _jitter_colour(image, rng, config)
    if rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    if rng.random() < config.noise:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape[:2]).astype(np.float32)
        image = _to_uint8(image + noise[..., None])
    return replace(example, image=image)


def _scale_and_crop(
    example: Example, rng: np.random.Generator, config: AugmentConfig, size: tuple[int, int]
) -> Example:
    (old_height, old_width), (height, width) = example.image.shape[:2], size
    factor = float(np.exp(rng.uniform(np.log(config.scale_min), np.log(config.scale_max))))
    factor *= min(height / old_height, width / old_width)
    extra_x, extra_y = old_width * factor - width, old_height * factor - height
    # From input to output pixels, whose centres are half a pixel from their corners. The offset
    # places the crop inside the enlarged image, or the reduced image inside the padding.
    centre = (factor - 1) / 2
    offset_x = rng.uniform(min(0.0, extra_x), max(0.0, extra_x)) - centre
    offset_y = rng.uniform(min(0.0, extra_y), max(0.0, extra_y)) - centre
    matrix = np.array([[factor, 0, -offset_x], [0, factor, -offset_y]], np.float32)
    is_inside = min(extra_x, extra_y) >= 0  # the outer half of the pixels at the edge included
    beyond = cv2.BORDER_REPLICATE if is_inside else cv2.BORDER_CONSTANT

    def warp(pixels: NDArray[np.uint8], border: tuple[int, ...]) -> NDArray[np.uint8]:
        warped = cv2.warpAffine(
            pixels, matrix, (width, height), borderMode=beyond, borderValue=border,
            flags=cv2.INTER_LINEAR if border else cv2.INTER_NEAREST,
        )  # fmt: skip
        return warped.astype(np.uint8, copy=False)

    return _drop_small(_on_every_map(example, warp), config.min_pixels)


def _on_every_map(
    example: Example, change: Callable[[NDArray[np.uint8], tuple[int, ...]], NDArray[np.uint8]]
) -> Example:
    """The example with its image, masks and foreground changed in the same way.

    Args:
        change: takes a map and the value around it, () for a mask, which is not interpolated.
    """
    masks = [change(mask.view(np.uint8), ()) for mask in example.masks]
    image = change(example.image, PADDING_VALUE)
    return replace(
        example,
        image=image,
        masks=np.array(masks, np.bool_).reshape(len(masks), *image.shape[:2]),
        foreground=None if example.foreground is None else change(example.foreground, (0,)),
    )


def _drop_small(example: Example, min_pixels: int) -> Example:
    return example.only(example.masks.sum(axis=(1, 2)) >= min_pixels)


def _jitter_colour(image: Image, rng: np.random.Generator, config: AugmentConfig) -> Image:
    x = image.astype(np.float32)
    x *= rng.uniform(1 - config.brightness, 1 + config.brightness)
    mean = float(x.mean())
    x = (x - mean) * rng.uniform(1 - config.contrast, 1 + config.contrast) + mean
    x = np.clip(x, 0, 255) / 255.0
    if rng.random() < config.grey:
        grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)
        return _to_uint8(np.repeat(grey[..., None], 3, axis=2) * 255)
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-1, 1) * config.hue * 360) % 360
    hsv[..., 1] = np.clip(
        hsv[..., 1] * rng.uniform(1 - config.saturation, 1 + config.saturation), 0, 1
    )
    return _to_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255)


def _to_uint8(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def copy_paste(
    target: Example,
    source: Example,
    rng: np.random.Generator,
    min_pixels: int = AugmentConfig.min_pixels,
) -> Example:
    """Paste a random subset of the source's instances into the target (Ghiasi et al. 2021).

    Both images must have the same size. Instances of the target lose the pixels below.
    """
    source = source.only(source.is_object)
    m = len(source.masks)
    if m == 0:
        return target
    chosen = rng.permutation(m)[: rng.integers(1, m + 1)]
    pasted = source.masks[chosen]
    union = pasted.any(axis=0)
    # A soft edge hides the seam, which a network would learn to detect.
    alpha = cv2.GaussianBlur(union.astype(np.float32), (0, 0), 0.7)[..., None]
    image = _to_uint8(source.image * alpha + target.image * (1 - alpha))
    masks = np.concatenate([target.masks & ~union, pasted])
    is_object = np.concatenate([target.is_object, np.ones(len(pasted), np.bool_)])
    rejected = target.is_rejected
    if rejected is not None:
        rejected = np.concatenate([rejected, np.zeros(len(pasted), np.bool_)])
    foreground = target.foreground
    if foreground is not None:
        foreground = np.where(union, np.uint8(255), foreground)
    mixed = replace(
        target, image=image, masks=masks, is_object=is_object, foreground=foreground,
        is_rejected=rejected,
    )  # fmt: skip
    return _drop_small(mixed, min_pixels)
