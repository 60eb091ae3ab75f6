"""Short synthetic recordings, and networks that know what they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from gbopt_ros.perception.flow import DisFlow
from gbopt_ros.pipeline import Pipeline
from gbopt_ros.structures import Clip, Cues, Frame, Image, Proposals, Selection
from support.fakes import make_proposals

# ------------------------------------------------------------------- a square that moves on a table

SQUARE_SIZE = (48, 64)
SQUARE = 14


def moving_square(t: int) -> tuple[slice, slice]:
    return slice(10, 10 + SQUARE), slice(4 + 2 * t, 4 + 2 * t + SQUARE)


def square_frames(count: int) -> Iterator[Frame]:
    """A textured square that moves 2 pixels a frame over a textured table."""
    rng = np.random.default_rng(0)
    table = rng.integers(60, 120, (*SQUARE_SIZE, 3), dtype=np.uint8)
    square = rng.integers(140, 255, (SQUARE, SQUARE, 3), dtype=np.uint8)
    for t in range(count):
        image = table.copy()
        image[moving_square(t % 20)] = square
        yield Frame(image, 10**8 * (t + 1), t, "camera")


class SquareNetworks:
    """Proposes the bright square and two false masks; its background map is blurred."""

    version = "fake"

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        proposals = []
        for image in images:
            masks = np.zeros((3, *SQUARE_SIZE), bool)
            masks[0, 30:44, 40:60] = True  # a patch of table, scored highest
            masks[1] = self._bright(image)
            masks[2, :, :30] = True  # half of the table, over the square
            proposals.append(make_proposals(masks, scores=[0.9, 0.4, 0.3]))
        return proposals

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        return [np.where(self._bright(im), 0.2, 0.9).astype(np.float32) for im in images]

    @staticmethod
    def _bright(image: Image) -> NDArray[np.bool_]:
        return image.min(axis=2) >= 130


def square_selection(count: int) -> Selection:
    """What the pipeline selects in one clip of the square."""
    networks = SquareNetworks()
    pipeline = Pipeline(
        proposal_network=networks, background_network=networks, flow_network=DisFlow()
    )
    (selection,) = pipeline.run(square_frames(count))
    assert all(selection.frames)
    return selection


class SmallSquares(SquareNetworks):
    """Proposes one pixel less of the square on every side."""

    @staticmethod
    def _bright(image: Image) -> NDArray[np.bool_]:
        bright = SquareNetworks._bright(image).astype(np.uint8)
        return cv2.erode(bright, np.ones((3, 3), np.uint8)) > 0


# --------------------------------------------------- a flat print and a thing that moves against it

PRINT_SIZE = (120, 160)
PRINT, THING = (slice(20, 50), slice(20, 60)), (slice(60, 90), slice(90, 130))
UNSURE = 0.5


def print_and_thing(count: int, scale: int = 1) -> list[Frame]:
    """A table with a print moves 1 pixel a frame to the left, a thing on it 1 to the right."""
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (300, 400, 3)), (0, 0), 3)
    texture = np.clip(6 * (texture - 127) + 127, 0, 255).astype(np.uint8)
    height, width = PRINT_SIZE
    frames = []
    for t in range(count):
        image = texture[100 : 100 + height, 100 + t : 100 + t + width].copy()
        rows, columns = THING
        left = columns.start + t - count // 2
        image[rows, left : left + 40] = texture[:30, :40]
        image = cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
        frames.append(Frame(np.ascontiguousarray(image), 10**8 * (t + 1), t))
    return frames


def doubtful(scale: int = 1, unsure: float = UNSURE) -> NDArray[np.float32]:
    """Background everywhere, but that the network cannot tell what print and thing are."""
    background = np.full(PRINT_SIZE, 0.95, np.float32)
    background[PRINT] = background[THING] = unsure
    return cv2.resize(background, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


class DoubtfulNetworks:
    """Networks that propose print and thing, and hold both rather for objects."""

    version = "fake"

    def propose(self, images: Sequence[Image]) -> list[Proposals]:
        masks = np.zeros((2, *PRINT_SIZE), bool)
        masks[0][PRINT] = masks[1][THING] = True
        return [make_proposals(masks, [0.9, 0.8]) for _ in images]

    def background(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        return [doubtful(unsure=0.45) for _ in images]


def cues_of(clip: Clip, networks: SquareNetworks | DoubtfulNetworks) -> Cues:
    """What the networks say of a clip, with DIS flow."""
    images = [frame.image for frame in clip.frames]
    flows = DisFlow().flow(images[:-1], images[1:])
    return Cues(networks.propose(images), networks.background(images), list(flows))
