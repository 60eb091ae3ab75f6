"""Options that several verbs share."""

from __future__ import annotations

import argparse

import pytest

from gbopt_ros.cli.options import add_source_arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stride", "x"], "--stride: expected a whole number, at least 1, got x"),
        (["--stride", "0"], "--stride: expected a whole number, at least 1, got 0"),
        (["--stride", "1.5"], "--stride: expected a whole number, at least 1, got 1.5"),
        (["--start", "soon"], "--start: expected seconds from the first frame, got soon"),
        (["--end", "inf"], "--end: expected seconds from the first frame, got inf"),
        (["--end", "nan"], "--end: expected seconds from the first frame, got nan"),
    ],
)
def test_source_arguments_say_what_they_expect(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(arguments)
    assert capsys.readouterr().err.endswith(f"{message}\n")
    chosen = parser.parse_args(["--stride", "2", "--start", "0.5"])
    assert (chosen.stride, chosen.start, chosen.end) == (2, 0.5, None)
