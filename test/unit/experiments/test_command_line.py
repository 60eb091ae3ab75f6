"""What the scripts share on the command line, and the page that lists them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("scipy", reason="the experiments need scipy (extra `dev`)")
import experiments
from experiments import (
    ablation,
    comparison,
    methods_table,
    plane_residual,
    real_selection,
    real_video,
    tables,
)
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


@pytest.mark.parametrize(
    ("module", "arguments", "name", "expected"),
    [
        (comparison, ["--methods", "ours", "gt", "ours"], "methods", ["ours", "gt"]),
        (comparison, ["--seeds", "2", "0", "2"], "seeds", [2, 0]),
        (real_video, ["a", "x/../a", "b"], "sequences", ["a", "b"]),
        (real_selection, ["a", "./a/"], "sequences", ["a"]),
        (methods_table, ["a", "a"], "sequences", ["a"]),
        (ablation, ["a", "b", "a", "--calibrate", "c"], "recordings", ["a", "b"]),
        (tables, ["1.json", "1.json"], "runs", ["1.json"]),
        (plane_residual, ["--judge", "b", "--fit", "a", "a"], "fit", ["a"]),
    ],
)
def test_what_is_given_twice_counts_once(
    module: ModuleType, arguments: list[str], name: str, expected: list[object]
) -> None:
    found = getattr(module.parse_arguments(arguments), name)
    assert [each.resolve().name if isinstance(each, Path) else each for each in found] == expected


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (ablation, ["a", "b", "--calibrate", "x/../b"]),
        (plane_residual, ["--fit", "a", "b", "--judge", "b"]),
    ],
)
def test_nothing_is_judged_on_what_it_was_fitted_on(
    module: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        module.parse_arguments(arguments)
    assert f"fitted and judged on the same data: {Path('b').resolve()}" in capsys.readouterr().err


def test_a_wrong_seed_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        comparison.parse_arguments(["--seeds", "-1"])
    assert "--seeds: expected 0 or more, got -1" in capsys.readouterr().err
