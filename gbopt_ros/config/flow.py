"""Settings of the optical flow."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting

FLOW_BACKENDS = ("auto", "dis", "raft_small", "raft_large")


@dataclass(frozen=True)
class FlowConfig(ConfigSection):
    """The optical flow network g (Section 3.2.2)."""

    backend: str = setting(
        "auto",
        "Optical flow method: dis (on the CPU, needs no weights), raft_small, raft_large (paper), "
        "or auto: RAFT if flow.weights is set, else DIS.",
        choices=FLOW_BACKENDS, fixed=True,
    )  # fmt: skip
    weights: str = setting(
        "",
        "Weights of RAFT: a safetensors file, a .pth file of tensors, or a name from `gbopt models "
        "pull`.",
        fixed=True,
    )
    batch_size: int = setting(
        32, "Number of image pairs per forward pass of RAFT. A larger batch is faster on a GPU and "
        "takes more memory.", low=1, fixed=True,
    )  # fmt: skip
    half: bool = setting(
        True, "Whether to use half precision, which is faster. It has no effect on a CPU.",
        fixed=True,
    )  # fmt: skip

    def check(self) -> None:
        if self.backend.startswith("raft") and not self.weights:
            raise ValueError(
                f"FlowConfig.weights: backend {self.backend!r} needs weights, got none; `gbopt "
                f"models pull {self.backend}` downloads them, then flow.weights={self.backend}"
            )
