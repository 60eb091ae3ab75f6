"""Devices by name, and the way of images and results to them and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.networks import CPU, SIDE, random_images

from gbopt_ros.models.device import (
    download,
    frames_a_pass,
    half_precision,
    has_idle_core,
    resolve_device,
    upload,
)
from gbopt_ros.structures import GboptError


def test_resolve_device_knows_its_names() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "meta", "cuda:x"])
def test_resolve_device_refuses_what_is_no_usable_device(name: str) -> None:
    with pytest.raises(GboptError, match="device"):
        resolve_device(name)


def test_frames_a_pass_is_one_on_a_cpu() -> None:
    assert frames_a_pass(8, CPU) == 1
    assert frames_a_pass(8, torch.device("cuda")) == 8


@pytest.mark.parametrize(
    ("device", "threads", "expected"), [("cuda", 4, True), ("cpu", 3, True), ("cpu", 4, False)]
)
def test_has_idle_core_where_networks_leave_one(
    monkeypatch: pytest.MonkeyPatch, device: str, threads: int, expected: bool
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert has_idle_core(torch.device(device)) is expected


def test_upload_is_the_images() -> None:
    """Views and read-only arrays too, and none of them is changed or shared."""
    first, second = random_images(2)
    second.setflags(write=False)
    views = [first[:, ::-1], second]
    batch = upload(views, CPU)
    assert (batch.shape, batch.dtype) == ((2, 3, SIDE, SIDE), torch.uint8)
    for tensor, view in zip(batch, views, strict=True):
        np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), view)
    expected = first.copy()
    batch.zero_()
    np.testing.assert_array_equal(first, expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_download_is_the_tensor(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).view(2, 3).T.to(dtype)
    found = download(tensor)
    assert found.tolist() == tensor.tolist()
    assert torch.from_numpy(found).dtype == dtype


def test_half_precision_does_not_share_casts_between_threads() -> None:
    with half_precision(True, CPU):
        assert not torch.is_autocast_enabled("cpu")  # half precision is for GPUs
        assert not torch.is_autocast_cache_enabled()


def test_upload_and_download_on_a_gpu() -> None:
    """Page-locked memory is used again while copies are under way, and none is torn."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU")
    gpu = torch.device("cuda")
    shown = random_images(20, 480, 640)
    tensors = [upload([image, image[:, ::-1]], gpu) for image in shown]
    for tensor, image in zip(tensors, shown, strict=True):
        plain, mirrored = download(tensor.permute(0, 2, 3, 1))
        np.testing.assert_array_equal(plain, image)
        np.testing.assert_array_equal(mirrored, image[:, ::-1])
