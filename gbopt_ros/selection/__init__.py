"""Joint mask selection: the objective and its two-stage optimisation (Sections 3.2 and 3.3)."""

from gbopt_ros.selection.clip_selector import select_clip
from gbopt_ros.selection.combinations import best_combinations
from gbopt_ros.selection.fixed_lag import FixedLagSelector
from gbopt_ros.selection.outlines import redraw_outlines, with_outlines
from gbopt_ros.selection.selectors import ClipSelector, StreamSelector, make_selector

__all__ = [
    "ClipSelector",
    "FixedLagSelector",
    "StreamSelector",
    "best_combinations",
    "make_selector",
    "redraw_outlines",
    "select_clip",
    "with_outlines",
]
