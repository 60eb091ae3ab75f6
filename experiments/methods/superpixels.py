"""The superpixels of a clip, numbered through all frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from skimage.segmentation import slic

from gbopt_ros.structures import Image

_COMPACTNESS = 10.0  # of SLIC (Achanta et al. 2012), which found 10 a good balance


@dataclass(frozen=True)
class Superpixels:
    """S superpixels of T frames.

    Attributes:
        labels: (T, H, W) int64, superpixel of each pixel, 0 to S - 1.
        starts: (T + 1,) int64, first superpixel of each frame, and S.
    """

    labels: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, images: Sequence[Image], count: int, sigma: float = 0.0) -> Superpixels:
        """SLIC with about `count` superpixels a frame.

        Args:
            sigma: width of the Gaussian that smoothes the images before, pixels.
        """
        labels, starts = [], [0]
        for image in images:
            found = slic(image, count, compactness=_COMPACTNESS, sigma=sigma, start_label=0)
            _, numbered = np.unique(found, return_inverse=True)  # without gaps
            labels.append(numbered.reshape(found.shape) + starts[-1])
            starts.append(int(labels[-1].max()) + 1)
        return cls(np.stack(labels).astype(np.int64), np.array(starts, np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def frames(self) -> NDArray[np.int64]:
        """(S,) frame of each superpixel."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @property
    def areas(self) -> NDArray[np.int64]:
        """(S,) pixels."""
        return np.bincount(self.labels.ravel(), minlength=len(self))

    def means(self, values: NDArray) -> NDArray[np.float64]:
        """(S,) or (S, C), mean over each superpixel of (T, H, W) or (T, H, W, C) values."""
        channels = np.atleast_2d(values.reshape(self.labels.size, -1).T)  # (C, T H W)
        flat = self.labels.ravel()
        sums = np.stack([np.bincount(flat, channel, len(self)) for channel in channels], axis=-1)
        return (sums / self.areas[:, None]).reshape(len(self), *values.shape[3:])

    def centres(self) -> NDArray[np.float64]:
        """(S, 2) mean row and column, pixels."""
        _, height, width = self.labels.shape
        grid = np.stack(np.mgrid[0:height, 0:width], axis=-1)
        return self.means(np.broadcast_to(grid, (*self.labels.shape, 2)))

    def neighbours(self) -> NDArray[np.int64]:
        """(E, 2) pairs of superpixels of one frame that share an edge of a pixel, each once."""
        below = np.stack([self.labels[:, :-1].ravel(), self.labels[:, 1:].ravel()])
        right = np.stack([self.labels[..., :-1].ravel(), self.labels[..., 1:].ravel()])
        pairs = np.sort(np.concatenate([below, right], axis=1), axis=0)
        codes = np.unique(pairs[0] * len(self) + pairs[1])
        first, second = np.divmod(codes, len(self))
        return np.stack([first, second], axis=1)[first != second]

    def transfers(self, flows: NDArray[np.floating]) -> sparse.csr_array:
        """(S, S), number of pixels of a superpixel that the flow takes to one of the next frame.

        Args:
            flows: (T - 1, H, W, 2), pixels (x, y), from each frame to the next.
        """
        count, height, width = flows.shape[:3]
        frames, rows, columns = np.mgrid[0:count, 0:height, 0:width]
        to_column = np.rint(columns + flows[..., 0]).astype(np.int64)
        to_row = np.rint(rows + flows[..., 1]).astype(np.int64)
        stays = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
        here = self.labels[:-1][stays]
        there = self.labels[frames[stays] + 1, to_row[stays], to_column[stays]]
        shape = (len(self), len(self))
        return sparse.coo_array((np.ones(len(here)), (here, there)), shape).tocsr()

    def painted(self, values: NDArray) -> NDArray:
        """(T, H, W), the value (S,) of each pixel's superpixel."""
        return values[self.labels]
