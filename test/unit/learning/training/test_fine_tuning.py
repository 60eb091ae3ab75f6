"""Fine-tuning and pretraining of tiny networks for a few steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.networks import CPU, SIDE, tiny_mask_rcnn
from torchvision.ops import MultiScaleRoIAlign

from gbopt_ros.config import AugmentConfig, LearningConfig, PretrainConfig, ProposalConfig
from gbopt_ros.learning.data.loader import Batch
from gbopt_ros.learning.training.fine_tuning import _parts, fine_tune
from gbopt_ros.learning.training.pretraining import pretrain_background, pretrain_proposals
from gbopt_ros.masks import encode_all
from gbopt_ros.models.background_fpn import ARCHITECTURES
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import GboptError, LabelledImage

PLAIN = AugmentConfig(
    scale_min=1.0, scale_max=1.0, copy_paste=0.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0
)


class Squares:
    """Images of two bright squares; counts what is drawn."""

    def __init__(self, count: int = 2, side: int = 20) -> None:
        self.drawn = 0
        self._images = []
        for seed in range(count):
            rng = np.random.default_rng(seed)
            image = rng.integers(0, 50, (SIDE, SIDE, 3), dtype=np.uint8)
            masks = np.zeros((2, SIDE, SIDE), bool)
            for i, mask in enumerate(masks):
                top, left = rng.integers(2, SIDE - side - 2), 3 + i * SIDE // 2
                mask[top : top + side, left : left + side] = True
                image[mask] = rng.integers(150, 256, 3)
            self._images.append(LabelledImage(image, encode_all(masks)))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledImage:
        self.drawn += 1
        return self._images[index]


def config(**changes: object) -> LearningConfig:
    """One step with the paper's optimiser and losses."""
    values = {
        "iterations": 1, "batch_size": 1, "warmup": 0, "augment": PLAIN, "optimizer": "sgd",
        "learning_rate": 0.002, "localization_losses": True, "weight_interpolation": 0.0,
    }  # fmt: skip
    return LearningConfig(**(values | changes))


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_fine_tune_fits_two_images_and_does_not_change_the_parent() -> None:
    parent = tiny_mask_rcnn().train()
    before = state(parent)
    settings = config(iterations=10, batch_size=2, learning_rate=0.02)
    child, log = fine_tune(parent, Squares(), None, settings, CPU)
    assert len(log.total) == 10
    assert np.mean(log.total[-3:]) < 0.7 * np.mean(log.total[:3])
    assert parent.training
    assert not child.training
    for name, value in parent.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the parent changed"
    statistics, weights = [], []
    for name, value in child.state_dict().items():
        kind = name.rsplit(".", 1)[1]
        same = torch.equal(value, before[name])
        (weights if kind in ("weight", "bias") else statistics).append((name, same))
    assert len(statistics) > 50
    assert all(same for _, same in statistics), "batch-norm statistics changed"
    assert sum(not same for _, same in weights) > 0.9 * len(weights)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, (4, 0)), (0.25, (3, 1)), (0.5, (2, 2)), (1.0, (0, 4))]
)
def test_fine_tune_takes_the_rehearsal_share(share: float, expected: tuple[int, int]) -> None:
    selected, rehearsal = Squares(), Squares()
    settings = config(batch_size=4, rehearsal_share=share)
    fine_tune(tiny_mask_rcnn(), selected, rehearsal, settings, CPU)
    assert (selected.drawn, rehearsal.drawn) == expected


def test_fine_tune_fills_the_batch_from_one_dataset() -> None:
    for selected, rehearsal in ((Squares(), None), (None, Squares())):
        fine_tune(tiny_mask_rcnn(), selected, rehearsal, config(batch_size=2), CPU)
        assert (selected or rehearsal).drawn == 2
    with pytest.raises(ValueError, match="selected masks, rehearsal data or both"):
        fine_tune(tiny_mask_rcnn(), None, None, config(), CPU)


def test_fine_tune_keeps_the_beginning_as_pretraining_does() -> None:
    parent = tiny_mask_rcnn()
    before = state(parent)
    child, _ = fine_tune(parent, Squares(), None, config(freeze_beginning=True), CPU)
    normalisation = {
        f"{name}.{kind}"
        for name, module in child.named_modules()
        if name.startswith("backbone.body") and isinstance(module, torch.nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    moved = {name for name, value in state(child).items() if not torch.equal(value, before[name])}
    first = ("backbone.body.conv1.", "backbone.body.layer1.")
    assert normalisation and not moved & normalisation
    assert not any(name.startswith(first) for name in moved)
    assert any(name.startswith("backbone.body.layer2.") for name in moved)


def test_fine_tune_splits_a_batch_into_passes() -> None:
    samples: Any = list(range(8))
    batch = Batch(0, samples)

    def shares(**changes: object) -> list[tuple[list[int], float, bool]]:
        settings = config(batch_size=8, **changes)
        return [tuple(part) for part in _parts(batch, 4, settings)]

    assert shares() == [(samples, 1.0, True)]
    assert shares(images_per_pass=5) == [(samples[:5], 0.625, True), (samples[5:], 0.375, True)]
    assert shares(images_per_pass=3, localization_losses=False) == [
        (samples[:3], 0.375, False), (samples[3:4], 0.125, False),
        (samples[4:7], 0.375, True), (samples[7:], 0.125, True),
    ]  # fmt: skip


def test_fine_tune_with_a_constant_rate_changes_more_than_with_a_cosine() -> None:
    def distance(schedule: str) -> float:
        parent = tiny_mask_rcnn()
        settings = config(iterations=4, lr_schedule=schedule, learning_rate=1e-4)
        child, _ = fine_tune(parent, Squares(), None, settings, CPU)
        name = "rpn.head.cls_logits.weight"
        return float((child.state_dict()[name] - parent.state_dict()[name]).norm())

    assert distance("constant") > 1.3 * distance("cosine")


def changed(settings: LearningConfig, rehearsal: Squares | None) -> set[str]:
    """The parts of the heads that learning changes; `region` is the region proposal network."""
    parent = tiny_mask_rcnn()
    before = state(parent)
    child, _ = fine_tune(parent, Squares(), rehearsal, settings, CPU)
    parts = {
        "region": "rpn.head.cls_logits.weight",
        "region box": "rpn.head.bbox_pred.weight",
        "class": "roi_heads.box_predictor.cls_score.weight",
        "box": "roi_heads.box_predictor.bbox_pred.weight",
        "mask": "roi_heads.mask_predictor.mask_fcn_logits.weight",
    }
    after = child.state_dict()
    return {part for part, name in parts.items() if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fine_tune_localization_losses_of_selected_masks_are_optional(optimizer: str) -> None:
    rate = {"sgd": 0.02, "adamw": 1e-3}[optimizer]
    settings = config(
        batch_size=2, optimizer=optimizer, learning_rate=rate, weight_decay=0.0, iterations=3
    )
    everything = {"region", "region box", "class", "box", "mask"}
    assert changed(settings, None) == everything
    objects = replace(settings, localization_losses=False)
    assert changed(objects, None) == {"region", "region box", "class"}
    assert changed(objects, Squares()) == everything
    assert changed(replace(objects, rehearsal_share=1.0), Squares()) == everything


def test_fine_tune_without_localization_losses_weights_losses_by_share() -> None:
    """With all images alike and no sampling of regions, halves of a batch count by their share."""
    settings = config(
        batch_size=4, rehearsal_share=0.25, learning_rate=1e-9, localization_losses=False
    )
    _, log = fine_tune(tiny_mask_rcnn(), Squares(1), Squares(1), settings, CPU)
    whole = replace(settings, localization_losses=True)
    _, both = fine_tune(tiny_mask_rcnn(), Squares(1), Squares(1), whole, CPU)
    assert log.losses["loss_mask"][0] == pytest.approx(0.25 * both.losses["loss_mask"][0], rel=0.2)
    name = "loss_classifier"
    assert log.losses[name][0] == pytest.approx(both.losses[name][0], rel=0.2)


def test_fine_tune_without_localization_losses_skips_the_mask_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one of three images; the network that comes back draws masks as before."""
    drawn: list[int] = []
    forward = MultiScaleRoIAlign.forward

    def counted(self: MultiScaleRoIAlign, x: Any, boxes: list[torch.Tensor], shapes: Any) -> Any:
        if self.output_size == (14, 14):  # of the mask head
            drawn.append(len(boxes))
        return forward(self, x, boxes, shapes)

    monkeypatch.setattr(MultiScaleRoIAlign, "forward", counted)
    settings = config(batch_size=3, rehearsal_share=1 / 3, localization_losses=False, iterations=2)
    trained, _ = fine_tune(tiny_mask_rcnn(), Squares(), Squares(), settings, CPU)
    assert drawn == [1, 1]
    assert trained.roi_heads.has_mask()


def test_fine_tune_is_decided_by_the_seed() -> None:
    def child(seed: int) -> dict[str, torch.Tensor]:
        settings = config(seed=seed, batch_size=2, augment=AugmentConfig())
        return state(fine_tune(tiny_mask_rcnn(), Squares(), None, settings, CPU)[0])

    first, second, other = child(1), child(1), child(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_fine_tune_draws_images_in_the_order_of_the_seed() -> None:
    class Recorded(Squares):
        def __getitem__(self, index: int) -> LabelledImage:
            order.append(index)
            return super().__getitem__(index)

    orders = []
    for seed in (1, 2):
        order: list[int] = []
        fine_tune(tiny_mask_rcnn(), Recorded(9), None, config(seed=seed, batch_size=6), CPU)
        orders.append(order)
    assert orders[0] != orders[1]


def test_fine_tune_begins_the_warmup_at_warmup_start() -> None:
    parent = tiny_mask_rcnn()
    for start, moves in ((0.0, False), (0.5, True)):
        settings = config(warmup=10, warmup_start=start)
        child = state(fine_tune(parent, Squares(), None, settings, CPU)[0])
        assert moves is any(not torch.equal(child[n], v) for n, v in state(parent).items())


def test_fine_tune_weight_interpolation_averages_with_the_parent() -> None:
    parent = tiny_mask_rcnn()
    before = state(parent)
    trained = state(fine_tune(parent, Squares(), None, config(), CPU)[0])
    averaged = state(fine_tune(parent, Squares(), None, config(weight_interpolation=0.25), CPU)[0])
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    for name, value in averaged.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * trained[name] + 0.25 * before[name])


def test_fine_tune_a_parent_that_has_been_in_use() -> None:
    """Proposals are computed in inference mode, whose tensors take no gradients."""
    parent = tiny_mask_rcnn()
    MaskRcnnProposals(parent, "", ProposalConfig(), CPU).propose([Squares()[0].image])
    _, log = fine_tune(parent, Squares(), None, config(), CPU)
    assert np.isfinite(log.total).all()


def test_fine_tune_images_that_lose_all_their_instances() -> None:
    _, log = fine_tune(tiny_mask_rcnn(), Squares(side=5), None, config(batch_size=2), CPU)
    assert log.losses["loss_mask"] == [0.0]
    assert np.isfinite(log.total).all()


def test_fine_tune_refuses_a_broken_parent() -> None:
    parent = tiny_mask_rcnn()
    with torch.no_grad():
        parent.roi_heads.box_predictor.cls_score.weight.fill_(torch.nan)
    with pytest.raises(GboptError, match="learn: loss is not finite at step 0"):
        fine_tune(parent, Squares(), None, config(), CPU)


# ------------------------------------------------------------------------------------ pretraining


def test_pretrain_background_learns_the_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "slim18-semantic-fpn"
    looks_at_little = replace(ARCHITECTURES[name], short_side=SIDE)
    monkeypatch.setitem(ARCHITECTURES, name, looks_at_little)
    settings = PretrainConfig(
        background_iterations=25, batch_size=2, learning_rate=3e-3, warmup=2, ema_decay=0.5,
        augment=PLAIN, background_architecture=name,
    )  # fmt: skip
    network, log = pretrain_background(Squares(), settings, CPU)
    assert not network.training
    assert len(log.losses["cross_entropy"]) == 25
    assert log.total[-1] < 0.5 * log.total[0]


def test_pretrain_proposals_is_decided_by_the_seed() -> None:
    settings = PretrainConfig(
        iterations=1, batch_size=1, warmup=1, augment=PLAIN, proposal_architecture="slim18-fpn"
    )
    network, log = pretrain_proposals(Squares(), settings, CPU)
    assert not network.training
    assert len(log.total) == 1
    again, _ = pretrain_proposals(Squares(), settings, CPU)
    first, second = state(network), state(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pretrain_background_starts_from_the_proposal_network() -> None:
    proposals = tiny_mask_rcnn(seed=5)
    settings = PretrainConfig(
        background_iterations=1, batch_size=2, learning_rate=1e-12, ema_decay=0.0, augment=PLAIN,
        background_architecture="slim18-semantic-fpn",
    )  # fmt: skip
    started, _ = pretrain_background(Squares(), settings, CPU, proposals)
    source, target = proposals.backbone.state_dict(), started.backbone.state_dict()
    for stage in (1, 2, 3):
        name = f"body.layer{stage}.0.conv1.weight"
        assert torch.allclose(target[name], source[name], atol=1e-9), name
    fresh, _ = pretrain_background(Squares(), settings, CPU)
    assert not torch.allclose(fresh.backbone.state_dict()[name], source[name], atol=1e-3)


def test_fine_tune_ignore_regions_are_unknown() -> None:
    """Boxes inside one are neither object nor background."""
    dataset = Squares()
    image = dataset[0]
    dataset._images = [replace(image, rles=image.rles[:1], ignore_regions=image.rles[1:])]
    parent = tiny_mask_rcnn()
    trained, _ = fine_tune(parent, dataset, None, config(), CPU)
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [5.0, 5.0, 15.0, 15.0]])
    _, labels = trained.roi_heads.assign_targets_to_proposals(
        [boxes], [boxes[:1]], [torch.tensor([-1])]
    )
    assert labels[0].tolist() == [-1, -1]
    _, labels = parent.roi_heads.assign_targets_to_proposals(
        [boxes], [boxes[:1]], [torch.tensor([-1])]
    )
    assert labels[0].tolist() == [-1, 0]


def test_mask_rcnn_box_targets_are_exact_under_autocast() -> None:
    """bfloat16 knows even numbers only from 256 on."""
    network = build_mask_rcnn("slim18-fpn").train()
    box = torch.tensor([[331.0, 151.0, 371.0, 187.0]])
    masks = torch.zeros(1, 240, 400, dtype=torch.uint8)
    masks[0, 151:187, 331:371] = 1
    taught = []
    select = network.roi_heads.select_training_samples

    def spy(*args: object) -> object:
        proposals, _, labels, targets = found = select(*args)
        decoded = network.roi_heads.box_coder.decode_single(targets[0], proposals[0])
        taught.append(decoded[labels[0] > 0])
        return found

    network.roi_heads.select_training_samples = spy
    target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64), "masks": masks}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = network([torch.rand(3, 240, 400)], [target])
    assert len(taught[0]) > 0
    torch.testing.assert_close(taught[0], box.expand_as(taught[0]), atol=1e-3, rtol=0)
    sum(loss.float() for loss in losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
