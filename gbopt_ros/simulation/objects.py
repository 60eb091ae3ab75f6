"""Kinds of objects: seen ones, which the seed network is trained on, and unseen ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gbopt_ros.simulation.simulator import Simulator
from gbopt_ros.simulation.textures import SKINS, draw, random_color
from gbopt_ros.structures import GboptError

PRIMITIVES = ("box", "sphere", "cylinder", "capsule")
_PRIMITIVE_SHARE = 0.5
_RANDOM_URDFS = 1000
_MASS_KG = 0.2


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        name: name of the kind.
        file: model below the pybullet_data folder, "" for primitives.
        extent: largest side of the stored model, metres.
        target: range of the largest side on the table, metres.
        stands: it is fixed upright on the table (articulated or legged models); others are dropped
            in any orientation.
        centre: (x, y) middle of the stored model, metres; used if it stands.
        bottom: lowest z of the stored model, metres; used if it stands.
        swing: standard deviation of random joint angles, radians.
        has_uv: its mesh has texture coordinates, so it may get a random texture.
    """

    name: str
    file: str
    extent: float
    target: tuple[float, float] = (0.055, 0.13)
    stands: bool = False
    centre: tuple[float, float] = (0.0, 0.0)
    bottom: float = 0.0
    swing: float = 0.0
    has_uv: bool = False


UNSEEN: tuple[Kind, ...] = (
    Kind("duck", "duck_vhacd.urdf", 0.083, has_uv=True),
    Kind("teddy", "teddy_vhacd.urdf", 0.092),
    Kind("mug", "objects/mug.urdf", 0.126),
    Kind("soccer ball", "soccerball.urdf", 1.0, (0.05, 0.11), has_uv=True),
    Kind("lego brick", "lego/lego.urdf", 0.034, (0.045, 0.1)),
    Kind("jenga block", "jenga/jenga.urdf", 0.154, (0.08, 0.15), has_uv=True),
    Kind("domino", "domino/domino.urdf", 0.052, (0.07, 0.13), has_uv=True),
    Kind("bunny", "bunny.obj", 2.01, (0.07, 0.14)),
    Kind("torus", "torus/torus_textured.obj", 1.5, (0.07, 0.14), has_uv=True),
    Kind("elbow", "xarm/link2.urdf", 0.383, (0.08, 0.15), True, (0.027, -0.137), -0.074),
    Kind("car", "racecar/racecar.urdf", 0.475, (0.1, 0.18), True, (0.179, 0.0), 0.0, 0.2),
    Kind("truck", "husky/husky.urdf", 1.015, (0.09, 0.16), True, (0.0, 0.0), -0.008, 0.2),
    Kind("r2d2", "r2d2.urdf", 0.955, (0.09, 0.17), True, (0.0, 0.1), -0.485),
    Kind("robot dog", "a1/a1.urdf", 0.521, (0.12, 0.19), True, (0.02, 0.0), -0.428, 0.15),
    Kind("minitaur", "quadruped/minitaur.urdf", 0.528, (0.1, 0.17), True, (0.0, 0.0), -0.047),
    Kind("spirit", "quadruped/spirit40.urdf", 0.738, (0.11, 0.18), True, (-0.07, 0.0), -0.06, 0.1),
    Kind("kuka arm", "kuka_iiwa/model.urdf", 1.31, (0.15, 0.25), True, swing=0.5),
    Kind("xarm", "xarm/xarm6_robot.urdf", 0.605, (0.12, 0.2), True, (0.08, 0.02), swing=0.35),
    Kind("panda arm", "franka_panda/panda.urdf", 1.1, (0.14, 0.24), True, swing=0.4),
    Kind("gripper", "pr2_gripper.urdf", 0.327, (0.1, 0.17), True, (0.162, 0.0), -0.027, 0.2),
    Kind("tray", "tray/traybox.urdf", 0.629, (0.09, 0.17), True, bottom=-0.009, has_uv=True),
    Kind("toy table", "table/table.urdf", 1.578, (0.1, 0.17), True, bottom=-0.01, has_uv=True),
    Kind("stool", "table_square/table_square.urdf", 0.679, (0.07, 0.13), True, bottom=-0.015),
)


@dataclass(frozen=True)
class Body:
    """An object in the world: `body` is its id in the simulator and in the segmentation."""

    body: int
    kind: Kind
    size: float  # largest side, metres
    name: str  # name of its kind, followed by its number in an environment


def unseen_kinds(names: Sequence[str]) -> tuple[Kind, ...]:
    """The unseen kinds of these names, all kinds for no name.

    Raises:
        GboptError: there is no such kind.
    """
    by_name = {kind.name: kind for kind in UNSEEN}
    for name in names:
        if name not in by_name:
            raise GboptError(f"unknown kind {name!r}: expected some of {', '.join(by_name)}")
    return tuple(by_name[name] for name in names) or UNSEEN


def draw_kind(rng: np.random.Generator, seen: bool, unseen: Sequence[Kind] = UNSEEN) -> Kind:
    """A random kind, seen or one of the given unseen ones."""
    if not seen:
        return unseen[int(rng.integers(len(unseen)))]
    if rng.random() < _PRIMITIVE_SHARE:
        return Kind(PRIMITIVES[int(rng.integers(len(PRIMITIVES)))], "", 1.0, (0.045, 0.14))
    number = 2 * int(rng.integers(_RANDOM_URDFS // 2))  # odd numbers stay unused
    name = f"{number:03d}"
    return Kind(name, f"random_urdfs/{name}/{name}.urdf", 0.1, (0.06, 0.16))


def spawn(
    sim: Simulator,
    rng: np.random.Generator,
    kind: Kind,
    position: tuple[float, float, float],
    appearance: np.random.Generator,
    name: str,
) -> Body:
    """Load an object in a random pose; `appearance` draws its size and colours.

    Args:
        position: (x, y, z) in metres; a kind that stands does not use z.
    """
    size = float(appearance.uniform(*kind.target))
    scale = size / kind.extent
    if kind.stands:
        body = _load_standing(sim, rng, kind, position, scale)
    else:
        orientation = _random_orientation(sim, rng)
        if not kind.file:
            body = _make_primitive(sim, appearance, kind.name, size, position, orientation)
        elif kind.file.endswith(".obj"):
            body = _load_mesh(sim, kind, position, orientation, scale)
        else:
            body = sim.bullet.loadURDF(
                str(sim.models / kind.file), position, orientation, globalScaling=scale
            )
        sim.bullet.changeDynamics(
            body,
            -1,
            mass=_MASS_KG,
            lateralFriction=0.6,
            rollingFriction=0.002,
            spinningFriction=0.002,
            linearDamping=0.3,
            angularDamping=0.5,
        )
    _paint(sim, appearance, kind, body)
    return Body(body, kind, size, name)


def _random_orientation(sim: Simulator, rng: np.random.Generator) -> list[float]:
    yaw = rng.uniform(0, 2 * math.pi)
    tilt = [0.0, 0.0] if rng.random() < 0.4 else rng.uniform(0, 2 * math.pi, 2).tolist()
    return list(sim.bullet.getQuaternionFromEuler([*tilt, yaw]))


def _load_standing(
    sim: Simulator,
    rng: np.random.Generator,
    kind: Kind,
    position: tuple[float, float, float],
    scale: float,
) -> int:
    yaw = rng.uniform(0, 2 * math.pi)
    x, y = kind.centre
    offset = (
        scale * (math.cos(yaw) * x - math.sin(yaw) * y),
        scale * (math.sin(yaw) * x + math.cos(yaw) * y),
    )
    bullet = sim.bullet
    body = bullet.loadURDF(
        str(sim.models / kind.file),
        [position[0] - offset[0], position[1] - offset[1], -kind.bottom * scale],
        bullet.getQuaternionFromEuler([0, 0, yaw]),
        useFixedBase=True,
        globalScaling=scale,
    )
    for joint in range(bullet.getNumJoints(body)):
        if bullet.getJointInfo(body, joint)[2] == bullet.JOINT_REVOLUTE:
            bullet.resetJointState(body, joint, float(rng.normal(0, kind.swing)))
            bullet.setJointMotorControl2(
                body, joint, bullet.VELOCITY_CONTROL, targetVelocity=0, force=100
            )
    return int(body)


def _make_primitive(
    sim: Simulator,
    rng: np.random.Generator,
    name: str,
    size: float,
    position: tuple[float, float, float],
    orientation: list[float],
) -> int:
    bullet = sim.bullet
    if name == "box":
        half = (0.5 * size * np.array([1, *rng.uniform(0.2, 1.0, 2)])).tolist()
        collision = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half)
        visual = bullet.createVisualShape(bullet.GEOM_BOX, halfExtents=half)
    elif name == "sphere":
        radius = 0.4 * size
        collision = bullet.createCollisionShape(bullet.GEOM_SPHERE, radius=radius)
        visual = bullet.createVisualShape(bullet.GEOM_SPHERE, radius=radius)
    else:
        # a flat disc, a can or a rod
        radius, length = 0.5 * size * rng.uniform(0.25, 0.9), size * rng.uniform(0.3, 1.0)
        shape = bullet.GEOM_CYLINDER
        if name == "capsule":
            shape, radius, length = bullet.GEOM_CAPSULE, 0.3 * radius + 0.006, 0.7 * size
        collision = bullet.createCollisionShape(shape, radius=radius, height=length)
        visual = bullet.createVisualShape(shape, radius=radius, length=length)
    return int(bullet.createMultiBody(_MASS_KG, collision, visual, position, orientation))


def _load_mesh(
    sim: Simulator,
    kind: Kind,
    position: tuple[float, float, float],
    orientation: list[float],
    scale: float,
) -> int:
    bullet, path = sim.bullet, str(sim.models / kind.file)
    mesh = {"fileName": path, "meshScale": [scale] * 3}
    collision = bullet.createCollisionShape(bullet.GEOM_MESH, **mesh)
    visual = bullet.createVisualShape(bullet.GEOM_MESH, **mesh)
    return int(bullet.createMultiBody(_MASS_KG, collision, visual, position, orientation))


def _paint(sim: Simulator, rng: np.random.Generator, kind: Kind, body: int) -> None:
    """Recolour or texture an object: primitives always, models with some probability."""
    primitive = not kind.file
    if (primitive or kind.has_uv) and rng.random() < (0.45 if primitive else 0.25):
        texture = sim.load_texture(draw(rng, SKINS, 128))
        sim.bullet.changeVisualShape(body, -1, textureUniqueId=texture, rgbaColor=[1, 1, 1, 1])
    elif primitive or rng.random() < 0.5:
        palette = [random_color(rng) for _ in range(int(rng.integers(1, 4)))]
        links = sorted({shape[1] for shape in sim.bullet.getVisualShapeData(body)})
        for number, link in enumerate(links):
            color = palette[number % len(palette)]
            sim.bullet.changeVisualShape(body, link, rgbaColor=[*map(float, color), 1.0])
