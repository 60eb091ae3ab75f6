"""Moving objects in a video: kinematic objects that slide, roll, spin or are lifted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gbopt_ros.simulation.objects import Body
from gbopt_ros.simulation.simulator import Simulator

_SPEED_PIXELS = (1.0, 5.0)  # a frame
_DIRECTIONS = 8


@dataclass(frozen=True)
class Mover:
    """One moving object; it pushes others.

    Attributes:
        body: id in the simulator.
        position, orientation: start pose; (3,) metres and (4,) quaternion.
        velocity: (3,) metres a second.
        spin: (3,) rotation vector, radians a second.
        phase: phase of the slow swing of its speed, radians.
    """

    body: int
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    velocity: NDArray[np.float64]
    spin: NDArray[np.float64]
    phase: float

    def place(self, sim: Simulator, seconds: float) -> None:
        """Set pose and velocity of the body `seconds` after the start."""
        way = seconds + 0.12 * (math.sin(3 * seconds + self.phase) - math.sin(self.phase))
        angle = float(np.linalg.norm(self.spin)) * way
        orientation = self.orientation
        if angle:
            turn = sim.bullet.getQuaternionFromAxisAngle(self.spin.tolist(), angle)
            _, orientation = sim.bullet.multiplyTransforms(
                [0, 0, 0], turn, [0, 0, 0], self.orientation.tolist()
            )
        position = self.position + way * self.velocity
        sim.bullet.resetBasePositionAndOrientation(self.body, position.tolist(), orientation)
        sim.bullet.resetBaseVelocity(self.body, self.velocity.tolist(), self.spin.tolist())


def choose_movers(
    sim: Simulator,
    rng: np.random.Generator,
    bodies: Sequence[Body],
    pixels_per_metre: float,
    frames_per_second: float,
) -> list[Mover]:
    """Random motions of up to half of the bodies, and of at least one if there is any."""
    if not bodies:
        return []
    count = int(rng.integers(1, max(2, len(bodies) // 2 + 1)))
    chosen = rng.choice(len(bodies), size=min(count, len(bodies)), replace=False)
    movers = []
    for index in chosen:
        body = bodies[int(index)]
        others = [_position(sim, other)[:2] for other in bodies if other is not body]
        speed = rng.uniform(*_SPEED_PIXELS) / pixels_per_metre * frames_per_second
        movers.append(_make_mover(sim, rng, body, others, speed))
    return movers


def _position(sim: Simulator, body: Body) -> NDArray[np.float64]:
    return np.array(sim.bullet.getBasePositionAndOrientation(body.body)[0])


def _make_mover(
    sim: Simulator,
    rng: np.random.Generator,
    body: Body,
    others: Sequence[NDArray[np.float64]],
    speed: float,
) -> Mover:
    position, orientation = sim.bullet.getBasePositionAndOrientation(body.body)
    direction = _clearest_direction(rng, np.array(position[:2]), others)
    velocity = speed * np.array([*direction, 0.0])
    spin = np.zeros(3)
    motion = rng.random()
    if body.kind.name == "sphere" or body.kind.name == "soccer ball":
        radius = max(position[2], 0.01)
        spin = np.array([-velocity[1], velocity[0], 0.0]) / radius  # rolls without slipping
    elif motion < 0.3:
        velocity = velocity * [0.5, 0.5, 0] + [0, 0, speed * rng.uniform(0.4, 0.9)]
        spin[2] = rng.normal(0, 0.4)
    elif motion < 0.5:
        velocity *= 0.4
        spin[2] = rng.choice([-1, 1]) * rng.uniform(0.3, 1.2)
    return Mover(
        body.body,
        np.array(position),
        np.array(orientation),
        velocity,
        spin,
        float(rng.uniform(0, 2 * math.pi)),
    )


def _clearest_direction(
    rng: np.random.Generator,
    start: NDArray[np.float64],
    others: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """(2,) unit vector, usually away from the others, sometimes any, so that it may push one."""
    angles = rng.uniform(0, 2 * math.pi) + np.arange(_DIRECTIONS) * 2 * math.pi / _DIRECTIONS
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if not others or rng.random() < 0.35:
        return directions[0]
    ways = start + 0.12 * directions  # (D, 2)
    clearance = np.linalg.norm(ways[:, None] - np.array(others)[None], axis=2).min(axis=1)
    return directions[int(clearance.argmax())]
