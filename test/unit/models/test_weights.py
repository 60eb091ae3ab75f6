"""Weights files: what is written comes back, and nothing else is taken for weights."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.networks import Point, write_bomb

from gbopt_ros.models.background_fpn import build_background
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.weights import (
    BACKGROUND,
    PROPOSALS,
    NoRandomValues,
    WeightsInfo,
    load_into,
    read_weights,
    save_weights,
    sha256_of,
    tensors_digest,
)
from gbopt_ros.perception.background import load_semantic_fpn
from gbopt_ros.structures import GboptError

INFO = WeightsInfo(PROPOSALS, "slim18-fpn", "v0007")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "point.safetensors"
    save_weights(path, Point(), INFO)
    return path


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of a weights file."""
    tensors = load_file(path) | {name.replace("__", "."): t for name, t in changes.items()}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, path, metadata={"gbopt_ros": json.dumps(vars(INFO))})


# ------------------------------------------------------------------------------------ round trip


def test_save_weights_and_read_weights_in_full_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = Point(), tmp_path / "new" / "folder" / "point.safetensors"
    digest = save_weights(path, network, INFO)
    assert digest == sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    info, tensors = read_weights(path, PROPOSALS)
    assert info == INFO
    copy = Point()
    load_into(copy, tensors, path)
    for name, value in network.state_dict().items():
        assert torch.equal(copy.state_dict()[name], value), name
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_tensors_digest_is_that_of_the_tensors_alone() -> None:
    torch.manual_seed(0)
    network = Point()
    digest = tensors_digest(network)
    assert len(digest) == 64
    copy = Point()
    copy.load_state_dict(network.state_dict())
    assert tensors_digest(copy) == digest
    backwards = SimpleNamespace(
        state_dict=lambda: dict(reversed(list(network.state_dict().items())))
    )
    assert tensors_digest(backwards) == digest
    copy.count += 1
    assert tensors_digest(copy) != digest
    copy.load_state_dict(network.state_dict())
    copy.linear.bias.data[0] += 1e-6
    assert tensors_digest(copy) != digest


def test_save_weights_in_half_precision_leaves_integers(tmp_path: Path) -> None:
    network, path = Point(), tmp_path / "point.safetensors"
    network.count.fill_(2049)  # not a half-precision number
    save_weights(path, network, INFO, half=True)
    assert load_file(path)["scale"].dtype == torch.float16
    _, tensors = read_weights(path, PROPOSALS)
    assert tensors["scale"].dtype == torch.float32
    assert tensors["scale"].item() == float(np.float16(0.1))
    assert tensors["count"].item() == 2049
    assert network.scale.dtype == torch.float32


def test_save_weights_lets_others_read_the_file(saved: Path) -> None:
    plain = saved.with_name("plain")
    plain.touch()
    assert saved.stat().st_mode == plain.stat().st_mode


def test_save_weights_replaces_the_file(tmp_path: Path, saved: Path) -> None:
    network = Point()
    network.scale.fill_(5)
    save_weights(saved, network, INFO)
    assert read_weights(saved, PROPOSALS)[1]["scale"].item() == 5
    assert [p.name for p in tmp_path.iterdir()] == [saved.name]


@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
def test_load_semantic_fpn_gives_the_saved_network(tmp_path: Path, half: bool) -> None:
    network = build_background("slim18-semantic-fpn").to(memory_format=torch.channels_last)
    path = tmp_path / "background.safetensors"
    save_weights(path, network, WeightsInfo(BACKGROUND, "slim18-semantic-fpn", "seed"), half)
    loaded, info = load_semantic_fpn(path)
    assert info.version == "seed"
    assert not loaded.training
    for name, value in network.state_dict().items():
        expected = value.half().float() if half and value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], expected), name


def test_load_mask_rcnn_gives_the_saved_network(tmp_path: Path) -> None:
    network, path = build_mask_rcnn("slim18-fpn"), tmp_path / "proposals.safetensors"
    save_weights(path, network, INFO)
    loaded, info = load_mask_rcnn(path)
    assert info == INFO
    assert not loaded.training
    assert network.state_dict().keys() == loaded.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


# ----------------------------------------------------------------------------- what is not weights


def test_read_weights_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no such weights file"):
        read_weights(tmp_path / "absent.safetensors", PROPOSALS)
    with pytest.raises(GboptError, match="no such weights file"):
        read_weights(tmp_path, PROPOSALS)


@pytest.mark.parametrize("kept", [0, 4, 8, 60, -1])
def test_read_weights_refuses_a_truncated_file(saved: Path, kept: int) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[:kept])
    with pytest.raises(GboptError, match="not a readable safetensors file"):
        read_weights(saved, PROPOSALS)


@pytest.mark.parametrize("as_checkpoint", [False, True], ids=["pickle", "torch"])
def test_read_weights_never_opens_a_pickle(tmp_path: Path, as_checkpoint: bool) -> None:
    path, target = tmp_path / "weights.safetensors", tmp_path / "created"
    write_bomb(path, target, as_checkpoint=as_checkpoint)
    with pytest.raises(GboptError, match="a name that ends with"):
        read_weights(path, PROPOSALS)
    assert not target.exists()
    if not as_checkpoint:  # the test tests something: this file does create the folder
        pickle.loads(path.read_bytes())
        assert target.exists()


def test_read_weights_refuses_weights_of_the_other_network(saved: Path) -> None:
    with pytest.raises(GboptError, match="expected weights of the background network"):
        read_weights(saved, BACKGROUND)
    with pytest.raises(GboptError, match="background"):
        load_semantic_fpn(saved)


def test_read_weights_without_a_description(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(GboptError, match="no gbopt_ros description"):
        read_weights(path, PROPOSALS)


@pytest.mark.parametrize(
    "description", ["{", "[1]", '"text"', "{}", '{"network": "proposals", "colour": "red"}']
)
def test_read_weights_with_a_damaged_description(tmp_path: Path, description: str) -> None:
    path = tmp_path / "damaged.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata={"gbopt_ros": description})
    with pytest.raises(GboptError, match="description is damaged"):
        read_weights(path, PROPOSALS)


@pytest.mark.parametrize(
    ("load", "network", "build"),
    [
        (load_mask_rcnn, PROPOSALS, build_mask_rcnn),
        (load_semantic_fpn, BACKGROUND, build_background),
    ],
)
def test_load_network_names_an_unknown_architecture(
    tmp_path: Path, load, network: str, build
) -> None:
    path = tmp_path / "future.safetensors"
    save_weights(path, Point(), WeightsInfo(network, "vit-huge", "v1"))
    with pytest.raises(GboptError, match=r"vit-huge.*known: .*slim18"):
        load(path)
    with pytest.raises(GboptError, match=r"vit-huge.*slim18"):
        build("vit-huge")


@pytest.mark.parametrize("architecture", ["slim18-fpn", "resnet50-fpn-v2"])
def test_no_random_values_draws_none_while_a_network_is_built(architecture: str) -> None:
    before = torch.get_rng_state()
    with NoRandomValues():
        network = build_mask_rcnn(architecture)
    assert torch.equal(torch.get_rng_state(), before)
    build_mask_rcnn("slim18-fpn")  # again as usual
    assert not torch.equal(torch.get_rng_state(), before)
    assert network.backbone.body.bn1.weight.unique().tolist() == [1.0]  # constants are filled in


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"linear__bias": None}, r"1 tensors missing.*linear\.bias.*0 unknown"),
        ({"extra": torch.zeros(1)}, "0 tensors missing.*1 unknown.*extra"),
        ({"linear__weight": torch.zeros(2, 1)}, r"linear\.weight.*\(1, 1\).*\(2, 1\)"),
        ({"scale": torch.tensor([torch.nan])}, "scale.*not finite"),
        ({"scale": torch.tensor([torch.inf]).half()}, "scale.*not finite"),
    ],
)
def test_load_into_refuses_tensors_that_do_not_fit(
    saved: Path, changes: dict[str, torch.Tensor | None], words: str
) -> None:
    rewrite(saved, **changes)
    network = Point()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(GboptError, match=words):
        load_into(network, read_weights(saved, PROPOSALS)[1], saved)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} changed although the file was refused"


# -------------------------------------------------------------------------------- failed writing


def test_save_weights_into_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "w.safetensors", tmp_path / "file" / "sub" / "w.safetensors"):
        with pytest.raises(GboptError, match="cannot be written"):
            save_weights(path, Point(), INFO)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_save_weights_leaves_nothing_where_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.mkdir()
    with pytest.raises(GboptError, match="cannot be written"):
        save_weights(path, Point(), INFO)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert list(path.iterdir()) == []
