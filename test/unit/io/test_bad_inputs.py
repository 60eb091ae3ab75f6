"""A thousand wrong values in fields of JSON files, and some damage to every other file."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from support.fuzz import DEEP, LIGHT, WRONG, damaged, places, verdict, with_value

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # on damaged TIFF files
JSON_KINDS = [name for name, kind in LIGHT.items() if kind.is_json]
CASES = 250  # of each kind; test/system/test_fuzz.py has more


@pytest.mark.parametrize("name", JSON_KINDS)
def test_a_wrong_value_in_any_field_is_read_or_refused(name: str, tmp_path: Path) -> None:
    path = LIGHT[name].make(tmp_path)
    content = json.loads(path.read_text())
    table = [*itertools.product(places(content), WRONG)]
    chosen = random.Random(0).sample(table, min(CASES, len(table)))
    refused = 0
    for place, value in [*chosen, (next(places(content)), DEEP)]:
        path.write_text(with_value(content, place, value))
        found = verdict(LIGHT[name], path)
        assert found in ("value", "error"), f"{place} = {str(value)[:40]!r}: {found}"
        refused += found == "error"
    assert refused > len(chosen) / 3


@pytest.mark.parametrize("name", [name for name in LIGHT if name not in JSON_KINDS])
def test_damage_to_a_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    path = LIGHT[name].make(tmp_path)
    whole = path.read_bytes()
    for number in range(6):
        path.write_bytes(damaged(whole, random.Random(number)))
        found = verdict(LIGHT[name], path)
        assert found in ("value", "error"), f"case {number}: {found}"
