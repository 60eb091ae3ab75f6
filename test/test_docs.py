"""The README says what the code does: its verbs, paths, settings and messages exist."""

from __future__ import annotations

import argparse
import importlib
import re
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from gbopt_ros.cli.main import VERBS
from gbopt_ros.config import Config, load_config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", README)


def commands() -> list[list[str]]:
    """Every `gbopt ...` of the code blocks, comments left out."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split(" #")[0] for block in blocks for line in block.splitlines()]
    return [m[1].split() for line in lines if (m := re.search(r"\bgbopt (\S.*)", line))]


def test_the_table_of_verbs_is_complete() -> None:
    rows = re.findall(r"^\| `gbopt (\w+)[^`]*` \|", README, flags=re.MULTILINE)
    assert sorted(rows) == sorted(VERBS)


def test_it_shows_commands() -> None:
    assert len(commands()) >= 5


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_are_accepted(command: list[str]) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"gbopt_ros.cli.{command[0]}").add_arguments(parser)
    parser.parse_args(command[1:])


def test_paths_exist() -> None:
    paths = re.findall(
        r"(?<![\w/-])(?:gbopt_ros|test|benchmarks|config|demo|docs|msg|srv)/[\w./-]*", README
    )
    missing = {
        path
        for path in paths
        if not (ROOT / path).exists() and not path.startswith("gbopt_ros/msg/")
    }
    assert len(paths) > 8
    assert not missing


def setting_keys(config: object, prefix: str = "") -> set[str]:
    keys = set()
    for field in fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        keys |= setting_keys(value, f"{name}.") if is_dataclass(value) else {name}
    return keys


def test_settings_exist() -> None:
    stages = "|".join(f.name for f in fields(Config))
    named = set(re.findall(rf"\b((?:{stages})\.\w+)\b", " ".join(CODE)))
    named -= {name for name in named if name.endswith((".safetensors", ".json"))}
    assert named
    assert named <= setting_keys(Config())


def test_messages_exist() -> None:
    for name in re.findall(r"gbopt_ros/msg/(\w+)", README):
        assert (ROOT / "msg" / f"{name}.msg").is_file()


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


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"@\w+@", README)
