"""Writes docs/settings.md: all settings with default, range and meaning.

    python tools/settings_table.py

The dataclasses of `gbopt_ros.config` are the only home of a default and its description. A test
checks that the page has them all as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

from gbopt_ros.config import Config, settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEAD = """\
# Settings

<!-- Written by tools/settings_table.py; descriptions are in gbopt_ros/config/. -->

The defaults are the recommended setting. "Paper" is the value of the paper; `config/paper.yaml`
has all of them. A setting is changed

- on the command line: `--set section.name=value`;
- in a YAML file: `--config FILE.yaml` on the command line, `profile` of the nodes;
- as a ROS parameter of the same name;
- in Python: `load_config(overrides=["section.name=value"])`.
"""


def page() -> str:
    """The whole page, one table for each section of the configuration."""
    plain = [f.name for f in fields(Config) if not is_dataclass(getattr(Config(), f.name))]
    parts = [HEAD, _table("all sections", "", Config, plain)]
    for section in fields(Config):
        values = getattr(Config(), section.name)
        if is_dataclass(values):
            names = [known.name for known in settings(type(values))]
            parts.append(_table(section.name, f"{section.name}.", type(values), names))
    return "\n".join(parts)


def _table(title: str, prefix: str, section: type, names: list[str]) -> str:
    return "\n".join([f"## {title}", "", *_rows(prefix, section, names), ""])


def _rows(prefix: str, section: type, names: list[str]) -> Iterator[str]:
    yield "| setting | default | range | meaning |"
    yield "|---|---|---|---|"
    for known in settings(section):
        if known.name in names:
            default = str(known.default).lower() if known.type is bool else str(known.default)
            shown = f"`{default}`" if default else "empty"
            expected = "true or false" if known.type is bool else known.expected
            yield f"| `{prefix}{known.name}` | {shown} | {expected} | {known.doc} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
