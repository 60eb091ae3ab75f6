"""Heads for object and background out of heads for classes: where fine-tuning starts.

With C classes the log-odds of an object are logsumexp of the object logits minus that of the
background; no linear head can say that. Its first-order expansion where all object classes are
equally likely, the mean of their rows and log(C - 1) on top, can, and needs no image. Training with
a softmax keeps the sum of all rows where it began, so that mean ranks regions much as the
background's row does alone, and its scores need not be probabilities. Given images, the heads are
fitted to what the classes say of their regions, with that mean as the prior: a logistic regression
for the score, ridge regressions for the box and the mask of the best class. No label is needed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN

from gbopt_ros.models.class_agnostic import class_count
from gbopt_ros.models.mask_rcnn import CLASSES
from gbopt_ros.structures import Image

if TYPE_CHECKING:
    from gbopt_ros.learning.data.datasets import InstanceDataset
    from gbopt_ros.models.detection import DetectionNetwork

# Images that the heads are fitted on; on fewer the fit was worse than the averages that need none.
MIN_FITTED_IMAGES, FITTED_IMAGES = 16, 32
_RIDGE = 1e-3  # weight of the prior, relative to the mean square of the features
_LARGEST_LOGIT = 6.0  # of a mask that is fitted; beyond it every pixel is sure enough
_STEPS = 100  # of L-BFGS at most


def starting_network(
    parent: DetectionNetwork, dataset: InstanceDataset, device: torch.device
) -> DetectionNetwork:
    """What fine-tuning starts from: the parent; one with classes gets class-agnostic heads.

    Args:
        dataset: the heads are fitted on images spread over it.
    """
    if not isinstance(parent, MaskRCNN) or class_count(parent) == CLASSES:
        return parent  # detectron2's learns with the classes that it has
    count = min(len(dataset), FITTED_IMAGES) if len(dataset) >= MIN_FITTED_IMAGES else 0
    images = [dataset[number * len(dataset) // count].image for number in range(count)]
    return to_class_agnostic(parent, images, device)


def to_class_agnostic(network: MaskRCNN, images: Sequence[Image], device: torch.device) -> MaskRCNN:
    """A class-agnostic network that says of most regions what one with classes says.

    Args:
        network: with C classes, the background first; it is moved to `device`.
        images: M arrays (H, W, 3) uint8 RGB to fit the heads on; with none the class rows are
            averaged.

    Returns:
        A copy on the CPU in evaluation mode, whose state dict fits `build_mask_rcnn`; where
        `network` has two classes the copy is the same network.
    """
    agnostic = copy.deepcopy(network).cpu().eval()
    if class_count(network) == CLASSES:
        return agnostic
    prior = _averaged(network)
    heads = _fitted(network, images, prior, device) if len(images) else prior
    _install(agnostic, heads)
    return agnostic


@dataclass(frozen=True)
class _Heads:
    """Rows of the linear heads, float64 on the CPU, the bias as the last column.

    Attributes:
        background: (D + 1,), logit.
        object: (D + 1,), logit.
        box: (4, D + 1), deltas.
        mask: (E + 1,), logit.
    """

    background: Tensor
    object: Tensor
    box: Tensor
    mask: Tensor


def _rows(layer: Any) -> Tensor:
    """(outputs, inputs + 1) float64 of a linear layer or a 1x1 convolution."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    return torch.cat([weight.flatten(1), bias[:, None]], dim=1).double().cpu()


def _averaged(network: MaskRCNN) -> _Heads:
    """The mean of the class rows; the object's logit is expanded about equal classes."""
    heads = network.roi_heads
    scores = _rows(heads.box_predictor.cls_score)  # (C, D + 1)
    boxes = _rows(heads.box_predictor.bbox_pred).unflatten(0, (-1, 4))  # (C, 4, D + 1)
    found = scores[1:].mean(dim=0)
    found[-1] += math.log(len(scores) - 1)
    masks = _rows(heads.mask_predictor.mask_fcn_logits)  # (C, E + 1)
    return _Heads(scores[0], found, boxes[1:].mean(dim=0), masks[1:].mean(dim=0))


@torch.no_grad()
def _fitted(
    network: MaskRCNN, images: Sequence[Image], prior: _Heads, device: torch.device
) -> _Heads:
    """The heads that agree best with the best class of the regions of some images."""
    network = network.to(device).eval()
    heads = network.roi_heads
    regions: list[tuple[Tensor, Tensor, Tensor]] = []
    masks = _Normal(prior.mask[None])
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
            seen[name] = inputs[0], outputs

        return hook

    hooks = [
        heads.box_predictor.cls_score.register_forward_hook(remember("score")),
        heads.box_predictor.bbox_pred.register_forward_hook(remember("box")),
        heads.mask_predictor.mask_fcn_logits.register_forward_hook(remember("mask")),
    ]
    try:
        for image in images:
            tensor = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1).float().div(255)
            (detections,) = network([tensor])
            features, logits = seen["score"]
            regions.append(_box_targets(features, logits, seen["box"][1]))
            if len(detections["labels"]):
                _add_masks(masks, *seen["mask"], detections["labels"], detections["scores"])
    finally:
        for hook in hooks:
            hook.remove()
    features, odds, deltas = (torch.cat(parts) for parts in zip(*regions, strict=True))
    boxes = _Normal(prior.box)
    boxes.add(features, deltas, torch.sigmoid(odds))
    return _Heads(
        prior.background,
        prior.background + _logistic(features, odds, prior.object - prior.background),
        boxes.solve(),
        masks.solve()[0],
    )


def _box_targets(features: Tensor, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of R regions: features (R, D), log-odds of an object (R,), the best class's deltas (R, 4)."""
    best = logits[:, 1:].argmax(dim=1) + 1
    odds = torch.logsumexp(logits[:, 1:].double(), dim=1) - logits[:, 0].double()
    of_best = deltas.unflatten(1, (-1, 4))[torch.arange(len(best), device=best.device), best]
    return features.float().cpu(), odds.cpu(), of_best.float().cpu()


def _add_masks(
    normal: _Normal, features: Tensor, logits: Tensor, labels: Tensor, scores: Tensor
) -> None:
    """Pixels of the masks of n detections, weighted by their scores.

    Args:
        features: (n, E, h, w).
        logits: (n, C, h, w).
    """
    of_label = logits[torch.arange(len(labels), device=labels.device), labels]  # (n, h, w)
    of_label = of_label.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
    weights = scores[:, None, None].expand_as(of_label)
    normal.add(features.permute(0, 2, 3, 1).flatten(0, 2), of_label.flatten()[:, None], weights)


class _Normal:
    """Normal equations of a weighted linear regression towards prior rows (O, D + 1)."""

    def __init__(self, prior: Tensor) -> None:
        self._prior = prior
        size = prior.shape[1]
        self._gram = prior.new_zeros(size, size)
        self._cross = prior.new_zeros(size, len(prior))

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Rows of features (R, D) and targets (R, O), each with a weight."""
        rows = _with_bias(features.double())
        weighted = rows * weights.flatten()[:, None].to(rows)
        self._gram += (weighted.T @ rows).cpu()
        self._cross += (weighted.T @ targets.to(rows)).cpu()

    def solve(self) -> Tensor:
        """(O, D + 1); the prior itself where no row was added."""
        strength = _RIDGE * self._gram.diagonal().mean() + torch.finfo(torch.float32).tiny
        gram = self._gram + strength * torch.eye(len(self._gram), dtype=self._gram.dtype)
        return torch.linalg.solve(gram, self._cross + strength * self._prior.T).T


def _with_bias(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


def _logistic(features: Tensor, odds: Tensor, prior: Tensor) -> Tensor:
    """(D + 1,): the row whose sigmoid is closest to that of the log-odds (R,), in cross-entropy."""
    rows, wanted = _with_bias(features.double()), torch.sigmoid(odds)
    strength = _RIDGE * rows.square().mean() / len(rows)
    row = prior.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([row], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = functional.binary_cross_entropy_with_logits(rows @ row, wanted)
            value = value + strength * (row - prior).square().sum()
            value.backward()
        return value

    optimizer.step(loss)
    return row.detach()


def _install(network: MaskRCNN, rows: _Heads) -> None:
    """Put heads for two classes in the place of those for C."""
    predictor, masks = network.roi_heads.box_predictor, network.roi_heads.mask_predictor
    predictor.cls_score = _linear(predictor.cls_score, torch.stack([rows.background, rows.object]))
    no_box = torch.zeros_like(rows.box)  # of the background, which nothing reads or trains
    predictor.bbox_pred = _linear(predictor.bbox_pred, torch.cat([no_box, rows.box]))
    no_mask = torch.zeros_like(rows.mask)
    masks.mask_fcn_logits = _linear(masks.mask_fcn_logits, torch.stack([no_mask, rows.mask]))


def _linear(layer: nn.Module, rows: Tensor) -> nn.Module:
    """A linear layer or 1x1 convolution like `layer`, with the given rows."""
    made: Any
    if isinstance(layer, nn.Conv2d):
        made = nn.Conv2d(layer.in_channels, len(rows), kernel_size=1)
    else:
        made = nn.Linear(rows.shape[1] - 1, len(rows))
    with torch.no_grad():
        made.weight.copy_(rows[:, :-1].reshape(made.weight.shape))
        made.bias.copy_(rows[:, -1])
    return made.eval()
