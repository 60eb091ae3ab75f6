"""Settings of the proposal network."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting

ENSEMBLES = ("none", "mirror", "scales")


@dataclass(frozen=True)
class ProposalConfig(ConfigSection):
    """The class-agnostic Mask R-CNN of Section 3.1."""

    weights: str = setting(
        "",
        "Weights file of the proposal network: safetensors, a .pth of torchvision's Mask R-CNN "
        "R50-FPN, or the name of pulled weights. Empty: the bundled network.",
        fixed=True,
    )
    detectron2_config: str = setting(
        "",
        "YAML file of the detectron2 model that `weights` is a checkpoint of. Versions that were "
        "published by the learner need none.",
        fixed=True,
    )
    max_proposals: int = setting(
        15,
        "Number of candidate masks per frame, N, best scores first (paper: 15). More candidates "
        "cover more objects and take more time.",
        low=1, high=1000, fixed=True,
    )  # fmt: skip
    score_threshold: float = setting(
        0.0,
        "Lowest network score of a candidate (paper: 0). A higher threshold loses objects of "
        "unseen classes.",
        low=0.0, below=1.0, fixed=True,
    )  # fmt: skip
    nms_iou: float = setting(
        0.5,
        "Box IoU above which the candidate with the lower score is suppressed. A larger value "
        "keeps more overlapping candidates.",
        above=0.0, high=1.0, fixed=True,
    )  # fmt: skip
    mask_threshold: float = setting(
        0.5,
        "Mask probability from which a pixel belongs to the mask. A larger value gives smaller "
        "masks.",
        above=0.0, below=1.0, fixed=True,
    )  # fmt: skip
    ensemble: str = setting(
        "none",
        "Test-time augmentation: none, mirror (2 views of the image) or scales (6 views: 3 sizes, "
        "each mirrored too). Candidates of all views are merged; time grows with the views.",
        choices=ENSEMBLES, fixed=True,
    )  # fmt: skip
    batch_size: int = setting(
        8, "Number of frames per forward pass. Larger is faster on a GPU and takes more memory.",
        low=1, fixed=True,
    )  # fmt: skip
    half: bool = setting(
        True, "Half precision. It is faster; it is used on a GPU only.", fixed=True
    )
