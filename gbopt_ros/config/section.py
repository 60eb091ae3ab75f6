"""Settings with a description and a range, and the dataclasses that they are fields of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, TypeVar, get_type_hints

S = TypeVar("S", bound="ConfigSection")
T = TypeVar("T", bool, int, float, str)

_TYPES = {
    bool: "true or false",
    int: "a whole number of 64 bits",
    float: "a finite number",
    str: "text",
}


@dataclass(frozen=True)
class Setting:
    """One setting: its meaning and its range.

    Attributes:
        name: name of the field; a field of a nested section is `outer.inner`.
        type: bool, int, float or str.
        default: default value.
        doc: description, as an operator reads it in `ros2 param describe`.
        low, high: smallest and largest value that are allowed.
        above, below: bounds that are not allowed themselves.
        choices: all values that are allowed.
        fixed: whether a running node refuses to change it.
    """

    name: str
    type: type
    default: bool | int | float | str
    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool = False

    def allows(self, value: bool | int | float | str) -> bool:
        """Whether a value of the right type is in range."""
        if self.choices:
            return value in self.choices
        if isinstance(value, str):
            return True
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def refuses_type(self, value: object) -> str:
        """What is expected of a value of another type; "" where it is of the right one.

        Numbers are finite. Whole numbers have 64 bits, as ROS parameters and seeds do.
        """
        largest = sys.float_info.max if self.type is float else 2**63 - 1
        is_number = type(value) is int or (self.type is float and type(value) is float)
        if self.type in (int, float):
            fits = is_number and -largest <= value <= largest  # type: ignore[operator]
        else:
            fits = type(value) is self.type
        return "" if fits else _TYPES[self.type]

    @property
    def expected_value(self) -> str:
        """The type and the range in words."""
        if self.choices:
            return self.expected
        return ", ".join(words for words in (_TYPES[self.type], self.expected) if words)

    @property
    def expected(self) -> str:
        """The range in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = (
            ("at least", self.low), ("above", self.above),
            ("at most", self.high), ("below", self.below),
        )  # fmt: skip
        return " and ".join(f"{word} {bound:g}" for word, bound in words if bound is not None)


def setting(default: T, doc: str, **about: Any) -> T:
    """A field of a `ConfigSection`. The keywords are the last six attributes of `Setting`."""
    made: T = field(default=default, metadata={"doc": doc, **about})
    return made


@dataclass(frozen=True)
class ConfigSection:
    """A dataclass of settings, which are checked when an instance is made.

    Raises:
        ValueError: a value is out of range or contradicts another one, or a nested section is
            something else.
    """

    def __post_init__(self) -> None:
        types = _types(type(self))
        for nested in fields(self):
            section, value = types[nested.name], getattr(self, nested.name)
            if "doc" not in nested.metadata and not isinstance(value, section):
                raise ValueError(
                    f"{type(self).__name__}.{nested.name}: expected {section.__name__}, "
                    f"got {value!r}"
                )
        for known in settings(type(self)):
            if "." in known.name:  # the nested section checked it
                continue
            value = getattr(self, known.name)
            expected = known.refuses_type(value)
            if not expected and not known.allows(value):
                expected = known.expected
            if expected:
                raise ValueError(
                    f"{type(self).__name__}.{known.name}: expected {expected}, got {value!r}"
                )
        self.check()

    def check(self) -> None:
        """Raise ValueError if two settings contradict each other."""


def build(section: type[S], values: Mapping[str, Any], prefix: str = "") -> S:
    """An instance of a section from nested values of the right types, all of its fields.

    Args:
        prefix: of the names in errors, such as `selection.`.

    Raises:
        ValueError: as `ConfigSection`, with full names such as `selection.k` in place of classes.
    """
    types = _types(section)
    made = {
        name: build(types[name], value, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in values.items()
    }
    try:
        return section(**made)
    except ValueError as error:
        raise ValueError(str(error).replace(f"{section.__name__}.", prefix)) from error


def settings(section: type[Any]) -> tuple[Setting, ...]:
    """The settings of a section in their order, those of nested sections included."""
    return _settings(section)


def _collect(section: type[Any]) -> tuple[Setting, ...]:
    types = _types(section)
    found: list[Setting] = []
    for known in fields(section):
        default: Any = known.default
        if "doc" in known.metadata:
            found.append(Setting(known.name, types[known.name], default, **known.metadata))
        else:
            nested = settings(types[known.name])
            found += [replace(inner, name=f"{known.name}.{inner.name}") for inner in nested]
    return tuple(found)


# Every instance of a section asks for them.
_types: Callable[[Any], dict[str, Any]] = cache(get_type_hints)
_settings: Callable[[Any], tuple[Setting, ...]] = cache(_collect)
