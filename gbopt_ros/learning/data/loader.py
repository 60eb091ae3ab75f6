"""Batches for long training: each a function of its step, loaded ahead by processes.

Nothing is drawn from a running generator: the order of an epoch, the augmentation of an example
and the random numbers of a step each have a generator of their own, seeded by what they are for.
So training that is resumed at any step meets the same batches, whatever the number of workers, and
several processes that share a batch see together what one would see alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from gbopt_ros.config import AugmentConfig
from gbopt_ros.learning.data.augmentation import Example
from gbopt_ros.learning.data.batches import draw_example
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.structures import GboptError

_ORDER, _DRAW, _STEP = range(3)  # what a generator is for

Sample = tuple[Tensor, dict[str, Tensor]]
"""(3, H, W) uint8 RGB image and its targets by name, on the CPU."""


class Batch(NamedTuple):
    """This process's share of the batch of a step.

    Attributes:
        seed: of everything that is drawn at random while the networks run, own to the process.
        samples: images may differ in size.
    """

    seed: int
    samples: list[Sample]


class Steps(Dataset[Batch]):
    """The batches of a training by step, as one of `processes` sees them.

    Args:
        pool: walked in random order without replacement, epoch after epoch.
        augmentation: strengths.
        seed: decides order, augmentation and the seeds of batches.
        batch_size: of all processes together; divisible by their number.
        targets_of: the targets of an example, on the CPU.
    """

    def __init__(
        self,
        pool: InstanceDataset,
        augmentation: AugmentConfig,
        seed: int,
        *,
        batch_size: int,
        targets_of: Callable[[Example], dict[str, Tensor]],
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        self._pool, self._augmentation, self._seed = pool, augmentation, seed
        self._batch_size, self._share, self._rank = batch_size, batch_size // processes, rank
        self._targets_of = targets_of
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, step: int) -> Batch:
        first = step * self._batch_size + self._rank * self._share
        samples = [self._sample(position) for position in range(first, first + self._share)]
        entropy = np.random.SeedSequence((self._seed, _STEP, step, self._rank))
        return Batch(int(entropy.generate_state(1, np.uint64)[0] >> 1), samples)

    def _sample(self, position: int) -> Sample:
        """The example at a position in the endless row of epochs."""
        epoch, place = divmod(position, len(self._pool))
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng((self._seed, _ORDER, epoch)).permutation(len(self._pool))
            self._epoch = (epoch, order)
        rng = np.random.default_rng((self._seed, _DRAW, position))
        example = draw_example(self._pool, int(self._epoch[1][place]), rng, self._augmentation)
        image = torch.from_numpy(np.ascontiguousarray(example.image.transpose(2, 0, 1)))
        return image, self._targets_of(example)


def load_steps(
    steps: Steps, first: int, iterations: int, *, num_workers: int, device: torch.device
) -> Iterator[Batch]:
    """The batches of steps `first` to `iterations` in order.

    Args:
        num_workers: processes that load ahead; 0 loads a batch when it is asked for.
        device: batches for a GPU are put into pinned memory, which it copies from by itself.

    Raises:
        GboptError: an image cannot be loaded.
    """
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, iterations),
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_single_threaded,
    )
    try:
        yield from loader
        return
    except GboptError as error:  # a worker process puts its whole traceback before the message
        message = str(error).strip().rpartition("GboptError: ")[2]
    raise GboptError(message)  # not in there, where it would keep the workers alive


def to_device(sample: Sample, device: torch.device) -> Sample:
    """A sample on the device, its image (3, H, W) float32 in [0, 1]."""
    image, targets = sample
    return (
        image.to(device, non_blocking=True).float().div_(255.0),
        {name: value.to(device, non_blocking=True) for name, value in targets.items()},
    )


def processes_and_rank() -> tuple[int, int]:
    """The number of processes that train together, and the number of this one among them."""
    if distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


def _single_threaded(_: int) -> None:
    cv2.setNumThreads(0)  # there is a process a core already, and OpenCV's threads do not fork
