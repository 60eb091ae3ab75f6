"""The Mask R-CNN that is built on torchvision."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import transform as torchvision_transform

from gbopt_ros.models.mask_rcnn import build_mask_rcnn


def test_build_mask_rcnn_resizes_images_of_two_threads_each_by_its_own_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bundled network keeps the size of smaller images, such as that of the other thread."""
    transform = build_mask_rcnn("lite0-fpn").transform.eval()
    resize = torchvision_transform._resize_image_and_masks
    is_resizing, may_go_on = threading.Event(), threading.Event()

    def slow_for_small_images(image: Tensor, *rest: Any) -> Any:
        if image.shape[-1] == 250:
            is_resizing.set()
            assert may_go_on.wait(10)
        return resize(image, *rest)

    monkeypatch.setattr(torchvision_transform, "_resize_image_and_masks", slow_for_small_images)
    with ThreadPoolExecutor(1) as thread:
        small = thread.submit(transform.resize, torch.zeros(3, 250, 250))
        assert is_resizing.wait(10)
        large, _ = transform.resize(torch.zeros(3, 400, 400))
        may_go_on.set()
    assert small.result()[0].shape == (3, 250, 250)
    assert large.shape == (3, 320, 320)
    assert transform.min_size == (320,)
