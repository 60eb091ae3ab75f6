"""The configuration of RViz and the layout of Foxglove: their topics and fields are the graph's."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gbopt_ros.io.resources import find_resource

ROOT = Path(__file__).resolve().parents[2]
RVIZ, FOXGLOVE = "config/gbopt.rviz", "config/foxglove.json"
MESSAGES = {  # of the topics whose fields are plotted
    "/selector/output/masks": "SelectedMasks",
    "/selector/output/status": "ClipStatus",
    "/learner/output/progress": "TrainingProgress",
}


def topics(content: Any) -> set[str]:
    """Everything that looks like a topic, without the fields after it."""
    if isinstance(content, dict):
        return set().union(*map(topics, [*content.keys(), *content.values()]))
    if isinstance(content, list):
        return set().union(*map(topics, content))
    found = re.match(r"(/[a-z]\w*(?:/\w+)*)(?:\.|$)", content) if isinstance(content, str) else None
    return {found[1]} if found else set()


def published() -> set[str]:
    """The topics of the SROS2 policy, which a test compares with the running nodes."""
    policy = ET.parse(find_resource("config/sros2_policy.xml")).getroot()
    listed = policy.findall(".//topics[@publish='ALLOW']/topic")
    return {f"/{topic.text}".replace("//", "/") for topic in listed}


def read(name: str) -> Any:
    text = find_resource(name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (RVIZ, {"/selector/debug/overlay", "/objects_3d/output/points"}),
        (FOXGLOVE, {"/selector/debug/overlay", "/objects_3d/output/points", "/diagnostics"}),
    ],
)
def test_topics_are_those_of_the_graph(name: str, shown: set[str]) -> None:
    found = topics(read(name))
    assert shown <= found <= published()


def paths(panels: Any) -> Iterator[str]:
    for panel in panels.values():
        yield from (path["value"] for path in panel.get("paths", ()))


def test_plotted_fields_are_those_of_the_messages() -> None:
    plotted = list(paths(read(FOXGLOVE)["configById"]))
    assert len(plotted) >= 5
    for path in plotted:
        topic, _, fields = path.partition(".")
        message = MESSAGES[topic]
        for field in fields.split("."):
            text = (ROOT / "msg" / f"{message}.msg").read_text(encoding="utf-8")
            kinds = dict(
                (name, kind) for kind, name in re.findall(r"^(\S+) (\w+) ", text, re.MULTILINE)
            )
            plain = field.removesuffix("[:]")
            assert plain in kinds, path
            assert kinds[plain].endswith("[]") == field.endswith("[:]"), path
            message = kinds[plain].removesuffix("[]")


def test_layout_has_every_panel_once() -> None:
    content = read(FOXGLOVE)

    def panels(layout: Any) -> list[str]:
        if isinstance(layout, str):
            return [layout]
        assert layout["direction"] in ("row", "column")
        return panels(layout["first"]) + panels(layout["second"])

    assert sorted(panels(content["layout"])) == sorted(content["configById"])
