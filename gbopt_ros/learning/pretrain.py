"""Supervised training of the seed networks on labelled data of seen classes (Appendix D)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN

from gbopt_ros.config import PretrainConfig
from gbopt_ros.learning.augment import Example
from gbopt_ros.learning.batches import (
    Pool,
    detection_target,
    example_batches,
    foreground_target,
    image_tensor,
)
from gbopt_ros.learning.trainer import TrainingLog, train
from gbopt_ros.perception.background_fpn import SemanticFpn, build_background
from gbopt_ros.perception.mask_rcnn import build_mask_rcnn
from gbopt_ros.structures import GboptError


def pretrain_proposals(
    pool: Pool, config: PretrainConfig, device: torch.device
) -> tuple[MaskRCNN, TrainingLog]:
    """Train a class-agnostic Mask R-CNN from random weights."""
    torch.manual_seed(config.seed)
    network = build_mask_rcnn(config.proposal_architecture).to(device).train()
    network = network.to(memory_format=torch.channels_last)

    def losses_of(examples: Sequence[Example]) -> dict[str, Tensor]:
        return network(
            [image_tensor(example, device) for example in examples],
            [detection_target(example, device) for example in examples],
        )

    trained, log = train(
        network,
        _batches(pool, config),
        losses_of,
        _optimizer(network, config),
        iterations=config.iterations,
        warmup=config.warmup,
        average=config.average,
        title="pretrain proposals",
    )
    assert isinstance(trained, MaskRCNN)
    return trained.eval(), log


def pretrain_background(
    pool: Pool,
    config: PretrainConfig,
    device: torch.device,
    proposals: MaskRCNN | None = None,
) -> tuple[SemanticFpn, TrainingLog]:
    """Train a foreground/background network: instances against everything else (D.2.1).

    Args:
        proposals: trained on the same data; the tensors of its backbone that fit are the start,
            in place of the ImageNet weights that the paper starts from.

    Raises:
        GboptError: images of one batch differ in size, or a loss is not finite.
    """
    torch.manual_seed(config.seed)
    network = build_background(config.background_architecture)
    if proposals is not None:
        _copy_fitting(proposals.backbone, network.backbone)
    network = network.to(device).train().to(memory_format=torch.channels_last)

    def losses_of(examples: Sequence[Example]) -> dict[str, Tensor]:
        sizes = sorted({example.image.shape[:2] for example in examples})
        if len(sizes) > 1:
            raise GboptError(f"pretrain background: expected images of one size, got {sizes}")
        images = torch.stack([image_tensor(example, device) for example in examples])
        targets = torch.stack([foreground_target(example, device) for example in examples])
        logits = network(images)
        return {
            "cross_entropy": functional.binary_cross_entropy_with_logits(logits.float(), targets)
        }

    trained, log = train(
        network,
        _batches(pool, config),
        losses_of,
        _optimizer(network, config),
        iterations=config.background_iterations,
        warmup=min(config.warmup, config.background_iterations // 5),
        average=config.average,
        title="pretrain background",
    )
    assert isinstance(trained, SemanticFpn)
    return trained.eval(), log


def _copy_fitting(source: nn.Module, target: nn.Module) -> None:
    """Copy every tensor that both have under one name and in one shape."""
    wanted = target.state_dict()
    fitting = {
        name: value
        for name, value in source.state_dict().items()
        if name in wanted and wanted[name].shape == value.shape
    }
    target.load_state_dict(fitting, strict=False)


def _batches(pool: Pool, config: PretrainConfig) -> Iterator[list[Example]]:
    """This process's share of every batch, in a run of one process or several."""
    processes, rank = 1, 0
    if distributed.is_initialized():
        processes, rank = distributed.get_world_size(), distributed.get_rank()
    if config.batch_size % processes:
        raise GboptError(
            f"pretrain.batch_size {config.batch_size} cannot be shared by {processes} processes"
        )
    share = config.batch_size // processes
    return example_batches([(pool, share)], config.augment, config.seed + 7919 * rank)


def _optimizer(network: nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW, with no decay of biases and normalisation parameters."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    kept = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
