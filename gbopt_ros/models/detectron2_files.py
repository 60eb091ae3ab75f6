"""Configurations and checkpoints of detectron2, read without running code in them."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from torch import Tensor

from gbopt_ros.models.weights import read_state_dict
from gbopt_ros.structures import GboptError, first_line

_CONVERT = (
    "import pickle, torch; m = pickle.load(open('{0}.pkl', 'rb'), encoding='latin1')['model']; "
    "torch.save({{k: torch.as_tensor(v) for k, v in m.items()}}, '{0}.pth')"
)


def read_config(path: Path) -> CfgNode:
    """A YAML configuration over detectron2's defaults, with its `_BASE_` files.

    Raises:
        GboptError: it is missing, no YAML, or has keys that detectron2 does not know.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise GboptError(
            f"{path}: expected detectron2's YAML configuration; a Python one runs code and is "
            "never loaded"
        )
    if not path.is_file():
        raise GboptError(f"{path}: no such detectron2 configuration")
    config = get_cfg()
    try:
        # By default detectron2 runs code in the YAML.
        config.merge_from_file(str(path), allow_unsafe=False)
    except Exception as error:  # yacs raises KeyError, AssertionError, ValueError and YAMLError
        raise GboptError(f"{path}: not a detectron2 configuration ({first_line(error)})") from error
    return config


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a detectron2 checkpoint: safetensors, or a `.pth` of tensors.

    Raises:
        GboptError: no such file, a pickle, or not readable without running code.
    """
    if path.suffix == ".pkl" and path.is_file():
        command = _CONVERT.format(path.with_suffix(""))
        raise GboptError(
            f"{path}: a pickle runs code when it is opened, so it never is; if you trust it, "
            f'convert it once: python -c "{command}"'
        )
    return read_state_dict(path, "detectron2")


def parse_config(text: str, path: Path) -> CfgNode:
    """The configuration that `dump_config` wrote into the weights file `path`.

    Raises:
        GboptError: it is damaged.
    """
    config = get_cfg()
    try:
        config.merge_from_other_cfg(CfgNode.load_cfg(text))
    except Exception as error:  # as in `read_config`
        raise GboptError(
            f"{path}: its detectron2 configuration is damaged ({first_line(error)})"
        ) from error
    return config


def dump_config(config: CfgNode) -> str:
    """The network and its input as YAML, without paths and training settings."""
    described = CfgNode({key: config[key].clone() for key in ("MODEL", "INPUT")})
    described.VERSION = config.VERSION
    described.MODEL.WEIGHTS = ""
    return str(described.dump())
