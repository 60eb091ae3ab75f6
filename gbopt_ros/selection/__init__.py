"""Joint mask selection: the objective and its two-stage optimisation (Section 3.2 and 3.3)."""

from gbopt_ros.selection.combinations import best_combinations
from gbopt_ros.selection.outlines import redraw_outlines, with_outlines
from gbopt_ros.selection.select import select_clip
from gbopt_ros.selection.stream import FixedLagSelector

__all__ = [
    "FixedLagSelector",
    "best_combinations",
    "redraw_outlines",
    "select_clip",
    "with_outlines",
]
