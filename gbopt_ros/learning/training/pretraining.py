"""Supervised training of the seed networks on labelled data of seen classes (Appendix D)."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import PretrainConfig
from gbopt_ros.config.pretrain import milestone_steps
from gbopt_ros.learning.data.augmentation import Example
from gbopt_ros.learning.data.batches import detection_target, foreground_target, known_pixels
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.learning.data.loader import (
    Batch,
    Sample,
    Steps,
    load_steps,
    processes_and_rank,
    to_device,
)
from gbopt_ros.learning.training.checkpoint import Checkpoint
from gbopt_ros.learning.training.ignore_regions import with_ignore_regions
from gbopt_ros.learning.training.pretrained_backbone import freeze_statistics, start_from
from gbopt_ros.learning.training.trainer import TrainingLog, train
from gbopt_ros.models.background_fpn import PIXEL_MEAN, TIMM, SemanticFpn, build_background
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.perception.background import resize_short_side
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_LONG_SIDE = 5 / 3  # of an image at most, in short sides, as Mask R-CNN's 1333 for 800
_SCALES = 6  # sizes that a training image may have, as detectron2's 640, 672, ..., 800
_NOT_DECISIVE = ("num_workers", "checkpoint_every")  # settings that may change between two runs


def pretrain_proposals(
    pool: InstanceDataset,
    config: PretrainConfig,
    device: torch.device,
    checkpoint: Path | None = None,
) -> tuple[MaskRCNN, TrainingLog]:
    """Train a class-agnostic Mask R-CNN, from random weights or from ImageNet's.

    Args:
        pool: labelled images; ignored regions are neither objects nor background.
        checkpoint: file to resume from, where it exists, and to write to.

    Raises:
        GboptError: a loss is not finite, or a file cannot be read or does not fit.
    """
    torch.manual_seed(config.seed)
    network = build_mask_rcnn(config.proposal_architecture)
    if config.proposal_backbone:
        start_from(network.backbone.get_submodule("body"), Path(config.proposal_backbone))
    with_ignore_regions(network)
    (short_side,) = network.transform.min_size
    network.transform.min_size = tuple(_sizes(short_side, config.min_scale))
    network = network.to(device).train().to(memory_format=torch.channels_last)
    freeze_statistics(network)

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        torch.manual_seed(batch.seed)
        images, targets = zip(*(to_device(s, device) for s in batch.samples), strict=True)
        losses: dict[str, Tensor] = network(list(images), list(targets))
        return losses

    trained, losses = _train(
        network, pool, config, losses_of, partial(detection_target, device=_CPU),
        config.iterations, config.warmup, config.lr_milestones, checkpoint, "pretrain proposals",
    )  # fmt: skip
    assert isinstance(trained, MaskRCNN)
    trained.transform.min_size = (short_side,)
    return trained.eval(), losses


def pretrain_background(
    pool: InstanceDataset,
    config: PretrainConfig,
    device: torch.device,
    proposals: MaskRCNN | None = None,
    checkpoint: Path | None = None,
) -> tuple[SemanticFpn, TrainingLog]:
    """Train a foreground/background network: instances against everything else (D.2.1).

    Args:
        pool: labelled images; pixels of ignored regions do not count.
        proposals: trained on the same data; where no other backbone is given, the tensors of its
            own that fit are the start, in place of the ImageNet weights that the paper starts from.
        checkpoint: file to resume from, where it exists, and to write to.

    Raises:
        GboptError: a loss is not finite, a file cannot be read or does not fit, or the backbone
            needs more images a process.
    """
    torch.manual_seed(config.seed)
    network = build_background(config.background_architecture)
    if config.background_backbone:
        start_from(network.backbone.get_submodule("body"), Path(config.background_backbone))
    elif proposals is not None and not config.background_architecture.startswith(TIMM):
        _copy_fitting(proposals.backbone, network.backbone)
    network = network.to(device).train().to(memory_format=torch.channels_last)
    freeze_statistics(network)
    sizes = _sizes(network.short_side, config.min_scale)

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        rng = np.random.default_rng(batch.seed)
        torch.manual_seed(batch.seed)
        images, targets, known = collate_semantic(
            [to_device(sample, device) for sample in batch.samples],
            [int(rng.choice(sizes)) for _ in batch.samples],
        )
        try:
            logits = network(images.contiguous(memory_format=torch.channels_last)).float()
        except ValueError as error:  # a ResNeSt normalises what it has pooled to one pixel an image
            raise GboptError(
                f"pretrain background: {config.background_architecture} cannot train on "
                f"{len(images)} images a process ({error}); raise pretrain.batch_size, or start "
                "from pretrain.background_backbone, whose statistics stay as they are"
            ) from error
        entropy = functional.binary_cross_entropy_with_logits(
            logits, targets, weight=known, reduction="sum"
        )
        return {"cross_entropy": entropy / known.sum().clamp(min=1)}

    iterations = config.background_iterations
    trained, losses = _train(
        network, pool, config, losses_of, semantic_target,
        iterations, min(config.warmup, iterations // 5), config.background_lr_milestones, checkpoint,
        "pretrain background",
    )  # fmt: skip
    assert isinstance(trained, SemanticFpn)
    return trained.eval(), losses


def collate_semantic(
    samples: list[Sample], short_sides: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """One batch of images of any sizes, scaled and padded to one.

    Args:
        samples: of `to_device`, with the targets of `semantic_target`.
        short_sides: pixels, of each scaled image; less where its longer side would exceed 5/3.

    Returns:
        Images (B, 3, H, W) float32, padded with the mean colour; (B, H, W) float32 targets, 1 on
        objects; (B, H, W) float32 weights, 0 on ignored regions and padding.
    """
    scaled = [
        _scaled(image, torch.stack([target["foreground"], target["known"]]), short_side)
        for (image, target), short_side in zip(samples, short_sides, strict=True)
    ]
    height, width = (max(image.shape[side] for image, _ in scaled) for side in (1, 2))
    mean = scaled[0][0].new_tensor(PIXEL_MEAN).view(1, 3, 1, 1)
    images = mean.repeat(len(scaled), 1, height, width)  # (B, 3, H, W)
    labels = images.new_zeros(len(scaled), 2, height, width)
    for i, (image, label) in enumerate(scaled):
        images[i, :, : image.shape[1], : image.shape[2]] = image
        labels[i, :, : image.shape[1], : image.shape[2]] = label
    return images, labels[:, 0], labels[:, 1]


def _scaled(image: Tensor, labels: Tensor, short_side: int) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) and labels (2, H, W) with that shorter side, or less where H x W is long."""
    elongation = max(image.shape[1:]) / min(image.shape[1:])
    side = max(1, round(short_side * min(1.0, _LONG_SIDE / elongation)))
    image = resize_short_side(image[None], side)[0]
    return image, functional.interpolate(labels[None], image.shape[1:], mode="nearest-exact")[0]


def semantic_target(example: Example) -> dict[str, Tensor]:
    """What the background network learns of an example; (H, W) float32 each, on the CPU."""
    return {"foreground": foreground_target(example, _CPU), "known": known_pixels(example, _CPU)}


def _sizes(short_side: int, min_scale: float) -> list[int]:
    """The short sides that training images are scaled to, at random."""
    scales = np.linspace(min_scale, 1.0, _SCALES) if min_scale < 1 else [1.0]
    return [max(1, round(short_side * float(scale))) for scale in scales]


def _train(
    network: nn.Module,
    pool: InstanceDataset,
    config: PretrainConfig,
    losses_of: Callable[[Batch], dict[str, Tensor]],
    targets_of: Callable[[Example], dict[str, Tensor]],
    iterations: int,
    warmup: int,
    lr_milestones: str,
    checkpoint_path: Path | None,
    title: str,
) -> tuple[nn.Module, TrainingLog]:
    """What the training of both networks shares; see `train`."""
    processes, rank = processes_and_rank()
    if config.batch_size % processes:
        raise GboptError(
            f"pretrain.batch_size {config.batch_size} cannot be shared by {processes} processes"
        )
    steps = Steps(
        pool, config.augment, config.seed, batch_size=config.batch_size, targets_of=targets_of,
        processes=processes, rank=rank,
    )  # fmt: skip
    checkpoint = None
    if checkpoint_path is not None:
        identity = training_identity(pool, config) | {"training": title}
        checkpoint = Checkpoint(
            checkpoint_path, identity, config.checkpoint_every, writes=rank == 0
        )
    device = next(network.parameters()).device
    first = checkpoint.step if checkpoint else 0
    if first:
        log.info("%s: going on after step %d of %d", title, first, iterations)
    return train(
        network,
        load_steps(steps, first, iterations, num_workers=config.num_workers, device=device),
        losses_of,
        _optimizer(network, config),
        iterations=iterations,
        warmup=warmup,
        lr_milestones=milestone_steps(lr_milestones),
        ema_decay=config.ema_decay,
        checkpoint=checkpoint,
        title=title,
    )


def training_identity(pool: InstanceDataset, config: PretrainConfig) -> dict[str, Any]:
    """What decides a training: its settings, and a sample of its data."""
    settings: dict[str, Any] = {}
    for name, value in asdict(config).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{inner}": setting for inner, setting in value.items()}
        elif name not in _NOT_DECISIVE:
            settings[name] = value
    few = [pool[index] for index in sorted({0, len(pool) // 2, len(pool) - 1})]
    content = zlib.crc32(repr([labelled.rles for labelled in few]).encode())
    return settings | {"images": len(pool), "content of the images": content}


def _copy_fitting(source: nn.Module, target: nn.Module) -> None:
    """Copy every tensor that both have under one name and in one shape."""
    wanted = target.state_dict()
    fitting = {
        name: value
        for name, value in source.state_dict().items()
        if name in wanted and wanted[name].shape == value.shape
    }
    target.load_state_dict(fitting, strict=False)


def _optimizer(network: nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """The optimiser of the configuration, with no decay of biases and normalisation parameters."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    kept = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate)
