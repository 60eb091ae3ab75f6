"""Background networks on the backbones of timm, where it is installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import CPU
from torch import nn

from gbopt_ros.config import BackgroundConfig, PretrainConfig
from gbopt_ros.learning.training.pretrained_backbone import start_from
from gbopt_ros.learning.training.pretraining import pretrain_background
from gbopt_ros.masks import encode_all
from gbopt_ros.models import background_fpn
from gbopt_ros.models.background_fpn import build_background
from gbopt_ros.models.weights import BACKGROUND, WeightsInfo, save_weights
from gbopt_ros.perception.background import FpnBackground, load_semantic_fpn
from gbopt_ros.structures import GboptError, LabelledImage


@pytest.fixture
def timm():
    return pytest.importorskip(
        "timm", reason="timm is not installed: pip install 'gbopt_ros[timm]'"
    )


@pytest.mark.parametrize("name", ["resnest14d", "convnext_atto"])
def test_timm_pyramid_levels_have_their_strides(timm, name: str) -> None:
    network = build_background(f"timm:{name}").eval()
    with torch.inference_mode():
        levels = network.backbone(torch.zeros(1, 3, 64, 96))
        logits = network(torch.zeros(1, 3, 50, 70))
    assert {key: tuple(level.shape) for key, level in levels.items()} == {
        "0": (1, 256, 16, 24), "1": (1, 256, 8, 12), "2": (1, 256, 4, 6), "3": (1, 256, 2, 3),
    }  # fmt: skip
    assert logits.shape == (1, 50, 70)


def test_timm_has_the_backbone_of_the_paper(timm) -> None:
    assert timm.is_model("resnest200e")


def test_load_semantic_fpn_builds_a_timm_architecture(timm, tmp_path: Path) -> None:
    path, architecture = tmp_path / "background.safetensors", "timm:test_resnet"
    torch.manual_seed(1)
    network = build_background(architecture).eval()
    save_weights(path, network, WeightsInfo(BACKGROUND, architecture, "seed"))
    loaded, info = load_semantic_fpn(path)
    assert info.architecture == architecture
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    config = BackgroundConfig()
    (expected,) = FpnBackground(network, config, CPU).background([image])
    (found,) = FpnBackground.from_file(path, config, CPU).background([image])
    np.testing.assert_allclose(found, expected, atol=1e-5)  # its normalisations are folded
    assert np.ptp(found) > 0


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_start_from_the_weights_of_a_timm_classifier(timm, tmp_path, name: str) -> None:
    torch.manual_seed(2)
    classifier = timm.create_model(name, pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    network = build_background(f"timm:{name}")
    body = network.backbone.get_submodule("body")
    start_from(body, tmp_path / "classifier.pth")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = classifier.eval().forward_features(images)
        found = body.eval()(images)[-1]
    torch.testing.assert_close(found, expected)
    assert all(
        not p.requires_grad
        for m in body.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    )  # fmt: skip


class Squares:
    """Two images of 64 x 64 pixels with a bright square each."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> LabelledImage:
        mask = np.zeros((1, 64, 64), bool)
        mask[0, 8 * index : 8 * index + 24, 16:40] = True
        image = np.full((64, 64, 3), 40, np.uint8)
        image[mask[0]] = 200
        return LabelledImage(image, encode_all(mask))


@pytest.mark.parametrize("frozen", [False, True])
def test_pretrain_background_on_a_resnest(timm, monkeypatch, tmp_path: Path, frozen: bool) -> None:
    """The paper's kind of backbone, from random weights and from those of a classifier."""
    monkeypatch.setattr(
        background_fpn, "TIMM_SIZES", replace(background_fpn.TIMM_SIZES, short_side=64)
    )
    settings = PretrainConfig(
        background_architecture="timm:resnest14d", background_iterations=2, batch_size=2, warmup=1,
        optimizer="sgd", learning_rate=0.01, ema_decay=0.0,
    )  # fmt: skip
    if frozen:
        torch.manual_seed(0)
        classifier = timm.create_model("resnest14d", pretrained=False)
        torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
        settings = replace(settings, background_backbone=str(tmp_path / "classifier.pth"))
    network, log = pretrain_background(Squares(), settings, CPU)
    assert np.isfinite(log.total).all()
    assert all(p.isfinite().all() for p in network.parameters())
    # One image gives no statistics of what is pooled to one pixel; those of a classifier stay.
    alone = replace(settings, batch_size=1)
    if frozen:
        assert np.isfinite(pretrain_background(Squares(), alone, CPU)[1].total).all()
    else:
        with pytest.raises(
            GboptError, match=r"timm:resnest14d cannot train on 1 images.*batch_size"
        ):
            pretrain_background(Squares(), alone, CPU)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuchnet", "has no model 'nosuchnet'"),
        ("hf-hub:someone/something", "has no model"),
        ("vit_tiny_patch16_224", r"expected .* strides \(4, 8, 16, 32\), got NCHW of strides \(16"),
        ("swin_tiny_patch4_window7_224", r"\(B, C, H, W\).*got NHWC"),
    ],
)
def test_build_background_refuses_models_without_a_pyramid(timm, name: str, message: str) -> None:
    with pytest.raises(GboptError, match=message):
        build_background(f"timm:{name}")


def test_build_background_without_timm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(GboptError, match=r"needs the package timm.*'gbopt_ros\[timm\]'"):
        build_background("timm:resnest200e")
    path = tmp_path / "background.safetensors"
    info = WeightsInfo(BACKGROUND, "timm:resnest200e", "seed")
    save_weights(path, nn.Linear(1, 1), info)
    with pytest.raises(GboptError, match=r"background\.safetensors: .*needs the package timm"):
        load_semantic_fpn(path)


def test_build_background_names_an_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match=r"unknown background architecture 'x'.*timm:NAME"):
        build_background("x")
