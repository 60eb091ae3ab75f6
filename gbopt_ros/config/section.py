"""Settings that know their meaning and their range, and dataclasses made of them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T", bool, int, float, str)


@dataclass(frozen=True)
class Setting:
    """One setting: what it means and what it may be.

    Attributes:
        name: name of the field; a field of a nested section is `outer.inner`.
        type: bool, int, float or str.
        default: value where nothing else is given.
        doc: description, as an operator reads it in `ros2 param describe`.
        low, high: smallest and largest value, themselves allowed.
        above, below: bounds that are themselves not allowed.
        choices: all values that are allowed.
        fixed: whether it is read only when a node starts.
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


def setting(
    default: T,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    fixed: bool = False,
) -> T:
    """A dataclass field that knows its meaning and its range, see `Setting`."""
    about = {
        "doc": doc, "low": low, "high": high, "above": above, "below": below,
        "choices": choices, "fixed": fixed,
    }  # fmt: skip
    made: T = field(default=default, metadata=about)
    return made


@dataclass(frozen=True)
class ConfigSection:
    """A dataclass of settings; all are checked when an instance is made.

    Raises:
        ValueError: a value is out of range, or does not go with another.
    """

    def __post_init__(self) -> None:
        for known in settings(type(self)):
            if "." in known.name:  # a nested section has checked it
                continue
            value = getattr(self, known.name)
            if not known.allows(value):
                raise ValueError(
                    f"{type(self).__name__}.{known.name}: expected {known.expected}, got {value!r}"
                )
        self.check()

    def check(self) -> None:
        """Raise ValueError where settings do not go together."""


def settings(section: type[Any]) -> tuple[Setting, ...]:
    """The settings of a section in their order; those of a nested one are `outer.inner`."""
    types = get_type_hints(section)
    found: list[Setting] = []
    for known in fields(section):
        default: Any = known.default
        if "doc" in known.metadata:
            found.append(Setting(known.name, types[known.name], default, **known.metadata))
        else:
            nested = settings(types[known.name])
            found += [replace(inner, name=f"{known.name}.{inner.name}") for inner in nested]
    return tuple(found)
