"""Proposals of ONNX networks: masks, boxes and scores that follow from literal outputs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.networks import CPU
from support.onnx_networks import (
    needs_onnx,
    regions_of,
    save_red_foreground,
    save_torchvision_layout,
    save_yolo,
)

from gbopt_ros.config import ProposalConfig
from gbopt_ros.masks import boxes_xyxy, decode_all, encode_all, iou_matrix
from gbopt_ros.perception.load import load_proposals
from gbopt_ros.perception.onnx_layouts import Letterbox
from gbopt_ros.perception.onnx_proposals import OnnxProposals
from gbopt_ros.structures import Calibration, GboptError, Image, Proposals

pytestmark = needs_onnx


def white(height: int, width: int) -> Image:
    return np.full((height, width, 3), 255, np.uint8)


def propose(path: Path, image: Image, **config: float) -> Proposals:
    (found,) = OnnxProposals.from_file(path, ProposalConfig(**config), CPU).propose([image])
    return found


def rectangle(size: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def assert_masks(found: Proposals, *expected: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_all(found.rles, found.size), np.stack(expected))


# ----------------------------------------------------------------------------------- letterbox


@pytest.mark.parametrize(
    ("image_size", "inner"),
    [
        ((16, 32), (8, 0, 16, 32)),
        ((10, 30), (10, 0, 11, 32)),  # 21 rows of grey: 10 above, 11 below
        ((30, 10), (0, 10, 32, 11)),
        ((64, 64), (0, 0, 32, 32)),
        ((1, 100), (15, 0, 1, 32)),  # not less than a row
    ],
)
def test_letterbox_inner(image_size: tuple[int, int], inner: tuple[int, ...]) -> None:
    letterbox = Letterbox((32, 32), image_size)
    assert letterbox.inner == inner
    placed = letterbox.place(white(*image_size))
    top, left, height, width = inner
    expected = np.full((32, 32, 3), 114, np.uint8)
    expected[top : top + height, left : left + width] = 255
    np.testing.assert_array_equal(placed, expected)


def test_letterbox_boxes_and_maps_of_the_image() -> None:
    letterbox = Letterbox((32, 32), (10, 30))
    boxes = letterbox.boxes_of_image(torch.tensor([[0.0, 10, 32, 21], [16, 10, 48, 32]]))
    np.testing.assert_allclose(boxes, [[0, 0, 30, 10], [15, 0, 45, 20]], rtol=1e-6)
    maps = torch.zeros(1, 32, 32)
    maps[:, 10:21] = 0.25
    np.testing.assert_allclose(letterbox.maps_of_image(maps), np.full((1, 10, 30), 0.25), rtol=1e-6)


def test_letterbox_places_views_without_scaling_as_they_are() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    placed = Letterbox((8, 8), (4, 8)).place(image[:, ::-1])
    np.testing.assert_array_equal(placed[2:6], image[:, ::-1])


@pytest.mark.parametrize("turned", [np.s_[:, ::-1], np.s_[::-1], np.s_[..., ::-1]])
def test_letterbox_scales_views_as_copies(turned: tuple[slice, ...]) -> None:
    view = np.random.default_rng(0).integers(0, 256, (6, 12, 3), np.uint8)[turned]
    letterbox = Letterbox((8, 8), (6, 12))
    np.testing.assert_array_equal(letterbox.place(view), letterbox.place(view.copy()))


# --------------------------------------------------------------------------------- Ultralytics

# Prototype 0 is 1 everywhere; prototype 1 is 1 on the left half and -1 on the right.
PROTOTYPES = np.stack([np.ones((8, 8)), np.repeat([[1.0] * 4 + [-1.0] * 4], 8, axis=0)])
# x, y, w, h in an input of 32 x 32; two classes; two coefficients.
MIDDLE = (16, 16, 16, 8, 0.3, 0.7, 20, 0)
UPPER = (16, 12, 32, 8, 0.6, 0.1, 0, 20)
DOUBLE = (16, 16, 16, 8, 0.5, 0.2, 20, 0)
EMPTY = (8, 20, 8, 8, 0.05, 0, -20, 0)
NEITHER = (16, 16, 4, 4, 0, 0, 20, 0)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    regions = regions_of(EMPTY, DOUBLE, UPPER, NEITHER, MIDDLE)
    return save_yolo(tmp_path / "yolo.onnx", regions, PROTOTYPES)


def test_propose_of_ultralytics_layout(yolo: Path) -> None:
    """The image is 16 rows of the input, from row 8 on.

    The duplicate of another class is suppressed; a region with score 0 or without a pixel is none.
    """
    found = propose(yolo, white(16, 32))
    np.testing.assert_allclose(found.scores, [0.7, 0.6], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [[8, 4, 24, 12], [0, 0, 32, 8]])
    assert_masks(
        found, rectangle((16, 32), 8, 4, 24, 12), rectangle((16, 32), 0, 0, 16, 8)
    )  # fmt: skip


def test_propose_of_ultralytics_layout_at_full_resolution(tmp_path: Path) -> None:
    """Probabilities are 5 / 8 inside and 3 / 8 outside of a side of the box, 0.39 in a corner.

    At half, the corners are rounded by a pixel of the image.
    """
    path = save_yolo(tmp_path / "y.onnx", regions_of(MIDDLE), PROTOTYPES)
    found = propose(path, white(64, 128), mask_threshold=0.38)
    np.testing.assert_allclose(found.boxes, [[32, 16, 96, 48]])
    assert_masks(found, rectangle((64, 128), 32, 16, 96, 48))
    (mask,) = decode_all(propose(path, white(64, 128)).rles, (64, 128))
    assert mask.sum() == 64 * 32 - 4


@pytest.mark.parametrize(
    ("config", "scores"),
    [
        ({"nms_iou": 1.0}, [0.7, 0.6, 0.5]),
        ({"nms_iou": 0.1}, [0.7]),  # the boxes share 64 of 320 pixels
        ({"nms_iou": 1.0, "max_proposals": 2}, [0.7, 0.6]),
        ({"score_threshold": 0.65}, [0.7]),
        ({"score_threshold": 0.75}, []),
    ],
)
def test_propose_of_ultralytics_layout_by_setting(
    yolo: Path, config: dict, scores: list[float]
) -> None:
    np.testing.assert_allclose(propose(yolo, white(16, 32), **config).scores, scores, rtol=1e-6)


@pytest.mark.parametrize(("threshold", "pixels"), [(0.7, 128), (0.8, 0)])
def test_propose_of_ultralytics_layout_takes_mask_probabilities(
    tmp_path: Path, threshold: float, pixels: int
) -> None:
    """The sigmoid of log(3) is 0.75."""
    regions = regions_of((16, 16, 16, 8, 0.9, 0, np.log(3), 0))
    path = save_yolo(tmp_path / "y.onnx", regions, PROTOTYPES)
    found = propose(path, white(16, 32), mask_threshold=threshold)
    assert [int(mask.sum()) for mask in decode_all(found.rles, found.size)] == [pixels] * (
        pixels > 0
    )


def test_propose_of_ultralytics_layout_clips_boxes_to_the_image(tmp_path: Path) -> None:
    """A box that reaches into the grey, and one that lies in it."""
    regions = regions_of((4, 10, 12, 12, 0.9, 0, 20, 0), (16, 4, 8, 6, 0.8, 0, 20, 0))
    path = save_yolo(tmp_path / "y.onnx", regions, PROTOTYPES)
    found = propose(path, white(16, 32))
    np.testing.assert_allclose(found.boxes, [[0, 0, 10, 8]])
    assert_masks(found, rectangle((16, 32), 0, 0, 10, 8))


def test_propose_of_ultralytics_layout_with_an_open_size(
    tmp_path: Path,
) -> None:
    path = save_yolo(tmp_path / "y.onnx", regions_of(MIDDLE), PROTOTYPES, ("h", "w"))
    network = OnnxProposals.from_file(path, ProposalConfig(onnx_size=32), CPU)
    (found,) = network.propose([white(16, 32)])
    assert_masks(found, rectangle((16, 32), 8, 4, 24, 12))


def test_propose_of_ultralytics_layout_refuses_scores_that_are_no_probabilities(
    tmp_path: Path,
) -> None:
    regions = regions_of((16, 16, 16, 8, 3.5, 0, 20, 0))
    path = save_yolo(tmp_path / "y.onnx", regions, PROTOTYPES)
    with pytest.raises(GboptError, match=r"y\.onnx: expected scores from 0 to 1, got 0 to 3\.5"):
        propose(path, white(16, 32))


# --------------------------------------------------------------------------------- torchvision

SHARES = np.array([[0.25, 0.25, 0.75, 0.5], [0, 0.5, 0.5, 1], [0.25, 0.25, 0.75, 0.5]])


def test_propose_of_torchvision_layout(tmp_path: Path) -> None:
    """A region that has two classes is proposed once; the network sees values from 0 to 1."""
    path = save_torchvision_layout(tmp_path / "m.onnx", SHARES, [0.5, 0.8, 0.4])
    found = propose(path, white(8, 16))
    np.testing.assert_allclose(found.scores, [0.8, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [[0, 4, 8, 8], [4, 2, 12, 4]])
    assert_masks(found, rectangle((8, 16), 0, 4, 8, 8), rectangle((8, 16), 4, 2, 12, 4))
    dark = propose(path, np.zeros((8, 16, 3), np.uint8))
    np.testing.assert_allclose(dark.scores, [0.4, 0.25], rtol=1e-6)


def test_propose_of_torchvision_layout_of_one_size(tmp_path: Path) -> None:
    """The image is scaled to the size of the file; boxes and masks are scaled back."""
    path = save_torchvision_layout(tmp_path / "m.onnx", SHARES[:1], [0.5], (8, 16))
    # Next to a side: 0.8 * 5 / 8 inside and 0.8 * 3 / 8 outside; 0.375 inside a corner.
    found = propose(path, white(16, 64), mask_threshold=0.35)
    np.testing.assert_allclose(found.boxes, [[16, 4, 48, 8]])
    assert_masks(found, rectangle((16, 64), 16, 4, 48, 8))
    assert len(propose(path, white(16, 64), mask_threshold=0.85)) == 0  # they are 0.8


def test_propose_of_torchvision_layout_without_a_detection(tmp_path: Path) -> None:
    path = save_torchvision_layout(tmp_path / "m.onnx", np.zeros((0, 4)), [])
    found = propose(path, white(8, 16))
    assert (len(found), found.size, found.boxes.shape) == (0, (8, 16), (0, 4))


@pytest.mark.parametrize("named", [True, False])
def test_propose_of_torchvision_layout_finds_outputs_by_name_or_by_order(
    tmp_path: Path, named: bool
) -> None:
    import onnx

    names = ("boxes", "labels", "scores", "masks") if named else ("10", "labels", "30", "40")
    path = save_torchvision_layout(tmp_path / "m.onnx", SHARES[:1], [0.5], names=names)
    if named:
        model = onnx.load(path)
        outputs = list(model.graph.output)
        del model.graph.output[:]
        model.graph.output.extend(outputs[::-1])
        onnx.save(model, path)
    found = propose(path, white(8, 16))
    np.testing.assert_allclose(found.scores, [0.5])
    assert_masks(found, rectangle((8, 16), 4, 2, 12, 4))


# ------------------------------------------------------------------- versions and other layouts


def test_onnx_proposals_have_version_and_calibration_of_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = {
        "network": "proposals", "architecture": "lite0-fpn", "version": "v0003", "config": "",
        "calibration": {"bias": -1.0, "margin": 0.5, "score": 2.0},
    }  # fmt: skip
    metadata = {"gbopt_ros": json.dumps(info)}
    path = save_torchvision_layout(tmp_path / "m.onnx", SHARES[:1], [0.5], metadata=metadata)
    network = load_proposals(path, ProposalConfig(), CPU)
    assert network.version.startswith("m-")
    assert len(network.version) == 10
    (found,) = network.propose([white(8, 16)])
    assert found.calibration == Calibration(-1.0, 0.5, 2.0)
    assert not caplog.records


def test_load_proposals_of_onnx_warns_of_a_missing_calibration(
    yolo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(load_proposals(yolo, ProposalConfig(), CPU), OnnxProposals)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        f"{yolo}: no calibration in this file, so confidences are network scores, which do not "
        "count in the selection"
    )


def test_onnx_proposals_refuse_the_description_of_a_background_network(tmp_path: Path) -> None:
    info = {"network": "background", "architecture": "a", "version": "v"}
    path = save_torchvision_layout(
        tmp_path / "m.onnx", SHARES, [0.5] * 3, metadata={"gbopt_ros": json.dumps(info)}
    )
    with pytest.raises(GboptError, match="expected weights of the proposals network, got backgr"):
        OnnxProposals.from_file(path, ProposalConfig(), CPU)


@pytest.mark.parametrize(
    ("regions", "prototypes"),
    [
        ((50, 12), (2, 16, 16)),  # with NMS in the file: 50 detections of 12 numbers
        ((336, 8), (2, 16, 16)),  # transposed
        ((6, 336), (2, 16, 16)),  # boxes and coefficients, no class
    ],
)
def test_layout_of_relatives_of_ultralytics_layout_is_refused(
    tmp_path: Path, regions: tuple[int, ...], prototypes: tuple[int, ...]
) -> None:
    path = save_yolo(tmp_path / "y.onnx", np.zeros(regions), np.zeros(prototypes), (64, 64))
    with pytest.raises(GboptError, match=r"expected the segmentation layout of Ultralytics"):
        OnnxProposals.from_file(path, ProposalConfig(), CPU)


def test_layout_of_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    path = save_red_foreground(tmp_path / "red.onnx")
    with pytest.raises(GboptError) as refused:
        OnnxProposals.from_file(path, ProposalConfig(), CPU)
    assert str(refused.value) == (
        f"{path}: expected the segmentation layout of Ultralytics, input (1, 3, h, w) and outputs "
        "(1, 4 + classes + c, regions), (1, c, h / 4, w / 4), or Mask R-CNN of torchvision, input "
        "(3, H, W) and outputs boxes (n, 4), labels (n), scores (n), masks (n, 1, H, W); the file "
        "has input image (1, 3, 32, 48), outputs foreground (1, 1, 32, 48), green (1, 1, 32, 48)"
    )


@pytest.mark.parametrize(
    ("save", "outputs", "message"),
    [
        ("yolo", [np.zeros((1, 12, 50)), np.zeros((1, 8, 16, 16))], r"got \(1, 12, 50\) and"),
        ("masks", [np.zeros((2, 4)), [1, 1], np.zeros(2), np.zeros((2, 1, 4, 4))], "masks"),
        ("masks", [np.zeros((3, 4)), [1, 1], np.zeros(2), np.zeros((2, 1, 8, 16))], "boxes"),
    ],
)
def test_propose_refuses_outputs_that_turn_out_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str, outputs: list, message: str
) -> None:
    if save == "yolo":
        path = save_yolo(tmp_path / "n.onnx", regions_of(MIDDLE), PROTOTYPES)
    else:
        path = save_torchvision_layout(tmp_path / "n.onnx", SHARES, [0.5] * 3)
    network = OnnxProposals.from_file(path, ProposalConfig(), CPU)
    monkeypatch.setattr(
        network._layout._network, "run", lambda x: [np.array(o, np.float32) for o in outputs]
    )
    with pytest.raises(GboptError, match=rf"n\.onnx: expected .*{message}"):
        network.propose([white(8, 16)])


# -------------------------------------------------------------------------------- a real network


def test_propose_of_yolov8_on_a_real_frame(real_dir: Path) -> None:
    path, still = real_dir / "weights" / "yolov8n-seg-640.onnx", real_dir / "ycbv-0001/000001.jpg"
    if not path.is_file():
        pytest.skip(f"no real network at {path}")
    image = cv2.cvtColor(cv2.imread(str(still)), cv2.COLOR_BGR2RGB)
    labels = cv2.imread(str(still.with_suffix(".png")), cv2.IMREAD_UNCHANGED)
    truth = encode_all(np.stack([labels == number for number in np.unique(labels) if number]))
    found = propose(path, image)
    assert len(found) == 15
    best = iou_matrix(truth, found.rles).max(axis=1)
    assert (best > 0.5).sum() >= 4
    assert np.sort(best)[-2] > 0.9
    # They are no objects of its classes: scores are low, and not in the order of the objects.
    assert found.scores.max() < 0.6
    assert np.all(boxes_xyxy(found.rles)[:, :2] >= found.boxes[:, :2] - 2)
