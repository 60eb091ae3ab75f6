"""Settings that had another name, so that an old profile gets an answer and no riddle."""

from __future__ import annotations

from collections.abc import Iterable

RENAMED = {
    "selection.score_memory": "selection.score_propagation",
    "learning.recurrence": "learning.cross_clip_confidence",
    "learning.parent_share": "learning.weight_interpolation",
    "learning.outlines": "learning.localization_losses",
    "pretrain.drops": "pretrain.lr_milestones",
    "pretrain.background_drops": "pretrain.background_lr_milestones",
    "pretrain.average": "pretrain.ema_decay",
    "pretrain.shrink": "pretrain.min_scale",
    "pretrain.loaders": "pretrain.num_workers",
    "probe": "validation",
}
"""Old name: new name. Names without a section are parameters of a node."""

_CALIBRATION = "the calibration is part of the weights file now (`gbopt calibrate` writes it)"
REMOVED = {
    "selection.confidence_bias": _CALIBRATION,
    "selection.confidence_margin": _CALIBRATION,
    "selection.confidence_score": _CALIBRATION,
    "tracks.warp": "masks are always linked where they are; delete the line",
    "adapt": "`gbopt adapt` is gone; motion (`motion.weight`) tells a place; delete the section",
}
"""Old name: what to do."""


def advice(names: Iterable[str]) -> str:
    """What to do about the first of these names that is an old one, "" where none is.

    Args:
        names: full names of settings, such as `selection.k`.
    """
    for name in names:
        if name in RENAMED:
            return f"{name} is called {RENAMED[name]} now"
        for old, answer in REMOVED.items():
            if name == old or name.startswith(f"{old}."):
                return f"{name} is no setting any more: {answer}"
    return ""
