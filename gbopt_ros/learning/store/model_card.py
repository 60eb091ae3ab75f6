"""The card of a version: where it comes from, what it learnt, what was measured, and its licence.

It is made of the manifest alone, so any version can have one, and it travels with the version as
`card.json` and `card.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from gbopt_ros.config import Config
from gbopt_ros.learning.data.datasets import SelectedImage
from gbopt_ros.models.catalogue import CATALOGUE, published

CARD_JSON, CARD_MARKDOWN = "card.json", "card.md"
_UNKNOWN = "not known"


def licence_of_weights(config: Config) -> str:
    """Under which terms the proposal network of a configuration may be used, in words."""
    weights = config.proposal.weights
    if not weights:
        return "Apache-2.0; what it was trained on: demo/weights/NOTICE of gbopt_ros"
    if weights in CATALOGUE:
        terms = published(weights).licence
        return f"{terms}; the data that it was trained on have terms of their own"
    return "that of the seed network: ask its publisher"


def data_by_clip(entries: Iterable[SelectedImage]) -> list[dict[str, Any]]:
    """What was learnt, for the manifest: frames and masks of each clip, by recording."""
    recordings: dict[str, dict[int, dict[str, int]]] = {}
    for entry in entries:
        clips = recordings.setdefault(entry.recording, {})
        clip = clips.setdefault(entry.clip_id, {"frames": 0, "masks": 0, "verified": 0})
        clip["frames"] += 1
        clip["masks"] += len(entry.rles)
        clip["verified"] += sum(entry.verified)
    return [
        {"recording": name, "clips": [{"clip": number} | facts for number, facts in clips.items()]}
        for name, clips in recordings.items()
    ]


def model_card(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a version, as plain values for JSON.

    Args:
        manifest: of `ModelVersion`; that of an older release tells less.
    """
    created = datetime.fromtimestamp(manifest["created"], timezone.utc)
    listed = manifest.get("ancestors")
    licences = {"origin": manifest.get("origin_licence", _UNKNOWN)}
    if manifest.get("teacher_licence"):
        licences["teacher"] = manifest["teacher_licence"]
    return {
        "version": manifest["version"],
        "created": created.isoformat(timespec="seconds"),
        "architecture": manifest.get("architecture", _UNKNOWN),
        "sha256": manifest["sha256"],
        "parent": manifest["parent"],
        "ancestors": list(map(str, listed)) if isinstance(listed, list) else [],
        "origin_sha256": manifest.get("origin", _UNKNOWN),
        "teachers": manifest.get("teachers", []),
        "data": manifest.get("data", []),
        "frames": manifest.get("frames", 0),
        "masks": manifest.get("instances", 0),
        "gate": manifest.get("gate"),
        "teacher_gate": manifest.get("teacher_gate"),
        "calibration": manifest.get("calibration"),
        "licences": licences,
        "learning": manifest.get("learning", {}),
    }


def card_in_markdown(card: Mapping[str, Any]) -> str:
    """The same as a page of Markdown."""
    return "\n".join(_lines(card)) + "\n"


def _lines(card: Mapping[str, Any]) -> Iterator[str]:
    yield f"# Model card of {card['version']}"
    yield ""
    yield (
        "A class-agnostic instance segmentation network. It learnt from masks that were selected "
        "in video without a label."
    )
    yield from _table(
        {
            "created": card["created"],
            "architecture": card["architecture"],
            "SHA-256": card["sha256"],
            "parent": card["parent"] or "none",
            "ancestors": ", ".join(card["ancestors"]) or "none",
            "SHA-256 of the network that learning began with": card["origin_sha256"],
            "networks that proposed the masks": ", ".join(card["teachers"]) or _UNKNOWN,
        }
    )
    yield from ("", "## Licence of what it comes from", "")
    for name, terms in card["licences"].items():
        yield f"- {name}: {_cell(terms)}"
    yield from ("", "## Data", "", f"{card['masks']} masks in {card['frames']} frames.")
    if card["data"]:
        yield from ("", "| recording | clip | frames | masks | of these verified by a person |")
        yield "|---|---|---|---|---|"
    for recording in card["data"]:
        for clip in recording["clips"]:
            numbers = (clip[key] for key in ("clip", "frames", "masks", "verified"))
            yield f"| {_cell(recording['recording'])} | {' | '.join(map(str, numbers))} |"
    for title, key in (("Gate", "gate"), ("Comparison with its teacher", "teacher_gate")):
        if card[key]:
            yield from ("", f"## {title}")
            yield from _table(card[key])
    yield from ("", "## Calibration of the confidences")
    if card["calibration"]:
        yield from _table(card["calibration"])
    else:
        yield from ("", "Not fitted for this network.")


def _table(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "| | |", "|---|---|")
    for name, value in facts.items():
        yield f"| {_cell(name)} | {_cell(value)} |"


def _cell(value: object) -> str:
    """Text that stays in its line, whatever the name of a recording is or another store says."""
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())
