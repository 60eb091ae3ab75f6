"""Fine-tuning on selected masks with rehearsal of seen data in every batch (Sec. 4, Table 5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import LearningConfig
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.learning.data.loader import Batch, Batches, Sample, load_batches, to_device
from gbopt_ros.learning.data.targets import detection_target
from gbopt_ros.learning.training.class_agnostic_conversion import starting_network
from gbopt_ros.learning.training.ignore_regions import with_ignore_regions
from gbopt_ros.learning.training.interpolation import interpolate
from gbopt_ros.learning.training.pretrained_backbone import freeze_beginning
from gbopt_ros.learning.training.trainer import OnStep, TrainingLog, build_optimizer, train
from gbopt_ros.models.detection import DetectionNetwork

LOCALIZATION_LOSSES = ("loss_box_reg", "loss_mask")  # names in torchvision and in detectron2


def fine_tune(
    parent: DetectionNetwork,
    selected: InstanceDataset | None,
    rehearsal: InstanceDataset | None,
    config: LearningConfig,
    device: torch.device,
    on_step: OnStep | None = None,
) -> tuple[DetectionNetwork, TrainingLog]:
    """A copy of the parent, trained on selected masks and rehearsal data.

    A Mask R-CNN of torchvision with classes becomes class-agnostic (`starting_network`).

    Each batch holds `rehearsal_share` of rehearsal images. Where one dataset is None the other
    fills the batch, so that the compute is the same.

    Without `localization_losses`, selected masks teach which regions are objects, but the box and
    mask heads learn from rehearsal images alone: a selected mask is more often right about where an
    object is than about its outline. The region proposal network still learns the coarse boxes of
    selected masks.

    Raises:
        GboptError: a loss or a gradient is not finite.
        ValueError: there is no dataset at all.
    """
    parent = starting_network(parent)
    datasets, chosen = _datasets(selected, rehearsal, config)
    torch.manual_seed(config.seed)
    network: Any = copy.deepcopy(parent).to(device).train()
    if isinstance(network, MaskRCNN):  # a detectron2 network has a configuration of its own
        with_ignore_regions(network)
        if config.freeze_beginning:
            freeze_beginning(network.backbone.get_submodule("body"))
    network = network.to(memory_format=torch.channels_last)
    _freeze_statistics(network)

    def losses_of(model: nn.Module, part: _Part) -> dict[str, Tensor]:
        images, targets = zip(*(to_device(sample, device) for sample in part.samples), strict=True)
        with nullcontext() if part.teaches_outlines else _no_mask_head(model):
            losses: dict[str, Tensor] = model(list(images), list(targets))
        return {
            name: part.share * loss
            for name, loss in losses.items()
            if part.teaches_outlines or name not in LOCALIZATION_LOSSES
        }

    batches = Batches(datasets, config.augment, config.seed, detection_target)
    trained, log = train(
        network,
        (
            _parts(batch, chosen, config)
            for batch in load_batches(batches, 0, config.iterations, device)
        ),
        losses_of,
        build_optimizer(network, config),
        iterations=config.iterations,
        warmup=config.warmup,
        warmup_start=config.warmup_start,
        lr_milestones=() if config.lr_schedule == "constant" else None,
        max_gradient_norm=config.max_gradient_norm,
        title="learn",
        on_step=on_step,
    )
    assert isinstance(trained, type(parent))
    trained = trained.cpu().eval()
    interpolate(trained, parent, config.weight_interpolation)
    return trained, log


class _Part(NamedTuple):
    """What passes through the network at once.

    Attributes:
        share: of these samples in their batch.
        teaches_outlines: whether the box and mask heads learn from them.
    """

    samples: list[Sample]
    share: float
    teaches_outlines: bool


def _parts(batch: Batch, chosen: int, config: LearningConfig) -> list[_Part]:
    """The parts of a batch whose first `chosen` samples have selected masks."""
    groups = [(batch.samples[:chosen], config.localization_losses), (batch.samples[chosen:], True)]
    if config.localization_losses:
        groups = [(batch.samples, True)]
    most = config.images_per_pass or config.batch_size
    return [
        _Part(samples[i : i + most], len(samples[i : i + most]) / len(batch.samples), outlines)
        for samples, outlines in groups
        for i in range(0, len(samples), most)
    ]


def selected_in_batch(config: LearningConfig, rehearses: bool) -> int:
    """Number of images with selected masks in a batch."""
    rehearsed = round(config.batch_size * config.rehearsal_share) if rehearses else 0
    return config.batch_size - rehearsed


def _datasets(
    selected: InstanceDataset | None, rehearsal: InstanceDataset | None, config: LearningConfig
) -> tuple[list[tuple[InstanceDataset, int]], int]:
    """The datasets with the number of images that each gives, and the number of selected images."""
    if selected is None and rehearsal is None:
        raise ValueError("fine_tune: expected selected masks, rehearsal data or both")
    chosen = selected_in_batch(config, rehearsal is not None) if selected is not None else 0
    shares = ((selected, chosen), (rehearsal, config.batch_size - chosen))
    return [(dataset, count) for dataset, count in shares if dataset is not None], chosen


@contextmanager
def _no_mask_head(network: nn.Module) -> Iterator[None]:
    """Within it a torchvision network does not compute its mask loss, to save time."""
    if not isinstance(network, MaskRCNN):
        yield
        return
    roi_pool, network.roi_heads.mask_roi_pool = network.roi_heads.mask_roi_pool, None
    try:
        yield
    finally:
        network.roi_heads.mask_roi_pool = roi_pool


def _freeze_statistics(network: nn.Module) -> None:
    """Keep the running statistics: those of a few small batches would be worse."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm as well
            module.eval()
