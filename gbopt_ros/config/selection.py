"""Settings of the two-stage selection."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class SelectionConfig(ConfigSection):
    """The energy of Eq. 2 and its two-stage optimisation (Section 3.3)."""

    k: int = setting(
        8,
        "Number of mask combinations per frame that stage 1 keeps for stage 2, K (paper: 10). More "
        "combinations can lower the energy and take more time.",
        low=1,
    )
    overlap_tolerance: float = setting(
        0.3,
        "Maximum overlap of two masks that are selected together: intersection over the area of "
        "the smaller mask (paper: 0). A larger value selects more masks that touch. Shared pixels "
        "go to the mask with the higher score.",
        low=0.0, high=1.0,
    )  # fmt: skip
    lambda_background: float = setting(
        1.0,
        "Weight of the background loss L_I (paper: 1). A larger value trusts the background "
        "network more.",
        low=0.0,
    )
    lambda_flow: float = setting(
        0.1,
        "Weight of the flow loss L_F (paper: 1). A larger value favours masks that explain the "
        "optical flow. 0 leaves the synthetic flow out, which is faster.",
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
        "Weight of the network scores in the energy (paper: 0). A larger value favours masks with "
        "high scores more. Scores count only if the network has a calibration (`gbopt calibrate`).",
        low=0.0,
    )
    neutral_score: float = setting(
        0.8,
        "Network score that neither favours nor disfavours a mask. A larger value selects fewer "
        "masks.",
        above=0.0, below=1.0,
    )  # fmt: skip
    score_propagation: float = setting(
        0.5,
        "Share of a mask's score that comes from the masks of the previous frame, moved by the "
        "optical flow (paper: 0). A larger value smooths scores over more frames.",
        low=0.0, below=1.0,
    )  # fmt: skip
    detect_cuts: bool = setting(
        True,
        "Whether a frame whose masks are not those of the previous frame, moved by the optical "
        "flow, begins anew: scores are not propagated, L_F and L_p do not count, and all tracks "
        "end (paper: no). This is so after a cut, and between single photographs.",
    )
    epsilon: float = setting(
        1e-3,
        "Minimum distance of a background probability from 0 and 1. A smaller value lets a single "
        "pixel weigh more.",
        above=0.0, below=0.5,
    )  # fmt: skip
    max_flow_runs: int = setting(
        0,
        "Maximum number of optical-flow evaluations per clip, or per new frame if selection.lag is "
        "not -1 (0: no limit); a first path, up to one evaluation for each pair of frames, always "
        "runs. Fewer are faster; the result may then not be proven optimal.",
        low=0,
    )
    optimality_gap: float = setting(
        0.0,
        "Maximum energy per frame by which the result may exceed the optimum. A larger value ends "
        "the search sooner; 0 proves the optimum.",
        low=0.0,
    )
    lag: int = setting(
        -1,
        "Maximum delay of the masks of a frame, frames (-1: the masks come when the clip ends). A "
        "smaller lag brings masks sooner, with less context. An active node refuses a change.",
        low=-1,
    )
    exhaustive: bool = setting(
        False,
        "Whether to evaluate the optical flow of all K^2 (T - 1) edges of a clip. Margins are then "
        "exact among the K combinations of each frame instead of lower bounds, and the selection "
        "takes much longer.",
    )
    composite_side: int = setting(
        96,
        "Maximum shorter side of the images that masks are pasted on for the synthetic flow, "
        "pixels (paper: 0, the size of the frames). The flow loss L_F is computed at this size, "
        "with the fastest setting of DIS. A larger value compares finer motion and takes more "
        "time.",
        low=0,
    )  # fmt: skip
    photograph: str = setting(
        "",
        "Image file of the background that masks are pasted on for the synthetic flow (Appendix "
        "C); it is scaled to the frames. Empty: a generated texture.",
        fixed=True,
    )
    seed: int = setting(
        0,
        "Seed for the texture that masks are pasted on where no selection.photograph is set.",
        low=0,
    )
