"""The documentation says what the code does: its commands, paths, settings and links exist."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.recordings import disc_picture

import gbopt_ros
from gbopt_ros.cli.main import VERBS, module_of
from gbopt_ros.config import Config, load_config, settings
from gbopt_ros.io.overlay import OverlayWriter

ROOT = Path(__file__).resolve().parents[2]
PAGES = {  # what users read
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
NOTEBOOK = "docs/lab-notebook.md"  # old trials: their commands and links count, no more
MANUAL = {name: text for name, text in PAGES.items() if name != NOTEBOOK}
README, REFERENCE = PAGES["README.md"], PAGES["docs/reference.md"]
PROFILES = ("config/paper.yaml", "config/robot.yaml")
FOLDERS = "gbopt_ros|test|benchmarks|experiments|examples|tools|config|demo|docs|msg|srv|action"


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def inline_code(text: str) -> list[str]:
    """What stands between single backticks, outside fenced blocks, on one line each."""
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", outside)]


def shell_lines(text: str) -> list[str]:
    """The lines of the shell blocks, continued ones joined, comments left out."""
    joined = (block.replace("\\\n", "") for block in blocks(text, "sh"))
    return [line.split(" #")[0] for block in joined for line in block.splitlines()]


def gbopt_commands(text: str) -> list[list[str]]:
    """Every `gbopt ...` of the shell blocks, also where torchrun starts it."""
    found = [re.search(r"\bgbopt(?:_ros\.cli)? (\S.*)", line) for line in shell_lines(text)]
    return [m[1].split(";")[0].split() for m in found if m]


def experiment_commands() -> list[str]:
    """Every complete `python -m experiments...`, in shell blocks and in the text."""
    written = [line for text in PAGES.values() for line in shell_lines(text) + inline_code(text)]
    found = [re.match(r"python -m (experiments\.\w+ .*\S)", line) for line in written]
    return sorted({m[1].replace(" ...", "") for m in found if m})


def parser_of(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"gbopt_ros.cli.{module_of(verb)}").add_arguments(parser)
    parser.add_argument("--debug", action="store_true")
    return parser


# Length


@pytest.mark.parametrize(("name", "most"), [("README.md", 220), ("docs/results.md", 150)])
def test_page_is_short(name: str, most: int) -> None:
    assert len(PAGES[name].splitlines()) <= most


# Commands


@pytest.mark.parametrize(
    "command", [c for text in PAGES.values() for c in gbopt_commands(text)], ids=" ".join
)
def test_gbopt_commands_are_accepted(command: list[str]) -> None:
    args = parser_of(command[0]).parse_args(command[1:])
    profile = getattr(args, "config", None)
    assert profile is None or str(profile) in PROFILES  # the defaults are recommended
    load_config(ROOT / profile if profile is not None else None, getattr(args, "set", ()))


@pytest.mark.parametrize("name", MANUAL)
def test_options_of_gbopt_in_the_text_exist(name: str) -> None:
    for written in inline_code(MANUAL[name]):
        command = re.match(r"(?:\S*/)?gbopt ([a-z][\w-]*)(.*)", written)
        if command and command[1] != "adapt":
            assert command[1] in VERBS
            known = {flag for a in parser_of(command[1])._actions for flag in a.option_strings}
            own, _, _ = command[2].partition("--ros-args")
            assert set(re.findall(r"(--[\w-]+)", own)) <= known


@pytest.mark.parametrize("command", experiment_commands())
def test_experiment_commands_are_accepted(command: str) -> None:
    module, *arguments = command.split()
    importlib.import_module(module).parse_arguments(arguments)


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    for text in MANUAL.values():
        written = [*shell_lines(text), *inline_code(text)]
        assert {m[1] for m in (re.match(r"make ([\w-]+)", w) for w in written) if m} <= known


def test_table_of_verbs_is_complete() -> None:
    rows = re.findall(r"^\| `gbopt ([\w-]+)[^`]*` \|", REFERENCE, flags=re.MULTILINE)
    assert sorted(rows) == sorted(VERBS)


@pytest.mark.parametrize("name", MANUAL)
def test_outputs_are_written_once(name: str) -> None:
    """Examples run one after the other: no replay is overwritten, a store is of one network.

    A second round goes to the store of the first, and names no network.
    """
    written: set[str] = set()
    for command in gbopt_commands(MANUAL[name]):
        if command[0] in ("replay", "pretrain", "dataset", "learn", "calibrate"):
            out = command[command.index("--out") + 1]
            goes_on = command[0] == "learn" and "--weights" not in command
            assert goes_on or out not in written
            written.add(out)


# ROS


def launch_arguments(file: str) -> set[str]:
    text = (ROOT / "launch" / file).read_text(encoding="utf-8")
    return set(re.findall(r"DeclareLaunchArgument\(\s*\"(\w+)\"", text))


def test_launch_arguments_exist() -> None:
    graph = launch_arguments("active_vision.launch.py")
    known = {
        "active_vision.launch.py": graph,
        "replay.launch.py": graph - {"camera", "transport"} | launch_arguments("replay.launch.py"),
    }
    lines = [line for text in MANUAL.values() for line in shell_lines(text)]
    launches = [m for m in (re.search(r"ros2 launch gbopt_ros (\S+)(.*)", x) for x in lines) if m]
    assert {launch[1] for launch in launches} == set(known)
    for launch in launches:
        assert set(re.findall(r"(\w+):=", launch[2])) <= known[launch[1]]
    table = REFERENCE.partition("| launch argument |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)
    assert set(rows) == set().union(*known.values())


def test_table_of_node_parameters_is_complete() -> None:
    """What a node declares beside its sections, the defaults, and what may change."""
    pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
    pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")
    parameters = importlib.import_module("gbopt_ros.nodes.settings")
    sections: dict[str, Any] = {
        "all": parameters.NodeSettings,
        "clip_buffer": parameters.ClipBufferSettings,
        "proposal": parameters.ProposalSettings,
        "selector": parameters.SelectorSettings,
        "learner": parameters.LearnerSettings,
        "objects_3d": parameters.Objects3dSettings,
    }
    common = {known.name for known in settings(sections["all"])}
    declared = {
        (node, known.name, in_yaml(known.default), "no" if known.fixed else "yes")
        for node, section in sections.items()
        for known in settings(section)
        if node == "all" or known.name not in common
    }
    table = REFERENCE.partition("| node | parameter |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `?(\w+)`? \| `(\w+)` \| `([^`]*)` \| (\w+) \|", table, re.MULTILINE)
    assert set(rows) == declared
    assert len(rows) == len(declared)


def in_yaml(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default) or '""'


def test_table_of_topics_is_complete() -> None:
    """Every output and service of a node, as its source declares it."""
    from gbopt_ros.nodes.wiring import NODES as nodes

    sources = {n: (ROOT / f"gbopt_ros/nodes/{n}.py").read_text(encoding="utf-8") for n in nodes}
    declared = {
        (node, name)
        for node, source in sources.items()
        for name in re.findall(r"\"(~/(?!input/)\w+(?:/\w+)?)\"", source)
    }
    table = REFERENCE.partition("| node | topic or service |")[2].partition("\n\n")[0]
    rows = re.findall(
        r"^\| `(\w+)` \| `(~/[\w/]+)` \| `\w+/(?:msg|srv|action)/\w+`", table, re.MULTILINE
    )
    assert sorted(rows) == sorted(declared)


@pytest.mark.parametrize("name", MANUAL)
def test_messages_exist(name: str) -> None:
    for kind, message in re.findall(r"gbopt_ros/(msg|srv|action)/(\w+)", MANUAL[name]):
        assert (ROOT / kind / f"{message}.{kind}").is_file()


# Settings


def setting_keys(config: object, prefix: str = "") -> set[str]:
    keys = set()
    for field in fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        keys |= setting_keys(value, f"{name}.") if is_dataclass(value) else {name}
    return keys


@pytest.mark.parametrize("name", PAGES)
def test_settings_exist(name: str) -> None:
    sections = "|".join(f.name for f in fields(Config))
    written = " ".join([*inline_code(PAGES[name]), *shell_lines(PAGES[name])])
    named = set(re.findall(rf"(?<![\w/.-])((?:{sections})(?:\.\w+)+)\b", written))
    assert {key for key in named if not key.endswith(".safetensors")} <= setting_keys(Config())


def test_settings_page_is_up_to_date() -> None:
    path = ROOT / "tools" / "settings_table.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    page = PAGES["docs/settings.md"]
    assert page == table.page(), "run `python tools/settings_table.py`"
    assert all(f"| `{key}` |" in page for key in setting_keys(Config()))


@pytest.mark.parametrize("profile", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_load_config_takes_profiles_which_hold_overrides_only(profile: Path) -> None:
    config, default = load_config(profile), Config()
    for section, values in yaml.safe_load(profile.read_text(encoding="utf-8")).items():
        loaded = asdict(getattr(config, section))
        for key, value in values.items():
            if isinstance(value, dict):  # a section within the section
                assert value.items() <= loaded[key].items()
            else:
                assert loaded[key] == value
    assert config != default


def test_profile_of_a_teacher_has_the_lines_of_the_robot() -> None:
    (block,) = blocks(PAGES["docs/teacher-student.md"], "yaml")
    shown = yaml.safe_load(block)
    robot = yaml.safe_load((ROOT / "config" / "robot.yaml").read_text(encoding="utf-8"))
    assert {section: shown[section] for section in robot} == robot


# Paths, links and words


@pytest.mark.parametrize("name", PAGES)
def test_paths_exist(name: str) -> None:
    paths = re.findall(rf"(?<![\w/.:-])(?:{FOLDERS})/[\w./-]*\w", PAGES[name])
    assert not {p for p in paths if not re.match(r"gbopt_ros/(msg|srv|action)/", p) and missing(p)}


def test_pages_that_the_code_names_exist() -> None:
    sources = [
        p for f in ("gbopt_ros", "experiments", "benchmarks") for p in (ROOT / f).rglob("*.py")
    ]
    named = {n for p in sources for n in re.findall(r"docs/[\w/-]+\.md", p.read_text("utf-8"))}
    assert not {page for page in named if missing(page)}


def missing(path: str) -> bool:
    return not (ROOT / path).exists()


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Relative ones, and the headings or anchors that they name."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", PAGES[name]):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


def anchors(text: str) -> set[str]:
    """Names that GitHub and MkDocs give the headings of a page, and explicit ones."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return named | set(re.findall(r'<a id="([\w-]+)">', text))


@pytest.mark.parametrize("index", ["README.md", "docs/index.md", "mkdocs.yml"])
def test_lists_of_pages_are_complete(index: str) -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    listed = re.findall(r"\b([\w-]+\.md)\b", (ROOT / index).read_text(encoding="utf-8"))
    assert pages <= set(listed)


def test_terms_of_the_glossary_are_linked() -> None:
    terms = re.findall(r'<a id="([\w-]+)">', PAGES["docs/glossary.md"])
    assert len(terms) >= 10
    linked = {
        term for text in PAGES.values() for term in re.findall(r"glossary\.md#([\w-]+)", text)
    }
    assert linked == set(terms)


def test_functions_of_the_method_exist() -> None:
    """The tables that lead from an equation to the code."""
    rows = re.findall(r"^\| [^|]+ \| `(gbopt_ros/\S+\.py)` `(\w+)`", PAGES["docs/method.md"], re.M)
    assert len(rows) >= 25
    for path, function in rows:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert function in {getattr(node, "name", "") for node in tree.body}, (path, function)


@pytest.mark.parametrize("name", PAGES)
def test_no_old_name_is_left(name: str) -> None:
    old = ("@", "--probe", "seen-probe", "config/demo.yaml", "score_memory", "parent_share")
    assert not [word for word in old if word in PAGES[name]]


# Python


@pytest.mark.parametrize("name", MANUAL)
def test_python_blocks_use_public_names(name: str) -> None:
    for block in blocks(MANUAL[name], "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                names = {alias.name for alias in node.names}
                assert names <= set(dir(module))
                assert node.module != "gbopt_ros" or names <= set(gbopt_ros.__all__)


def test_python_page_and_reference_have_all_public_names() -> None:
    reference = (ROOT / "docs/api/index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: gbopt_ros\.(\w+)$", reference, flags=re.MULTILINE))
    assert named | {"__version__"} == set(gbopt_ros.__all__)
    assert set(gbopt_ros.__all__) <= set(re.findall(r"\w+", PAGES["docs/python.md"]))


def test_ten_lines_of_python_in_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the bundled networks, on a tiny video of the name that they mention."""
    (code,) = blocks(README, "python")
    assert len(code.splitlines()) <= 12
    with OverlayWriter(tmp_path / "my_video.mp4", 10) as video:
        for t in range(3):
            video.write(disc_picture(t))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert re.match(r"clip 0: \d+ masks in 3 frames\n", capsys.readouterr().out)
