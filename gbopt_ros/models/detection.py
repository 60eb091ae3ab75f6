"""Detection networks: what all of them can do, and how one is loaded from whatever file holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from gbopt_ros.models.catalogue import find_weights
from gbopt_ros.models.class_agnostic import load_torchvision
from gbopt_ros.models.mask_rcnn import build_mask_rcnn
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
    """Mask R-CNN with the interface of torchvision's detection models, whoever made it.

    In training mode it takes images (3, H, W) in [0, 1] and targets and gives named losses; in
    evaluation mode it gives a dictionary of `boxes`, `scores`, `labels` and `masks` an image.

    Attributes:
        transform: resizes images; has `min_size` and `max_size`.
        backbone: gives a pyramid of features by name.
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
        path: our own safetensors, a state dict of torchvision's Mask R-CNN R50-FPN, version 1 or
            2, with any number of classes (`.pth` or safetensors), or a name of the catalogue that
            was pulled. A network with classes proposes through the best class of each box.
        detectron2_config: makes a file that does not say what it is a checkpoint of detectron2;
            its YAML. What `gbopt learn` publishes says it.

    Raises:
        GboptError: the file is missing, corrupt, or does not fit its architecture, or detectron2
            is needed and cannot be imported.
    """
    path = find_weights(path)
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
