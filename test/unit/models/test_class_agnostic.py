"""Networks with classes, used class-agnostically: equal to what NumPy makes of their outputs."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.networks import CPU, SIDE, look_at_little, tiny_mask_rcnn, write_bomb
from torch import Tensor, nn
from torchvision.models.detection import (
    MaskRCNN,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops.misc import FrozenBatchNorm2d

from gbopt_ros.config import ProposalConfig
from gbopt_ros.masks import decode_all, encode_all
from gbopt_ros.models.class_agnostic import ClassAgnosticHeads, load_torchvision
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import WeightsInfo
from gbopt_ros.perception.load import load_proposals
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import GboptError, Proposals

CLASSES = 91
VERSIONS = {
    "maskrcnn_resnet50_fpn": (maskrcnn_resnet50_fpn, "resnet50-fpn"),
    "maskrcnn_resnet50_fpn_v2": (maskrcnn_resnet50_fpn_v2, "resnet50-fpn-v2"),
}


def image(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, SIDE, 2)
        picture[top : top + 22, left : left + 22] = rng.integers(100, 256)
    return picture


@dataclass(frozen=True)
class Case:
    """A network of torchvision's own builder, and the file of its state dict."""

    network: MaskRCNN
    path: Path
    architecture: str
    loaded: tuple[MaskRCNN, WeightsInfo]


@pytest.fixture(scope="module", params=VERSIONS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    build, architecture = VERSIONS[request.param]
    torch.manual_seed(0)
    network = build(weights=None, weights_backbone=None, num_classes=CLASSES)
    heads = network.roi_heads
    with torch.no_grad():  # known, and far enough apart that classes differ and masks have shape
        generator = torch.Generator().manual_seed(1)
        for parameter, scale in (
            (heads.box_predictor.cls_score.weight, 0.05),
            (heads.box_predictor.bbox_pred.weight, 0.02),
            (heads.mask_predictor.mask_fcn_logits.weight, 0.2),
        ):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        heads.box_predictor.cls_score.bias[0] += 2
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    torch.save(network.state_dict(), path)
    return Case(look_at_little(network), path, architecture, load_mask_rcnn(path))


def proposals_of(case: Case, **settings: float) -> Proposals:
    network, info = case.loaded
    config = ProposalConfig(**({"max_proposals": 12, "nms_iou": 0.5} | settings))
    (found,) = MaskRcnnProposals(look_at_little(network), info.version, config, CPU).propose(
        [image()]
    )
    return found


# ------------------------------------------------------------------------------------- the oracle


def by_hand(network: MaskRCNN, n: int, threshold: float = 0.0, nms_iou: float = 0.5) -> Proposals:
    """The N best proposals of the image, from the regions, logits and deltas of a network on."""
    heads = network.roi_heads
    with torch.no_grad():
        tensor = torch.from_numpy(image()).permute(2, 0, 1).float() / 255
        images, _ = network.transform([tensor])
        features = network.backbone(images.tensors)
        regions, _ = network.rpn(images, features)
        pooled = heads.box_head(heads.box_roi_pool(features, regions, images.image_sizes))
        logits, deltas = (out.double().numpy() for out in heads.box_predictor(pooled))
    (region,) = (r.double().numpy() for r in regions)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    kept: list[tuple[float, int, np.ndarray]] = []  # score, class, box
    candidates = []
    for i in range(len(region)):
        label = 1 + int(np.argmax(probabilities[i, 1:]))
        box = moved(region[i], deltas[i, 4 * label : 4 * label + 4])
        if probabilities[i, label] > threshold and np.all(box[2:] - box[:2] >= 0.01):
            candidates.append((float(probabilities[i, label]), label, box))
    for candidate in sorted(candidates, key=lambda c: -c[0]):
        if all(iou(candidate[2], other[2]) <= nms_iou for other in kept):
            kept.append(candidate)
    kept = kept[:n]
    boxes = np.array([box for _, _, box in kept], np.float32).reshape(-1, 4)
    with torch.no_grad():
        pooled = heads.mask_roi_pool(features, [torch.from_numpy(boxes)], images.image_sizes)
        shapes = torch.sigmoid(heads.mask_predictor(heads.mask_head(pooled)))
        of_class = torch.stack([shapes[i, label] for i, (_, label, _) in enumerate(kept)])
        pasted = paste_masks_in_image(of_class[:, None], torch.from_numpy(boxes), (SIDE, SIDE))
    masks = pasted[:, 0].numpy() > 0.5
    assert len({label for _, label, _ in kept}) > 1  # the case is worth something
    solid = [i for i, mask in enumerate(masks) if mask.any()]
    scores = np.array([kept[i][0] for i in solid], np.float32)
    return Proposals((SIDE, SIDE), encode_all(masks[solid]), scores, boxes[solid])


def moved(box: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """A region moved by deltas (R-CNN, Girshick et al. 2014), within the image."""
    size = box[2:] - box[:2]
    centre = box[:2] + size / 2 + delta[:2] / 10 * size
    size = size * np.exp(np.minimum(delta[2:] / 5, np.log(1000 / 16)))
    return np.clip(np.concatenate([centre - size / 2, centre + size / 2]), 0, SIDE)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def assert_agree(found: Proposals, expected: Proposals) -> None:
    assert len(found) == len(expected) > 2
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    a, b = (decode_all(p.rles, p.size) for p in (found, expected))
    assert (a != b).mean() < 1e-3  # of a million pixels some lie on the threshold


@pytest.mark.parametrize(
    "settings",
    [{}, {"score_threshold": 0.02}, {"nms_iou": 0.2}, {"max_proposals": 3}],
    ids=["all", "threshold", "nms", "n"],
)
def test_class_agnostic_proposals_are_those_computed_by_hand(
    case: Case, settings: dict[str, float]
) -> None:
    expected = by_hand(
        case.network,
        int(settings.get("max_proposals", 12)),
        settings.get("score_threshold", 0.0),
        settings.get("nms_iou", 0.5),
    )
    assert_agree(proposals_of(case, **settings), expected)


# ------------------------------------------------------------------------------------------- files


def test_load_mask_rcnn_of_torchvision_knows_architecture_and_version(case: Case) -> None:
    network, info = case.loaded
    digest = hashlib.sha256(case.path.read_bytes()).hexdigest()[:8]
    assert info.architecture == case.architecture
    assert info.version == f"{case.path.stem}-{digest}"
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, case.network.state_dict()[name]), name


def test_load_mask_rcnn_does_not_repeat_a_digest_in_the_version(
    small: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    torch.save(small, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path = path.rename(tmp_path / f"coco-{digest}.pth")
    assert load_mask_rcnn(path)[1].version == f"coco-{digest}"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """A state dict of version 1 whose large tensors are views of one number, to be quick."""
    torch.manual_seed(0)
    tensors = build_mask_rcnn("resnet50-fpn", classes=3).state_dict()
    return {
        k: v if v.numel() < 1e6 else torch.tensor(0.01).expand(v.shape) for k, v in tensors.items()
    }


@pytest.mark.parametrize("kind", ["safetensors", "half", "checkpoint", "before zip"])
def test_load_mask_rcnn_reads_other_files_of_the_same_weights(
    small: dict[str, Tensor], tmp_path: Path, kind: str
) -> None:
    """Converted, in half precision, of a training script, and in torch's format before zip."""
    tensors = small
    if kind == "half":
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    elif kind == "checkpoint":
        torch.save({"model": tensors, "epoch": 3}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind != "before zip")
    network, info = load_mask_rcnn(path)
    assert info.architecture == "resnet50-fpn"
    for name, value in network.state_dict().items():
        assert torch.equal(value, tensors[name].to(value.dtype)), name


def test_load_proposals_of_torchvision_warns_of_a_missing_calibration(
    small: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.pth"
    torch.save(small, path)
    network = load_proposals(path, ProposalConfig(), CPU)
    assert isinstance(network, MaskRcnnProposals)
    assert network.version.startswith("mine-")
    assert network.calibration is None
    assert f"{path}: no calibration in this file" in caplog.text


LEGACY = (  # today's name: that of the files from before torchvision 0.14
    ("backbone.fpn.inner_blocks.{}.0.", "backbone.fpn.inner_blocks.{}."),
    ("backbone.fpn.layer_blocks.{}.0.", "backbone.fpn.layer_blocks.{}."),
    ("rpn.head.conv.0.0.", "rpn.head.conv."),
)


def legacy(name: str) -> str:
    for level in range(4):
        for new, old in LEGACY:
            name = name.replace(new.format(level), old.format(level))
        mask = f"roi_heads.mask_head.{level}.0."
        name = name.replace(mask, f"roi_heads.mask_head.mask_fcn{level + 1}.")
    return name


def test_load_mask_rcnn_reads_the_published_file_of_version_1(tmp_path: Path) -> None:
    """Frozen normalisation that adds nothing to the variance, and names of long ago.

    The channels that hardly vary are where adding 1e-5 would show.
    """
    torch.manual_seed(0)
    published = MaskRCNN(resnet_fpn_backbone(backbone_name="resnet50", weights=None), CLASSES)
    for module in published.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
            n = len(module.weight)
            module.running_var.copy_(torch.logspace(-7, 1, n)[torch.randperm(n)])
            module.running_mean.copy_(0.1 * torch.randn(n))
            module.weight.copy_(0.3 * module.running_var.sqrt())
    tensors = {legacy(name): value for name, value in published.state_dict().items()}
    assert not any(name.endswith("num_batches_tracked") for name in tensors)
    assert "roi_heads.mask_head.mask_fcn4.bias" in tensors
    assert "rpn.head.conv.weight" in tensors
    path = tmp_path / "coco.pth"
    torch.save(tensors, path)
    network, info = load_mask_rcnn(path)
    assert info.architecture == "resnet50-fpn"
    pixels = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected, found = published.eval().backbone(pixels), network.backbone(pixels)
    for level, value in expected.items():
        torch.testing.assert_close(found[level], value, rtol=1e-3, atol=1e-3 * float(value.std()))
    for name, value in published.state_dict().items():
        if "backbone.body" not in name:  # every other tensor came under its new name
            assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone.body.conv1.weight": torch.zeros(8, 3, 7, 7)}, r"conv1\.weight: expected shape"),
        ({"backbone.body.conv1.weight": None}, "1 tensors missing"),
        ({"backbone.body.bn1.bias": torch.full((64,), torch.nan)}, "not finite"),
    ],
)
def test_load_mask_rcnn_refuses_state_dicts_that_do_not_fit(
    small: dict[str, Tensor], tmp_path: Path, changes: dict[str, Tensor | None], words: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save({k: v for k, v in (small | changes).items() if v is not None}, path)
    with pytest.raises(GboptError, match=words):
        load_mask_rcnn(path)


def test_load_mask_rcnn_refuses_files_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "raft.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    assert load_torchvision(path) is None
    with pytest.raises(GboptError, match=r"raft\.pth.*torchvision's Mask R-CNN R50-FPN"):
        load_mask_rcnn(path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(1)}, foreign)
    with pytest.raises(GboptError, match="no gbopt_ros description"):
        load_mask_rcnn(foreign)
    with pytest.raises(GboptError, match="no such"):
        load_mask_rcnn(tmp_path / "absent.pth")


@pytest.mark.parametrize("as_checkpoint", [False, True], ids=["pickle", "torch"])
def test_load_mask_rcnn_never_runs_a_malicious_pickle(tmp_path: Path, as_checkpoint: bool) -> None:
    path, target = tmp_path / "coco.pth", tmp_path / "created"
    write_bomb(path, target, as_checkpoint=as_checkpoint)
    with pytest.raises(GboptError, match="cannot be read"):
        load_mask_rcnn(path)
    assert not target.exists()


# ------------------------------------------------------------------------------------------ heads


def heads_of(classes: int, **limits: float) -> ClassAgnosticHeads:
    heads = ClassAgnosticHeads(build_mask_rcnn("slim18-fpn", classes=classes).roi_heads)
    heads.score_thresh = limits.get("threshold", 0.0)
    heads.nms_thresh = limits.get("nms", 0.5)
    heads.detections_per_img = int(limits.get("n", 10))
    return heads


def literal(**limits: float) -> tuple[list[float], list[int], list[list[float]]]:
    """Three regions and classes background, 1, 2: what comes out of known numbers.

    Region 0 is of class 2 (0.6), region 1 of class 1 (0.5), in the same place as region 0 once
    its own delta has moved it by half its width; region 2 is of class 1 (0.2), elsewhere.
    """
    probabilities = torch.tensor([[0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.7, 0.2, 0.1]])
    regions = torch.tensor([[10.0, 10, 20, 20], [5.0, 10, 15, 20], [30.0, 30, 50, 40]])
    deltas = torch.zeros(3, 3, 4)
    deltas[1, 1, 0] = 5.0  # times 1/10 of the width, for class 1
    deltas[1, 2, 0] = -5.0  # for class 2, which is not the best
    (boxes,), (scores,), (labels,) = heads_of(3, **limits).postprocess_detections(
        probabilities.log(), deltas.flatten(1), [regions], [(64, 64)]
    )
    return [round(float(s), 6) for s in scores], labels.tolist(), boxes.round().tolist()


def test_class_agnostic_heads_take_the_best_class_and_suppress_over_classes() -> None:
    first, last = [10.0, 10, 20, 20], [30.0, 30, 50, 40]
    assert literal() == ([0.6, 0.2], [2, 1], [first, last])
    assert literal(nms=1.0) == ([0.6, 0.5, 0.2], [2, 1, 1], [first, first, last])
    assert literal(threshold=0.3) == ([0.6], [2], [first])
    assert literal(nms=1.0, n=2) == ([0.6, 0.5], [2, 1], [first, first])


def test_class_agnostic_heads_keep_images_apart() -> None:
    logits = torch.tensor([[0.0, 1], [0, 2], [0, 3]])
    regions = [torch.zeros(0, 4), torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29]]),
               torch.tensor([[0.0, 0, 200, 200]])]  # fmt: skip
    boxes, scores, labels = heads_of(2).postprocess_detections(
        logits, torch.zeros(3, 8), regions, [(64, 64), (64, 64), (32, 48)]
    )
    assert [len(b) for b in boxes] == [len(s) for s in scores] == [len(x) for x in labels]
    assert [len(b) for b in boxes] == [0, 2, 1]
    assert boxes[1].tolist() == [[20, 20, 29, 29], [0, 0, 9, 9]]
    assert boxes[2].tolist() == [[0, 0, 48, 32]]  # within its own image


def test_class_agnostic_heads_without_a_region() -> None:
    boxes, scores, labels = heads_of(4).postprocess_detections(
        torch.zeros(0, 4), torch.zeros(0, 16), [torch.zeros(0, 4)], [(64, 64)]
    )
    assert [tuple(x[0].shape) for x in (boxes, scores, labels)] == [(0, 4), (0,), (0,)]


def test_class_agnostic_heads_change_nothing_with_two_classes() -> None:
    network = tiny_mask_rcnn()
    nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.2)
    same = copy.deepcopy(network)
    same.roi_heads = ClassAgnosticHeads(same.roi_heads)
    assert same.state_dict().keys() == network.state_dict().keys()
    pixels = torch.from_numpy(image()).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        (a,), (b,) = network([pixels]), same([pixels])
    for name in ("boxes", "scores", "labels", "masks"):
        assert torch.equal(a[name], b[name]), name
    assert isinstance(a["scores"], Tensor)


def test_build_mask_rcnn_keeps_boxes_in_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    network = build_mask_rcnn("slim18-fpn", classes=CLASSES).eval()
    network.roi_heads = ClassAgnosticHeads(network.roi_heads)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        boxes = network([torch.rand(3, 240, 400)])[0]["boxes"]
    assert boxes.dtype == torch.float32
    assert (boxes != boxes.bfloat16()).float().mean() > 0.5  # numbers that bfloat16 does not have
