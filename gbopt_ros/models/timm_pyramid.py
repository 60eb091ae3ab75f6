"""Feature pyramids on backbones of timm, an optional package that is imported when needed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from gbopt_ros.structures import GboptError

STRIDES = (4, 8, 16, 32)


class TimmPyramid(nn.Module):
    """(B, 3, H, W) -> levels "0" to "3" (B, channels, H / stride, W / stride), strides 4 to 32.

    Weights are random; nothing is downloaded.

    Args:
        name: name of a timm model, such as `resnest200e`.
        channels: number of channels of every level.

    Raises:
        GboptError: timm is not installed, has no such model, or the model has other strides.
    """

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.body, self._levels = _backbone(name)
        widths = [self.body.feature_info.channels()[level] for level in self._levels]
        self.fpn = FeaturePyramidNetwork(widths, channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.body(images)
        levels: dict[str, Tensor] = self.fpn(
            {str(i): maps[level] for i, level in enumerate(self._levels)}
        )
        return levels


def _backbone(name: str) -> tuple[Any, list[int]]:
    """A backbone of timm, and the indices of its feature maps of strides 4 to 32."""
    try:
        import timm
    except ImportError as error:
        raise GboptError(
            f"the architecture timm:{name} needs the package timm, which cannot be imported "
            f"({error}); pip install 'gbopt_ros[timm]'"
        ) from error
    # timm would look up a name such as `hf-hub:...` over the network.
    if not timm.is_model(name):
        raise GboptError(f"timm {timm.__version__} has no model {name!r}; see timm.list_models()")
    try:
        body: Any = timm.create_model(name, pretrained=False, features_only=True)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise GboptError(f"timm:{name} gives no feature maps ({error})") from error
    strides = body.feature_info.reduction()
    layout = str(getattr(body, "output_fmt", None) or "NCHW").rpartition(".")[2]
    if not set(STRIDES) <= set(strides) or layout != "NCHW":
        raise GboptError(
            f"timm:{name}: expected feature maps (B, C, H, W) of strides {STRIDES}, got {layout} "
            f"of strides {tuple(strides)}; take a convolutional backbone such as resnest14d"
        )
    return body, [strides.index(stride) for stride in STRIDES]
