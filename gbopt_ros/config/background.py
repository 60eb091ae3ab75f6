"""Settings of the background network."""

from __future__ import annotations

from dataclasses import dataclass

from gbopt_ros.config.section import ConfigSection, setting


@dataclass(frozen=True)
class BackgroundConfig(ConfigSection):
    """The foreground/background network (Section 3.2.1, Appendix D.2.1)."""

    weights: str = setting(
        "", "Weights file of the background network, safetensors. Empty: the bundled network.",
        fixed=True,
    )  # fmt: skip
    batch_size: int = setting(
        8, "Number of frames per forward pass. A larger batch is faster on a GPU and takes more "
        "memory.", low=1, fixed=True,
    )  # fmt: skip
    half: bool = setting(
        True, "Whether to use half precision, which is faster. It has no effect on a CPU.",
        fixed=True,
    )  # fmt: skip
