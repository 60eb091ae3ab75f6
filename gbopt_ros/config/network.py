"""Settings that the proposal network and the background network share."""

from __future__ import annotations

from gbopt_ros.config.section import setting


def short_side() -> int:
    return setting(
        0,
        "Length to which the shorter side of an image is scaled, pixels (0: as the network was "
        "trained; the bundled one scales it to between 240 and 320). A larger value shows smaller "
        "objects and takes more time. ONNX files have their own size.",
        low=0, high=4096, fixed=True,
    )  # fmt: skip


def batch_size() -> int:
    return setting(
        8, "Number of frames per forward pass. A larger batch is faster on a GPU and takes more "
        "memory. ONNX networks take one frame.", low=1, fixed=True,
    )  # fmt: skip


def half() -> bool:
    return setting(
        True, "Whether to use half precision, which is faster. It has no effect on a CPU and on "
        "ONNX networks.",
        fixed=True,
    )  # fmt: skip
