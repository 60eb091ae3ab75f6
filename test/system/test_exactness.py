"""The selection of many random clips is the optimum that the enumeration of Eq. 2 finds."""

from __future__ import annotations

import numpy as np
from support.clips import brute_force, paper, random_inputs, run

CLIPS = 1000


def test_select_clip_finds_the_optimum_of_random_clips() -> None:
    """With tolerances, empty frames and single frames among them."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for seed in range(CLIPS):
        t, n, k = (int(rng.integers(low, high)) for low, high in ((1, 4), (0, 5), (1, 5)))
        config = paper(
            k=k,
            overlap_tolerance=float(rng.choice([0.0, 0.05, 0.3])),
            lambda_flow=float(rng.choice([0.0, 0.1, 1.0])),
            score_weight=float(rng.choice([0.0, 1.0])),
        )
        inputs = random_inputs(seed, t, n)
        selection, _ = run(inputs, config)
        assert selection.optimal
        worst = max(worst, abs(selection.energy - brute_force(inputs, config)))
    print(f"largest difference of {CLIPS} clips: {worst:.1e}")
    assert worst < 1e-6
