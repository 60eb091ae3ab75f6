"""An environment: the few things, tables and walls that a robot sees again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENVIRONMENT_THINGS, ENVIRONMENT_TABLES, ENVIRONMENT_WALLS = 8, 3, 3
ENVIRONMENT_PRINTS = (3, 7)  # flat prints on each of its tables, from and below

_TABLE, _WALL = 0, 1


@dataclass(frozen=True)
class Environment:
    """Generators that give the same draws in every scene of the environment.

    How things are arranged, the light, where the camera stands and its field of view are not the
    environment's: every scene draws them.

    Attributes:
        things: how many of its things are there, the first ones, up to `ENVIRONMENT_THINGS`.
    """

    seed: int
    things: int = ENVIRONMENT_THINGS

    def table(self, rng: np.random.Generator) -> np.random.Generator:
        """Of the size and the texture of one of its tables, which `rng` chooses."""
        return self._surface(_TABLE, int(rng.integers(ENVIRONMENT_TABLES)))

    def wall(self, rng: np.random.Generator) -> np.random.Generator:
        """Of the size and the texture of one of its walls."""
        return self._surface(_WALL, int(rng.integers(ENVIRONMENT_WALLS)))

    def thing(self, number: int) -> np.random.Generator:
        """Of the kind, the size and the colours of one of its things."""
        return np.random.default_rng([self.seed, 5, number])

    def camera(self) -> np.random.Generator:
        """Of the blur, the noise and the colours of the robot's camera."""
        return np.random.default_rng([self.seed, 99])

    def _surface(self, what: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 7, what, number])
