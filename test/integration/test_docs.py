"""The documentation says what the code does: its verbs, paths, settings and messages exist."""

from __future__ import annotations

import argparse
import importlib
import re
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from gbopt_ros.cli.main import VERBS
from gbopt_ros.config import Config, load_config, settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ("README.md", "docs/networks.md", "docs/reproducing.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCS}
README = TEXTS["README.md"]
MEASURED = {"replay", "learn", "adapt"}  # verbs whose examples name the settings they are meant for


def lines(text: str) -> list[str]:
    """The lines of the shell blocks, those that go on joined, comments left out."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [
        line.split(" #")[0] for block in blocks for line in block.replace("\\\n", "").splitlines()
    ]


def commands(text: str) -> list[list[str]]:
    """Every `gbopt ...` of the shell blocks, also where torchrun starts it."""
    found = [re.search(r"\bgbopt(?:_ros\.cli)? (\S.*)", line) for line in lines(text)]
    return [m[1].split() for m in found if m]


def launches(text: str) -> list[tuple[str, list[str]]]:
    """The file and the arguments' names of every `ros2 launch` of the shell blocks."""
    found = [re.search(r"ros2 launch gbopt_ros (\S+)(.*)", line) for line in lines(text)]
    return [(m[1], re.findall(r"(\w+):=", m[2])) for m in found if m]


def code(text: str) -> str:
    return " ".join(re.findall(r"`([^`\n]+)`", text))


def test_the_table_of_verbs_is_complete() -> None:
    rows = re.findall(r"^\| `gbopt (\w+)[^`]*` \|", README, flags=re.MULTILINE)
    assert sorted(rows) == sorted(VERBS)


@pytest.mark.parametrize("name", DOCS)
def test_it_shows_commands(name: str) -> None:
    assert len(commands(TEXTS[name])) >= 4


@pytest.mark.parametrize(
    "command", [c for text in TEXTS.values() for c in commands(text)], ids=" ".join
)
def test_commands_are_accepted(command: list[str]) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"gbopt_ros.cli.{command[0]}").add_arguments(parser)
    args = parser.parse_args(command[1:])
    profile = getattr(args, "config", None)
    if command[0] in MEASURED:
        assert profile is not None
    load_config(ROOT / profile if profile is not None else None, getattr(args, "set", ()))


@pytest.mark.parametrize("name", DOCS)
def test_outputs_are_written_once(name: str) -> None:
    """Examples run one after the other: no replay is overwritten, a store is of one network.

    A second round goes to the store of the first, and names no network.
    """
    written: set[str] = set()
    for command in commands(TEXTS[name]):
        if command[0] in ("replay", "pretrain", "dataset", "learn"):
            out = command[command.index("--out") + 1]
            goes_on = command[0] == "learn" and "--weights" not in command
            assert goes_on or out not in written
            written.add(out)


def launch_arguments(file: str) -> set[str]:
    text = (ROOT / "launch" / file).read_text(encoding="utf-8")
    return set(re.findall(r"DeclareLaunchArgument\(\s*\"(\w+)\"", text))


def test_launch_arguments_exist() -> None:
    graph = launch_arguments("active_vision.launch.py")
    known = {
        "active_vision.launch.py": graph,
        "replay.launch.py": graph - {"camera"} | launch_arguments("replay.launch.py"),
    }
    shown = [launch for text in TEXTS.values() for launch in launches(text)]
    assert {file for file, _ in shown} == set(known)
    for file, names in shown:
        assert set(names) <= known[file]
    table = README.partition("| launch argument |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == set().union(
        *known.values()
    )


def test_the_table_of_parameters_is_complete() -> None:
    """What a node declares beside the settings of its stages, its defaults, and what may change."""
    pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
    pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")
    stages = {
        "all": importlib.import_module("gbopt_ros.nodes.base").NodeSettings,
        "clip_buffer": importlib.import_module("gbopt_ros.nodes.clip_buffer").ClipBufferSettings,
        "selector": importlib.import_module("gbopt_ros.nodes.selector").SelectorSettings,
        "learner": importlib.import_module("gbopt_ros.nodes.learner").LearnerSettings,
    }
    common = {known.name for known in settings(stages["all"])}
    declared = {
        (node, known.name, shown(known.default), "no" if known.fixed else "yes")
        for node, stage in stages.items()
        for known in settings(stage)
        if node == "all" or known.name not in common
    }
    table = README.partition("| node | parameter |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `?(\w+)`? \| `(\w+)` \| `([^`]*)` \| (\w+) \|", table, re.MULTILINE)
    assert set(rows) == declared
    assert len(rows) == len(declared)


def shown(default: object) -> str:
    """A default as YAML has it."""
    return str(default).lower() if isinstance(default, bool) else str(default) or '""'


@pytest.mark.parametrize("name", DOCS)
def test_paths_exist(name: str) -> None:
    paths = re.findall(
        r"(?<![\w/.-])(?:gbopt_ros|test|benchmarks|config|demo|docs|msg|srv)/[\w./-]*", TEXTS[name]
    )
    missing = {
        path
        for path in paths
        if not (ROOT / path).exists() and not path.startswith(("gbopt_ros/msg/", "gbopt_ros/srv/"))
    }
    assert len(paths) > 4
    assert not missing


@pytest.mark.parametrize("name", DOCS)
def test_links_lead_somewhere(name: str) -> None:
    """Relative ones, and the headings that they name."""
    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", TEXTS[name]):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), target
        if heading:
            assert heading in anchors(path.read_text(encoding="utf-8")), f"{target}#{heading}"


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def setting_keys(config: object, prefix: str = "") -> set[str]:
    keys = set()
    for field in fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        keys |= setting_keys(value, f"{name}.") if is_dataclass(value) else {name}
    return keys


@pytest.mark.parametrize("name", DOCS)
def test_settings_exist(name: str) -> None:
    stages = "|".join(f.name for f in fields(Config))
    named = set(re.findall(rf"\b((?:{stages})\.\w+)\b", code(TEXTS[name])))
    named -= {key for key in named if key.endswith((".safetensors", ".json"))}
    assert named
    assert named <= setting_keys(Config())


@pytest.mark.parametrize("name", DOCS)
def test_messages_exist(name: str) -> None:
    for kind, message in re.findall(r"gbopt_ros/(msg|srv)/(\w+)", TEXTS[name]):
        assert (ROOT / kind / f"{message}.{kind}").is_file()


@pytest.mark.parametrize("profile", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_profiles_load_and_hold_overrides_only(profile: Path) -> None:
    config, default = load_config(profile), Config()
    for stage, values in yaml.safe_load(profile.read_text(encoding="utf-8")).items():
        loaded = asdict(getattr(config, stage))
        for key, value in values.items():
            if isinstance(value, dict):  # a stage within the stage
                assert value.items() <= loaded[key].items()
            else:
                assert loaded[key] == value
    assert config != default


@pytest.mark.parametrize("name", DOCS)
def test_no_placeholder_is_left(name: str) -> None:
    assert not re.findall(r"@\w+@", TEXTS[name])
