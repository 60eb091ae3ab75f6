"""The interface of all detection networks, and how one is loaded from a file of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from gbopt_ros.models.catalogue import find_weights
from gbopt_ros.models.class_agnostic import load_torchvision
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
from gbopt_ros.models.onnx import is_onnx
from gbopt_ros.models.weights import (
    DETECTRON2,
    PROPOSALS,
    WeightsInfo,
    architecture_of,
    is_foreign,
    load_network,
)
from gbopt_ros.structures import GboptError

N = TypeVar("N")

_TORCH_SUFFIXES = (".pth", ".pt")


class DetectionNetwork(Protocol):
    """Mask R-CNN with the interface of torchvision's detection models.

    In training mode it takes images (3, H, W) in [0, 1] and targets, and gives losses by name. In
    evaluation mode it gives a dictionary of `boxes`, `scores`, `labels` and `masks` for each image.

    Attributes:
        transform: a module that resizes images; has `min_size` and `max_size`.
        backbone: gives a feature pyramid, levels by name.
        roi_heads: has `score_thresh`, `nms_thresh` and `detections_per_img`.
    """

    transform: Any
    backbone: nn.Module
    roi_heads: Any

    def __call__(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> Any: ...

    def to(self: N, *args: Any, **kwargs: Any) -> N: ...

    def train(self: N, mode: bool = True) -> N: ...

    def eval(self: N) -> N: ...

    def state_dict(self) -> dict[str, Any]: ...


def load_mask_rcnn(path: Path, detectron2_config: str = "") -> tuple[DetectionNetwork, WeightsInfo]:
    """The network of a weights file, float32, on the CPU, in evaluation mode.

    Args:
        path: safetensors of ours, a state dict (`.pth` or safetensors) of torchvision's Mask R-CNN
            R50-FPN, version 1 or 2, or the name of pulled weights. A network with several classes
            gets `ClassAgnosticHeads`.
        detectron2_config: YAML file of the detectron2 model that `path` is a checkpoint of. Files
            of `gbopt learn` need none.

    Raises:
        GboptError: the file is missing, corrupt, or does not fit its architecture, it is an ONNX
            file, or detectron2 is needed and cannot be imported.
    """
    path = find_weights(path)
    if is_onnx(path):
        raise GboptError(
            f"{path}: an ONNX network proposes masks, and cannot be trained or calibrated; name a "
            "Mask R-CNN here: safetensors of this package, or weights of torchvision or detectron2"
        )
    if detectron2_config or architecture_of(path) == DETECTRON2:
        try:
            from gbopt_ros.models.detectron2_backend import load_detectron2
        except ImportError as error:
            raise GboptError(
                f"{path}: this network takes detectron2, which cannot be imported ({error}); "
                "`gbopt doctor` says how to get it"
            ) from error
        return load_detectron2(path, detectron2_config)
    if path.suffix in _TORCH_SUFFIXES or is_foreign(path):
        found = load_torchvision(path)
        if found is not None:
            return found
        if path.suffix in _TORCH_SUFFIXES:
            raise GboptError(
                f"{path}: not a state dict of torchvision's Mask R-CNN R50-FPN, version 1 or 2; "
                "if it is detectron2's, name its configuration too: proposal.detectron2_config"
            )
    return load_network(path, PROPOSALS, build_mask_rcnn)
