"""The report of a demo on a recording of the user's own."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from gbopt_ros.config import Config, settings
from gbopt_ros.demo.before_after import MATCH_IOU, picture_found, picture_pairs, unmatched
from gbopt_ros.demo.data import REHEARSAL, VALIDATION
from gbopt_ros.demo.outcome import Outcome
from gbopt_ros.demo.own_recording import OwnRecording
from gbopt_ros.demo.report import describe_rounds, format_change, join_losses
from gbopt_ros.evaluation.report_content import Command, FoundMask, MetricsTable, ReportContent
from gbopt_ros.io.resources import find_resource
from gbopt_ros.learning.store.model_card import licence_of_weights
from gbopt_ros.models.weights import sha256_of
from gbopt_ros.perception.load import proposal_weights

_CAMERA = "/camera/color/image_raw"


def own_report(
    out: Path,
    config: Config,
    recording: OwnRecording,
    outcome: Outcome,
    results: Mapping[str, Any],
) -> ReportContent:
    """The content of the report; `results` is that of `results.json`."""
    found, note = _found(outcome, results)
    return ReportContent(
        title=f"What was learnt from {recording.path.name}",
        summary=tuple(describe_outcome(results)),
        pairs=picture_pairs(outcome.before, outcome.after),
        found=found,
        found_note=note,
        selections={name: replay.numbers for name, replay in outcome.replays.items()},
        tables=(_seen_table(outcome),),
        losses=join_losses(each.learnt.log.losses for each in outcome.rounds),
        commands=tuple(_commands(out, config, recording, results)),
        facts={
            "Model card": _model_card(config, outcome, results),
            "Settings that differ from the defaults": changed_settings(config) or {"none": ""},
            **_gates(results),
            "Seconds": results["seconds"],
            "Versions": results["versions"],
        },
    )


def describe_outcome(results: Mapping[str, Any]) -> list[str]:
    """Sentences on what was learnt, the result first, from `results.json`."""
    rounds, counts, found = results["rounds"], results["counts"], results["found_new"]
    sentences = []
    if found is not None:
        sentences += [
            f"In {_count(counts['frames'], 'frame')} without a label, the network selected "
            f"{_count(counts['masks']['before'], 'mask')} before it learnt from them, and "
            f"{counts['masks']['after']} after. New: {found['masks']}, in "
            f"{_count(found['frames'], 'frame')}. Gone: {found['lost_masks']}.",
            "On labelled images of seen classes, mask AP went from "
            f"{results['seen']['before']['AP']:.1f} to {results['seen']['after']['AP']:.1f}: "
            f"{format_change(results['ap_change']['seen'])} (± standard error).",
            "The recording has no ground truth, so no number here says whether a mask is right. "
            "The pictures do.",
        ]
    else:
        reason = results["shortage"] or "the gate refused what was learnt"
        sentences.append(
            f"Nothing was learnt: {reason}. As it is, the network selects "
            f"{_count(counts['masks']['before'], 'mask')} in {_count(counts['frames'], 'frame')}."
        )
    return [*sentences, *describe_rounds(rounds, results["planned_rounds"])]


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def changed_settings(config: Config) -> dict[str, object]:
    """The settings that differ from the defaults, by their full names."""
    values = ((known.name, attrgetter(known.name)) for known in settings(Config))
    default = Config()
    return {name: value(config) for name, value in values if value(config) != value(default)}


def _found(outcome: Outcome, results: Mapping[str, Any]) -> tuple[tuple[FoundMask, ...], str]:
    """Pictures of new masks, and how many there are."""
    counts = results["found_new"]
    if outcome.after is None:
        return (), ""
    pictures = picture_found(outcome.after, unmatched(outcome.after, outcome.before))
    note = (
        f"A mask is new if no mask that was selected before in the same frame has an IoU of "
        f"{MATCH_IOU:g} or more with it. There are {_count(counts['masks'], 'new mask')} in "
        f"{counts['frames']} of {outcome.frames} frames. Conversely, "
        f"{_count(counts['lost_masks'], 'mask')} of before in "
        f"{_count(counts['lost_frames'], 'frame')} are gone."
    )
    if pictures:
        note += " The most confident first; one that is new in consecutive frames is shown once."
    return pictures, note


def _seen_table(outcome: Outcome) -> MetricsTable:
    """Whether anything was forgotten."""
    rows = {"before": outcome.seen_before.seen}
    if outcome.learnt is not None:
        rows["after"] = outcome.seen_after.seen
    return MetricsTable(
        "Seen classes: was anything forgotten?", rows,
        "Held-out labelled images that come with the package: rendered table tops.",
    )  # fmt: skip


def _model_card(config: Config, outcome: Outcome, results: Mapping[str, Any]) -> dict[str, object]:
    seed = proposal_weights(config)
    card: dict[str, object] = {
        "seed network": config.proposal.weights or f"bundled ({seed.name})",
        "its SHA-256": sha256_of(seed),
        "licence": licence_of_weights(config),
    }
    if outcome.learnt is None:
        return {"learnt": "nothing"} | card
    manifest = outcome.learnt.manifest
    learnt = [each.learnt.version.manifest for each in outcome.rounds if each.learnt.version]
    return {
        "version": f"{outcome.learnt.version}, learnt from {manifest['parent']}",
        "architecture": manifest["architecture"],
        "weights, with card.md and card.json beside them": outcome.learnt.path,
        "SHA-256": manifest["sha256"],
        "learnt from": "; ".join(
            f"{each['version']}: {each['instances']} masks in {each['frames']} frames"
            for each in learnt
        ),
        "labelled images rehearsed": "those that come with the package",
        "seen AP before and after": " and ".join(
            f"{results['seen'][when]['AP']:.1f}" for when in ("before", "after")
        ),
    } | card


def _gates(results: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    """What the gate measured in each round."""
    groups: dict[str, dict[str, object]] = {}
    for number, each in enumerate(results["rounds"], start=1):
        gate = each["gate"]
        told: dict[str, object] = {"decision": "passed" if gate["passed"] else "refused"}
        numbers = {
            "AP of the parent on the validation set": ("parent_ap", "{:.2f}"),
            "AP of the new version": ("child_ap", "{:.2f}"),
            "standard error of the difference": ("standard_error", "{:.2f}"),
            "masks that the parent proposes, too": ("agreement", "{:.0%}"),
        }
        told |= {
            name: form.format(gate[key])
            for name, (key, form) in numbers.items()
            if gate[key] is not None
        }
        groups[f"Gate, round {number}"] = told
    return groups


def _commands(
    out: Path, config: Config, recording: OwnRecording, results: Mapping[str, Any]
) -> Iterator[Command]:
    """Commands that take what was learnt further, with absolute paths, as a shell takes them."""
    version, source = results["model_version"], str(recording.path.resolve())
    topic = ["--topic", recording.topic] if recording.topic else []
    size = results["source_options"]["resize"]
    resize = ["--resize", "{}x{}".format(*size)] if size else []
    if version is None:
        yield Command(
            "Select masks in the whole recording with the network as it is:",
            shlex.join(["gbopt", "replay", source, *topic, *resize, "--out", "replay-seed"]),
        )
        return
    store = (out / "store").resolve()
    weights = str(store / "models" / version / "model.safetensors")
    seed = ["--set", f"proposal.weights={config.proposal.weights}"]
    origin = seed if config.proposal.weights else []
    replay = ["gbopt", "replay", source, *topic, *resize, "--weights", weights]
    yield Command(
        "Select masks with the learnt network, in the whole recording or in another one:",
        shlex.join([*replay, "--out", "replay-learnt"]),
    )
    rehearse, validate = (str(find_resource(name)) for name in (REHEARSAL, VALIDATION))
    learn = ["gbopt", "learn", "replay-learnt", "--rehearse", rehearse, "--validation", validate]
    yield Command(
        "Learn from these masks, too. Copy the store first: the next demo in this folder removes "
        "it.",
        shlex.join(["cp", "-r", str(store), "my-store"])
        + "\n"
        + shlex.join([*learn, *origin, "--out", "my-store"]),
    )
    camera = ["gbopt", "run", "--camera", recording.topic or _CAMERA]
    yield Command(
        "Live, with ROS: select with the learnt network and learn nothing more, or go on learning "
        "in the copied store:",
        shlex.join([*camera, "--no-learner", "--set", f"proposal.weights={weights}"])
        + "\n"
        + shlex.join([*camera, *origin, "--ros-args", "-p", "store:=my-store"]),
    )
