"""Settings of the two-stage selection."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting

REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class SelectionConfig(ConfigSection):
    """The objective of Eq. 2 and its two-stage optimisation (Section 3.3)."""

    k: int = setting(
        8,
        "Number of mask combinations kept per frame after stage 1, K (paper: 10). More find "
        "better paths and take more time.",
        low=1,
    )
    overlap_tolerance: float = setting(
        0.05,
        "Largest overlap of two masks that may be selected together: intersection over the smaller "
        "mask (paper: 0). A shared pixel goes to the mask with the higher score.",
        low=0.0, high=1.0,
    )  # fmt: skip
    lambda_background: float = setting(
        1.0, "Weight of the background loss L_I (paper: 1).", low=0.0
    )
    lambda_flow: float = setting(
        0.1,
        "Weight of the flow loss L_F (paper: 1). 0 leaves the synthetic flow out, which is faster.",
        low=0.0,
    )
    lambda_regularization: float = setting(
        0.5,
        "Weight of the regularisation L_p (paper: 0.5). A larger value keeps the selected area "
        "steadier from frame to frame.",
        low=0.0,
    )
    score_weight: float = setting(
        1.0,
        "Weight of the prior from network scores (paper: 0). A larger value favours masks that "
        "the network is sure of.",
        low=0.0,
    )
    neutral_score: float = setting(
        0.5,
        "Network score that the prior neither favours nor disfavours. A larger value selects "
        "fewer masks.",
        above=0.0, below=1.0,
    )  # fmt: skip
    score_propagation: float = setting(
        0.5,
        "Share of a mask's score in the prior that comes from the mask it follows along the flow "
        "(paper: 0). A larger value smooths scores over more frames; 0 takes each frame by itself.",
        low=0.0, below=1.0,
    )  # fmt: skip
    reduction: str = setting(
        "mean",
        "How L_I is reduced over the pixels. With mean, the weights suit images of every size.",
        choices=REDUCTIONS,
    )
    epsilon: float = setting(
        1e-3,
        "Smallest distance of a background probability from 0 and 1. A smaller value lets one "
        "pixel count for more.",
        above=0.0, below=0.5,
    )  # fmt: skip
    max_flow_runs: int = setting(
        0,
        "Maximum number of optical-flow evaluations per clip (0: no limit; with a lag: per new "
        "frame). Fewer is faster; the result may then not be proven optimal.",
        low=0,
    )
    optimality_gap: float = setting(
        0.0,
        "Energy per frame by which the result may exceed the optimum. A larger value ends the "
        "search sooner; 0 proves the optimum.",
        low=0.0,
    )
    lag: int = setting(
        -1,
        "Number of frames after which the masks of a frame come out at the latest. -1: masks come "
        "when the clip ends. A smaller lag is sooner and knows less. Read at activation.",
        low=-1,
    )
    exhaustive: bool = setting(
        False,
        "Evaluate the flow of every edge, K^2 (T - 1) runs per clip: margins are exact, and the "
        "selection takes much longer.",
    )
    seed: int = setting(
        0, "Seed of the background photograph under the composites (Appendix C).", low=0
    )
