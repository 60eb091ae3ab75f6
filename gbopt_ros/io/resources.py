"""Files that come with the package, in a checkout and in an installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gbopt_ros.structures import GboptError

SEED_PROPOSALS = "demo/weights/proposals.safetensors"
SEED_BACKGROUND = "demo/weights/background.safetensors"


def find_resource(name: str) -> Path:
    """The path of a file or folder that comes with the package, such as `demo/recording`.

    It is searched in the checkout, then in `share/gbopt_ros` of every sourced ROS prefix and of
    the Python environment.

    Raises:
        GboptError: it is in none of them.
    """
    checkout = Path(__file__).resolve().parents[2]
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    prefixes.append(Path(sys.prefix))
    roots = [checkout, *(prefix / "share" / "gbopt_ros" for prefix in prefixes)]
    for root in roots:
        if (root / name).exists():
            return root / name
    raise GboptError(
        f"{name}: not found below {', '.join(str(root) for root in roots)}; "
        "run from a full checkout, or give your own file"
    )
