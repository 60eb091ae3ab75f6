"""What all parts of `benchmarks.gpu` are told. Without torch, which the parts alone import."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gbopt_ros.config import Config, load_config

NO_GPU = "no CUDA GPU"


@dataclass(frozen=True)
class Setup:
    """Where and on what to measure.

    Attributes:
        device: `cpu` or `cuda`.
        quick: few images, networks and steps.
        size: (height, width) of the images, pixels.
        frames: of a clip.
        flow: weights file of RAFT large; "" for random weights.
    """

    device: str
    quick: bool
    size: tuple[int, int]
    frames: int
    flow: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def config(self, half: bool = True) -> Config:
        """The recommended settings on this device, with clips of this length."""
        config = Config()
        return replace(
            config,
            device=self.device,
            clip=replace(config.clip, length=self.frames, overlap=0),
            proposal=replace(config.proposal, half=half),
            background=replace(config.background, half=half),
            flow=replace(config.flow, half=half),
        )

    def live_config(self) -> Config:
        """The settings of a robot, with networks that see one frame at a time as in the graph."""
        batches = [f"{section}.batch_size=1" for section in ("proposal", "background", "flow")]
        return load_config("robot", [f"device={self.device}", *batches])
