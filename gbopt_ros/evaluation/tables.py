"""Tables of metrics as Markdown and as aligned text, with mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gbopt_ros.evaluation.coco_metrics import InstanceMetrics
from gbopt_ros.structures import GboptError

Rows = Mapping[str, Mapping[str, Sequence[float]]]
"""Row name -> column name -> the values of all seeds."""


def metric_rows(metrics_by_row: Mapping[str, Sequence[InstanceMetrics]]) -> Rows:
    """Rows with a column for each metric that all of their runs have."""
    return {
        row: {
            name: [metrics.to_dict()[name] for metrics in runs]
            for name in InstanceMetrics.__dataclass_fields__
            if all(name in metrics.to_dict() for metrics in runs)
        }
        for row, runs in metrics_by_row.items()
    }


def format_cell(values: Sequence[float], digits: int = 1) -> str:
    """`38.9` for one value, `38.9 ± 0.4` for several: mean and sample standard deviation."""
    if len(values) == 0:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def markdown_table(rows: Rows) -> str:
    """A Markdown table, numbers right-aligned. A row without a column has a dash there."""
    header, *body = _cells(rows)
    widths = _widths([header, *body])
    rule = [":" + "-" * max(2, widths[0] - 1), *("-" * max(2, w - 1) + ":" for w in widths[1:])]
    lines = [header, rule, *body]
    return "\n".join(f"| {' | '.join(_padded(line, widths))} |" for line in lines) + "\n"


def text_table(rows: Rows, digits: int = 1) -> str:
    """An aligned plain-text table for a terminal."""
    cells = _cells(rows, digits)
    widths = _widths(cells)
    return "\n".join("  ".join(_padded(line, widths)).rstrip() for line in cells) + "\n"


def _cells(rows: Rows, digits: int = 1) -> list[list[str]]:
    columns = list(dict.fromkeys(column for values in rows.values() for column in values))
    if not columns:
        raise GboptError("a table needs at least one row with one column")
    return [
        ["", *columns],
        *(
            [row, *(format_cell(values.get(column, ()), digits) for column in columns)]
            for row, values in rows.items()
        ),
    ]


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(3, *(len(text) for text in column)) for column in zip(*cells, strict=True)]


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *numbers = [*line]
    return [
        first.ljust(widths[0]),
        *(text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True)),
    ]
