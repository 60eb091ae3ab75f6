"""Joint mask selection: the objective and its two-stage optimisation (Sections 3.2 and 3.3).

objective     Eq. 2 to 5, one function an equation
combinations  stage 1, the K best combinations of a frame; the non-overlap rule
synthesis     Appendix C, composites for the synthetic flow
lattice       stage 2: nodes and edges of Eq. 17
path          stage 2: the cheapest path
two_stage     both stages on a clip, `select_clip`
fixed_lag     both stages on a stream of frames
confidence    the confidence of a mask
outlines      new outlines by a guided filter
selectors     motion, selection and outlines in one call: what the pipeline and the nodes use
"""

from gbopt_ros.selection.combinations import best_combinations
from gbopt_ros.selection.fixed_lag import FixedLagSelector
from gbopt_ros.selection.outlines import redraw_outlines, with_outlines
from gbopt_ros.selection.selectors import ClipSelector, StreamSelector, make_selector
from gbopt_ros.selection.two_stage import select_clip

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
