"""Fine-tuning on selected masks, rehearsing seen data in every batch (Section 4, Table 5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import LearningConfig
from gbopt_ros.learning.data.augmentation import Example
from gbopt_ros.learning.data.batches import detection_target, example_batches, image_tensor
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.learning.training.ignore_regions import with_ignore_regions
from gbopt_ros.learning.training.trainer import OnStep, TrainingLog, train
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.models.weights import HasState

OUTLINE_LOSSES = ("loss_box_reg", "loss_mask")  # names of torchvision and of detectron2


def fine_tune(
    parent: DetectionNetwork,
    selected: InstanceDataset | None,
    rehearsal: InstanceDataset | None,
    config: LearningConfig,
    device: torch.device,
    on_step: OnStep | None = None,
) -> tuple[DetectionNetwork, TrainingLog]:
    """A copy of the parent, trained on selected masks and rehearsal data.

    The parent has the interface of torchvision's detection models: in training mode it takes images
    and targets and gives named losses.

    Each batch holds `rehearsal_share` of rehearsal images; where one of the pools is None the
    other fills the batch, so that the compute is the same. Without `localization_losses` the losses of the box
    and the mask head's outlines come from rehearsal images alone: masks as they were proposed are
    right about where objects are far more often than about where they end. Region proposals are
    taught their coarse boxes by selected masks all the same.

    Raises:
        GboptError: a loss is not finite.
        ValueError: there is no pool at all.
    """
    pools = _shares(selected, rehearsal, config)
    torch.manual_seed(config.seed)
    network: Any = copy.deepcopy(parent).to(device).train()
    if isinstance(network, MaskRCNN):
        with_ignore_regions(network)
    network = network.to(memory_format=torch.channels_last)
    _freeze_statistics(network)

    def losses_of(examples: Sequence[Example]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = network(
            [image_tensor(example, device) for example in examples],
            [detection_target(example, device) for example in examples],
        )
        return losses

    chosen = pools[0][1] if selected is not None else 0

    def losses_without_outlines(examples: Sequence[Example]) -> dict[str, Tensor]:
        """Of a batch whose first `chosen` images are selected; their outlines do not count."""
        share = chosen / len(examples)
        with _no_mask_head(network):
            taught = losses_of(examples[:chosen])
        losses = {n: share * loss for n, loss in taught.items() if n not in OUTLINE_LOSSES}
        if chosen < len(examples):
            for name, loss in losses_of(examples[chosen:]).items():
                losses[name] = losses.get(name, 0.0) + (1 - share) * loss
        return losses

    trained, log = train(
        network,
        example_batches(pools, config.augment, config.seed),
        losses_of if config.localization_losses or not chosen else losses_without_outlines,
        _optimizer(network, config),
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
    """How many images of a batch have selected masks."""
    rehearsed = round(config.batch_size * config.rehearsal_share) if rehearses else 0
    return config.batch_size - rehearsed


def _optimizer(network: nn.Module, config: LearningConfig) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


@contextmanager
def _no_mask_head(network: nn.Module) -> Iterator[None]:
    """Where a torchvision network spares itself the mask loss, which would not be learnt from."""
    if not isinstance(network, MaskRCNN):
        yield
        return
    pool, network.roi_heads.mask_roi_pool = network.roi_heads.mask_roi_pool, None
    try:
        yield
    finally:
        network.roi_heads.mask_roi_pool = pool


def _shares(
    selected: InstanceDataset | None, rehearsal: InstanceDataset | None, config: LearningConfig
) -> list[tuple[InstanceDataset, int]]:
    if selected is not None and rehearsal is not None:
        chosen = selected_in_batch(config, rehearses=True)
        return [(selected, chosen), (rehearsal, config.batch_size - chosen)]
    pool = selected if selected is not None else rehearsal
    if pool is None:
        raise ValueError("fine_tune: expected selected masks, rehearsal data or both")
    return [(pool, config.batch_size)]


@torch.no_grad()
def _interpolate(network: HasState, parent: HasState, share: float) -> None:
    """Move the weights a share of the way back to the parent's (Wortsman et al. 2022).

    Networks of one ancestry can be averaged: the average forgets less than the fine-tuned one
    and keeps most of what it learnt.
    """
    old = parent.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.lerp_(old[name].to(value), share)


def _freeze_statistics(network: nn.Module) -> None:
    """Keep the running statistics: those of a few small batches would replace better ones."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm as well
            module.eval()
