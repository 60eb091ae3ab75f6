"""Settings of the optical flow."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting

FLOW_BACKENDS = ("auto", "dis", "raft_small", "raft_large")


@dataclass(frozen=True)
class FlowConfig(ConfigSection):
    """The optical flow network g of Section 3.2.2."""

    backend: str = setting(
        "auto",
        "Optical flow: dis (on the CPU, needs no weights), raft_small, raft_large (paper), or "
        "auto, which is RAFT where `weights` is given and DIS elsewhere.",
        choices=FLOW_BACKENDS, fixed=True,
    )  # fmt: skip
    weights: str = setting(
        "", "Weights file of RAFT (safetensors, or a .pth of tensors), or name of pulled weights.",
        fixed=True,
    )  # fmt: skip
    batch_size: int = setting(
        32, "Number of image pairs per forward pass of RAFT. Larger takes more GPU memory.",
        low=1, fixed=True,
    )  # fmt: skip
    half: bool = setting(
        True, "Half precision. It is faster; it is used on a GPU only.", fixed=True
    )

    def check(self) -> None:
        if self.backend.startswith("raft") and not self.weights:
            raise ValueError(
                f"FlowConfig.weights: backend {self.backend!r} needs a weights file, got none"
            )
