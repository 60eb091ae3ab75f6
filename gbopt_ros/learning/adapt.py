"""The background network learns a place from what moves there, with no label.

Expectation maximisation: what a pixel probably is follows from the network's opinion and from its
motion against the surroundings (`perception.parallax`); the network is fitted to that, and asked
again. A single view of a print says little, but the same print lies in many frames and never
moves, while an object that stood still in one clip is moved in another: the network, which judges
by appearance, averages over all of them. Not in the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gbopt_ros.config import AdaptConfig, BackgroundConfig
from gbopt_ros.learning.augment import to_example
from gbopt_ros.learning.batches import Pool, image_tensor
from gbopt_ros.learning.loader import Sample
from gbopt_ros.learning.pretrain import collate_semantic, semantic_target
from gbopt_ros.learning.trainer import OnStep, TrainingLog, train
from gbopt_ros.perception.background import FpnBackground
from gbopt_ros.perception.background_fpn import SemanticFpn
from gbopt_ros.perception.motion import add_evidence, motion_between, partners, resized
from gbopt_ros.sources.coco import CocoDataset
from gbopt_ros.structures import BackgroundNetwork, Clip, FlowNetwork, Frame, GboptError, Image

_SURE = 1e-3  # probabilities are kept from 0 and 1 by this much


@dataclass(frozen=True)
class View:
    """One frame of the place.

    Attributes:
        index: of the frame in its recording.
        image: (h, w, 3) uint8 RGB, no larger than the network sees it.
        evidence: (h, w) float16, log-odds of an object, from motion.
    """

    index: int
    image: Image
    evidence: NDArray[np.float16]


def collect_views(
    clips: Iterable[Clip],
    background_network: BackgroundNetwork,
    flow_network: FlowNetwork,
    config: AdaptConfig,
    baseline_s: float,
    short_side: int,
) -> list[View]:
    """Frames spread evenly over all clips, each with what motion says of its pixels.

    Frames without any are left out.

    Args:
        baseline_s: between two frames whose motion is compared.
        short_side: pixels, of views at most.

    Returns:
        At most `config.frames`, in order; so many at most are in memory at any time.
    """
    kept: list[tuple[int, View]] = []  # with the number of the frame
    stride, number = 1, -1
    for clip in clips:
        for t, frame in enumerate(clip.frames):
            number += 1
            if number % stride or not partners(clip.frames, t, baseline_s):
                continue
            (background,) = background_network.background([frame.image])
            evidence = motion_between(clip.frames, {t: background}, flow_network, baseline_s)
            kept.append((number, _view(frame, evidence[t], short_side)))
            while len(kept) > config.frames:
                stride *= 2
                kept = [(n, view) for n, view in kept if n % stride == 0]
    return [view for _, view in kept]


def _view(frame: Frame, evidence: NDArray[np.float32], short_side: int) -> View:
    height, width = frame.size
    image = frame.image
    factor = short_side / min(height, width)
    if factor < 1:
        height, width = (max(1, round(factor * side)) for side in (height, width))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return View(frame.index, image, resized(evidence, (height, width)).astype(np.float16))


def adapt_background(
    network: SemanticFpn,
    views: Sequence[View],
    rehearsal: Pool | None,
    config: AdaptConfig,
    device: torch.device,
    on_step: OnStep | None = None,
) -> tuple[SemanticFpn, TrainingLog]:
    """A copy of the network, fitted to the place that the views show.

    Args:
        views: of any sizes, at least one.
        rehearsal: labelled images of seen data, part of every batch.
        on_step: called after every step, in place of progress bars.

    Raises:
        GboptError: a loss is not finite.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    # In evaluation mode: the statistics of its normalisation stay those that it was trained with.
    adapted = copy.deepcopy(network).to(device).eval()
    log = TrainingLog()

    def losses_of(samples: list[Sample]) -> dict[str, Tensor]:
        images, targets, known = collate_semantic(samples, [adapted.short_side] * len(samples))
        entropy = functional.binary_cross_entropy_with_logits(
            adapted(images).float(), targets, weight=known, reduction="sum"
        )
        return {"cross_entropy": entropy / known.sum().clamp(min=1)}

    for number in range(config.rounds):
        probabilities = _expected(adapted, views, device)
        _, losses = train(
            adapted,
            _batches(views, probabilities, rehearsal, config, rng, device),
            losses_of,
            torch.optim.AdamW(adapted.parameters(), config.learning_rate, weight_decay=1e-4),
            iterations=config.iterations,
            warmup=0,
            title=f"adapt, round {number + 1}",
            on_step=on_step,
        )
        for name, values in losses.losses.items():
            log.losses.setdefault(name, []).extend(values)
    return adapted, log


def _expected(
    network: SemanticFpn, views: Sequence[View], device: torch.device
) -> list[NDArray[np.float16]]:
    """How probably each pixel belongs to an object, by the network and by its motion together."""
    asked = FpnBackground(network, BackgroundConfig(half=False), device)
    expected = []
    for view in views:
        (background,) = asked.background([view.image])
        expected.append((1 - add_evidence(background, view.evidence)).astype(np.float16))
    return expected


def _batches(
    views: Sequence[View],
    probabilities: Sequence[NDArray[np.float16]],
    rehearsal: Pool | None,
    config: AdaptConfig,
    rng: np.random.Generator,
    device: torch.device,
) -> Iterator[list[Sample]]:
    """Endless batches of views and, where there are any, rehearsal images; half are mirrored."""
    rehearsed = 0
    if rehearsal is not None and config.rehearsal_share > 0:
        wanted = round(config.rehearsal_share * config.batch_size)
        rehearsed = min(max(wanted, 1), config.batch_size - 1)
    while True:
        batch: list[Sample] = []
        for index in rng.integers(len(views), size=config.batch_size - rehearsed):
            image = torch.from_numpy(views[index].image).to(device).permute(2, 0, 1).float() / 255
            target = torch.from_numpy(probabilities[index]).to(device).float()
            batch.append((image, {"foreground": target, "known": torch.ones_like(target)}))
        for _ in range(rehearsed):
            assert rehearsal is not None
            example = to_example(rehearsal[int(rng.integers(len(rehearsal)))])
            targets = {name: t.to(device) for name, t in semantic_target(example).items()}
            batch.append((image_tensor(example, device), targets))
        if rng.random() < 0.5:
            batch = [
                (image.flip(-1), {name: t.flip(-1) for name, t in targets.items()})
                for image, targets in batch
            ]
        yield batch


def foreground_entropy(network: SemanticFpn, dataset: CocoDataset, device: torch.device) -> float:
    """Mean cross-entropy, nats a pixel, of the network with the instances of labelled images.

    NaN where the network's output is.

    Raises:
        GboptError: no image has a pixel that is known.
    """
    asked = FpnBackground(network, BackgroundConfig(half=False), device)
    losses = []
    for image in dataset.images:
        example = to_example(dataset.labelled(image))
        targets = {name: target.numpy() for name, target in semantic_target(example).items()}
        if not targets["known"].any():
            continue
        (background,) = asked.background([example.image])
        sure = np.clip(background, _SURE, 1 - _SURE)
        likelihood = np.where(targets["foreground"] > 0, 1 - sure, sure)
        losses.append(-np.average(np.log(likelihood), weights=targets["known"]))
    if not losses:
        raise GboptError(f"{dataset.image_dir}: no labelled image to compare on")
    return float(np.mean(losses))
