"""What the scripts share on the command line, and the page that lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
import experiments
from experiments.command_line import make_parser


def test_package_docstring_names_every_module() -> None:
    assert experiments.__doc__ is not None and experiments.__file__ is not None
    listed = {
        name.strip(",")
        for line in experiments.__doc__.splitlines()[1:]
        for name in line.split("  ")[0].split()
    }
    folder = Path(experiments.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py"} - {"__init__"}
    assert listed == modules | {"methods"}


def test_make_parser_tells_what_is_written_and_which_profile_is_the_default() -> None:
    said = " ".join(make_parser("A script.", "there").format_help().split())
    assert "output folder (default: there)" in said
    assert "YAML profile (default: the recommended settings)" in said
    parser = make_parser("A script.", "a.json", writes="a file", config=Path("x/paper.yaml"))
    said = " ".join(parser.format_help().split())
    assert "a file (default: a.json)" in said and "YAML profile (default: paper)" in said
    assert parser.parse_args([]).config == Path("x/paper.yaml")
