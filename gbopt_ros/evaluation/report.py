"""The report: one self-contained HTML page on a selection, what was learnt, and the gain."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

import cv2
import numpy as np

from gbopt_ros.evaluation.charts import (
    clip_energy_chart,
    confidence_chart,
    energy_chart,
    loss_chart,
    mask_count_chart,
    precision_recall_chart,
)
from gbopt_ros.evaluation.coco_metrics import METRICS
from gbopt_ros.evaluation.mask_quality import precision_at_recall
from gbopt_ros.evaluation.report_content import (
    ClipEnergies,
    ClipStrip,
    Command,
    FoundMask,
    FramePair,
    MetricsTable,
    ReportContent,
    SelectionNumbers,
    StillTriplet,
    ThresholdComparison,
)
from gbopt_ros.evaluation.report_style import STYLE
from gbopt_ros.io.files import write_text
from gbopt_ros.structures import GboptError, Image

Encode = Callable[[Image], str]
MAX_BYTES = 6_000_000
# (widest picture in pixels, JPEG quality), tried in turn until the page is small enough.
_PICTURE_LEVELS = ((640, 90), (520, 82), (400, 75), (320, 60), (240, 50))


def write_report(path: str | Path, content: ReportContent) -> None:
    """Write the page atomically; it needs no other file, no network and no script.

    Pictures are scaled down until the page has at most `MAX_BYTES`.

    Raises:
        GboptError: it cannot be written, or has too many pictures.
    """
    path = Path(path)
    for width, quality in _PICTURE_LEVELS:
        page = _page(content, partial(_data_uri, max_width=width, quality=quality))
        if len(page.encode("utf-8")) <= MAX_BYTES:
            write_text(path, page)
            return
    raise GboptError(
        f"{path}: the report would have more than {MAX_BYTES / 1e6:.0f} MB; give it fewer pictures"
    )


def _page(content: ReportContent, encode: Encode) -> str:
    sections = [
        _pairs(content.pairs, encode),
        _found(content.found, content.found_note, encode),
        _selections(content.selections),
        _tables(content.tables),
        _comparison(content.comparison) if content.comparison else "",
        _clips(content.clips, encode),
        _stills(content.stills, encode),
        _losses(content.losses),
        _energies(content.energies),
        _commands(content.commands),
        _facts(content.facts),
    ]
    summary = "".join(f"<p>{escape(sentence)}</p>" for sentence in content.summary)
    title = escape(content.title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{title}</h1><div class="summary">{summary}</div></header>\n'
        f"<main>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def _section(heading: str, note: str, body: str) -> str:
    """A section of the page, "" where its body is empty."""
    if not body:
        return ""
    remark = f'<p class="note">{escape(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{remark}{body}</section>\n"


def _columns(parts: Iterable[str]) -> str:
    body = "".join(parts)
    return f'<div class="columns">{body}</div>\n' if body else ""


def _pairs(pairs: Sequence[FramePair], encode: Encode) -> str:
    if not pairs:
        return ""
    learnt = all(pair.after is not None for pair in pairs)
    heads = ("before", "after") if learnt else ("selected",)
    cells = [f'<div class="head">{head}</div>' for head in heads]
    for pair in pairs:
        pictures = zip(heads, (pair.before, pair.after), strict=False)
        cells += [
            _picture(shown, f"{head}: {pair.caption}", encode)
            for head, shown in pictures
            if shown is not None
        ]
        cells.append(_caption(pair.caption))
    note = "Evenly spaced frames, not chosen by their result. Numbers are confidences."
    if learnt:
        note += " A mask that was found before, too, has the same colour on both sides."
    body = f'<figure class="pictures {"two" if learnt else "one"}">{"".join(cells)}</figure>\n'
    return _section("Selected masks before and after" if learnt else "Selected masks", note, body)


def _found(found: Sequence[FoundMask], note: str, encode: Encode) -> str:
    cells = [
        f"<figure>{_picture(mask.picture, f'New: {mask.caption}', encode)}"
        f"{_caption(mask.caption)}</figure>"
        for mask in found
    ]
    body = f'<div class="crops">{"".join(cells)}</div>\n' if cells else ""
    heading = "Found after learning, not before"
    if not body and note:
        return _section(heading, "", f'<p class="note">{escape(note)}</p>\n')
    return _section(heading, note, body)


def _selections(selections: Mapping[str, SelectionNumbers]) -> str:
    drawn = {name: numbers for name, numbers in selections.items() if numbers.masks}
    if not drawn:
        return ""

    def told(sentence: Callable[[SelectionNumbers], str]) -> str:
        return "; ".join(f"{name} {sentence(numbers)}" for name, numbers in drawn.items())

    charts = [
        (
            mask_count_chart({name: numbers.masks for name, numbers in drawn.items()}),
            "Masks a frame, mean: " + told(lambda n: f"{np.mean(n.masks):.1f}") + ".",
        ),
        (
            clip_energy_chart({name: numbers.energies for name, numbers in drawn.items()}),
            "Energy of each clip, which the selection minimises. Proven to be the minimum: "
            + told(lambda n: f"{sum(o for _, o in n.energies)} of {len(n.energies)} clips")
            + ". Each network is judged on its own proposals.",
        ),
    ]
    if any(numbers.confidences for numbers in drawn.values()):
        charts.insert(
            0,
            (
                confidence_chart({name: n.confidences for name, n in drawn.items()}),
                "Confidences of the selected masks, mean: "
                + told(lambda n: f"{np.mean(n.confidences):.2f}" if n.confidences else "none")
                + ".",
            ),
        )
    body = _columns(_chart(svg, caption) for svg, caption in charts)
    return _section("The selection in numbers", "", body)


def _tables(tables: Sequence[MetricsTable]) -> str:
    note = (
        "Class-agnostic mask metrics, percent, as COCO defines them: average precision over 100 "
        "masks an image, average recall of the 1, 3 and 5 best."
    )
    return _section("Before and after", note, _columns(_table(table) for table in tables))


def _table(table: MetricsTable) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in METRICS)
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{metrics.to_dict()[column]:.1f}</td>" for column in METRICS)
        + "</tr>"
        for name, metrics in table.rows.items()
    ]
    if len(table.rows) >= 2:
        first, *_, last = (metrics.to_dict() for metrics in table.rows.values())
        changes = "".join(_change(last[name] - first[name]) for name in METRICS)
        rows.append(f'<tr class="change"><th scope="row">change</th>{changes}</tr>')
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div><div class="scroll"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{note}</div>\n"
    )


def _change(change: float) -> str:
    rounded = round(change, 1)
    if rounded == 0:
        return "<td>0.0</td>"
    direction, sign = ("up", "+") if rounded > 0 else ("down", "&minus;")
    return f'<td class="{direction}">{sign}{abs(rounded):.1f}</td>'


def _comparison(comparison: ThresholdComparison) -> str:
    quality = comparison.selected
    thresholded = precision_at_recall(comparison.curve, quality.recall)
    sentence = (
        f"The {quality.counts.masks} selected masks have precision {100 * quality.precision:.1f} % "
        f"at recall {100 * quality.recall:.1f} %. "
    )
    if thresholded > 0:
        sentence += (
            "The best score threshold that reaches this recall leaves the proposals a precision "
            f"of {100 * thresholded:.1f} %: a difference of "
            f"{100 * (quality.precision - thresholded):+.1f} points at equal recall."
        )
    else:
        sentence += "No score threshold reaches this recall."
    caption = (
        f"A mask counts as right from IoU {comparison.iou:g} on, one mask an instance; "
        f"{quality.counts.instances} instances. Matched masks have a mean IoU of "
        f"{quality.counts.mean_iou:.2f}."
    )
    chart = _chart(precision_recall_chart(comparison.curve, quality), caption)
    body = f"<p>{escape(sentence)}</p>\n{chart}"
    return _section("Selected masks against a score threshold", "", body)


def _clips(clips: Sequence[ClipStrip], encode: Encode) -> str:
    parts = []
    for clip in clips:
        cells = ['<div class="head">proposals at threshold 0</div><div class="head">selected</div>']
        for frame in clip.frames:
            where = f"{clip.title}, {frame.caption}"
            cells.append(_picture(frame.proposals, f"Proposals: {where}", encode))
            cells.append(_picture(frame.selected, f"Selected masks: {where}", encode))
            cells.append(_caption(frame.caption))
        pictures = f'<figure class="pictures two">{"".join(cells)}</figure>'
        parts.append(f"<h3>{escape(clip.title)}</h3>\n{pictures}\n")
    note = "Left: all proposals of the network. Right: the masks that the optimisation selected."
    return _section("What was selected", note, "".join(parts))


def _stills(stills: Sequence[StillTriplet], encode: Encode) -> str:
    heads = ("before", "after", "ground truth")
    cells = [f'<div class="head">{head}</div>' for head in heads]
    for still in stills:
        pictures = zip(heads, (still.before, still.after, still.ground_truth), strict=True)
        cells += [_picture(shown, f"{head}: {still.caption}", encode) for head, shown in pictures]
        cells.append(_caption(still.caption))
    note = "Held-out images, which neither network was trained on."
    body = f'<figure class="pictures three">{"".join(cells)}</figure>\n'
    return _section("The same images before and after", note, body if stills else "")


def _losses(losses: Mapping[str, Sequence[float]]) -> str:
    drawn = {name: values for name, values in losses.items() if len(values)}
    caption = "Thin: every step. Bold: moving average over a twentieth of the run."
    chart = _chart(loss_chart(drawn), caption) if drawn else ""
    return _section("Learning", "Losses of the fine-tuning, round after round.", chart)


def _energies(energies: Sequence[ClipEnergies]) -> str:
    note = (
        "The terms of the objective on the selected path, weighted. Background: disagreement with "
        "the background network. Flow: mean distance in pixels from the observed optical flow. "
        "Regularization: negative overlap with the next frame's masks."
    )
    charts = (
        _chart(energy_chart(clip.frames, f"{number} {clip.title}"), clip.title)
        for number, clip in enumerate(energies, start=1)
        if clip.frames
    )
    return _section("Energies", note, _columns(charts))


def _commands(commands: Sequence[Command]) -> str:
    parts = (
        f"<p>{escape(command.purpose)}</p>\n<pre>{escape(command.line)}</pre>\n"
        for command in commands
    )
    return _section("How to go on", "", "".join(parts))


def _facts(facts: Mapping[str, Mapping[str, object]]) -> str:
    groups = []
    for title, group in facts.items():
        texts = {name: f"{v:,.1f}" if isinstance(v, float) else str(v) for name, v in group.items()}
        entries = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in texts.items())
        groups.append(f"<div><h3>{escape(title)}</h3><dl>{entries}</dl></div>\n")
    return _section("The run", "", _columns(groups))


def _chart(svg: str, caption: str) -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure><div class="chart">{svg}</div>{text}</figure>\n'


def _caption(text: str) -> str:
    return f'<figcaption class="caption">{escape(text)}</figcaption>'


def _picture(image: Image, description: str, encode: Encode) -> str:
    return f'<img src="{encode(image)}" alt="{escape(description)}">'


def _data_uri(image: Image, max_width: int, quality: int) -> str:
    """A JPEG of at most `max_width` pixels; full colour resolution keeps outlines crisp."""
    height, width = image.shape[:2]
    if width > max_width:
        size = max_width, max(1, round(height * max_width / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(
        ".jpg",
        np.ascontiguousarray(image[:, :, ::-1]),
        [
            *(cv2.IMWRITE_JPEG_QUALITY, quality),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        ],
    )
    if not done:
        raise GboptError(f"report: a picture of shape {image.shape} cannot be encoded")
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
