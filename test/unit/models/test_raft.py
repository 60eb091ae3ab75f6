"""RAFT: shapes, batches, and weights by file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.networks import CPU, write_bomb
from support.textures import moved, texture
from torchvision.models.optical_flow import RAFT, raft_large, raft_small
from torchvision.models.optical_flow.raft import CorrBlock

from gbopt_ros.config import FlowConfig
from gbopt_ros.models.raft import RaftFlow, load_raft, raft_of_pairs
from gbopt_ros.perception.flow import make_flow
from gbopt_ros.structures import GboptError


@pytest.fixture(scope="module")
def small() -> RAFT:
    torch.manual_seed(0)
    return raft_small(weights=None).eval()


@pytest.mark.parametrize("size", [(128, 128), (1, 1), (9, 130), (136, 20)])
def test_raft_flow_shapes(small: RAFT, size: tuple[int, int]) -> None:
    """Sides that are no multiple of 8, and sides shorter than RAFT's correlation pyramid."""
    flow = RaftFlow(small, FlowConfig(), CPU).flow([texture(*size)], [texture(*size, seed=1)])
    assert flow.shape == (1, *size, 2)
    assert flow.dtype == np.float32
    assert np.isfinite(flow).all()


def test_raft_sees_the_image_at_the_top_left_of_its_padding(small: RAFT) -> None:
    first, second = moved(121, 132, 3, -2)
    flow = RaftFlow(small, FlowConfig(), CPU).flow([first], [second])[0]
    padded = [np.pad(image, ((0, 7), (0, 4), (0, 0)), mode="edge") for image in (first, second)]
    tensors = [torch.from_numpy(p).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in padded]
    with torch.no_grad():
        expected = small(*tensors)[-1][0].permute(1, 2, 0)[:121, :132]
    np.testing.assert_allclose(flow, expected.numpy(), atol=1e-3)


def test_raft_flow_batches_in_order(small: RAFT) -> None:
    images = [texture(32, 32, seed) for seed in range(4)]
    network = RaftFlow(small, FlowConfig(batch_size=2), CPU)
    together = network.flow(images[:3], images[1:])
    assert together.shape == (3, 32, 32, 2)
    for i in range(3):
        alone = network.flow(images[i : i + 1], images[i + 1 : i + 2])[0]
        np.testing.assert_allclose(together[i], alone, atol=1e-3)  # pixels
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("build", [raft_small, raft_large])
def test_raft_of_pairs_equals_torchvision(build: Callable[..., RAFT]) -> None:
    torch.manual_seed(1)
    network = build(weights=None).eval()
    images = torch.rand(3, 3, 128, 128) * 2 - 1
    first, second = [2, 2], [0, 1]
    with torch.inference_mode():
        ours = raft_of_pairs(network, images, first, second)
        theirs = network(images[first], images[second])[-1]
    assert ours.shape == (2, 2, 128, 128)
    assert (ours[0] - ours[1]).abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)  # pixels


def test_raft_correlates_in_single_precision(small: RAFT, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    build = CorrBlock.build_pyramid

    def spy(block: CorrBlock, *features: torch.Tensor) -> None:
        build(block, *features)
        seen.extend(level.dtype for level in block.corr_pyramid)

    monkeypatch.setattr(CorrBlock, "build_pyramid", spy)
    images = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert raft_of_pairs(small, images, [0], [1]).isfinite().all()
    assert set(seen) == {torch.float32}


def test_raft_encodes_an_image_once_a_batch(small: RAFT, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: dict[str, int] = {}

    def counting(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        encode = getattr(small, name).forward

        def forward(images: torch.Tensor) -> torch.Tensor:
            encoded[name] = len(images)
            return encode(images)

        return forward

    for name in ("feature_encoder", "context_encoder"):
        monkeypatch.setattr(getattr(small, name), "forward", counting(name))
    a, b, c = (texture(16, 16, seed) for seed in range(3))
    RaftFlow(small, FlowConfig(), CPU).flow([a, a, b, b], [b, c, b, c])
    assert encoded == {"feature_encoder": 3, "context_encoder": 2}


def test_raft_gives_every_thread_its_own_flow(small: RAFT) -> None:
    """While masks of a clip are selected, RAFT already measures the flow of the next one."""
    images = [texture(32, 32, seed) for seed in range(5)]
    network = RaftFlow(small, FlowConfig(), CPU)
    pairs = list(pairwise(images))
    expected = [network.flow([a], [b]) for a, b in pairs]
    with ThreadPoolExecutor(len(pairs)) as threads:
        for _ in range(3):
            jobs = [threads.submit(network.flow, [a], [b]) for a, b in pairs]
            for job, alone in zip(jobs, expected, strict=True):
                np.testing.assert_array_equal(job.result(), alone)


def test_raft_flow_of_no_pairs(small: RAFT) -> None:
    network = RaftFlow(small, FlowConfig(), CPU)
    assert network.flow([], []).shape == (0, 0, 0, 2)
    with pytest.raises(ValueError, match="1 first images, 0 second"):
        network.flow([texture(8, 8)], [])


@pytest.fixture(params=["raft.safetensors", "raft.pth", "legacy.pth"])
def weights_file(request: pytest.FixtureRequest, small: RAFT, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".safetensors":
        save_file(small.state_dict(), path)
    else:
        new = request.param != "legacy.pth"
        torch.save(small.state_dict(), path, _use_new_zipfile_serialization=new)
    return path


@pytest.mark.parametrize("backend", ["raft_small", "auto"])
def test_load_raft_by_file(weights_file: Path, backend: str, small: RAFT) -> None:
    loaded = load_raft(weights_file, backend)
    for name, value in small.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    config = FlowConfig(backend=backend, weights=str(weights_file))
    assert isinstance(make_flow(config, "cpu"), RaftFlow)


@pytest.mark.parametrize(
    ("backend", "words"),
    [("raft_large", "raft_large"), ("auto", "raft_large or raft_small")],
)
def test_load_raft_refuses_weights_of_another_network(
    tmp_path: Path, backend: str, words: str
) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(GboptError, match=f"not the weights of torchvision's {words}"):
        load_raft(path, backend)


def test_load_raft_refuses_small_weights_for_a_large_network(tmp_path: Path, small: RAFT) -> None:
    path = tmp_path / "small.pth"
    torch.save(small.state_dict(), path)
    with pytest.raises(GboptError, match="not the weights of torchvision's raft_large"):
        load_raft(path, "raft_large")


@pytest.mark.parametrize(
    ("value", "words"),
    [(torch.zeros(3), "expected shape"), (torch.full((32, 3, 7, 7), torch.nan), "not finite")],
)
def test_load_raft_refuses_damaged_tensors(
    tmp_path: Path, small: RAFT, value: torch.Tensor, words: str
) -> None:
    path, name = tmp_path / "damaged.pth", "feature_encoder.convnormrelu.0.weight"
    assert small.state_dict()[name].shape == (32, 3, 7, 7)
    torch.save(small.state_dict() | {name: value}, path)
    for backend in ("raft_small", "auto"):
        with pytest.raises(GboptError, match=f"{name}.*{words}"):
            load_raft(path, backend)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {"epoch": 3}, 5])
def test_load_raft_refuses_what_is_no_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(GboptError, match="expected a state dict"):
        load_raft(path, "auto")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("raft.safetensors", b""),
        ("raft.safetensors", b"\x00" * 100),
        ("raft.pth", b""),
        ("raft.pth", b"PK\x03\x04 not a zip archive"),
        ("raft.pth", b"0"),  # torch raises IndexError
        ("raft.pth", b"G1"),  # struct.error
        ("raft.pth", b"h\x05"),  # KeyError
    ],
)
def test_make_flow_refuses_unreadable_weights(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(GboptError, match="cannot be read") as caught:
        make_flow(FlowConfig(weights=str(path)), "cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_make_flow_names_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no such RAFT weights file"):
        make_flow(FlowConfig(weights=str(tmp_path / "absent.pth")), "cpu")


@pytest.mark.parametrize("name", ["raft.safetensors", "raft.pth"])
@pytest.mark.parametrize("as_checkpoint", [False, True], ids=["pickle", "torch"])
def test_make_flow_never_runs_a_malicious_pickle(
    tmp_path: Path, name: str, as_checkpoint: bool
) -> None:
    path, target = tmp_path / name, tmp_path / "created"
    write_bomb(path, target, as_checkpoint=as_checkpoint)
    with pytest.raises(GboptError, match="cannot be read"):
        make_flow(FlowConfig(weights=str(path)), "cpu")
    assert not target.exists()
    if as_checkpoint and path.suffix == ".pth":  # the test tests something
        torch.load(path, weights_only=False)
        assert target.exists()
