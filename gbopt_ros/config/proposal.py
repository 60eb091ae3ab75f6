"""Settings of the proposal network."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config import network
from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class ProposalConfig(ConfigSection):
    """The class-agnostic Mask R-CNN (Section 3.1), or another network that proposes masks."""

    weights: str = setting(
        "",
        "Weights of the proposal network: a safetensors file, a .pth file of torchvision's Mask "
        "R-CNN R50-FPN, an ONNX file, or a name from `gbopt models pull`. Empty: the bundled "
        "network.",
        fixed=True,
    )
    detectron2_config: str = setting(
        "",
        "YAML file that describes the model, if proposal.weights is a detectron2 checkpoint. "
        "Versions that the learner published need none.",
        fixed=True,
    )
    max_proposals: int = setting(
        15,
        "Maximum number of candidate masks per frame, N, best scores first (paper: 15). More "
        "candidates cover more objects and take more time: with 50 or more, the selection in a "
        "crowded frame may take seconds.",
        low=1, high=1000, fixed=True,
    )  # fmt: skip
    score_threshold: float = setting(
        0.0,
        "Minimum network score of a candidate (paper: 0). A higher threshold loses more objects of "
        "unseen classes.",
        low=0.0, below=1.0, fixed=True,
    )  # fmt: skip
    nms_iou: float = setting(
        0.7,
        "IoU of two boxes above which the candidate with the lower score is dropped (non-maximum "
        "suppression; 0.5 in most detectors). A larger value keeps more overlapping candidates.",
        above=0.0, high=1.0, fixed=True,
    )  # fmt: skip
    mask_threshold: float = setting(
        0.5, "Minimum probability of the pixels of a mask. A larger value gives smaller masks.",
        above=0.0, below=1.0, fixed=True,
    )  # fmt: skip
    short_side: int = network.short_side()
    batch_size: int = network.batch_size()
    half: bool = network.half()
    onnx_size: int = setting(
        640,
        "Height and width to which images are scaled for an ONNX network of Ultralytics, pixels, "
        "if its file leaves them open. A larger value finds smaller objects and takes more time.",
        low=32, high=4096, fixed=True,
    )  # fmt: skip
