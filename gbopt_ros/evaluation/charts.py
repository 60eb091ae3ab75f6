"""Charts of the report as inline SVG.

Their colours are CSS variables that the page defines for light and dark: `--ink`, `--muted`,
`--line` and `--series-1` to `--series-6`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gbopt_ros.evaluation.mask_quality import (
    MaskQuality,
    PrecisionRecallCurve,
    precision_at_recall,
)
from gbopt_ros.structures import FrameEnergy

# Placeholder colours; `_to_svg` replaces them by the variables.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0401{i:02x}" for i in range(1, 7))
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    **{placeholder: f"var(--series-{i})" for i, placeholder in enumerate(SERIES, start=1)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
}
_SCALE = 1.25  # maximum number of CSS pixels a point: text of 11 points is as large as captions
_LABELLED_SCORES = (0.2, 0.4, 0.6, 0.8)
_BINS = 10  # of the confidences


def loss_chart(losses: Mapping[str, Sequence[float]]) -> str:
    """Raw and smoothed losses by optimiser step."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9.0, 3.8)
        colours = iter(SERIES * (1 + len(losses) // len(SERIES)))
        for name, values in losses.items():
            drawn, width = (INK, 2.2) if name == "total" else (next(colours), 1.6)
            steps = np.arange(1, len(values) + 1)
            raw = np.asarray(values, dtype=float)
            axes.plot(steps, raw, color=drawn, linewidth=0.7, alpha=0.22)
            label = name.removeprefix("loss_").replace("_", " ")
            axes.plot(steps, _smoothed(raw), color=drawn, linewidth=width, label=label)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _to_svg(figure, "loss", "Training losses by optimiser step")


def energy_chart(frames: Sequence[FrameEnergy], title: str) -> str:
    """The terms of Eq. 2 as stacked bars for each frame of a clip, and their sum as a line."""
    terms = {
        "background": [frame.background for frame in frames],
        "flow": [frame.flow for frame in frames],
        "regularization": [frame.regularization for frame in frames],
    }
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.6, 3.3)
        index = np.arange(len(frames))
        width = 0.86 if len(frames) <= 60 else 1.0  # no gaps between thin bars
        above, below = np.zeros(len(frames)), np.zeros(len(frames))
        for (name, values), drawn in zip(terms.items(), SERIES, strict=False):
            heights = np.asarray(values, dtype=float)
            base = np.where(heights >= 0, above, below)
            axes.bar(index, heights, width=width, bottom=base, color=drawn, label=name)
            above, below = above + np.maximum(heights, 0), below + np.minimum(heights, 0)
        total = [frame.total for frame in frames]
        axes.plot(index, total, color=INK, linewidth=1.6, marker=".", markersize=4, label="total")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xlim(-0.7, len(frames) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("frame of the clip")
        axes.set_ylabel("weighted energy")
        figure.legend(loc="outside upper center", ncols=4, columnspacing=1.2, handlelength=1.2)
        return _to_svg(figure, f"energy-{title}", f"Energy terms of every frame: {title}")


def confidence_chart(confidences: Mapping[str, Sequence[float]]) -> str:
    """Histograms of confidences in [0, 1], side by side."""
    edges = np.linspace(0, 1, _BINS + 1)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.6, 3.3)
        width = 0.9 / _BINS / len(confidences)
        for i, ((name, values), drawn) in enumerate(zip(confidences.items(), SERIES, strict=False)):
            counts, _ = np.histogram(np.clip(values, 0, 1), edges)
            left = edges[:-1] + 0.05 / _BINS + i * width
            axes.bar(left, counts, width=width, align="edge", color=drawn, label=name)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("confidence")
        axes.set_ylabel("selected masks")
        figure.legend(loc="outside upper center", ncols=2)
        return _to_svg(figure, "confidence", "Confidences of the selected masks")


def mask_count_chart(masks: Mapping[str, Sequence[int]]) -> str:
    """Number of selected masks of every frame."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.6, 3.3)
        for (name, counts), drawn in zip(masks.items(), SERIES, strict=False):
            frames = np.arange(len(counts))
            marker = "." if len(counts) < 2 else None  # a line needs two points
            axes.plot(
                frames, counts, drawstyle="steps-mid", color=drawn, linewidth=1.6, marker=marker,
                label=name,
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("frame, of those that were used")
        axes.set_ylabel("selected masks")
        figure.legend(loc="outside upper center", ncols=2)
        return _to_svg(figure, "masks", "Number of selected masks of every frame")


def clip_energy_chart(energies: Mapping[str, Sequence[tuple[float, bool]]]) -> str:
    """Energy of every clip as bars, hollow where it was not proven to be the minimum."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.6, 3.3)
        width = 0.8 / len(energies)
        longest = 1
        for i, ((name, clips), drawn) in enumerate(zip(energies.items(), SERIES, strict=False)):
            places = np.arange(len(clips)) + (i - (len(energies) - 1) / 2) * width
            fills = [drawn if optimal else "none" for _, optimal in clips]
            axes.bar(
                places, [energy for energy, _ in clips], width=0.9 * width, color=fills,
                edgecolor=drawn, linewidth=1.2,
            )  # fmt: skip
            axes.bar(0, 0, color=drawn, label=name)  # the legend's key, filled always
            longest = max(longest, len(clips))
        if not all(optimal for clips in energies.values() for _, optimal in clips):
            axes.bar(0, 0, color="none", edgecolor=MUTED, linewidth=1.2, label="not proven minimal")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xlim(-0.6, longest - 0.4)
        axes.set_xticks(range(0, longest, -(-longest // 12)))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("clip")
        axes.set_ylabel("energy")
        figure.legend(loc="outside upper center", ncols=3)
        return _to_svg(figure, "clip-energy", "Energy of every clip")


def precision_recall_chart(curve: PrecisionRecallCurve, selected: MaskQuality) -> str:
    """Thresholded proposals as a curve and the selected masks as a point, percent."""
    at_equal = precision_at_recall(curve, selected.recall)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(7.0, 4.4)
        recall, precision = 100 * curve.recall, 100 * curve.precision
        axes.plot(recall, precision, color=SERIES[0], linewidth=2, label="proposals, thresholded")
        for score in _LABELLED_SCORES:
            kept = np.flatnonzero(curve.thresholds >= score)
            if len(kept):
                point = recall[kept[-1]], precision[kept[-1]]
                axes.plot(*point, "o", color=SERIES[0], markersize=4)
                axes.annotate(
                    f"score ≥ {score}", point, (5, 5), textcoords="offset points", fontsize=9,
                    color=MUTED,
                )  # fmt: skip
        chosen = 100 * selected.recall, 100 * selected.precision
        if at_equal > 0:
            span = 100 * at_equal, chosen[1]
            axes.vlines(chosen[0], *span, colors=SERIES[3], linestyles="dotted", linewidth=2)
        axes.plot(*chosen, "D", color=SERIES[3], markersize=9, label="selected masks")
        axes.set_xlabel("recall (%)")
        axes.set_ylabel("precision (%)")
        axes.set_xlim(0, min(103, 1.15 * max(float(recall.max(initial=0)), chosen[0], 10)))
        axes.set_ylim(0, 103)
        axes.legend(loc="upper right")
        description = "Precision and recall of thresholded proposals and of the selected masks"
        return _to_svg(figure, "precision-recall", description)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without pyplot, which keeps figures alive and looks for a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred moving average over a twentieth of the run; shorter at both ends."""
    half = max(1, len(values) // 40)
    sums, counts = (
        np.convolve(summed, np.ones(2 * half + 1))[half : half + len(values)]
        for summed in (values, np.ones(len(values)))
    )
    return sums / counts


def _to_svg(figure: Figure, name: str, description: str) -> str:
    """Inline SVG that scales with its container; its ids start with `name`."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    width, height = (int(72 * side) for side in figure.get_size_inches())
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" style="max-width: {_SCALE * width:.0f}px" '
        f'role="img" aria-label="{escape(description)}"'
    )
    return opening + svg[svg.index(">") :]
