"""Training examples and their augmentation: large scale jitter, flips, colours, copy-paste."""

from __future__ import annotations

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
        is_object: (M,) bool; False marks an ignore region.
    """

    image: Image
    masks: NDArray[np.bool_]
    is_object: NDArray[np.bool_]

    def only(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Example:
        """The example with some of its masks, chosen by a boolean or an index array."""
        return Example(self.image, self.masks[keep], self.is_object[keep])


def to_example(labelled: LabelledImage) -> Example:
    """Decode the instances and ignore regions of a labelled image."""
    masks = mask_ops.decode_all(
        (*labelled.rles, *labelled.ignore_regions), labelled.image.shape[:2]
    )
    return Example(labelled.image, masks, np.arange(len(masks)) < len(labelled.rles))


def augment(example: Example, rng: np.random.Generator, config: AugmentConfig) -> Example:
    """Scale, crop, flip and change the colours of one example; its image keeps its size."""
    example = _scale_and_crop(example, rng, config)
    if rng.random() < config.flip:
        example = replace(
            example,
            image=np.ascontiguousarray(example.image[:, ::-1]),
            masks=np.ascontiguousarray(example.masks[:, :, ::-1]),
        )
    image = example.image
    if rng.random() < config.colour:
        image = _jitter_colour(image, rng, config)
    if rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    if rng.random() < config.noise:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape[:2]).astype(np.float32)
        image = np.clip(image + noise[..., None], 0, 255).astype(np.uint8)
    return replace(example, image=image)


def _scale_and_crop(example: Example, rng: np.random.Generator, config: AugmentConfig) -> Example:
    height, width = example.image.shape[:2]
    factor = float(np.exp(rng.uniform(np.log(config.scale_min), np.log(config.scale_max))))
    # From input to output pixels. The offset places the crop inside the enlarged image, or the
    # reduced image inside the padding.
    offset_x = rng.uniform(min(0.0, width * factor - width), max(0.0, width * factor - width))
    offset_y = rng.uniform(min(0.0, height * factor - height), max(0.0, height * factor - height))
    matrix = np.array([[factor, 0, -offset_x], [0, factor, -offset_y]], np.float32)
    size = (width, height)
    image = cv2.warpAffine(
        example.image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=PADDING_VALUE
    )
    masks = np.zeros_like(example.masks)
    for target, mask in zip(masks, example.masks, strict=True):
        target[:] = cv2.warpAffine(mask.view(np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return _drop_small(replace(example, image=image, masks=masks), config.min_pixels)


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
        return (np.repeat(grey[..., None], 3, axis=2) * 255).astype(np.uint8)
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-1, 1) * config.hue * 360) % 360
    hsv[..., 1] = np.clip(
        hsv[..., 1] * rng.uniform(1 - config.saturation, 1 + config.saturation), 0, 1
    )
    return (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


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
    image = (source.image * alpha + target.image * (1 - alpha)).astype(np.uint8)
    masks = np.concatenate([target.masks & ~union, pasted])
    is_object = np.concatenate([target.is_object, np.ones(len(pasted), np.bool_)])
    return _drop_small(Example(image, masks, is_object), min_pixels)
