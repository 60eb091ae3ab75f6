"""ROS parameters out of the settings of config dataclasses, and back."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from gbopt_ros.config import Setting, settings

T = TypeVar("T")
_LARGEST_INTEGER = 2**63 - 1


def declare(node: Any, prefix: str, values: Any) -> None:
    """Declare `prefix` + name for each setting of a dataclass instance, its value the default."""
    for setting in settings(type(values)):
        default = _get(values, setting.name)
        node.declare_parameter(prefix + setting.name, default, descriptor(setting))


def descriptor(setting: Setting) -> ParameterDescriptor:
    """Description, range and choices; read-only where the setting is fixed."""
    described = ParameterDescriptor(description=setting.doc, read_only=setting.fixed)
    if setting.choices:
        described.additional_constraints = "one of " + ", ".join(map(str, setting.choices))
    bounds = (setting.low, setting.high, setting.above, setting.below)
    if all(bound is None for bound in bounds):
        return described
    if setting.type is int:
        low = _integer(setting.low, setting.above, 1, -_LARGEST_INTEGER)
        high = _integer(setting.high, setting.below, -1, _LARGEST_INTEGER)
        described.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
    elif setting.type is float:
        low_value = _real(setting.low, setting.above, math.inf, -sys.float_info.max)
        high_value = _real(setting.high, setting.below, -math.inf, sys.float_info.max)
        described.floating_point_range = [
            FloatingPointRange(from_value=low_value, to_value=high_value, step=0.0)
        ]
    return described


def with_values(values: T, prefix: str, changes: Mapping[str, Any]) -> T:
    """The dataclass with those of the named changes that begin with `prefix`.

    Raises:
        ValueError: a value is out of range.
    """
    own = {k.removeprefix(prefix): v for k, v in changes.items() if k.startswith(prefix)}
    return _replace(values, own)


def _replace(values: Any, changes: Mapping[str, Any]) -> Any:
    names = {field.name for field in fields(values)}
    direct = {name: value for name, value in changes.items() if name in names}
    for name in names:
        part = getattr(values, name)
        if is_dataclass(part):
            inside = {
                k.removeprefix(f"{name}."): v
                for k, v in changes.items()
                if k.startswith(f"{name}.")
            }
            if inside:
                direct[name] = _replace(part, inside)
    return replace(values, **direct) if direct else values


def _get(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = getattr(values, part)
    return values


def _integer(inclusive: Any, exclusive: Any, inward: int, unbounded: int) -> int:
    if inclusive is not None:
        return int(inclusive)
    return int(exclusive) + inward if exclusive is not None else unbounded


def _real(inclusive: Any, exclusive: Any, inward: float, unbounded: float) -> float:
    if inclusive is not None:
        return float(inclusive)
    return math.nextafter(float(exclusive), inward) if exclusive is not None else unbounded
