"""The background network learns a place from what moves there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from gbopt_ros.learning.adapt import View, adapt_background, collect_views, foreground_entropy
from numpy.typing import NDArray
from support.fakes import Growing, make_clip, numbered
from support.networks import CPU, save_random_weights
from support.recordings import disc_frames

from gbopt_ros.cli.main import main
from gbopt_ros.config import AdaptConfig
from gbopt_ros.io.datasets.coco import CocoImage, load_coco_dir, write_coco
from gbopt_ros.io.resources import SEED_BACKGROUND, find_resource
from gbopt_ros.io.sources import write_rosbag
from gbopt_ros.masks import encode
from gbopt_ros.models.background_fpn import SemanticFpn
from gbopt_ros.models.weights import BACKGROUND
from gbopt_ros.perception.background import load_semantic_fpn
from gbopt_ros.perception.plane_residual import motion_evidence, plane_residual
from gbopt_ros.structures import Image, LabelledImage

HOMOGRAPHY = np.array([[1.02, 0.01, 3.0], [-0.015, 0.99, -2.0], [1e-5, -2e-5, 1.0]])


def plane_flow(size: tuple[int, int], homography: NDArray[np.float64]) -> NDArray[np.float32]:
    """The flow of a plane that moves by a homography."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    here = np.stack([columns, rows], axis=-1)
    there = cv2.perspectiveTransform(here.reshape(-1, 1, 2), homography).reshape(here.shape)
    return (there - here).astype(np.float32)


# ----------------------------------------------------------------------------------------- parallax


def test_what_departs_from_the_plane_is_measured() -> None:
    size = (120, 160)
    flow, back = (plane_flow(size, h) for h in (HOMOGRAPHY, np.linalg.inv(HOMOGRAPHY)))
    thing = slice(40, 70), slice(60, 100)
    flow[thing] += (3.0, -4.0)  # pixels
    arrived = slice(30, 70), slice(60, 110)  # where the thing may be in the other frame
    back[arrived] -= (3.0, -4.0)
    residual = plane_residual(flow, back, np.full(size, 0.95))
    inside = residual[45:65, 65:95]
    np.testing.assert_allclose(inside, 1000 * 5 / 120, atol=1.5)  # the plane's flow varies a little
    outside = residual[80:110, 20:140]
    np.testing.assert_allclose(outside, 0, atol=0.1)


def test_pixels_that_the_other_frame_hides_are_unknown() -> None:
    size = (120, 160)
    shift = np.array([[1.0, 0, 30], [0, 1, 0], [0, 0, 1]])
    flow, back = plane_flow(size, shift), plane_flow(size, np.linalg.inv(shift))
    back[50:60, 50:60] += 2.0  # leads elsewhere
    flow[90:110, 40:80] += 4.0  # something stands out
    back[94:114, 74:114] -= 4.0
    residual = plane_residual(flow, back, np.ones(size))
    assert np.all(np.isnan(residual[:, 131:]))  # moved out of the image
    assert np.all(np.isnan(residual[51:59, 21:29]))
    np.testing.assert_allclose(residual[:40, :120], 0, atol=1e-2)


def test_without_sure_background_nothing_is_known() -> None:
    flow = plane_flow((48, 64), HOMOGRAPHY)
    assert np.all(np.isnan(plane_residual(flow, -flow, np.full((48, 64), 0.5))))


def test_residuals_do_not_depend_on_the_resolution() -> None:
    found = []
    for scale in (1, 2):
        size = (120 * scale, 160 * scale)
        flow = np.zeros((*size, 2), np.float32)
        flow[: size[0] // 4, : size[1] // 4] = 6.0 * scale
        found.append(plane_residual(flow, -flow, np.ones(size))[5 * scale, 5 * scale])
    assert found[0] == pytest.approx(1000 * np.hypot(6, 6) / 120, rel=1e-3)
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_of_a_camera_at_rest_only_what_moves_is_known() -> None:
    flow = np.zeros((120, 160, 2), np.float32)
    assert np.all(np.isnan(plane_residual(flow, -flow, np.ones((120, 160)))))
    flow[:30, :40] = 4.0
    residual = plane_residual(flow, -flow, np.ones((120, 160)))
    np.testing.assert_allclose(residual[5:25, 5:35], 1000 * np.hypot(4, 4) / 120, rtol=1e-3)
    assert np.all(np.isnan(residual[40:]))


def test_of_a_plane_that_nothing_stands_out_against_nothing_is_known() -> None:
    flow, back = (plane_flow((120, 160), h) for h in (HOMOGRAPHY, np.linalg.inv(HOMOGRAPHY)))
    assert np.all(np.isnan(plane_residual(flow, back, np.ones((120, 160)))))


def test_a_plane_is_not_extrapolated() -> None:
    background = np.zeros((120, 160))
    background[:60, :80] = 1
    flow, back = (plane_flow((120, 160), h) for h in (HOMOGRAPHY, np.linalg.inv(HOMOGRAPHY)))
    flow[10:40, 10:40] += 4
    back[5:50, 10:50] -= 4
    residual = plane_residual(flow, back, background)
    assert np.all(np.isnan(residual[70:, 90:]))
    assert np.isfinite(residual[5:58, 52:76]).all()
    background[:60, 24:] = 0  # too little
    assert np.all(np.isnan(plane_residual(flow, back, background)))


def test_evidence_grows_with_motion() -> None:
    evidence = motion_evidence(np.array([[0.0, 1.0, 5.0, 50.0, np.nan]]))[0]
    assert np.all(np.diff(evidence[:4]) > 0)
    assert evidence[0] < -1.5
    assert evidence[3] > 1.5
    assert evidence[4] == 0


# -------------------------------------------------------------------------------------------- views


class Sure:
    """A background network to which everything is background."""

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        return [np.ones(image.shape[:2], np.float32) for image in images]


def test_frames_are_compared_with_those_half_a_second_away() -> None:
    flow = Growing()
    views = collect_views([make_clip(numbered(12))], Sure(), flow, AdaptConfig(), 0.5, 48)
    assert len(views) == 12
    asked = {pair for pair in flow.pairs if pair[0] == 6}
    assert asked >= {(6, 1), (6, 11)}  # 10 frames a second
    assert {pair for pair in flow.pairs if 0 in pair} >= {(0, 5), (5, 0)}
    assert max(abs(a - b) for a, b in flow.pairs) == 5
    inside, outside = views[3].evidence[24, 20], views[3].evidence[24, 50]
    assert inside > 0 > outside
    assert inside == pytest.approx(motion_evidence(np.array([[1000 * 5 / 48]]))[0, 0], abs=0.01)


def test_views_are_few_and_spread_over_the_recording() -> None:
    clips = [make_clip(numbered(12), clip_id) for clip_id in range(5)]
    views = collect_views(clips, Sure(), Growing(), AdaptConfig(frames=20), 0.5, 48)
    assert [view.index for view in views] == [0, 4, 8] * 5  # indices of `make_clip`


def test_a_clip_too_short_for_the_baseline_gives_no_view() -> None:
    assert collect_views([make_clip(numbered(3))], Sure(), Growing(), AdaptConfig(), 0.5, 48) == []


def test_views_are_no_larger_than_the_network_sees_them() -> None:
    clips = [make_clip(numbered(12))]
    (large, *_), (small, *_) = (
        collect_views(clips, Sure(), Growing(), AdaptConfig(), 0.5, side) for side in (48, 24)
    )
    assert (large.image.shape, large.evidence.shape) == ((48, 64, 3), (48, 64))
    assert (small.image.shape, small.evidence.shape) == ((24, 32, 3), (24, 32))
    assert small.evidence[12, 20] == pytest.approx(float(large.evidence[24, 40]), abs=0.01)


# ----------------------------------------------------------------------------------------- learning


def seed_background() -> SemanticFpn:
    """The bundled network, on images of 64 pixels as they are."""
    network, _ = load_semantic_fpn(find_resource(SEED_BACKGROUND))
    network.short_side = 64
    return network


def logits_of(network: SemanticFpn) -> tuple[float, float, float]:
    """On the thing that moved, on that which did not, and between them, where all is still."""
    image = np.full((64, 64, 3), 100, np.uint8)
    image[20:40, 8:20], image[20:40, 44:56] = (220, 30, 30), (30, 30, 220)
    with torch.inference_mode():
        logits = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    moved, still, table = logits[24:36, 10:18], logits[24:36, 46:54], logits[50:]
    return float(moved.mean()), float(still.mean()), float(table.mean())


class Rehearsal:
    """One labelled image: a grey square on black."""

    def __init__(self) -> None:
        self.drawn = 0

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> LabelledImage:
        self.drawn += 1
        image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
        image[20:40, 20:40], mask[20:40, 20:40] = 128, True
        return LabelledImage(image, (encode(mask),))


def place() -> list[View]:
    """A red thing that moves and a blue one, of the same shape, that never does."""
    rng, views = np.random.default_rng(0), []
    for _ in range(6):
        image = rng.integers(90, 110, (64, 64, 3)).astype(np.uint8)
        evidence = np.full((64, 64), -0.5, np.float16)
        top, left = rng.integers(0, 40, 2)
        image[top : top + 20, left : left + 12] = (220, 30, 30)
        evidence[top : top + 20, left : left + 12] = 4.0
        left = (left + 32) % 52
        image[top : top + 20, left : left + 12] = (30, 30, 220)
        evidence[top : top + 20, left : left + 12] = -4.0
        views.append(View(len(views), image, evidence))
    return views


def test_what_moves_becomes_foreground_wherever_it_stands_still() -> None:
    network, rehearsal, views = seed_background(), Rehearsal(), place()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config = AdaptConfig(rounds=2, iterations=20, batch_size=4, learning_rate=3e-3)
    adapted, log = adapt_background(network, views, rehearsal, config, CPU, lambda *_: None)
    assert len(log.total) == 40
    assert rehearsal.drawn == 40  # a quarter of every batch
    few = AdaptConfig(rounds=1, iterations=2, batch_size=2, rehearsal_share=0.01)
    adapt_background(network, views, one := Rehearsal(), few, CPU, lambda *_: None)
    assert one.drawn == 2  # at least one a step
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for logit in logits_of(network):
        assert -4 < logit < 0  # neither is like an object that the network was taught
    moved, still, table = logits_of(adapted)
    assert moved > 2
    assert still < -2
    assert table < -2
    again, _ = adapt_background(network, views, Rehearsal(), config, CPU, lambda *_: None)
    for name, value in adapted.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


# -------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_weights(tmp_path_factory.mktemp("weights"))[BACKGROUND]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "disc"
    write_rosbag(disc_frames(6), path, topic="/camera/image_raw")
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    picture, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    picture[20:40, 20:40], mask[20:40, 20:40] = 128, True
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "0.png"), picture)
    write_coco(folder / "annotations.json", [CocoImage(1, "0.png", 64, 64)], {1: (encode(mask),)})
    return folder


def run(bag: Path, out: Path, weights: Path, *extra: str) -> int:
    settings = [
        "adapt.rounds=1",
        "adapt.iterations=1",
        "adapt.batch_size=2",
        "motion.baseline_s=0.1",
    ]
    settings += [f"background.weights={weights}", "device=cpu"]
    arguments = ["adapt", str(bag), "--out", str(out)]
    return main([*arguments, *(f"--set={setting}" for setting in settings), *extra])


def test_adapted_weights_are_background_weights(
    bag: Path, weights: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "background.safetensors"
    data = [f"--rehearse={labelled}", f"--validation={labelled}"]
    assert run(bag, out, weights, *data, "--set=adapt.gate_margin=9") == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    network, info = load_semantic_fpn(out)
    assert info.version == "random-adapted"
    after = foreground_entropy(network, load_coco_dir(labelled), CPU)
    assert f"{after:.3f} after" in said.err
    parent, _ = load_semantic_fpn(weights)
    assert any(
        not torch.equal(value, parent.state_dict()[name])
        for name, value in network.state_dict().items()
    )


def test_a_network_that_forgets_is_refused(
    bag: Path, weights: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm = ["--set=adapt.learning_rate=1", "--set=adapt.gate_margin=0", f"--validation={labelled}"]
    assert run(bag, tmp_path / "b.safetensors", weights, *harm) == 1
    said = capsys.readouterr().err
    assert "the adapted network was refused: it lost" in said
    assert "no --rehearse data" in said
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_is_told_first(
    bag: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(bag, tmp_path / "file" / "b.safetensors", weights) == 1
    said = capsys.readouterr().err
    assert "file: cannot be made a folder" in said
    assert "round 1" not in said


@pytest.mark.parametrize("option", ["--rehearse", "--validation"])
def test_labelled_data_that_is_empty_is_told_first(
    bag: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "none" / "images").mkdir(parents=True)
    write_coco(tmp_path / "none" / "annotations.json", [], {})
    assert run(bag, tmp_path / "b.safetensors", weights, f"{option}={tmp_path / 'none'}") == 1
    said = capsys.readouterr().err
    assert "no image has an instance" in said or "no labelled image to compare on" in said
    assert "round 1" not in said


def test_a_recording_without_pairs_is_refused(
    bag: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bag, tmp_path / "b.safetensors", weights, "--set=motion.baseline_s=10") == 1
    assert "change motion.baseline_s, or raise clip.max_gap_s" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
