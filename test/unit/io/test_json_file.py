"""JSON of plain values, and what a JSON file says: values of the expected type, or clear errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbopt_ros.io import json_file
from gbopt_ros.io.json_file import Fields, parse_json, printable, read_json, to_json
from gbopt_ros.structures import GboptError


def test_to_json_has_no_number_that_json_does_not_have() -> None:
    value = {"a": [1.5, math.nan, (-math.inf, 2)], 3: math.inf, "b": None, "c": np.float64("nan")}
    expected = '{"a":[1.5,null,[null,2]],"3":null,"b":null,"c":null}'
    assert to_json(value) == expected
    assert json.loads(to_json(value, indent=2)) == json.loads(expected)


def test_read_json_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(GboptError, match=r"b\.json: expected JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(GboptError, match=r"c\.json: cannot be read: No such file"):
        read_json(tmp_path / "c.json")
    monkeypatch.setattr(json_file, "MAX_JSON_BYTES", 7)
    with pytest.raises(GboptError, match=r"a\.json: expected at most 7 bytes of JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "expected JSON"),  # Python converts no longer numbers
        (b"\xff", "expected JSON"),
        ("", "expected JSON"),
    ],
)
def test_parse_json_refuses_in_words(text: str | bytes, message: str) -> None:
    with pytest.raises(GboptError, match=f"x: .*{message}"):
        parse_json(text, "x")


def test_parse_json_takes_pairs_of_surrogates_and_no_halves() -> None:
    assert parse_json(r'{"a": "\ud83d\ude00"}', "x") == {"a": "\U0001f600"}
    for text in (r'["\ud83d"]', r'{"\ude00": 1}', r'[{"a": ["\uD83D \uDE00"]}]'):
        with pytest.raises(GboptError, match="x: expected Unicode text, got half of a surrogate"):
            parse_json(text, "x")


@pytest.mark.parametrize(
    ("method", "value", "expected"),
    [
        ("integer", 240.0, 240),
        ("integer", -(2**63), -(2**63)),
        ("number", 3, 3.0),
        ("text", "caf\u00e9", "caf\u00e9"),
        ("flag", 0, False),
        ("flag", True, True),
        ("items", [1, "a"], [1, "a"]),
        ("texts", ["a", "b"], ["a", "b"]),
        ("integers", [3, 240.0], [3, 240]),
    ],
)
def test_fields_give_values_of_the_type(method: str, value: Any, expected: Any) -> None:
    found = getattr(Fields({"a": value}, "x"), method)("a")
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        *(("integer", value) for value in (None, True, "1", 0.5, 2**63, float("nan"), [1])),
        *(("number", value) for value in (None, False, "1", float("inf"), 10**400, {})),
        *(("text", value) for value in (None, 1, "a\0", "\ud800", ["a"])),
        *(("flag", value) for value in (None, "0", 2, [0])),
        *(("items", value) for value in (None, "ab", {})),
        *(("texts", value) for value in ("ab", [1], ["\udfff"])),
        *(("integers", value) for value in (5, ["a"], [0, None], [0.5])),
        *(("objects", value) for value in ({}, [1], [{}, []])),
        *(("object", value) for value in (None, [])),
    ],
)
def test_fields_refuse_other_types_and_name_the_field(method: str, value: Any) -> None:
    with pytest.raises(GboptError, match=r"^x: .*a.*: expected "):
        getattr(Fields({"a": value}, "x"), method)("a")


def test_fields_know_bounds_and_defaults() -> None:
    fields = Fields({"a": 5}, "x")
    assert fields.integer("a", low=5, high=5) == 5 and "a" in fields
    assert fields.text("b", default="") == "" and fields.texts("c", default=[]) == []
    with pytest.raises(GboptError, match="'a': expected a whole number up to 4, at least 1, got 5"):
        fields.integer("a", low=1, high=4)
    with pytest.raises(GboptError, match="'a': expected a finite number from 0 to 1, got 5"):
        fields.number("a", low=0, high=1)
    with pytest.raises(GboptError, match=r"^x: expected 'b', it is not there$"):
        fields.text("b")
    with pytest.raises(GboptError, match=r"x: d\[1\]: expected a JSON object, got 3"):
        Fields({"d": [{}, 3]}, "x").objects("d")


def test_printable_replaces_bytes_that_are_no_utf_8() -> None:
    assert printable("caf\udce9 \u96ea") == "caf\ufffd \u96ea"
