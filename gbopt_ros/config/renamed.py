"""Old names of settings: whoever still uses one gets an error that says what to write now."""

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
"""Old name: new name. A name without a section is a parameter of a node."""

_CALIBRATION = "the weights file holds the calibration (`gbopt calibrate` writes it); delete it"
REMOVED = {
    "proposal.ensemble": "proposals come from one view of the image; delete it",
    "selection.confidence_bias": _CALIBRATION,
    "selection.confidence_margin": _CALIBRATION,
    "selection.confidence_score": _CALIBRATION,
    "tracks.warp": "masks are linked by the motion of their track; delete it",
    "tracks.max_gap": "tracks.max_gap_s is the longest gap of a track, in seconds",
    "adapt": "background adaptation was removed in favour of motion (motion.weight); delete it",
}
"""Old name of a setting or a section: what to do."""


def advice(names: Iterable[str]) -> str:
    """What to do about the first old name among these; "" if there is none.

    Args:
        names: full names of settings, such as `selection.k`.
    """
    for name in names:
        if name in RENAMED:
            return f"{name} is now called {RENAMED[name]}"
        for old, answer in REMOVED.items():
            if name == old or name.startswith(f"{old}."):
                return f"{name} is no longer a setting: {answer}"
    return ""
