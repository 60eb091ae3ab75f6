"""The detectron2 backend against detectron2 itself, against torchvision's contract, and by hand."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.detectron2_networks import needs_detectron2, tiny_detectron2, write_config
from support.networks import CPU, SIDE, save_random_weights, write_bomb
from support.recordings import disc_frames

from gbopt_ros.cli import doctor
from gbopt_ros.cli.main import main
from gbopt_ros.config import AugmentConfig, LearningConfig, ProposalConfig
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.learning.data.augmentation import to_example
from gbopt_ros.learning.data.targets import detection_target
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.learning.training.fine_tuning import fine_tune
from gbopt_ros.masks import boxes_xyxy, decode_all, encode_all
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import (
    BACKGROUND,
    PROPOSALS,
    WeightsInfo,
    save_weights,
    sha256_of,
)
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import GboptError, LabelledImage, Proposals


def photo(height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 whose three channels differ."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, height), rng.integers(0, width)
        picture[top : top + height // 3 + 1, left : left + width // 3 + 1] = rng.integers(0, 256, 3)
    return picture


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def propose(network: torch.nn.Module, image: np.ndarray, **config: float) -> Proposals:
    (found,) = MaskRcnnProposals(network, "", ProposalConfig(**config), CPU).propose([image])
    return found


# ------------------------------------------------------------------------ against detectron2 itself


def by_detectron2(network: torch.nn.Module, image: np.ndarray, folder: Path) -> dict[str, object]:
    """What detectron2's own model says of an RGB image, by the steps of its DefaultPredictor."""
    from detectron2.config import get_cfg
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.modeling import build_model

    config = get_cfg()
    config.merge_from_file(str(write_config(folder)))
    config.MODEL.DEVICE = "cpu"
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    config.MODEL.ROI_HEADS.NMS_THRESH_TEST = ProposalConfig.nms_iou
    config.TEST.DETECTIONS_PER_IMAGE = ProposalConfig.max_proposals
    model = build_model(config).eval()
    assert type(model.roi_heads).__name__ == "StandardROIHeads"
    model.load_state_dict(network.state_dict())
    shortest = ResizeShortestEdge([config.INPUT.MIN_SIZE_TEST] * 2, config.INPUT.MAX_SIZE_TEST)
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    resized = shortest.get_transform(bgr).apply_image(bgr).astype(np.float32)
    inputs = {"image": torch.from_numpy(resized.transpose(2, 0, 1).copy())}
    height, width = image.shape[:2]
    with torch.no_grad():
        (found,) = model([inputs | {"height": height, "width": width}])
    return {name: value for name, value in found["instances"].get_fields().items()}


@needs_detectron2
@pytest.mark.parametrize("seed", range(3))
def test_detectron2_proposals_are_what_detectron2_detects(seed: int, tmp_path: Path) -> None:
    network, image = tiny_detectron2(seed), photo(seed=seed)
    expected = by_detectron2(network, image, tmp_path)
    found = propose(network, image)
    masks = expected["pred_masks"].numpy()
    keep = masks.any(axis=(1, 2))
    assert keep.sum() == len(found) >= 5
    # Ours runs with channels last, which rounds otherwise.
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    close(found.scores, expected["scores"].numpy()[keep])
    close(found.boxes, expected["pred_boxes"].tensor.numpy()[keep])
    differs = decode_all(found.rles, found.size) != masks[keep]
    assert differs.mean() < 1e-3


@needs_detectron2
@pytest.mark.parametrize("size", [(48, 40), (64, 300), (150, 200), (480, 640)])
def test_detectron2_input_is_resized_as_detectron2_does(size: tuple[int, int]) -> None:
    """Pillow rounds to integers, twice: so to 1.5 grey levels, larger and smaller."""
    from detectron2.data.transforms import ResizeShortestEdge

    image = photo(*size)
    resize = ResizeShortestEdge([SIDE, SIDE], 2 * SIDE).get_transform(image)
    expected = resize.apply_image(image)[:, :, ::-1].transpose(2, 0, 1)
    got = tiny_detectron2().transform(tensor(image)).numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1.5


@needs_detectron2
@pytest.mark.parametrize(
    ("channels", "mean", "expected"),
    [
        ("BGR", [103.53, 116.28, 123.675], [200 - 103.53, 100 - 116.28, 50 - 123.675]),
        ("RGB", [123.675, 116.28, 103.53], [50 - 123.675, 100 - 116.28, 200 - 103.53]),
    ],
)
def test_detectron2_input_has_colour_order_and_mean(
    channels: str, mean: list[float], expected: list[float]
) -> None:
    network = tiny_detectron2(INPUT__FORMAT=channels, MODEL__PIXEL_MEAN=mean)
    image = np.full((SIDE, SIDE, 3), (50, 100, 200), np.uint8)
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    propose(network, image)
    np.testing.assert_allclose(seen[0][0, :, 10, 10], expected, atol=1e-3)


# ---------------------------------------------------------------------------- from K classes to one


@needs_detectron2
def test_detectron2_likeliest_class_of_each_region_by_hand() -> None:
    """Three classes and the background; each region has another box for each class."""
    heads = tiny_detectron2(
        MODEL__ROI_HEADS__NUM_CLASSES=3, MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=False
    ).roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.0, 0.5, 3
    far, near, other = [0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]
    almost_near = [20, 20, 30, 31]
    empty, nothing = [5, 5, 5, 5], [0, 0, 1, 1]
    boxes = torch.tensor(
        [
            far + near + far,  # likeliest: class 1
            almost_near + far + far,  # class 0, suppressed by the first though of another class
            far + far + other,  # class 2
            far + empty + far,  # class 1, whose box is empty
            [-5, -5, 90, 90, *nothing, *nothing],  # class 0, clipped to the image
            nothing + nothing + nothing,  # a fourth one, beyond the limit
        ],
        dtype=torch.float32,
    )
    scores = torch.tensor(
        [
            [0.1, 0.8, 0.1, 0.0],
            [0.7, 0.1, 0.1, 0.1],
            [0.0, 0.0, 0.3, 0.7],
            [0.0, 0.9, 0.1, 0.0],
            [0.2, 0.1, 0.1, 0.6],
            [0.1, 0.0, 0.0, 0.9],
        ]
    )
    found = heads._likeliest_class(boxes, scores, (64, 80))
    np.testing.assert_allclose(found.scores, [0.8, 0.3, 0.2])
    np.testing.assert_array_equal(found.pred_classes, [1, 2, 0])
    np.testing.assert_array_equal(found.pred_boxes.tensor, [near, other, [0, 0, 80, 64]])
    heads.score_thresh = 0.3  # a score must be above it, as in torchvision
    np.testing.assert_allclose(heads._likeliest_class(boxes, scores, (64, 80)).scores, [0.8])
    broken = torch.where(torch.tensor([[True], [False], [False], [False], [False], [False]]),
                         torch.nan, boxes)  # fmt: skip
    np.testing.assert_allclose(heads._likeliest_class(broken, scores, (64, 80)).scores, [0.7])


@needs_detectron2
def test_detectron2_network_of_three_classes_that_knows_one_object() -> None:
    """Class 1 has the weights of a class-agnostic network, the others never win: same proposals."""
    single = tiny_detectron2()
    several = tiny_detectron2(
        MODEL__ROI_HEADS__NUM_CLASSES=3, MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=False
    )
    predictor, mask = "roi_heads.box_predictor.", "roi_heads.mask_head.predictor."
    tensors = single.state_dict()
    weights = {name: tensors[name].clone() for name in tensors}
    for name in ("weight", "bias"):
        score = tensors[f"{predictor}cls_score.{name}"]
        lost = torch.full_like(score[:1], -1e4 if name == "bias" else 0.0)
        weights[f"{predictor}cls_score.{name}"] = torch.cat([lost, score[:1], lost, score[1:]])
        for head in (f"{predictor}bbox_pred.{name}", f"{mask}{name}"):
            garbage = torch.randn_like(tensors[head])
            weights[head] = torch.cat([garbage, tensors[head], garbage])
    several.load_state_dict(weights)
    one, three = propose(single, photo()), propose(several, photo())
    assert len(one) > 5
    assert one.rles == three.rles
    np.testing.assert_allclose(one.scores, three.scores, rtol=1e-5)
    np.testing.assert_allclose(one.boxes, three.boxes, atol=1e-4)


# ------------------------------------------------------------------------------------ limits, sizes


@needs_detectron2
def test_detectron2_proposals_follow_the_configuration() -> None:
    network = tiny_detectron2()
    all_of_them = propose(network, photo(), max_proposals=1000)
    assert len(all_of_them) > 10
    few = propose(network, photo(), max_proposals=4)
    assert 0 < len(few) <= 4  # less those without a pixel
    np.testing.assert_array_equal(few.scores, all_of_them.scores[: len(few)])
    middle = float(all_of_them.scores[3])
    above = propose(network, photo(), max_proposals=1000, score_threshold=middle)
    np.testing.assert_array_equal(above.scores, all_of_them.scores[:3])
    mask_head = network.roi_heads.mask_head.predictor
    torch.nn.init.zeros_(mask_head.weight)
    torch.nn.init.zeros_(mask_head.bias)  # a probability of 0.5 at every pixel
    assert len(propose(network, photo(), mask_threshold=0.51)) == 0
    filled = propose(network, photo(), mask_threshold=0.3)
    assert np.abs(boxes_xyxy(filled.rles) - filled.boxes).max() < 1


@needs_detectron2
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (64, 4), (1, 4000)])
def test_detectron2_proposals_of_tiny_and_thin_images(size: tuple[int, int]) -> None:
    found = propose(tiny_detectron2(), photo(*size))
    assert found.size == size
    assert decode_all(found.rles, size).any(axis=(1, 2)).all()


# -------------------------------------------------------------------------------------- fine-tuning


class Squares:
    """Two images of two bright squares; the second square may be a region to ignore."""

    def __init__(self, ignore: bool = False, side: int = 20) -> None:
        self._images = []
        for seed in range(2):
            rng = np.random.default_rng(seed)
            image = rng.integers(0, 50, (SIDE, SIDE, 3), dtype=np.uint8)
            masks = np.zeros((2, SIDE, SIDE), bool)
            for i, mask in enumerate(masks):
                top, left = rng.integers(2, SIDE - side - 2), 3 + i * SIDE // 2
                mask[top : top + side, left : left + side] = True
                image[mask] = rng.integers(150, 256, 3)
            rles = encode_all(masks)
            labelled = LabelledImage(image, rles[:1], rles[1:]) if ignore else None
            self._images.append(labelled or LabelledImage(image, rles))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledImage:
        return self._images[index]


def settings(**changes: object) -> LearningConfig:
    plain = AugmentConfig(
        scale_min=1.0, scale_max=1.0, copy_paste=0.0, flip=0.0, colour=0.0, blur=0.0, noise=0.0
    )
    values = {"iterations": 1, "batch_size": 2, "warmup": 0, "augment": plain}
    values["localization_losses"] = True
    return LearningConfig(**(values | changes))


@needs_detectron2
@pytest.mark.parametrize("classes", [1, 3])
def test_fine_tune_detectron2_over_fits_and_leaves_its_parent_alone(classes: int) -> None:
    parent = tiny_detectron2(
        MODEL__ROI_HEADS__NUM_CLASSES=classes,
        MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=classes == 1,
    )
    before = copy.deepcopy(parent.state_dict())
    propose(parent, photo())  # inference mode, whose tensors take no gradients
    child, log = fine_tune(
        parent, Squares(), None, settings(iterations=12, learning_rate=0.005), CPU
    )
    assert set(log.losses) == {
        "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc", "total",
    }  # fmt: skip
    assert np.isfinite(log.total).all()
    assert np.mean(log.total[-3:]) < 0.8 * np.mean(log.total[:3])
    assert not child.training
    for name, value in parent.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the parent changed"
    changed = {n for n, value in child.state_dict().items() if not torch.equal(value, before[n])}
    assert not [name for name in changed if ".norm." in name or ".stem." in name], "frozen"
    learnt = {name for name, _ in parent.named_parameters()} - {
        name for name, p in parent.named_parameters() if not p.requires_grad
    }
    assert len(changed) > 0.9 * len(learnt)
    assert child.roi_heads.num_classes == classes


@needs_detectron2
def test_detectron2_heads_label_by_the_likeliest_class() -> None:
    from detectron2.structures import Boxes, Instances

    heads = tiny_detectron2(MODEL__ROI_HEADS__NUM_CLASSES=3).roi_heads
    sampled = [
        Instances(
            (64, 64), gt_classes=torch.tensor(labels), proposal_boxes=Boxes(torch.zeros(n, 4))
        )
        for labels, n in (([0, 3], 2), ([0], 1))
    ]
    logits = torch.tensor([[0.0, 1.0, 5.0, 9.0], [5.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]])
    heads._label_by_likeliest_class(logits, sampled)
    assert sampled[0].gt_classes.tolist() == [2, 3]  # 3 is the background
    assert sampled[1].gt_classes.tolist() == [1]


@needs_detectron2
def test_detectron2_heads_sample_no_ignore_region() -> None:
    network = tiny_detectron2().train()
    sampled: list[list[object]] = []
    network.roi_heads.box_predictor.losses = lambda predictions, proposals: (
        sampled.append(proposals) or {}
    )
    masks = torch.zeros((2, SIDE, SIDE), dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 4, 24, 24], [36, 36, 60, 60]])
    for mask, (left, top, right, bottom) in zip(masks, boxes.int(), strict=True):
        mask[top:bottom, left:right] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, -1]), "masks": masks}
    torch.manual_seed(0)
    network([tensor(photo())], [target])
    (regions,) = sampled[0]
    classes, found = regions.gt_classes, regions.proposal_boxes.tensor
    assert set(classes.tolist()) == {0, 1}
    assert (found == boxes[0]).all(dim=1).any(), "ground truth is sampled"
    assert not (found == boxes[1]).all(dim=1).any(), "so would the ignore region be"


@needs_detectron2
def test_detectron2_region_proposals_learn_no_ignore_region() -> None:
    network = tiny_detectron2().train()
    learnt: list[torch.Tensor] = []
    network.proposal_generator.losses = lambda anchors, logits, labels, deltas, boxes: (
        learnt.extend(box[label == 1] for box, label in zip(boxes, labels, strict=True)) or {}
    )
    boxes = torch.tensor([[4.0, 4, 24, 24], [36, 36, 60, 60]])
    masks = torch.zeros((2, SIDE, SIDE), dtype=torch.uint8)
    target = {"boxes": boxes, "labels": torch.tensor([1, -1]), "masks": masks}
    labelled = {"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks}
    torch.manual_seed(0)
    network([tensor(photo())] * 2, [target, labelled])
    assert len(learnt[0]) > 0 and (learnt[0] == boxes[0]).all()
    assert (learnt[1] == boxes[1]).all(dim=1).any(), "an object of the same box is learnt"


@needs_detectron2
def test_detectron2_instances_resize_masks_about_the_centres_of_pixels() -> None:
    """As the image is: a mirrored mask is the mirror of the mask, not a pixel beside it."""
    from gbopt_ros.models.detectron2_backend import _instances

    def resized(masks: torch.Tensor) -> torch.Tensor:
        target = {"boxes": torch.zeros(3, 4), "labels": torch.ones(3), "masks": masks}
        return _instances(target, (64, 80)).gt_masks.tensor

    masks = (torch.rand((3, 48, 60), generator=torch.Generator().manual_seed(0)) < 0.5).byte()
    assert torch.equal(resized(masks.flip(2)), resized(masks).flip(2))
    assert torch.equal(resized(masks.flip(1)), resized(masks).flip(1))


@needs_detectron2
@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_fine_tune_detectron2_keeps_statistics_of_batch_normalisation(norm: str) -> None:
    parent = tiny_detectron2(MODEL__RESNETS__NORM=norm, MODEL__BACKBONE__FREEZE_AT=0)
    child, _ = fine_tune(parent, Squares(), None, settings(), CPU)
    before, after = parent.state_dict(), child.state_dict()
    statistics = [name for name in before if "running_" in name]
    assert len(statistics) == 40
    assert all(torch.equal(after[name], before[name]) for name in statistics)
    assert not torch.equal(
        after["backbone.bottom_up.stem.conv1.norm.weight"],
        before["backbone.bottom_up.stem.conv1.norm.weight"],
    )


@needs_detectron2
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_detectron2_in_half_precision_changes_little(dtype: torch.dtype) -> None:
    """As on GPUs, where proposals run in float16 and training in bfloat16."""
    network, target = tiny_detectron2(), detection_target(to_example(Squares()[0]))
    image = tensor(Squares()[0].image)

    def run(enabled: bool) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            with torch.inference_mode():
                (found,) = network.eval()([image])
            losses = network.train()([image], [target])
        sum(losses.values()).backward()
        return found, {name: loss.item() for name, loss in losses.items()}

    (full, losses), (half, other) = run(False), run(True)
    assert half["boxes"].dtype == torch.float32
    best, almost = full["scores"][0].item(), half["scores"][0].item()
    assert almost == pytest.approx(best, abs=0.05)
    a, b = full["masks"][0, 0], half["masks"][0, 0]
    assert (a & b).sum() >= 0.9 * (a | b).sum() > 0
    for name, loss in losses.items():
        assert other[name] == pytest.approx(loss, rel=0.1), name


@needs_detectron2
def test_fine_tune_detectron2_with_ignore_regions_and_images_without_objects() -> None:
    _, log = fine_tune(tiny_detectron2(), Squares(ignore=True), None, settings(), CPU)
    assert np.isfinite(log.total).all()
    _, log = fine_tune(tiny_detectron2(), Squares(side=5), None, settings(), CPU)
    assert log.losses["loss_mask"] == [0.0]  # too small to be kept


@needs_detectron2
@pytest.mark.parametrize(
    "part", ["roi_heads.box_predictor.cls_score", "backbone.bottom_up.stem.conv1"]
)
def test_fine_tune_detectron2_refuses_a_broken_parent(part: str) -> None:
    parent = tiny_detectron2()
    torch.nn.init.constant_(parent.get_submodule(part).weight, torch.nan)
    with pytest.raises(GboptError, match=r"not finite|training masks"):
        fine_tune(parent, Squares(), None, settings(), CPU)


# ----------------------------------------------------------------------------- files, safely opened


@needs_detectron2
@pytest.mark.parametrize("form", ["state", "checkpoint", "safetensors"])
def test_load_detectron2_reads_checkpoints(form: str, tmp_path: Path) -> None:
    network, config = tiny_detectron2(seed=3), str(write_config(tmp_path))
    path = tmp_path / "model_final.pth"
    if form == "state":
        torch.save(network.state_dict(), path)
    elif form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({name: t.contiguous() for name, t in network.state_dict().items()}, path)
    else:  # as detectron2's training leaves it, by a version that kept two more kinds of buffer
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.solver import WarmupMultiStepLR

        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        scheduler = WarmupMultiStepLR(optimizer, milestones=[2, 5])
        saver = DetectionCheckpointer(
            network, str(tmp_path), optimizer=optimizer, scheduler=scheduler
        )
        saver.save("model_final", iteration=7)
        content = torch.load(path, weights_only=True)
        assert content["iteration"] == 7
        content["model"]["pixel_mean"] = network.pixel_mean
        content["model"]["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
        torch.save(content, path)
    loaded, info = load_mask_rcnn(path, config)
    assert (info.network, info.architecture, info.version) == (
        PROPOSALS, "detectron2", f"model_final-{sha256_of(path)[:8]}",
    )  # fmt: skip
    assert not loaded.training
    assert propose(loaded, photo()).rles == propose(network, photo()).rles


@needs_detectron2
def test_read_checkpoint_refuses_a_pickle_and_says_how_to_convert_it(tmp_path: Path) -> None:
    network, config = tiny_detectron2(seed=4), str(write_config(tmp_path))
    path, target = tmp_path / "model_final.pkl", tmp_path / "created"
    write_bomb(path, target, as_checkpoint=False)
    with pytest.raises(GboptError, match="convert it once") as error:
        load_mask_rcnn(path, config)
    assert not target.exists()
    for as_checkpoint in (False, True):  # under another name
        renamed = path.with_suffix(".pth")
        write_bomb(renamed, target, as_checkpoint=as_checkpoint)
        with pytest.raises(GboptError, match="holds tensors only"):
            load_mask_rcnn(renamed, config)
        assert not target.exists()
    zoo = {name: value.numpy() for name, value in network.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": zoo, "__author__": "Detectron2 Model Zoo"}))
    command = re.search(r'python -c "(.*)"', str(error.value))
    assert command is not None
    subprocess.run([sys.executable, "-c", command[1]], check=True)
    loaded, _ = load_mask_rcnn(path.with_suffix(".pth"), config)
    assert propose(loaded, photo()).rles == propose(network, photo()).rles


@needs_detectron2
def test_read_config_runs_nothing(tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "evil.yaml"
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{target}']\n")
    weights = tmp_path / "model.pth"
    torch.save(tiny_detectron2().state_dict(), weights)
    with pytest.raises(GboptError, match="not a detectron2 configuration"):
        load_mask_rcnn(weights, str(path))
    published = tmp_path / "published.safetensors"
    info = WeightsInfo(PROPOSALS, "detectron2", "v0001", path.read_text())
    save_weights(published, tiny_detectron2(), info)
    with pytest.raises(GboptError, match="configuration is damaged"):
        load_mask_rcnn(published)
    assert not target.exists()


@needs_detectron2
def test_read_config_over_a_base(tmp_path: Path) -> None:
    base = write_config(tmp_path)
    path = tmp_path / "wide.yaml"
    path.write_text(f"_BASE_: {base.name}\nINPUT:\n  MIN_SIZE_TEST: 48\n")
    weights = tmp_path / "model.pth"
    torch.save(tiny_detectron2().state_dict(), weights)
    network, info = load_mask_rcnn(weights, str(path))
    assert network.transform.min_size == (48,)
    assert str(tmp_path) not in info.config


@needs_detectron2
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MODEL:\n  MASK_ON: false\n", "MODEL.MASK_ON is False; only True works"),
        ("MODEL:\n  ROI_HEADS:\n    NAME: CascadeROIHeads\n", "only 'StandardROIHeads' works"),
        ("MODEL:\n  META_ARCHITECTURE: RetinaNet\n", "MODEL.META_ARCHITECTURE is 'RetinaNet'"),
        ("INPUT:\n  FORMAT: L\n", "INPUT.FORMAT is 'L'; only 'BGR' or 'RGB' works"),
        ("MODEL:\n  COLOUR: red\n", "not a detectron2 configuration .*COLOUR"),
        ("MODEL: [1\n", "not a detectron2 configuration"),
        ("- 1\n", "not a detectron2 configuration"),
        ("MODEL:\n  RESNETS:\n    DEPTH: 19\n", "detectron2 cannot build this network"),
        ("_BASE_: absent.yaml\n", "not a detectron2 configuration"),
    ],
)
def test_load_detectron2_refuses_configurations_that_do_not_work(
    text: str, words: str, tmp_path: Path
) -> None:
    base = write_config(tmp_path)
    path, weights = tmp_path / "bad.yaml", tmp_path / "model.pth"
    path.write_text(text if text.startswith(("-", "_")) else f"_BASE_: {base.name}\n{text}")
    torch.save({}, weights)
    with pytest.raises(GboptError, match=words) as error:
        load_mask_rcnn(weights, str(path))
    assert str(path) in str(error.value)


@needs_detectron2
def test_load_detectron2_of_deformable_convolutions_needs_the_extension(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        MODEL__RESNETS__DEPTH=50,
        MODEL__RESNETS__RES2_OUT_CHANNELS=256,
        MODEL__RESNETS__DEFORM_ON_PER_STAGE=[False, False, False, True],
    )
    torch.save({}, tmp_path / "model.pth")
    try:
        from detectron2 import _C  # noqa: F401

        words = "weights do not fit"  # the network was built, the empty file does not fill it
    except ImportError:
        words = r"cannot build this network .*detectron2\._C"
    with pytest.raises(GboptError, match=words):
        load_mask_rcnn(tmp_path / "model.pth", str(config))


@needs_detectron2
def test_load_mask_rcnn_refuses_missing_and_other_files_for_detectron2(tmp_path: Path) -> None:
    config, weights = write_config(tmp_path), tmp_path / "model.pth"
    lazy = tmp_path / "lazy.py"
    lazy.write_text("raise SystemExit")
    torch.save({"model": {"weight": torch.zeros(1)}}, weights)
    for path, yaml, words in (
        (weights, tmp_path / "absent.yaml", "no such detectron2 configuration"),
        (weights, lazy, "a Python one runs code"),
        (tmp_path / "absent.pth", config, "no such detectron2 weights file"),
        (weights, config, "weights do not fit their architecture"),
        (
            save_random_weights(tmp_path)[PROPOSALS],
            config,
            "'slim18-fpn', which runs on torchvision",
        ),
    ):
        with pytest.raises(GboptError, match=words):
            load_mask_rcnn(path, str(yaml))
    with pytest.raises(
        GboptError, match=r"name its configuration too: proposal\.detectron2_config"
    ):
        load_mask_rcnn(weights)
    torch.save([1, 2], weights)
    with pytest.raises(GboptError, match="only named tensors"):
        load_mask_rcnn(weights, str(config))


# -------------------------------------------------------------------------------- as a user runs it


@needs_detectron2
def test_replay_learn_replay_with_detectron2(tmp_path: Path) -> None:
    """Starts from a checkpoint of three classes; what is published needs no configuration."""
    classes = {
        "MODEL__ROI_HEADS__NUM_CLASSES": 3, "MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": False,
    }  # fmt: skip
    weights, config = tmp_path / "coco.pth", write_config(tmp_path, **classes)
    torch.save({"model": tiny_detectron2(**classes).state_dict()}, weights)
    bag, store = tmp_path / "bag", tmp_path / "store"
    write_rosbag(disc_frames(2), bag, topic="/camera/image_raw")
    start = ["--set", f"proposal.detectron2_config={config}", "--weights", str(weights)]
    networks = save_random_weights(tmp_path, sees_foreground=True)
    common = ["--set", f"background.weights={networks[BACKGROUND]}", "--set", "selection.k=3"]
    assert main(["replay", str(bag), "--out", str(tmp_path / "first"), *start, *common]) == 0
    steps = ["learning.iterations=2", "learning.batch_size=1", "learning.warmup=0"]
    steps.append("learning.gate_agreement=0")  # what random weights propose, JPEG changes
    options = [option for step in steps for option in ("--set", step)]
    for version in ("v0001", "v0002"):  # from the checkpoint, then from the store
        assert main(["learn", str(tmp_path / "first"), "--out", str(store), *start, *options]) == 0
        current = ModelStore(store).current()
        assert current is not None and current.version == version
        assert current.manifest["backend"] == current.manifest["architecture"] == "detectron2"
        assert "StandardROIHeads" in current.manifest["config"]
        assert str(tmp_path) not in current.manifest["config"]
    assert ModelStore(store).get("v0001").manifest["parent"].startswith("coco-")
    published = ["--weights", str(current.path)]
    assert main(["replay", str(bag), "--out", str(tmp_path / "again"), *published, *common]) == 0
    run = json.loads((tmp_path / "again" / "run.json").read_text())
    assert run["counts"]["masks"] > 0
    network, info = load_mask_rcnn(current.path)
    assert (info.version, type(network).__name__) == ("v0002", "Detectron2MaskRcnn")
    start_again, _ = load_mask_rcnn(weights, str(config))
    start_again.load_state_dict(network.state_dict())  # detectron2's own names and shapes


def test_load_mask_rcnn_without_detectron2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gbopt_ros.models.detectron2_backend", None)
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata={
        "gbopt_ros": json.dumps(vars(WeightsInfo(PROPOSALS, "detectron2", "v1", "VERSION: 2")))
    })  # fmt: skip
    for call in ((path,), (tmp_path / "model.pth", "config.yaml")):
        with pytest.raises(GboptError, match="takes detectron2, which cannot be imported"):
            load_mask_rcnn(*call)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    finding = doctor_finding()
    assert finding.status == doctor.ABSENT
    assert "proposal.detectron2_config" in finding.meaning


def doctor_finding() -> doctor.Finding:
    (check,) = (check for check in doctor.OPTIONAL if check.name == "detectron2")
    return check.run()


@needs_detectron2
def test_doctor_finds_detectron2() -> None:
    finding = doctor_finding()
    assert finding.status == doctor.OK
    try:
        from detectron2 import _C  # noqa: F401
    except ImportError:
        assert "without its compiled extension" in finding.found
    else:
        assert "with its compiled extension" in finding.found
