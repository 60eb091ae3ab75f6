"""A fixed simulated environment: the same few objects, tables and walls in every scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENVIRONMENT_OBJECTS, ENVIRONMENT_TABLES, ENVIRONMENT_WALLS = 8, 3, 3
ENVIRONMENT_PRINTS = (3, 7)  # number of flat prints on each of its tables, upper bound excluded

_TABLE, _WALL = 0, 1


@dataclass(frozen=True)
class Environment:
    """Random generators of everything that recurs in the scenes of an environment.

    A generator gives the same draws in every scene. Each scene draws the rest: the arrangement of
    the objects, the light, and the pose and field of view of the camera.

    Attributes:
        seed: number of the environment.
        object_count: number of recurring objects, up to `ENVIRONMENT_OBJECTS`; the first ones of
            larger environments of that seed.
    """

    seed: int
    object_count: int = ENVIRONMENT_OBJECTS

    def table(self, rng: np.random.Generator) -> np.random.Generator:
        """Size and texture of a table, which `rng` chooses."""
        return self._surface(_TABLE, int(rng.integers(ENVIRONMENT_TABLES)))

    def wall(self, rng: np.random.Generator) -> np.random.Generator:
        """Size and texture of a wall, which `rng` chooses."""
        return self._surface(_WALL, int(rng.integers(ENVIRONMENT_WALLS)))

    def object(self, number: int) -> np.random.Generator:
        """Kind, size and colours of a recurring object."""
        return np.random.default_rng([self.seed, 5, number])

    def camera(self) -> np.random.Generator:
        """Blur, noise and colours of the camera."""
        return np.random.default_rng([self.seed, 99])

    def _surface(self, what: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 7, what, number])
