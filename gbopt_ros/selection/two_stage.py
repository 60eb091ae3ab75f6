"""The two stages on one clip (Section 3.3): candidates in, a `Selection` out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from gbopt_ros import masks as mask_ops
from gbopt_ros.config import SelectionConfig
from gbopt_ros.selection.confidence import confidence
from gbopt_ros.selection.lattice import Lattice
from gbopt_ros.selection.path import PathResult
from gbopt_ros.structures import Clip, FlowNetwork, FrameSelection, Proposals, Selection


def select_clip(
    clip: Clip,
    proposals: Sequence[Proposals],
    backgrounds: Sequence[NDArray[np.floating]],
    flows: Sequence[NDArray[np.floating]],
    flow_network: FlowNetwork,
    config: SelectionConfig,
    model_version: str = "",
) -> Selection:
    """Choose the masks of all frames of a clip jointly (Eq. 2, Section 3.3).

    Masks keep the outlines that were proposed. `ClipSelector` adds motion and new outlines.

    Args:
        clip: T frames.
        proposals: T times the candidates of a frame.
        backgrounds: T arrays (H, W), probability that a pixel belongs to no object.
        flows: T - 1 arrays (H, W, 2), pixels (x, y), between consecutive frames.
        flow_network: g, for the composites.
        config: weights of the terms, K, overlap tolerance.
        model_version: version of the proposal network, copied to the result.

    Raises:
        ValueError: lengths or shapes do not fit the clip.
    """
    t = len(clip)
    if not (len(proposals) == len(backgrounds) == t and len(flows) == t - 1):
        raise ValueError(
            f"select_clip: expected {t} proposals, {t} backgrounds and {t - 1} flows for {t} "
            f"frames, got {len(proposals)}, {len(backgrounds)} and {len(flows)}"
        )
    lattice = Lattice(flow_network, config)
    for of_frame in zip(clip.frames, proposals, backgrounds, [None, *flows], strict=True):
        lattice.append(*of_frame)
    found = lattice.solve()
    return Selection(
        clip_id=clip.clip_id,
        frames=frame_selections(lattice, found, range(t)),
        energy=found.energy,
        lower_bound=found.lower_bound,
        optimal=lattice.exact and found.lower_bound == found.energy,
        flow_runs=lattice.flow_runs,
        model_version=model_version,
    )


def frame_selections(
    lattice: Lattice, found: PathResult, which: Iterable[int]
) -> tuple[FrameSelection, ...]:
    """The masks on a path, with energies and confidences, in the frames `which`."""
    margins = lattice.margins(found)
    return tuple(_frame_selection(lattice, found, t, margins[t]) for t in which)


def _frame_selection(
    lattice: Lattice, found: PathResult, t: int, margins: dict[int, float]
) -> FrameSelection:
    layer = lattice.layers[t]
    proposals = layer.proposals
    kept = layer.combinations[found.path[t]].indices
    rles = tuple(proposals.rles[i] for i in kept)
    union, *areas = mask_ops.areas([layer.unions[found.path[t]], *rles])
    if union < sum(areas):  # shared pixels go to the highest score, which is that of the first
        exclusive = layer.atoms.exclusive(kept)
        visible = mask_ops.areas(exclusive) > 0
        kept = tuple(compress(kept, visible))
        rles = tuple(compress(exclusive, visible))
    scores = proposals.scores[list(kept)].astype(np.float32)
    margin = np.array([margins[i] for i in kept], np.float64)
    return FrameSelection(
        frame=layer.frame,
        indices=kept,
        rles=rles,
        boxes=mask_ops.boxes_xyxy(rles),
        scores=scores,
        margins=margin,
        confidences=confidence(margin, scores, proposals.calibration),
        energy=lattice.frame_energy(t, found.path),
        after_cut=layer.after_cut,
    )
