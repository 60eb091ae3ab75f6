"""JSON as text, and what a JSON file says: values of the expected type, or an error with its place.

Every reader of JSON goes through `read_json` or `parse_json`, then through `Fields`; rows of a
database go through `Fields` too. So damaged or hostile content ends in a GboptError here, not in
an exception somewhere else.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gbopt_ros.io.limits import MAX_JSON_BYTES
from gbopt_ros.structures import GboptError

_REQUIRED: Any = object()
INT64 = (-(2**63), 2**63 - 1)
_LARGEST = sys.float_info.max
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def to_json(value: Any, indent: int | None = None) -> str:
    """Plain values as JSON; NaN and infinite numbers, which JSON does not have, are null."""
    separators = (",", ":") if indent is None else None
    return json.dumps(_finite(value), indent=indent, separators=separators, allow_nan=False)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises GboptError if it cannot be read, or as `parse_json`."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise GboptError(f"{path}: expected at most {MAX_JSON_BYTES} bytes of JSON")
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise GboptError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """The content of JSON text, all of it Unicode.

    Raises:
        GboptError: it is none, is nested too deeply, or holds half a character.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = json.loads(decoded)
    except ValueError as error:
        raise GboptError(f"{where}: expected JSON: {error}") from error
    except RecursionError as error:
        raise GboptError(f"{where}: expected JSON: it is nested too deeply") from error
    if _SURROGATE.search(decoded) and not _is_encodable(json.dumps(content, ensure_ascii=False)):
        raise GboptError(f"{where}: expected Unicode text, got half of a surrogate pair")
    return content


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


class Fields:
    """The fields of one JSON object, or the columns of one row.

    Each method gives the value of a field. If it is absent and there is a `default`, it gives that.

    Args:
        content: what JSON gave.
        where: the file and the place in it, for errors.

    Raises:
        GboptError: `content` is no object; in a method, the field is absent or something else.
    """

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, Mapping):
            raise GboptError(f"{where}: expected a JSON object, got {reprlib.repr(content)}")
        self.content, self.where = content, where

    @classmethod
    def read(cls, path: Path) -> Fields:
        """The fields of a JSON file that holds one object."""
        return cls(read_json(path), str(path))

    def __contains__(self, key: str) -> bool:
        return key in self.content

    def integer(self, key: str, *, low: int = INT64[0], high: int = INT64[1]) -> int:
        """A whole number from `low` to `high`; 240.0 is one, as some tools write it."""
        value = self._get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            ends = "of 64 bits" if high == INT64[1] else f"up to {high}"
            least = "" if low == INT64[0] else f", at least {low}"
            self._refuse(key, f"a whole number {ends}{least}", value)
        return int(value)

    def number(self, key: str, *, low: float = -_LARGEST, high: float = _LARGEST) -> float:
        """A finite number from `low` to `high`."""
        value = self._get(key)
        if type(value) not in (int, float) or not low <= value <= high:  # NaN is not either
            ends = "" if high == _LARGEST else f" from {low:g} to {high:g}"
            self._refuse(key, f"a finite number{ends}", value)
        return float(value)

    def text(self, key: str, *, default: Any = _REQUIRED) -> str:
        """Text that a file, a database and a path can hold."""
        value = self._get(key, default)
        if not isinstance(value, str) or "\0" in value or not _is_encodable(value):
            self._refuse(key, "text", value)
        return str(value)

    def flag(self, key: str, *, default: Any = _REQUIRED) -> bool:
        """true or 1, false or 0."""
        value = self._get(key, default)
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            self._refuse(key, "0 or 1", value)
        return bool(value)

    def items(self, key: str, *, default: Any = _REQUIRED) -> list[Any]:
        """A list of anything."""
        value = self._get(key, default)
        if not isinstance(value, list):
            self._refuse(key, "a list", value)
        return list(value)

    def texts(self, key: str, *, default: Any = _REQUIRED) -> list[str]:
        """A list of texts."""
        each = self._one_by_one(key, default)
        return [each.text(place) for place in each.content]

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers."""
        each = self._one_by_one(key)
        return [each.integer(place) for place in each.content]

    def objects(self, key: str, *, default: Any = _REQUIRED) -> list[Fields]:
        """A list of objects."""
        items = self.items(key, default=default)
        return [Fields(item, f"{self.where}: {key}[{i}]") for i, item in enumerate(items)]

    def object(self, key: str) -> Fields:
        """An object."""
        return Fields(self._get(key), f"{self.where}: {key}")

    def _one_by_one(self, key: str, default: Any = _REQUIRED) -> Fields:
        """The items of a list as fields, named by their places."""
        items = self.items(key, default=default)
        return Fields({str(i): item for i, item in enumerate(items)}, f"{self.where}: {key}")

    def _get(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self.content.get(key, default)
        if value is _REQUIRED:
            raise GboptError(f"{self.where}: expected {key!r}, it is not there")
        return value

    def _refuse(self, key: str, expected: str, value: Any) -> None:
        raise GboptError(f"{self.where}: {key!r}: expected {expected}, got {reprlib.repr(value)}")


def _is_encodable(text: str) -> bool:
    """Whether text has no lone surrogate, which UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """The name of a file as text; bytes that are no UTF-8 become the replacement character."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
