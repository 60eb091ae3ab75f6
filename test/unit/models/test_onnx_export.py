"""Exported networks: in onnxruntime they give what they give in torch, for images of any size."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import CPU, SIDE, random_images, tiny_mask_rcnn
from support.onnx_networks import needs_onnx
from torch.nn import functional
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from gbopt_ros.config import BackgroundConfig, ProposalConfig
from gbopt_ros.masks import decode_all
from gbopt_ros.models import onnx_export
from gbopt_ros.models.background_fpn import SemanticFpn, build_background
from gbopt_ros.models.class_agnostic import ClassAgnosticHeads
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.onnx import OnnxNetwork, load_onnx
from gbopt_ros.models.onnx_check import check_background, check_mask_rcnn, example_images
from gbopt_ros.models.onnx_export import check_installed, export_background, export_mask_rcnn
from gbopt_ros.models.weights import BACKGROUND, PROPOSALS, WeightsInfo, describe
from gbopt_ros.perception.background import FpnBackground
from gbopt_ros.perception.load import load_proposals
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import Calibration, GboptError

INFO = WeightsInfo(PROPOSALS, "slim18-fpn", "v0007", calibration=Calibration(-2.0, 0.5, 1.0))
BACKGROUND_INFO = WeightsInfo(BACKGROUND, "slim18-semantic-fpn", "random")
PROPOSALS_CONFIG = ProposalConfig(max_proposals=7, nms_iou=0.4)

# Where single precision would scale the sides 41 and 49 to 63 and 64, Python has 64 and 63.
SIZES = [(SIDE, SIDE), (41, 60), (60, 49), (70, 150), (150, 30)]


@pytest.fixture(scope="module")
def mask_rcnn() -> MaskRCNN:
    """Of three classes, so that regions have to be given once; with the limits of the settings."""
    torch.manual_seed(0)
    network = build_mask_rcnn("slim18-fpn", classes=3)
    network.transform = tiny_mask_rcnn().transform
    for limits in (network.rpn._pre_nms_top_n, network.rpn._post_nms_top_n):
        limits.update(testing=32)
    network.roi_heads = ClassAgnosticHeads(network.roi_heads)
    MaskRcnnProposals(network, "", PROPOSALS_CONFIG, CPU)
    return network.eval()


@pytest.fixture(scope="module")
def proposals_file(mask_rcnn: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "proposals.onnx"
    export_mask_rcnn(mask_rcnn, INFO, path)
    return path


@pytest.fixture(scope="module")
def proposals(proposals_file: Path) -> OnnxNetwork:
    return load_onnx(proposals_file, CPU)


@pytest.fixture(scope="module")
def semantic_fpn() -> SemanticFpn:
    """Sees 64 pixels, and gives logits on both sides of 0."""
    torch.manual_seed(0)
    network = build_background("slim18-semantic-fpn").eval()
    network.short_side = SIDE
    bias = network.predictor.bias
    assert bias is not None
    with torch.no_grad():
        network.predictor.weight.mul_(10)
        bias.sub_(network(torch.rand(1, 3, SIDE, SIDE)).mean())
    return network


@pytest.fixture(scope="module")
def background_file(semantic_fpn: SemanticFpn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "background.onnx"
    export_background(semantic_fpn, BACKGROUND_INFO, path)
    return path


@pytest.fixture(scope="module")
def foreground(background_file: Path) -> OnnxNetwork:
    return load_onnx(background_file, CPU)


def shapes_of(network: OnnxNetwork) -> dict[str, tuple[int | str | None, ...]]:
    return {tensor.name: tensor.shape for tensor in (network.input, *network.outputs)}


# ------------------------------------------------------------------------------------- Mask R-CNN


@needs_onnx
@pytest.mark.parametrize("size", SIZES)
def test_export_mask_rcnn_gives_the_masks_of_torch(
    mask_rcnn: MaskRCNN, proposals: OnnxNetwork, size: tuple[int, int]
) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = mask_rcnn([image])[0]
    boxes, labels, scores, masks = proposals.run(image.numpy())
    assert len(scores) == 7
    np.testing.assert_allclose(scores, expected["scores"], atol=1e-5)
    np.testing.assert_allclose(boxes, expected["boxes"], atol=1e-2)
    np.testing.assert_array_equal(labels, expected["labels"])
    assert masks.shape == (7, 1, *size)
    # A box that rounds to another pixel shifts its mask.
    assert (np.abs(masks - expected["masks"].numpy()) < 1e-3).mean() > 0.99


@needs_onnx
def test_export_mask_rcnn_has_the_layout_of_torchvision(proposals: OnnxNetwork) -> None:
    assert shapes_of(proposals) == {
        "image": (3, "height", "width"),
        "boxes": ("n", 4),
        "labels": ("n",),
        "scores": ("n",),
        "masks": ("n", 1, "height", "width"),
    }
    assert describe(proposals.metadata, proposals.path, PROPOSALS) == INFO


@needs_onnx
def test_export_mask_rcnn_leaves_the_network_as_it_was(
    mask_rcnn: MaskRCNN, proposals_file: Path
) -> None:
    assert not any(module.training for module in mask_rcnn.modules())
    assert type(mask_rcnn.transform).__module__.startswith("torchvision")


@needs_onnx
def test_load_proposals_takes_an_exported_network(
    mask_rcnn: MaskRCNN, proposals_file: Path
) -> None:
    images = random_images(2, *SIZES[3])
    exported = load_proposals(proposals_file, PROPOSALS_CONFIG, CPU)
    in_torch = MaskRcnnProposals(mask_rcnn, "", PROPOSALS_CONFIG, CPU)
    for found, expected in zip(exported.propose(images), in_torch.propose(images), strict=True):
        assert found.calibration == INFO.calibration
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        masks, masks_in_torch = (decode_all(part.rles, SIZES[3]) for part in (found, expected))
        assert (masks == masks_in_torch).mean() > 0.999
        assert masks_in_torch.mean() > 0.01


@needs_onnx
def test_check_mask_rcnn_refuses_another_network(mask_rcnn: MaskRCNN, proposals_file: Path) -> None:
    images = random_images(2)
    said = check_mask_rcnn(proposals_file, mask_rcnn, images, 0.4)
    assert said.startswith("14 masks of 2 images: mean IoU with torch's 1.0000, scores differ")
    another = tiny_mask_rcnn(seed=5)
    with pytest.raises(GboptError, match=r"differs from torch: .* expected a mean IoU of at least"):
        check_mask_rcnn(proposals_file, another, images, 0.4)


@pytest.mark.parametrize("architecture", ["slim18-fpn", "lite0-fpn", "resnet50-fpn"])
@pytest.mark.parametrize("size", [(480, 640), (200, 264), (49, 49), (1080, 600), (123, 377)])
def test_traceable_transform_gives_the_size_of_the_transform(
    architecture: str, size: tuple[int, int], transforms: dict[str, GeneralizedRCNNTransform]
) -> None:
    transform = transforms[architecture]
    expected, _ = transform.resize(torch.zeros(3, *size))
    enlarged_to = 240 if architecture == "lite0-fpn" else None
    traceable = onnx_export._TraceableTransform(transform, enlarged_to, None)
    assert tuple(traceable.resized_sides(torch.tensor(size))) == expected.shape[-2:]


@pytest.fixture(scope="module")
def transforms() -> dict[str, GeneralizedRCNNTransform]:
    with torch.device("meta"):  # weights take time, and are not needed
        return {
            architecture: build_mask_rcnn(architecture).eval().transform
            for architecture in ("slim18-fpn", "lite0-fpn", "resnet50-fpn")
        }


# ----------------------------------------------------------------------------- background network


@needs_onnx
@pytest.mark.parametrize("size", SIZES)
def test_export_background_gives_the_foreground_of_torch(
    semantic_fpn: SemanticFpn, foreground: OnnxNetwork, size: tuple[int, int]
) -> None:
    (image,) = random_images(1, *size)
    (expected,) = FpnBackground(semantic_fpn, BackgroundConfig(), CPU).background([image])
    x = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    (found,) = foreground.run(x)
    np.testing.assert_allclose(found, 1 - expected[None, None], atol=1e-4)
    assert np.ptp(found) > 0.1


@needs_onnx
def test_export_background_of_one_size(semantic_fpn: SemanticFpn, tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    export_background(semantic_fpn, BACKGROUND_INFO, path, (96, 128))
    network = load_onnx(path, CPU)
    assert shapes_of(network) == {"image": (1, 3, 96, 128), "foreground": (1, 1, 96, 128)}
    background = FpnBackground(semantic_fpn, BackgroundConfig(), CPU).background
    images = example_images((96, 128))
    assert [image.shape for image in images] == [(96, 128, 3)] * 3
    assert check_background(path, background, images).startswith("foreground of 3 images: differs")
    with pytest.raises(GboptError, match=r"is not torch's: .* at most 5.0e-01; expected"):
        check_background(path, lambda images: [np.full((96, 128), 0.5)] * 3, images)


@needs_onnx
def test_export_background_describes_itself(foreground: OnnxNetwork) -> None:
    metadata = foreground.metadata
    assert describe(metadata, foreground.path, BACKGROUND) == BACKGROUND_INFO
    assert metadata["mean"] == "[0, 0, 0]"
    assert metadata["std"] == "[1, 1, 1]"
    assert metadata["output"] == "probability"


@pytest.mark.parametrize("size", [(7, 9), (20, 13), (30, 40), (31, 90)])
def test_antialiased_equals_torch(size: tuple[int, int]) -> None:
    images = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    found = onnx_export._antialiased(images, *size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_check_installed_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(GboptError, match=r"needs the packages onnx .*pip install 'gbopt_ros\[onnx"):
        check_installed()


@needs_onnx
def test_export_names_what_cannot_be_exported(
    semantic_fpn: SemanticFpn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_antialiased", lambda x, h, w: torch.linalg.eigvals(x).real)
    with pytest.raises(GboptError, match=r"slim18-semantic-fpn cannot be exported to ONNX: "):
        export_background(semantic_fpn, BACKGROUND_INFO, tmp_path / "x.onnx", (SIDE, SIDE))
