"""One table-top scene: built from a random generator alone, rendered with instance masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.masks import encode_all
from gbopt_ros.simulation.camera import (
    FAR_M,
    HEIGHT,
    NEAR_M,
    SUPERSAMPLING,
    WIDTH,
    Camera,
    pixel_projection,
    random_camera,
)
from gbopt_ros.simulation.environment import ENVIRONMENT_PRINTS, Environment
from gbopt_ros.simulation.objects import UNSEEN, Body, Kind, draw_kind, spawn
from gbopt_ros.simulation.optics import Optics
from gbopt_ros.simulation.simulator import Simulator, random_light
from gbopt_ros.simulation.surfaces import Surface, linear_form, paint_canvas
from gbopt_ros.simulation.textures import Texture, random_color
from gbopt_ros.structures import Image, Rle

MIN_VISIBLE_PIXELS = 60
MIN_OBJECTS, MAX_OBJECTS = 3, 9
_BODY_BITS = (1 << 24) - 1  # higher bits of the segmentation hold the link
_SETTLE_S = 0.7
_LAMP_DISTANCE_M, _LAMP_FOV, _LAMP_PIXELS = 6.0, 10.0, 384  # sees 1 m around the origin


class Visible(NamedTuple):
    """An object in an image: its name, its visible mask, and its centre of mass in the world."""

    name: str
    rle: Rle
    centre: tuple[float, float, float]


class Scene:
    """Objects on a table, perhaps in front of a wall, with light, camera and optics.

    In an environment, objects, tables, walls and optics recur from scene to scene.
    """

    def __init__(
        self,
        sim: Simulator,
        rng: np.random.Generator,
        seen: bool,
        pictures: Sequence[Texture] = (),
        settle_s: float = _SETTLE_S,
        unseen: Sequence[Kind] = UNSEEN,
        environment: Environment | None = None,
    ) -> None:
        sim.reset()
        self._sim = sim
        self.camera = random_camera(rng)
        self._light = random_light(rng)
        self._shadow = (float(rng.uniform(0.15, 0.65)), float(rng.uniform(0.5, 5.0)))
        self._far_color = random_color(rng)
        table = environment.table(rng) if environment else rng
        extent = float(table.uniform(1.2, 1.8))
        prints = int(table.integers(0, 6)) if table.random() < 0.75 else 0
        if environment:
            prints = int(table.integers(*ENVIRONMENT_PRINTS))
        canvas = paint_canvas(table, extent, prints, int(table.integers(0, 4)), pictures)
        x_axis, y_axis, _ = np.eye(3)
        self._table = Surface(canvas, np.zeros(3), x_axis, y_axis, extent)
        sim.add_solid_plane(np.zeros(3), self._table.normal)
        self._wall = self._make_wall(rng, pictures, environment) if rng.random() < 0.5 else None
        if self._wall is not None:
            sim.add_solid_plane(self._wall.origin, self._wall.normal)
        self._optics = Optics(environment.camera() if environment else rng, HEIGHT, WIDTH)
        self.bodies = _place_objects(sim, rng, seen, unseen, environment)
        sim.step(settle_s)
        self._remove_fallen()

    def render(self, camera: Camera, rng: np.random.Generator) -> tuple[Image, tuple[Visible, ...]]:
        """(240, 320, 3) uint8 RGB, and each object with at least 60 visible pixels."""
        size = (HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING)
        rendered, ids, _ = self._rasterise(camera.matrices(self._sim), size)
        picture = self._backdrop(camera, size)
        on_object = ids >= 0
        picture[on_object] = rendered[on_object] / np.float32(255)
        picture = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        return self._optics(picture, rng), self._visible(ids)

    def depth(self, camera: Camera) -> NDArray[np.float32]:
        """(240, 320) metres along the optical axis; infinite where there is nothing."""
        size = HEIGHT, WIDTH
        matrices = camera.matrices(self._sim)
        _, ids, buffer = self._rasterise(matrices, size)
        objects = FAR_M * NEAR_M / (FAR_M - (FAR_M - NEAR_M) * buffer.astype(np.float64))
        depth = np.where(ids >= 0, objects, np.inf)
        projection = pixel_projection(matrices, size)
        for surface in filter(None, (self._table, self._wall)):
            nearness = linear_form(np.linalg.inv(surface.homography(projection))[2], size)
            depth = np.minimum(depth, 1 / np.maximum(nearness, 1e-9))
        return np.where(depth < FAR_M, depth, np.inf).astype(np.float32)

    def _remove_fallen(self) -> None:
        """Remove objects that were pressed through the table: they would be drawn over it."""
        bullet = self._sim.bullet
        on_table = []
        for body in self.bodies:
            if bullet.getBasePositionAndOrientation(body.body)[0][2] > -0.01:
                on_table.append(body)
            else:
                bullet.removeBody(body.body)
        self.bodies = tuple(on_table)

    def visible_count(self) -> int:
        """Number of objects that are visible enough to be labelled, from the scene's own camera."""
        _, ids, _ = self._rasterise(self.camera.matrices(self._sim), (HEIGHT, WIDTH))
        seen = (int(np.count_nonzero(ids == b.body)) for b in self.bodies)
        return sum(pixels >= MIN_VISIBLE_PIXELS for pixels in seen)

    def _make_wall(
        self, rng: np.random.Generator, pictures: Sequence[Texture], environment: Environment | None
    ) -> Surface:
        """A wall behind the objects, turned a little from the viewing direction."""
        wall = environment.wall(rng) if environment else rng
        angle = rng.normal(0, 0.3)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        away = np.array([*(turn @ self.camera.forward), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        extent = float(wall.uniform(1.0, 1.8))
        canvas = paint_canvas(wall, extent, int(wall.integers(0, 5)), 0, pictures)
        origin = away * rng.uniform(0.5, 0.9) + 0.3 * up
        return Surface(canvas, origin, np.cross(away, up), -up, extent, facing=-1)

    def _rasterise(
        self, matrices: tuple[list[float], list[float]], size: tuple[int, int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]]:
        """The objects: (height, width, 3) RGB, body id or -1, and OpenGL's depth of each pixel."""
        height, width = size
        _, _, rgba, buffer, ids = self._sim.bullet.getCameraImage(
            width,
            height,
            *matrices,
            renderer=self._sim.bullet.ER_TINY_RENDERER,
            **self._light,
        )
        rgb = np.asarray(rgba, np.uint8).reshape(height, width, 4)[:, :, :3]
        ids = np.asarray(ids, np.int32).reshape(height, width)
        buffer = np.asarray(buffer, np.float32).reshape(height, width)
        return rgb, np.where(ids < 0, -1, ids & _BODY_BITS), buffer

    def _backdrop(self, camera: Camera, size: tuple[int, int]) -> Texture:
        """(height, width, 3) float32: table, wall and the colour behind them, without objects."""
        projection = pixel_projection(camera.matrices(self._sim), size)
        picture = np.empty((*size, 3), np.float32)
        picture[:] = self._far_color
        lamp = self._lamp_view() if self._light["shadow"] else None
        table = self._table.homography(projection)
        rays = np.linalg.inv(table)  # pixels to (x, y, 1) / depth on the table
        on_table = linear_form(rays[2], size) > 0
        if self._wall is not None:
            wall = self._wall.homography(projection)
            on_wall = linear_form(np.linalg.inv(wall)[2], size) > 0
            picture[on_wall] = self._lit(self._wall, wall, size, lamp)[on_wall]
            away = -self._wall.normal
            beyond = away[0] * rays[0] + away[1] * rays[1] - (away @ self._wall.origin) * rays[2]
            on_table &= linear_form(beyond, size) < 0
        picture[on_table] = self._lit(self._table, table, size, lamp)[on_table]
        return picture

    def _lit(
        self,
        surface: Surface,
        homography: NDArray[np.float64],
        size: tuple[int, int],
        lamp: tuple[NDArray[np.float32], NDArray[np.float64]] | None,
    ) -> Texture:
        """The view of a surface, brighter if it faces the lamp, darker in shadows."""
        direction = np.array(self._light["lightDirection"])
        facing = float(surface.normal @ direction / np.linalg.norm(direction))
        diffuse = self._light["lightDiffuseCoeff"] * max(facing, 0.0)
        shade = max(0.6, 1.15 * (self._light["lightAmbientCoeff"] + diffuse))
        view = surface.warp(homography, size) * np.float32(shade)
        if lamp is not None and facing > 0:
            blocked, projection = lamp
            from_lamp = homography @ np.linalg.inv(surface.homography(projection))
            depth, softness = self._shadow
            shadow = cv2.warpPerspective(blocked, from_lamp, size[::-1])
            view *= (1 - depth * cv2.GaussianBlur(shadow, (0, 0), softness))[..., None]
        return view

    def _lamp_view(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The shadow casters as the lamp sees them, (P, P) float32, and its (3, 4) projection."""
        bullet, size = self._sim.bullet, (_LAMP_PIXELS, _LAMP_PIXELS)
        direction = np.array(self._light["lightDirection"])
        eye = _LAMP_DISTANCE_M * direction / np.linalg.norm(direction)
        matrices = (
            bullet.computeViewMatrix(eye.tolist(), [0, 0, 0], [0, 0, 1]),
            bullet.computeProjectionMatrixFOV(_LAMP_FOV, 1, 1, 2 * _LAMP_DISTANCE_M),
        )
        _, ids, _ = self._rasterise(matrices, size)
        return (ids >= 0).astype(np.float32), pixel_projection(matrices, size)

    def _visible(self, ids: NDArray[np.int32]) -> tuple[Visible, ...]:
        """The objects in (240, 320): a pixel belongs to the one that covers most of it, if any."""
        bodies = [body for body in self.bodies if np.any(ids == body.body)]
        layers = [np.isin(ids, [b.body for b in bodies], invert=True)]
        layers += [ids == b.body for b in bodies]
        coverage = np.stack(
            [
                cv2.resize(layer.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
                for layer in layers
            ]
        )
        winner = coverage.argmax(axis=0)
        masks = winner[None] == np.arange(1, len(layers))[:, None, None]
        seen = np.flatnonzero(masks.sum(axis=(1, 2)) >= MIN_VISIBLE_PIXELS)
        rles = encode_all(masks[seen])
        place = self._sim.bullet.getBasePositionAndOrientation
        return tuple(
            Visible(bodies[i].name, rle, place(bodies[i].body)[0])
            for i, rle in zip(seen, rles, strict=True)
        )


def _place_objects(
    sim: Simulator,
    rng: np.random.Generator,
    seen: bool,
    unseen: Sequence[Kind],
    environment: Environment | None,
) -> tuple[Body, ...]:
    """Objects close to each other; some are dropped on others, so that they touch."""
    area = rng.uniform(0.1, 0.24)
    spots: list[tuple[float, float, float, float]] = []  # x, y, radius, top
    bodies: list[Body] = []
    tried: set[int] = set()  # recurring objects that were placed, or found no place
    for _ in range(int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))):
        appearance, number = rng, None
        if environment:
            number = int(rng.integers(environment.object_count))
            if number in tried:
                continue
            tried.add(number)
            appearance = environment.object(number)
        kind = draw_kind(appearance, seen, unseen)
        name = kind.name if number is None else f"{kind.name} {number}"
        radius = 0.4 * sum(kind.target) / 2
        spot = _free_spot(rng, spots, radius, area, kind.stands)
        if spot is None:
            continue
        below = [s for s in spots if np.hypot(s[0] - spot[0], s[1] - spot[1]) < s[2] + radius]
        base = max((s[3] for s in below), default=0.0)
        place = spot[0], spot[1], base + 0.55 * kind.target[1]
        body = spawn(sim, rng, kind, place, appearance, name)
        spots.append((*spot, radius, base + body.size))
        bodies.append(body)
    return tuple(bodies)


def _free_spot(
    rng: np.random.Generator,
    spots: list[tuple[float, float, float, float]],
    radius: float,
    area: float,
    clear: bool,
) -> tuple[float, float] | None:
    """A place on the table, None if there is none; a `clear` one is far from all others."""
    for _ in range(20):
        distance, angle = area * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        x, y = float(distance * np.cos(angle)), float(distance * np.sin(angle))
        needed = 1.1 if clear else 0.8
        if all(np.hypot(x - s[0], y - s[1]) >= needed * (radius + s[2]) for s in spots):
            return x, y
    return None
