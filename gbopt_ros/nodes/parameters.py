"""ROS parameters from the settings of config dataclasses, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from operator import attrgetter
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from gbopt_ros.config import Config, Setting, settings
from gbopt_ros.config.renamed import advice
from gbopt_ros.config.section import ConfigSection, build
from gbopt_ros.nodes.settings import SECTIONS
from gbopt_ros.structures import GboptError

S = TypeVar("S", bound=ConfigSection)
_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides.")
_LARGEST_INTEGER = 2**63 - 1


def declare(node: Any, values: Any, sections: tuple[str, ...] | None = None) -> None:
    """Declare a parameter for each setting of a dataclass instance; its value is the default.

    Args:
        sections: names of the fields to declare, or of single settings; None declares all.
    """
    for setting in settings(type(values)):
        section = setting.name.partition(".")[0]
        if sections is None or section in sections or setting.name in sections:
            default = attrgetter(setting.name)(values)
            node.declare_parameter(setting.name, default, descriptor(setting))


def check_names(names: Iterable[str]) -> None:
    """Refuse parameters that no node has; one may be given to all nodes if a single one has it.

    Raises:
        GboptError: a name is old, or no node has it.
    """
    old_name = advice(names)
    if old_name:
        raise GboptError(f"parameter {old_name}")
    known = {setting.name for section in (Config, *SECTIONS) for setting in settings(section)}
    for name in names:
        if name not in known and not name.startswith(_OF_ROS):
            similar = get_close_matches(name, known, 1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise GboptError(f"parameter {name}: no node has it{hint}")


def descriptor(setting: Setting) -> ParameterDescriptor:
    """Description, range and choices; read-only where the setting is fixed."""
    described = ParameterDescriptor(description=setting.doc, read_only=setting.fixed)
    if setting.choices:
        described.additional_constraints = setting.expected
    bounds = (setting.low, setting.high, setting.above, setting.below)
    if all(bound is None for bound in bounds):
        return described
    low, high, above, below = bounds
    if setting.type is int:
        ends = _or(low, -_LARGEST_INTEGER), _or(high, _LARGEST_INTEGER)
        described.integer_range = [IntegerRange(from_value=int(ends[0]), to_value=int(ends[1]))]
    else:  # without a bound the end is the largest float
        first = _or(low, math.nextafter(_or(above, -math.inf), math.inf))
        last = _or(high, math.nextafter(_or(below, math.inf), -math.inf))
        described.floating_point_range = [FloatingPointRange(from_value=first, to_value=last)]
    return described


def with_values(values: S, changes: Mapping[str, Any], prefix: str = "") -> S:
    """The section with the changes that name one of its settings; the others are left out.

    Args:
        changes: by the names that `declare` gives.
        prefix: in front of these names.

    Raises:
        ValueError: a value is out of range.
    """
    changed: dict[str, Any] = {}
    for field in fields(values):
        name, value = prefix + field.name, getattr(values, field.name)
        if isinstance(value, ConfigSection):
            changed[field.name] = with_values(value, changes, f"{name}.")
        else:
            changed[field.name] = changes.get(name, value)
    return build(type(values), changed, prefix)


def _or(bound: float | None, default: float) -> float:
    return default if bound is None else float(bound)
