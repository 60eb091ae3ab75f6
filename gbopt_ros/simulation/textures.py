"""Procedural textures and printed pictures, (size, size, 3) float32 RGB in [0, 1]."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Texture = NDArray[np.float32]


def random_color(rng: np.random.Generator) -> NDArray[np.float32]:
    """(3,) float32; half of the colours are muted, as on most surfaces of a room."""
    saturation = rng.uniform(0.0, 0.35) if rng.random() < 0.5 else rng.uniform(0.35, 1.0)
    return np.array(
        colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.18, 1.0)), np.float32
    )


def noise(
    rng: np.random.Generator, size: int, octaves: int = 5, base: int = 3, stretch: int = 1
) -> NDArray[np.float32]:
    """(size, size) float32 in [0, 1], fractal noise; `stretch` elongates its grain along x."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        rows = min(base * 2**octave, size)
        columns = max(2, rows // stretch)
        grid = rng.random((rows + 1, columns + 1), dtype=np.float32)
        total += 0.6**octave * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _mix(
    weight: NDArray[np.floating], first: NDArray[np.floating], second: NDArray[np.floating]
) -> Texture:
    return first + weight[..., None] * (second - first)


def uniform(rng: np.random.Generator, size: int) -> Texture:
    grain = noise(rng, size, 3, base=int(rng.integers(4, 60)))
    return random_color(rng) * (1 + rng.uniform(0.0, 0.12) * (grain[..., None] - 0.5))


def wood(rng: np.random.Generator, size: int) -> Texture:
    hue = rng.uniform(0.04, 0.12)
    light = np.array(
        colorsys.hsv_to_rgb(hue, rng.uniform(0.2, 0.65), rng.uniform(0.4, 0.95)), np.float32
    )
    grain = noise(rng, size, 5, base=12, stretch=10)
    waves = noise(rng, size, 3, base=4, stretch=3)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (waves * rng.uniform(3, 9) + 0.4 * grain))
    texture = _mix(0.6 * rings + 0.4 * grain, light * rng.uniform(0.45, 0.85), light)
    planks = int(rng.integers(0, 7))
    if planks:
        rows = np.arange(size)
        tone = rng.uniform(0.75, 1.1, planks + 1).astype(np.float32)
        texture *= tone[rows * planks // size][:, None, None]
        texture[rows % (size // planks) < 3] *= 0.5
    return texture


def fractal(rng: np.random.Generator, size: int) -> Texture:
    base = int(rng.integers(2, 40))
    weight = noise(rng, size, 5, base=base)
    if rng.random() < 0.4:  # sharper blotches: stone, camouflage
        weight = np.clip((weight - 0.5) * rng.uniform(2, 8) + 0.5, 0, 1)
    return _mix(weight, random_color(rng), random_color(rng))


def marble(rng: np.random.Generator, size: int) -> Texture:
    veins = np.abs(noise(rng, size, 5, base=3) - 0.5) * rng.uniform(6, 14)
    return _mix(np.clip(veins, 0, 1), random_color(rng), random_color(rng))


def checker(rng: np.random.Generator, size: int) -> Texture:
    cells = int(rng.integers(3, 22))
    row, column = np.mgrid[0:size, 0:size] * cells // size
    weight = ((row + column) % 2).astype(np.float32)
    return _mix(weight, random_color(rng), random_color(rng))


def tiles(rng: np.random.Generator, size: int) -> Texture:
    count = int(rng.integers(3, 12))
    tone = rng.uniform(0.8, 1.0, (count, count)).astype(np.float32)
    texture = cv2.resize(tone, (size, size), interpolation=cv2.INTER_NEAREST)
    surface = texture[..., None] * uniform(rng, size)
    step, joint = size / count, max(2, int(size * rng.uniform(0.003, 0.01)))
    line = np.arange(size) % step < joint
    grout = random_color(rng)
    surface[line] = grout
    surface[:, line] = grout
    return surface


def stripes(rng: np.random.Generator, size: int) -> Texture:
    angle = rng.uniform(0, np.pi)
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) / size
    phase = (column * np.cos(angle) + row * np.sin(angle)) * rng.uniform(3, 25)
    weight = np.clip((np.sin(2 * np.pi * phase) + rng.uniform(-0.6, 0.6)) * 8, 0, 1)
    return _mix(weight.astype(np.float32), random_color(rng), random_color(rng))


def cloth(rng: np.random.Generator, size: int) -> Texture:
    count = rng.uniform(30, 110)
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) * (np.pi * 2 * count / size)
    weave = 0.5 + 0.25 * (np.sin(row) + np.sin(column))
    texture = _mix(weave, random_color(rng), random_color(rng))
    if rng.random() < 0.5:  # tartan
        bands = (np.arange(size) * int(rng.integers(2, 9)) * 2 // size) % 2 == 0
        color = random_color(rng)
        texture[bands] = 0.6 * texture[bands] + 0.4 * color
        texture[:, bands] = 0.6 * texture[:, bands] + 0.4 * color
    return texture * (0.8 + 0.2 * noise(rng, size, 4)[..., None])


def dots(rng: np.random.Generator, size: int) -> Texture:
    count = int(rng.integers(4, 18))
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) * (count / size) % 1 - 0.5
    inside = np.hypot(row, column) < rng.uniform(0.15, 0.42)
    return _mix(inside.astype(np.float32), random_color(rng), random_color(rng))


def confetti(rng: np.random.Generator, size: int) -> Texture:
    """Many flat shapes on one ground, which are easily mistaken for objects."""
    texture = np.empty((size, size, 3), np.float32)
    texture[:] = random_color(rng)
    for _ in range(int(rng.integers(12, 60))):
        centre = rng.integers(0, size, 2)
        radius = rng.uniform(0.015, 0.08) * size
        draw_polygon(rng, texture, centre, radius, random_color(rng))
    return texture


def draw_polygon(
    rng: np.random.Generator,
    texture: Texture,
    centre: NDArray[np.integer],
    radius: float,
    color: NDArray[np.float32],
) -> None:
    """Fill a random triangle, quadrilateral or disc of one colour, in place."""
    corners = int(rng.choice([3, 4, 5, 24]))
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    points = centre + radius * np.stack(
        [np.cos(angles), np.sin(angles) * rng.uniform(0.4, 1.0)], axis=1
    )
    cv2.fillPoly(
        texture,
        [points.astype(np.int32)],
        tuple(float(v) for v in color),
        lineType=cv2.LINE_AA,
    )


def lettering(rng: np.random.Generator, size: int) -> Texture:
    """A sheet of paper with lines of text."""
    printed = np.zeros((size, size), np.uint8)
    lines = int(rng.integers(4, 14))
    step = size // (lines + 1)
    for line in range(1, lines + 1):
        text = "".join(chr(int(c)) for c in rng.integers(97, 123, int(rng.integers(8, 30))))
        position = (size // 12, line * step)
        font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, step // 16)
        cv2.putText(printed, text, position, font, step / 45, 255, thickness, cv2.LINE_AA)
    paper = np.empty((size, size, 3), np.float32)
    paper[:] = rng.uniform(0.75, 1.0) * np.array([1.0, 1.0, rng.uniform(0.85, 1.0)])
    return _mix(printed.astype(np.float32) / 255, paper, 0.6 * random_color(rng))


def shapes_picture(rng: np.random.Generator, size: int) -> Texture:
    """A flat picture of shaded balls and boxes, which looks like objects."""
    picture = FLOORS[int(rng.integers(len(FLOORS)))](rng, size)
    light = rng.uniform(-0.5, 0.5, 2)
    row, column = np.mgrid[0:size, 0:size].astype(np.float32)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(0.2, 0.8, 2) * size
        radius = rng.uniform(0.08, 0.25) * size
        if rng.random() < 0.5:
            dx, dy = (column - x) / radius, (row - y) / radius
            inside = dx * dx + dy * dy < 1
            shade = 1.05 - 0.6 * np.hypot(dx - light[0], dy - light[1])
            picture[inside] = (np.clip(shade, 0.15, 1)[..., None] * random_color(rng))[inside]
        else:
            _draw_box(rng, picture, np.array([x, y]), radius)
    return picture


def _draw_box(
    rng: np.random.Generator, picture: Texture, centre: NDArray[np.float64], radius: float
) -> None:
    angle = rng.uniform(0, np.pi / 2) + np.arange(4) * np.pi / 2
    top = centre + radius * np.stack([np.cos(angle), 0.5 * np.sin(angle)], axis=1)
    down = np.array([0.0, radius * rng.uniform(0.4, 1.4)])
    color = random_color(rng)
    for side in range(4):
        a, b = top[side], top[(side + 1) % 4]
        if a[1] + b[1] > 2 * centre[1]:
            shade = rng.uniform(0.4, 0.8)
            face = np.array([a, b, b + down, a + down], np.int32)
            cv2.fillPoly(picture, [face], tuple(float(v) for v in color * shade), cv2.LINE_AA)
    cv2.fillPoly(picture, [top.astype(np.int32)], tuple(float(v) for v in color), cv2.LINE_AA)


Pattern = Callable[[np.random.Generator, int], Texture]
FLOORS: tuple[Pattern, ...] = (
    uniform,
    uniform,
    wood,
    wood,
    fractal,
    marble,
    checker,
    tiles,
    stripes,
    cloth,
)
PRINTS: tuple[Pattern, ...] = (
    stripes,
    checker,
    dots,
    confetti,
    lettering,
    shapes_picture,
    shapes_picture,
    fractal,
    marble,
    uniform,
)
SKINS: tuple[Pattern, ...] = (wood, fractal, marble, checker, stripes, dots, cloth, tiles)


def draw(rng: np.random.Generator, patterns: tuple[Pattern, ...], size: int) -> Texture:
    """One texture of a random pattern, clipped to [0, 1]."""
    pattern = patterns[int(rng.integers(len(patterns)))]
    return np.clip(pattern(rng, size), 0, 1).astype(np.float32)
