"""What every backend of the three networks must do, whoever wrote it.

A backend is a line in PROPOSALS, FLOWS or BACKGROUNDS: a function that makes it from its
configuration and a device, the same network each time. All of it runs on the CPU and, where there
is one, on a GPU; a test of half precision needs the GPU. Tolerances are those of
`benchmarks.conformance`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.detectron2_networks import needs_detectron2, tiny_detectron2
from support.networks import SIDE, look_at_little, tiny_mask_rcnn
from support.onnx_networks import (
    needs_onnx,
    save_bright_yolo,
    save_red_foreground,
    save_torchvision_layout,
)
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.optical_flow import raft_large, raft_small
from torchvision.models.resnet import Bottleneck

from benchmarks.conformance import HALF, TF32, Tolerance
from gbopt_ros.config import BackgroundConfig, FlowConfig, ProposalConfig
from gbopt_ros.io.resources import SEED_BACKGROUND, SEED_PROPOSALS, find_resource
from gbopt_ros.masks import boxes_xyxy, decode_all, iou_matrix, is_consistent
from gbopt_ros.models.background_fpn import build_background
from gbopt_ros.models.class_agnostic import ClassAgnosticHeads
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.raft import RaftFlow
from gbopt_ros.perception.background import AveragedBackground, FpnBackground
from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.perception.load import load_proposals
from gbopt_ros.perception.onnx_background import OnnxBackground
from gbopt_ros.perception.onnx_proposals import OnnxProposals
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import BackgroundNetwork, FlowNetwork, Image, ProposalNetwork, Proposals

# A batch sums in another order than a single image; `benchmarks.conformance` says what GPUs and
# half precision do. The masks of random weights hover about the threshold, and their regions tie:
# float16 on a CPU keeps 0.70 to 0.96 of them.
BATCH = {
    "cpu": Tolerance(score=1e-4, iou=0.98, background=1e-4, flow=1e-3),
    "cuda": TF32,
}
HALF_OF_RANDOM = replace(HALF, iou=0.5)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU")
    return torch.device(request.param)


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("half precision is for GPUs, and torch sees no CUDA GPU")
    return torch.device("cuda")


@cache
def picture(height: int = SIDE, width: int = SIDE, seed: int = 0) -> Image:
    """(height, width, 3) uint8, read-only: bright rectangles on a dark ground."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + height // 3 + 1, left : left + width // 3 + 1] = rng.integers(100, 256)
    image.setflags(write=False)
    return image


def constant(level: int, height: int = SIDE, width: int = SIDE) -> Image:
    return np.full((height, width, 3), level, np.uint8)


# -------------------------------------------------------------------------------------- proposals

MakeProposals = Callable[[ProposalConfig, torch.device], ProposalNetwork]


def slim(config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    return MaskRcnnProposals(tiny_mask_rcnn(), "slim", config, device)


def seed(config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    return load_proposals(find_resource(SEED_PROPOSALS), config, device)


def coco(architecture: str) -> MakeProposals:
    """The maker of a network with the heads of 91 classes, as torchvision publishes it."""

    @cache
    def network() -> MaskRCNN:
        torch.manual_seed(0)
        built = build_mask_rcnn(architecture, classes=91)
        for module in built.modules():
            if isinstance(module, Bottleneck):  # else random blocks double the variance, each
                nn.init.constant_(module.bn3.weight, 0.2)
        built.roi_heads = ClassAgnosticHeads(built.roi_heads)
        return look_at_little(built, regions=12)

    def make(config: ProposalConfig, device: torch.device) -> ProposalNetwork:
        return MaskRcnnProposals(copy.deepcopy(network()), architecture, config, device)

    return make


def detectron2(config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    return MaskRcnnProposals(tiny_detectron2(), "detectron2", config, device)


def detectron2_of_classes(config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    network = tiny_detectron2(
        MODEL__ROI_HEADS__NUM_CLASSES=5, MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=False
    )
    return MaskRcnnProposals(network, "detectron2", config, device)


@contextmanager
def onnx_file(save: Callable[[Path], Path]) -> Iterator[Path]:
    """A file for as long as it is read."""
    with tempfile.TemporaryDirectory() as folder:
        yield save(Path(folder, "tiny.onnx"))


def onnx_yolo(config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    with onnx_file(save_bright_yolo) as path:
        return OnnxProposals.from_file(path, config, device)


def onnx_torchvision(config: ProposalConfig, device: torch.device) -> ProposalNetwork:
    corners = np.random.default_rng(0).random((12, 2, 2))
    shares = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    save = partial(save_torchvision_layout, shares=shares, scores=np.linspace(0.9, 0.1, 12))
    with onnx_file(save) as path:
        return OnnxProposals.from_file(path, config, device)


PROPOSALS = [
    pytest.param(slim, id="slim18-fpn"),
    pytest.param(seed, id="bundled"),
    pytest.param(coco("resnet50-fpn"), id="coco"),
    pytest.param(coco("resnet50-fpn-v2"), id="coco-v2"),
    pytest.param(detectron2, id="detectron2", marks=needs_detectron2),
    pytest.param(detectron2_of_classes, id="detectron2-5-classes", marks=needs_detectron2),
    pytest.param(onnx_yolo, id="onnx-ultralytics", marks=needs_onnx),
    pytest.param(onnx_torchvision, id="onnx-torchvision", marks=needs_onnx),
]
proposal_backends = pytest.mark.parametrize("make", PROPOSALS)


def configured(make: MakeProposals, device: torch.device, **changes: float) -> ProposalNetwork:
    """A backend with at most 8 proposals, and the changes."""
    return make(ProposalConfig(**({"max_proposals": 8} | changes)), device)


@cache
def shared(make: MakeProposals, device: torch.device) -> ProposalNetwork:
    """The same without changes; one for all tests, for making a large network takes long."""
    return configured(make, device)


def assert_valid(found: Proposals, image: Image, limit: int) -> None:
    """What any set of proposals of an image fulfils."""
    height, width = image.shape[:2]
    n = len(found)
    assert found.size == (height, width)
    assert n <= limit
    assert found.scores.dtype == found.boxes.dtype == np.float32
    assert found.scores.shape == (n,)
    assert found.boxes.shape == (n, 4)
    assert np.all((found.scores >= 0) & (found.scores <= 1))
    assert np.all(np.diff(found.scores) <= 0)
    assert all(is_consistent(rle) for rle in found.rles)
    masks = decode_all(found.rles, found.size)
    assert masks.shape == (n, height, width)
    assert masks.any(axis=(1, 2)).all()
    if n:
        assert np.all(found.boxes >= 0)
        assert np.all(found.boxes <= [width, height, width, height])
        assert np.all(found.boxes[:, 2:] > found.boxes[:, :2])
        tight = boxes_xyxy(found.rles)  # a mask stays in its box, which is rounded to pixels
        assert np.all(tight[:, :2] >= found.boxes[:, :2] - 2)
        assert np.all(tight[:, 2:] <= found.boxes[:, 2:] + 2)


def assert_equal(a: Proposals, b: Proposals) -> None:
    assert a.rles == b.rles
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.boxes, b.boxes)


def assert_close(a: Proposals, b: Proposals, within: Tolerance) -> None:
    assert len(a) == len(b)
    np.testing.assert_allclose(a.scores, b.scores, atol=within.score)
    assert iou_matrix(a.rles, b.rles).max(axis=1, initial=0).mean() >= within.iou


def assert_same(a: Proposals, b: Proposals, device: torch.device) -> None:
    """Equal on a CPU; a GPU may choose another algorithm the second time."""
    if device.type == "cpu":
        assert_equal(a, b)
    else:
        assert_close(a, b, BATCH[device.type])


@proposal_backends
def test_proposals_are_valid(make: MakeProposals, device: torch.device) -> None:
    """Images of three sizes in one call, one of them narrow."""
    images = [picture(), picture(48, 80, 1), picture(90, 40, 2)]
    network = shared(make, device)
    found = network.propose(images)
    assert len(found) == 3
    for proposals, image in zip(found, images, strict=True):
        assert_valid(proposals, image, limit=8)
    assert any(len(proposals) for proposals in found)
    assert network.propose([]) == []


@proposal_backends
def test_proposals_are_deterministic(make: MakeProposals, device: torch.device) -> None:
    network = shared(make, device)
    (first,), (again,) = network.propose([picture()]), network.propose([picture()])
    (anew,) = configured(make, device).propose([picture()])
    assert len(first)
    assert_same(first, again, device)
    assert_same(first, anew, device)


@proposal_backends
@pytest.mark.parametrize("level", [0, 127, 255])
def test_proposals_of_an_image_of_nothing(
    make: MakeProposals, device: torch.device, level: int
) -> None:
    image = constant(level)
    (found,) = shared(make, device).propose([image])
    assert_valid(found, image, limit=8)


@proposal_backends
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 8), (64, 3)])
def test_proposals_of_a_tiny_image(
    make: MakeProposals, device: torch.device, size: tuple[int, int]
) -> None:
    image = picture(*size)
    (found,) = shared(make, device).propose([image])
    assert_valid(found, image, limit=8)


@proposal_backends
@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_proposals_of_views_and_read_only_images(make: MakeProposals, device: torch.device) -> None:
    image = picture()
    views = [image[:, ::-1], image[::2, ::2], image.transpose(1, 0, 2)]
    network = shared(make, device)
    for view in views:
        before = view.copy()
        (of_view,), (of_copy,) = network.propose([view]), network.propose([before.copy()])
        assert_same(of_view, of_copy, device)
        np.testing.assert_array_equal(view, before)


@proposal_backends
def test_proposals_of_a_batch_are_those_of_single_images(
    make: MakeProposals, device: torch.device
) -> None:
    images = [picture(seed=number) for number in range(3)]
    together = configured(make, device, batch_size=3).propose(images)
    alone = configured(make, device, batch_size=1)
    for proposals, image in zip(together, images, strict=True):
        (expected,) = alone.propose([image])
        assert_close(proposals, expected, BATCH[device.type])


@proposal_backends
def test_proposals_are_the_n_best(make: MakeProposals, device: torch.device) -> None:
    (many,) = shared(make, device).propose([picture()])
    assert len(many) > 3
    for n in (1, 3):
        (few,) = configured(make, device, max_proposals=n).propose([picture()])
        assert len(few) == n
        np.testing.assert_allclose(few.scores, many.scores[:n], atol=1e-6)
        assert few.rles == many.rles[:n]


@proposal_backends
def test_proposals_above_the_threshold(make: MakeProposals, device: torch.device) -> None:
    """A threshold takes away the tail and changes nothing before it."""
    (every,) = shared(make, device).propose([picture()])
    middle = len(every) // 2
    threshold = float(every.scores[middle - 1 : middle + 1].mean())
    kept = int((every.scores > threshold).sum())
    assert 0 < kept < len(every)
    (found,) = configured(make, device, score_threshold=threshold).propose([picture()])
    assert len(found) == kept
    np.testing.assert_allclose(found.scores, every.scores[:kept], atol=1e-6)
    assert found.rles == every.rles[:kept]


@proposal_backends
def test_half_precision_of_proposals_is_for_gpus(make: MakeProposals) -> None:
    cpu = torch.device("cpu")
    (half,) = configured(make, cpu, half=True).propose([picture()])
    (full,) = configured(make, cpu, half=False).propose([picture()])
    assert_equal(half, full)


@proposal_backends
def test_proposals_in_half_precision(make: MakeProposals, gpu: torch.device) -> None:
    images = [picture(seed=number) for number in range(3)]
    half = configured(make, gpu, half=True).propose(images)
    full = configured(make, gpu, half=False).propose(images)
    for a, b, image in zip(half, full, images, strict=True):
        assert_valid(a, image, limit=8)
        assert_close(a, b, HALF if make is seed else HALF_OF_RANDOM)


@proposal_backends
def test_proposals_have_a_version(make: MakeProposals, device: torch.device) -> None:
    network = shared(make, device)
    version = network.version
    assert isinstance(version, str)
    assert version.strip() == version != ""
    assert version.isprintable()
    network.propose([picture()])
    assert network.version == version


# ------------------------------------------------------------------------------------------- flow

MakeFlow = Callable[[FlowConfig, torch.device], FlowNetwork]
FLOW_SIDE = 128  # RAFT pads smaller images to it


@cache
def random_raft(build: Callable[..., nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build(weights=None).eval()


def dis(config: FlowConfig, device: torch.device) -> FlowNetwork:
    return DisFlow()


def small(config: FlowConfig, device: torch.device) -> FlowNetwork:
    return RaftFlow(copy.deepcopy(random_raft(raft_small)), config, device)


def large(config: FlowConfig, device: torch.device) -> FlowNetwork:
    return RaftFlow(copy.deepcopy(random_raft(raft_large)), config, device)


FLOWS = [
    pytest.param(dis, id="dis"),
    pytest.param(small, id="raft_small"),
    pytest.param(large, id="raft_large"),
]
flow_backends = pytest.mark.parametrize("make", FLOWS)


def assert_flow(flow: np.ndarray, shape: tuple[int, int, int]) -> None:
    assert flow.shape == (*shape, 2)
    assert flow.dtype == np.float32
    assert np.isfinite(flow).all()


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Median over pixels of the distance of two flows, pixels."""
    return float(np.median(np.linalg.norm(a - b, axis=-1)))


@flow_backends
@pytest.mark.parametrize("size", [(FLOW_SIDE, 136), (1, 1), (3, 130)])
def test_flow_is_valid(make: MakeFlow, device: torch.device, size: tuple[int, int]) -> None:
    first, second = picture(*size), picture(*size, seed=1)
    network = make(FlowConfig(), device)
    flow = network.flow([first], [second])
    assert_flow(flow, (1, *size))
    again = network.flow([first], [second])
    if device.type == "cpu":
        np.testing.assert_array_equal(flow, again)
    else:
        assert apart(flow, again) <= BATCH[device.type].flow


@flow_backends
def test_flow_of_no_pair_and_of_unequal_numbers(make: MakeFlow, device: torch.device) -> None:
    network = make(FlowConfig(), device)
    assert network.flow([], []).shape == (0, 0, 0, 2)
    with pytest.raises(ValueError):
        network.flow([picture()], [])


@flow_backends
@pytest.mark.parametrize("level", [0, 255])
def test_flow_of_an_image_of_nothing(make: MakeFlow, device: torch.device, level: int) -> None:
    image = constant(level)
    assert_flow(make(FlowConfig(), device).flow([image], [image]), (1, SIDE, SIDE))


@flow_backends
@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_flow_of_views_and_of_batches(make: MakeFlow, device: torch.device) -> None:
    image, other = picture(FLOW_SIDE, FLOW_SIDE), picture(FLOW_SIDE, FLOW_SIDE, 1)
    first, second = [image[:, ::-1], image.transpose(1, 0, 2), image], [other] * 3
    together = make(FlowConfig(batch_size=2), device).flow(first, second)
    assert_flow(together, (3, FLOW_SIDE, FLOW_SIDE))
    alone = make(FlowConfig(batch_size=1), device)
    for flow, a, b in zip(together, first, second, strict=True):
        assert apart(flow, alone.flow([a.copy()], [b.copy()])[0]) <= BATCH[device.type].flow


@flow_backends
def test_half_precision_of_flow_is_for_gpus(make: MakeFlow) -> None:
    cpu, pair = torch.device("cpu"), ([picture()], [picture(seed=1)])
    half, full = (make(FlowConfig(half=half), cpu).flow(*pair) for half in (True, False))
    np.testing.assert_array_equal(half, full)


@flow_backends
def test_flow_in_half_precision(make: MakeFlow, gpu: torch.device) -> None:
    pair = [picture(FLOW_SIDE, FLOW_SIDE)], [picture(FLOW_SIDE, FLOW_SIDE, 1)]
    half, full = (make(FlowConfig(half=half), gpu).flow(*pair) for half in (True, False))
    assert_flow(half, (1, FLOW_SIDE, FLOW_SIDE))
    assert apart(half, full) <= HALF.flow


# ------------------------------------------------------------------------------------- background

MakeBackground = Callable[[BackgroundConfig, torch.device], BackgroundNetwork]


def fpn(architecture: str) -> MakeBackground:
    """The maker of a random network with 64 pixels of short side."""

    @cache
    def network() -> nn.Module:
        torch.manual_seed(0)
        built = build_background(architecture)
        built.short_side = SIDE
        return built

    def make(config: BackgroundConfig, device: torch.device) -> BackgroundNetwork:
        return FpnBackground(copy.deepcopy(network()), config, device)

    return make


def seed_background(config: BackgroundConfig, device: torch.device) -> BackgroundNetwork:
    return FpnBackground.from_file(find_resource(SEED_BACKGROUND), config, device)


def onnx_background(config: BackgroundConfig, device: torch.device) -> BackgroundNetwork:
    save = partial(save_red_foreground, metadata={"mean": "0,0,0", "std": "1,1,1"})
    with onnx_file(save) as path:
        return OnnxBackground.from_file(path, config, device)


def averaged_background(config: BackgroundConfig, device: torch.device) -> BackgroundNetwork:
    networks = [fpn("slim18-semantic-fpn")(config, device), onnx_background(config, device)]
    return AveragedBackground(networks, (0.25, 0.75))


BACKGROUNDS = [
    pytest.param(fpn("slim18-semantic-fpn"), id="slim18-semantic-fpn"),
    pytest.param(fpn("resnet50-semantic-fpn"), id="resnet50-semantic-fpn"),
    pytest.param(seed_background, id="bundled"),
    pytest.param(onnx_background, id="onnx", marks=needs_onnx),
    pytest.param(averaged_background, id="averaged", marks=needs_onnx),
]
background_backends = pytest.mark.parametrize("make", BACKGROUNDS)


def assert_background(found: np.ndarray, image: Image) -> None:
    assert found.shape == image.shape[:2]
    assert found.dtype == np.float32
    assert np.all((found >= 0) & (found <= 1))  # not NaN either


@background_backends
def test_background_is_valid_and_deterministic(make: MakeBackground, device: torch.device) -> None:
    images = [picture(), picture(48, 80, 1), constant(0), constant(255)]
    images += [picture(*size) for size in ((1, 1), (8, 8), (1, 7))]
    network = make(BackgroundConfig(), device)
    found, again = network.background(images), network.background(images)
    for a, b, image in zip(found, again, images, strict=True):
        assert_background(a, image)
        if device.type == "cpu":
            np.testing.assert_array_equal(a, b)
        else:
            assert np.abs(a - b).mean() <= BATCH[device.type].background
    assert network.background([]) == []


@background_backends
@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_background_of_views_and_of_batches(make: MakeBackground, device: torch.device) -> None:
    image = picture()
    images = [image[:, ::-1], image.transpose(1, 0, 2), image]
    together = make(BackgroundConfig(batch_size=3), device).background(images)
    alone = make(BackgroundConfig(batch_size=1), device)
    for found, view in zip(together, images, strict=True):
        (expected,) = alone.background([view.copy()])
        assert np.abs(found - expected).mean() <= BATCH[device.type].background


@background_backends
def test_half_precision_of_background_is_for_gpus(make: MakeBackground) -> None:
    cpu = torch.device("cpu")
    half, full = (
        make(BackgroundConfig(half=half), cpu).background([picture()])[0] for half in (True, False)
    )
    np.testing.assert_array_equal(half, full)


@background_backends
def test_background_in_half_precision(make: MakeBackground, gpu: torch.device) -> None:
    half, full = (
        make(BackgroundConfig(half=half), gpu).background([picture()])[0] for half in (True, False)
    )
    assert_background(half, picture())
    assert np.abs(half - full).mean() <= HALF.background
