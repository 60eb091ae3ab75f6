"""Settings of the background network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gbopt_ros.config import network
from gbopt_ros.config.section import ConfigSection, setting

BUNDLED = "bundled"
"""Stands for the bundled network among the names of weights."""

ONNX_OUTPUTS = ("auto", "probability", "logits")


@dataclass(frozen=True)
class BackgroundConfig(ConfigSection):
    """The foreground/background network (Section 3.2.1, Appendix D.2.1), or several of them."""

    weights: str = setting(
        "",
        "Weights of the background network: a safetensors file, an ONNX file, or `bundled`. "
        "Several, separated by commas, are averaged. Empty: the bundled network.",
        fixed=True,
    )
    shares: str = setting(
        "",
        "Share of each network of background.weights in the average of their log-odds, separated "
        "by commas, such as 2,1. Empty: equal shares.",
        fixed=True,
    )
    short_side: int = network.short_side()
    batch_size: int = network.batch_size()
    half: bool = network.half()
    onnx_size: int = setting(
        320,
        "Height and width to which images are scaled for an ONNX network, pixels, if its file "
        "leaves them open.",
        low=32, high=4096, fixed=True,
    )  # fmt: skip
    onnx_mean: str = setting(
        "",
        "Mean of red, green and blue that is subtracted for an ONNX network, such as "
        "0.485,0.456,0.406, for values from 0 to 1. Empty: what the file says, else known values "
        "of the network, else those of ImageNet.",
        fixed=True,
    )
    onnx_std: str = setting(
        "",
        "Standard deviation of red, green and blue that the difference is divided by, as "
        "background.onnx_mean.",
        fixed=True,
    )
    onnx_output: str = setting(
        "auto",
        "Meaning of the first output of an ONNX network: probability of the foreground, its logits "
        "(log-odds), or auto: what the file says, else probability.",
        choices=ONNX_OUTPUTS, fixed=True,
    )  # fmt: skip
    onnx_temperature: float = setting(
        1.0,
        "Number that the log-odds of an ONNX network are divided by. A larger value makes it less "
        "sure.",
        above=0.0, fixed=True,
    )  # fmt: skip
    onnx_floor: float = setting(
        0.05,
        "Smallest distance of the probabilities of an ONNX network from 0 and 1. With a larger "
        "value a network that is wrong and sure does less harm.",
        low=0.0, below=0.5, fixed=True,
    )  # fmt: skip

    @property
    def networks(self) -> tuple[str, ...]:
        """The names in `weights`."""
        names = tuple(name.strip() for name in self.weights.split(","))
        return names if self.weights else (BUNDLED,)

    @property
    def network_shares(self) -> tuple[float, ...]:
        """The share of each network, positive; they sum to 1."""
        shares = _numbers(self.shares) or (1.0,) * len(self.networks)
        return tuple(share / sum(shares) for share in shares)

    @property
    def onnx_normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of the three channels; None where they are not set."""
        return (_numbers(self.onnx_mean), _numbers(self.onnx_std)) if self.onnx_mean else None

    def check(self) -> None:
        if not all(self.networks):
            raise ValueError(f"BackgroundConfig.weights: a name is empty, got {self.weights!r}")
        expected = len(self.networks)
        _check_numbers("shares", self.shares, expected, positive=True)
        _check_numbers("onnx_mean", self.onnx_mean, 3)
        _check_numbers("onnx_std", self.onnx_std, 3, positive=True)
        if bool(self.onnx_mean) != bool(self.onnx_std):
            raise ValueError(
                "BackgroundConfig.onnx_mean and onnx_std: expected both or neither, got "
                f"{self.onnx_mean!r} and {self.onnx_std!r}"
            )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(",")) if text else ()


def _check_numbers(name: str, text: str, count: int, *, positive: bool = False) -> None:
    """Raise ValueError unless the text is empty or holds so many numbers."""
    try:
        numbers = _numbers(text)
        right = not text or len(numbers) == count
        right = right and all(math.isfinite(n) and (n > 0 or not positive) for n in numbers)
    except ValueError:
        right = False
    if not right:
        kind = "positive numbers" if positive else "numbers"
        raise ValueError(
            f"BackgroundConfig.{name}: expected {count} {kind} with commas between them, "
            f"got {text!r}"
        )
