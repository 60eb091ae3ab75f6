"""The architecture: which module may import which, and what is loaded by an import."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gbopt_ros

PACKAGE = Path(__file__).resolve().parents[2] / "gbopt_ros"

# A module imports modules of its own layer and of those before it.
LAYERS = (
    "process", "structures", "masks", "tracks", "io", "config", "models", "perception", "selection",
    "evaluation", "learning", "simulation", "pipeline", "bulk", "demo", "web", "nodes", "cli",
)  # fmt: skip
LEAVES = {"nodes", "cli"}  # no other layer imports them,
STARTERS = {"cli/run.py", "cli/play.py"}  # but the verbs that start nodes do
GENERATED = {"msg", "srv", "action"}
ROS = {
    "rclpy", "builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs",
    "sensor_msgs", "std_msgs", "std_srvs", "vision_msgs", "message_filters", "cv_bridge",
    "rcl_interfaces", "ament_index_python", "tf2_ros",
}  # fmt: skip
TORCH = {"torch", "torchvision"}
SELECTION_NEEDS = {"numpy", "scipy", "cv2", "gbopt_ros", *sys.stdlib_module_names}


def modules() -> list[Path]:
    """Every module that somebody wrote."""
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in GENERATED
    ]


def layer_of(path: Path) -> str:
    """The top-level module or sub-package that a file belongs to, "" for the root."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(source: str, package: str) -> Iterator[str]:
    """Absolute names of everything a module of `package` imports, inside functions too.

    `from a import b` counts as both `a` and `a.b`, since b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def imports_of(path: Path) -> set[str]:
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    return set(imports(path.read_text(encoding="utf-8"), package))


def own_layers(names: set[str]) -> set[str]:
    """The layers of the package among imported names."""
    parts = [name.split(".") for name in names]
    own = {part[1] for part in parts if part[0] == PACKAGE.name and len(part) > 1}
    return own & ({*LAYERS} | GENERATED)


def in_words(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import gbopt_ros.cli.main", {"gbopt_ros.cli.main"}),
        ("from gbopt_ros import cli", {"gbopt_ros", "gbopt_ros.cli"}),
        ("from . import masks", {"gbopt_ros.selection", "gbopt_ros.selection.masks"}),
        ("from ..nodes import x", {"gbopt_ros.nodes", "gbopt_ros.nodes.x"}),
        ("from .. import nodes", {"gbopt_ros", "gbopt_ros.nodes"}),
        ("def f():\n    import rclpy.node", {"rclpy.node"}),
    ],
)
def test_imports_are_resolved(line: str, expected: set[str]) -> None:
    assert set(imports(line, "gbopt_ros.selection")) == expected


def test_layers_are_the_top_level_modules() -> None:
    """A file that moved leaves no name behind in the list of layers."""
    assert {layer_of(path) for path in modules()} - {""} == {*LAYERS}


@pytest.mark.parametrize("path", modules(), ids=in_words)
def test_imports_go_down(path: Path) -> None:
    layer, imported = layer_of(path), own_layers(imports_of(path))
    if layer == "":
        return  # it imports names lazily, see below
    above = imported & {*LAYERS[LAYERS.index(layer) + 1 :]}
    assert not above, f"{layer} imports {sorted(above)}, which come after it"
    leaves = (imported & LEAVES) - {layer}
    if str(path.relative_to(PACKAGE)) in STARTERS:
        leaves -= {"nodes"}
    assert not leaves, f"{layer} imports {sorted(leaves)}, which nothing imports"


@pytest.mark.parametrize("path", modules(), ids=in_words)
def test_imports_of_ros_are_in_nodes_only(path: Path) -> None:
    names = imports_of(path)
    ros = {name for name in names if name.split(".")[0] in ROS}
    messages = own_layers(names) & GENERATED
    if layer_of(path) != "nodes":
        assert not ros | messages, f"only nodes/ imports ROS: {sorted(ros | messages)}"


@pytest.mark.parametrize(
    "path", [path for path in modules() if layer_of(path) == "selection"], ids=in_words
)
def test_imports_of_selection_are_numpy_and_opencv_only(path: Path) -> None:
    others = {name.split(".")[0] for name in imports_of(path)} - SELECTION_NEEDS
    assert not others, f"{in_words(path)} imports {sorted(others)}"


def loaded_after(code: str) -> set[str]:
    """Names of all modules in memory after code that a process of its own runs."""
    code += "; import sys; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


def test_import_of_selection_loads_no_torch_through_others() -> None:
    modules = ["selection", "selection.selectors", "perception.flow", "perception.motion"]
    loaded = loaded_after("; ".join(f"import gbopt_ros.{module}" for module in modules))
    assert not loaded & (TORCH | {"rclpy"})


def test_nodes_that_need_no_torch_start_without_it() -> None:
    pytest.importorskip("rclpy", reason="ROS is not installed")
    pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")
    nodes = [f"import gbopt_ros.nodes.{name}" for name in ("clip_buffer", "flow", "selector")]
    with_dis = (
        "from gbopt_ros.config import Config; from gbopt_ros.perception.flow import make_flow; "
        "from gbopt_ros.selection import make_selector; "
        "make_selector(make_flow(Config().flow, Config().device), Config())"
    )
    loaded = loaded_after("; ".join([*nodes, with_dis]))
    assert "rclpy" in loaded
    assert not loaded & TORCH


# ------------------------------------------------------------------------- the public names


def test_import_of_the_package_loads_nothing_else() -> None:
    loaded = loaded_after("import gbopt_ros; dir(gbopt_ros)")
    assert not loaded & {*TORCH, "numpy", "cv2", "rclpy"}
    assert {name for name in loaded if name.startswith("gbopt_ros.")} == set()


@pytest.mark.parametrize("name", gbopt_ros.__all__)
def test_all_names_of_the_package_resolve(name: str) -> None:
    value = getattr(gbopt_ros, name)
    assert name in dir(gbopt_ros)
    if name != "__version__":
        assert getattr(importlib.import_module(value.__module__), name) is value


def test_getattr_of_an_unknown_name_fails() -> None:
    with pytest.raises(AttributeError, match="module 'gbopt_ros' has no attribute 'Nonsense'"):
        gbopt_ros.Nonsense  # noqa: B018
