"""Fine-tuning on selected masks with rehearsal of seen data in every batch (Sec. 4, Table 5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import LearningConfig
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.learning.data.loader import Batch, Batches, Sample, load_batches, to_device
from gbopt_ros.learning.data.targets import detection_target
from gbopt_ros.learning.training.ignore_regions import with_ignore_regions
from gbopt_ros.learning.training.trainer import OnStep, TrainingLog, build_optimizer, train
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.models.weights import HasState

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

    Each batch holds `rehearsal_share` of rehearsal images. Where one dataset is None the other
    fills the batch, so that the compute is the same.

    Without `localization_losses`, selected masks teach which regions are objects, but the box and
    mask heads learn from rehearsal images alone: a selected mask is more often right about where an
    object is than about its outline. The region proposal network still learns the coarse boxes of
    selected masks.

    Raises:
        GboptError: a loss is not finite.
        ValueError: there is no dataset at all.
    """
    datasets, chosen = _datasets(selected, rehearsal, config)
    torch.manual_seed(config.seed)
    network: Any = copy.deepcopy(parent).to(device).train()
    if isinstance(network, MaskRCNN):
        with_ignore_regions(network)
    network = network.to(memory_format=torch.channels_last)
    _freeze_statistics(network)

    def losses_of(model: nn.Module, samples: list[Sample]) -> dict[str, Tensor]:
        images, targets = zip(*(to_device(sample, device) for sample in samples), strict=True)
        losses: dict[str, Tensor] = model(list(images), list(targets))
        return losses

    def all_losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if config.localization_losses or not chosen:
            return losses_of(model, batch.samples)
        share = chosen / len(batch.samples)
        with _no_mask_head(model):
            of_selected = losses_of(model, batch.samples[:chosen])
        losses = {
            name: share * loss
            for name, loss in of_selected.items()
            if name not in LOCALIZATION_LOSSES
        }
        if chosen < len(batch.samples):
            for name, loss in losses_of(model, batch.samples[chosen:]).items():
                losses[name] = losses.get(name, 0.0) + (1 - share) * loss
        return losses

    batches = Batches(datasets, config.augment, config.seed, detection_target)
    trained, log = train(
        network,
        load_batches(batches, 0, config.iterations, device),
        all_losses,
        build_optimizer(network, config, decay_vectors=True),
        iterations=config.iterations,
        warmup=config.warmup,
        title="learn",
        on_step=on_step,
    )
    assert isinstance(trained, type(parent))
    trained = trained.cpu().eval()
    _interpolate(trained, parent, config.weight_interpolation)
    return trained, log


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


@torch.no_grad()
def _interpolate(network: HasState, parent: HasState, share: float) -> None:
    """Move the weights by a share of the way back to the parent's (Wortsman et al. 2022).

    The weights of a network and its parent can be averaged: the average forgets less than the
    fine-tuned network and keeps most of what it learnt.
    """
    old = parent.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.lerp_(old[name].to(value), share)


def _freeze_statistics(network: nn.Module) -> None:
    """Keep the running statistics: those of a few small batches would be worse."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm as well
            module.eval()
