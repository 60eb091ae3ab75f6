"""Supervised training of the seed networks on labelled images of seen classes (Appendix D)."""

from __future__ import annotations

import copy
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import PretrainConfig
from gbopt_ros.config.pretrain import milestone_steps
from gbopt_ros.learning.data.augmentation import Example
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.learning.data.loader import (
    Batch,
    Batches,
    Sample,
    load_batches,
    processes_and_rank,
    to_device,
)
from gbopt_ros.learning.data.targets import detection_target, semantic_target
from gbopt_ros.learning.training.checkpoint import Checkpoint
from gbopt_ros.learning.training.ignore_regions import with_ignore_regions
from gbopt_ros.learning.training.interpolation import interpolate
from gbopt_ros.learning.training.pretrained_backbone import (
    freeze_beginning,
    freeze_statistics,
    start_from,
)
from gbopt_ros.learning.training.trainer import TrainingLog, build_optimizer, train
from gbopt_ros.models.background_fpn import TIMM, SemanticFpn, build_background
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.perception.background import load_semantic_fpn, resize_short_side
from gbopt_ros.perception.proposals import LONG_SIDE_RATIO
from gbopt_ros.structures import GboptError

P = TypeVar("P")  # part of a batch

log = logging.getLogger(__name__)

_SCALES = 6  # number of sizes of a training image, as detectron2's 640, 672, ..., 800
_MAY_CHANGE = ("num_workers", "checkpoint_every")  # settings, when a training is resumed


def pretrain_proposals(
    dataset: InstanceDataset,
    config: PretrainConfig,
    device: torch.device,
    checkpoint: Path | None = None,
    partial: InstanceDataset | None = None,
) -> tuple[MaskRCNN, TrainingLog]:
    """Train a class-agnostic Mask R-CNN, from random weights or from ImageNet's.

    Args:
        dataset: labelled images; ignore regions are neither objects nor background.
        checkpoint: file that training resumes from, where it exists, and writes.
        partial: images in which not every object is labelled, `partial_share` of every batch.

    Raises:
        GboptError: a loss or a gradient is not finite, or a file cannot be read or does not fit.
    """
    torch.manual_seed(config.seed)
    network = build_mask_rcnn(config.proposal_architecture)
    if config.proposal_backbone:
        start_from(network.backbone.get_submodule("body"), Path(config.proposal_backbone))
    with_ignore_regions(network)
    (short_side,) = network.transform.min_size
    network.transform.min_size = tuple(_sizes(short_side, config.min_scale))

    def parts_of(batch: Batch) -> list[tuple[list[Sample], float]]:
        parts = _split(batch, network, device)
        return [(samples, len(samples) / len(batch.samples)) for samples in parts]

    def losses_of(model: nn.Module, part: tuple[list[Sample], float]) -> dict[str, Tensor]:
        samples, share = part
        losses = model([image for image, _ in samples], [target for _, target in samples])
        return {name: share * loss for name, loss in losses.items()}

    trained, losses = _train(
        network, _shares(dataset, partial, config), config, device, parts_of, losses_of,
        detection_target,
        iterations=config.iterations, warmup=config.warmup, lr_milestones=config.lr_milestones,
        checkpoint=checkpoint, title="pretrain proposals",
    )  # fmt: skip
    assert isinstance(trained, MaskRCNN)
    trained.transform.min_size = (short_side,)
    return trained.eval(), losses


def pretrain_background(
    dataset: InstanceDataset,
    config: PretrainConfig,
    device: torch.device,
    proposals: MaskRCNN | None = None,
    checkpoint: Path | None = None,
    partial: InstanceDataset | None = None,
) -> tuple[SemanticFpn, TrainingLog]:
    """Train a foreground/background network: instances against everything else (D.2.1).

    Args:
        dataset: labelled images, see `semantic_target`.
        proposals: proposal network trained on the same data. Where no `background_backbone` is
            set, its tensors that fit are the start; the paper starts from ImageNet weights.
        checkpoint: file that training resumes from, where it exists, and writes.
        partial: images in which not every object is labelled, `partial_share` of every batch. What
            is unlabelled there counts as the teacher's foreground maps say, or not at all.

    Raises:
        GboptError: a loss or a gradient is not finite, a file cannot be read or does not fit,
            there is no such part to freeze, or the backbone needs more images a process.
    """
    torch.manual_seed(config.seed)
    network = _background_to_train(config, proposals)
    started = copy.deepcopy(network) if config.background_weights else None
    sizes = _sizes(network.short_side, config.background_min_scale)

    def parts_of(batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        rng = np.random.default_rng(batch.seed)
        parts = [
            collate_semantic(samples, [int(rng.choice(sizes)) for _ in samples], network)
            for samples in _split(batch, network, device)
        ]
        # The mean is over all known pixels of the batch.
        weight = torch.stack([known.sum() for _, _, known in parts]).sum().clamp(min=1)
        return [(images, targets, known / weight) for images, targets, known in parts]

    def losses_of(model: nn.Module, part: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        images, targets, weights = part
        try:
            logits = model(images.contiguous(memory_format=torch.channels_last)).float()
        except ValueError as error:  # a ResNeSt normalises what it has pooled to one pixel
            raise GboptError(
                f"pretrain background: {config.background_architecture} cannot train on "
                f"{len(images)} images a process ({error}); raise pretrain.batch_size, or "
                "start from pretrain.background_backbone, whose statistics stay as they are"
            ) from error
        entropy = functional.binary_cross_entropy_with_logits(
            logits, targets, weight=weights, reduction="sum"
        )
        return {"cross_entropy": entropy}

    iterations = config.background_iterations
    trained, losses = _train(
        network, _shares(dataset, partial, config), config, device, parts_of, losses_of,
        semantic_target,
        iterations=iterations, warmup=min(config.warmup, iterations // 5),
        lr_milestones=config.background_lr_milestones,
        checkpoint=checkpoint, title="pretrain background",
    )  # fmt: skip
    assert isinstance(trained, SemanticFpn)
    if started is not None:
        interpolate(trained, started.to(device), config.background_interpolation)
    return trained.eval(), losses


def _background_to_train(config: PretrainConfig, proposals: MaskRCNN | None) -> SemanticFpn:
    """The network before the first step, with its parameters frozen that are not trained."""
    network = build_background(config.background_architecture)
    body = network.backbone.get_submodule("body")
    if config.background_weights:
        trained, info = load_semantic_fpn(Path(config.background_weights))
        if info.architecture != config.background_architecture:
            raise GboptError(
                f"{config.background_weights}: a {info.architecture}; set "
                "pretrain.background_architecture to that to train it further"
            )
        network.load_state_dict(trained.state_dict())
        freeze_beginning(body)
    elif config.background_backbone:
        start_from(body, Path(config.background_backbone))
    elif proposals is not None and not config.background_architecture.startswith(TIMM):
        _copy_fitting(proposals.backbone, network.backbone)
        freeze_beginning(body)
    parts = dict(body.named_children())
    for name in filter(None, config.background_frozen.split(",")):
        if name not in parts:
            raise GboptError(
                f"pretrain.background_frozen: the backbone of {config.background_architecture} has "
                f"no part {name!r}, but {', '.join(parts)}"
            )
        parts[name].requires_grad_(False)
    return network


def _split(batch: Batch, network: nn.Module, device: torch.device) -> list[list[Sample]]:
    """The samples of a batch on the device, in the parts that pass through the network at once.

    A pass pads its images to the largest. A CPU is faster without, one image after the other, if
    no normalisation takes its statistics from the pass.
    """
    samples = [to_device(sample, device) for sample in batch.samples]
    normalizes = any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    alone = device.type == "cpu" and not normalizes
    return [[sample] for sample in samples] if alone else [samples]


def collate_semantic(
    samples: list[Sample], short_sides: list[int], network: SemanticFpn
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale images of any sizes and pad them to one batch.

    Args:
        samples: samples of `to_device` with the targets of `semantic_target`.
        short_sides: pixels of each scaled image; fewer where its long side would exceed 5/3 of it,
            or the network keeps the size of smaller images.
        network: the network to train.

    Returns:
        Images (B, 3, H, W) float32, padded with the mean colour; (B, H, W) float32 targets, 1 on
        objects; (B, H, W) float32 weights, 0 on ignore regions and padding.
    """
    scaled = [
        _scaled(
            image,
            torch.stack([target["foreground"], target["known"]]),
            network.input_side((image.shape[1], image.shape[2]), short_side),
        )
        for (image, target), short_side in zip(samples, short_sides, strict=True)
    ]
    height, width = (max(image.shape[side] for image, _ in scaled) for side in (1, 2))
    images = network.mean.repeat(len(scaled), 1, height, width)  # (B, 3, H, W)
    labels = images.new_zeros(len(scaled), 2, height, width)
    for i, (image, label) in enumerate(scaled):
        images[i, :, : image.shape[1], : image.shape[2]] = image
        labels[i, :, : image.shape[1], : image.shape[2]] = label
    return images, labels[:, 0], labels[:, 1]


def _scaled(image: Tensor, labels: Tensor, short_side: int) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) and labels (2, H, W), scaled to the short side, or less for long images."""
    elongation = max(image.shape[1:]) / min(image.shape[1:])
    side = max(1, round(short_side * min(1.0, LONG_SIDE_RATIO / elongation)))
    image = resize_short_side(image[None], side)[0]
    return image, functional.interpolate(labels[None], image.shape[1:], mode="nearest-exact")[0]


def _sizes(short_side: int, min_scale: float) -> list[int]:
    """The short sides, pixels, to which training images are scaled at random."""
    scales = np.linspace(min_scale, 1.0, _SCALES) if min_scale < 1 else [1.0]
    return [max(1, round(short_side * float(scale))) for scale in scales]


def _train(
    network: nn.Module,
    datasets: Sequence[tuple[InstanceDataset, int]],
    config: PretrainConfig,
    device: torch.device,
    parts_of: Callable[[Batch], Sequence[P]],
    losses_of: Callable[[nn.Module, P], dict[str, Tensor]],
    targets_of: Callable[[Example], dict[str, Tensor]],
    *,
    iterations: int,
    warmup: int,
    lr_milestones: str,
    checkpoint: Path | None,
    title: str,
) -> tuple[nn.Module, TrainingLog]:
    """Train either network; see `train`."""
    processes, rank = processes_and_rank()
    for _, count in datasets:
        if count % processes:
            raise GboptError(
                f"pretrain.batch_size {config.batch_size} cannot be shared by {processes} "
                f"processes: {count} images are of one dataset"
            )
    network = network.to(device).train().to(memory_format=torch.channels_last)
    freeze_statistics(network)
    saved = None
    if checkpoint is not None:
        identity = training_identity(datasets, config) | {"training": title}
        saved = Checkpoint(checkpoint, identity, config.checkpoint_every, writes=rank == 0)
    first = saved.step if saved else 0
    if first:
        log.info("%s: resuming after step %d of %d", title, first, iterations)
    batches = Batches(
        datasets, config.augment, config.seed, targets_of,
        processes=processes, rank=rank,
    )  # fmt: skip

    def seeded_parts() -> Iterator[Sequence[P]]:
        for batch in load_batches(batches, first, iterations, device, config.num_workers):
            torch.manual_seed(batch.seed)
            yield parts_of(batch)

    return train(
        network,
        seeded_parts(),
        losses_of,
        build_optimizer(network, config),
        iterations=iterations,
        warmup=warmup,
        warmup_start=config.warmup_start,
        lr_milestones=milestone_steps(lr_milestones) or None,
        max_gradient_norm=config.max_gradient_norm,
        ema_decay=config.ema_decay,
        checkpoint=saved,
        title=title,
    )


def _shares(
    dataset: InstanceDataset, partial: InstanceDataset | None, config: PretrainConfig
) -> list[tuple[InstanceDataset, int]]:
    """The datasets with the number of images that each gives to a batch."""
    if partial is None:
        return [(dataset, config.batch_size)]
    count = round(config.batch_size * config.partial_share)
    return [(dataset, config.batch_size - count), (partial, count)]


def training_identity(
    datasets: Sequence[tuple[InstanceDataset, int]], config: PretrainConfig
) -> dict[str, Any]:
    """The settings of a training and a sample of its data; equal where a resume is valid."""
    settings: dict[str, Any] = {}
    for name, value in asdict(config).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{inner}": setting for inner, setting in value.items()}
        elif name not in _MAY_CHANGE:
            settings[name] = value
    few = [
        dataset[index].rles
        for dataset, _ in datasets
        for index in sorted({0, len(dataset) // 2, len(dataset) - 1})
    ]
    names = ("images", "partial images")
    counts = {name: len(of[0]) for name, of in zip(names, datasets, strict=False)}
    return settings | counts | {"content of the images": zlib.crc32(repr(few).encode())}


def _copy_fitting(source: nn.Module, target: nn.Module) -> None:
    """Copy every tensor that both have with the same name and shape."""
    wanted = target.state_dict()
    fitting = {
        name: value
        for name, value in source.state_dict().items()
        if name in wanted and wanted[name].shape == value.shape
    }
    target.load_state_dict(fitting, strict=False)
