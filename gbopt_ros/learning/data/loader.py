"""Training batches: each is a function of the seed and its step.

No random generator keeps a state. The order of an epoch, the augmentation of an example and the
random numbers of a step each have a generator of their own, seeded by their purpose. So a resumed
training meets the same batches, the number of workers changes nothing, and several processes that
share a batch see together what one would see alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from gbopt_ros.config import AugmentConfig
from gbopt_ros.learning.data.augmentation import Example, augment, copy_paste, to_example
from gbopt_ros.learning.data.datasets import InstanceDataset
from gbopt_ros.structures import GboptError

_ORDER, _EXAMPLE, _STEP = range(3)  # purposes of random generators
_PURPOSES = 3

Sample = tuple[Tensor, dict[str, Tensor]]
"""(3, H, W) uint8 RGB image and its targets by name, on the CPU."""


class Batch(NamedTuple):
    """The samples of one step that this process trains on.

    Attributes:
        seed: for the random numbers of the networks in this step; differs between processes.
        samples: those of each dataset in turn; images may differ in size.
    """

    seed: int
    samples: list[Sample]


class Batches(Dataset[Batch]):
    """The batches of a training by step, each with a fixed number of examples from each dataset.

    Every dataset is walked in random order without replacement, epoch after epoch. Copy-paste mixes
    examples within a dataset only, so that labels of different trust are not mixed.

    Args:
        datasets: (dataset, number of its examples in each batch, of all processes together and
            divisible by their number). A dataset that gives 0 examples is not read.
        augmentation: strengths.
        seed: decides order, augmentation and the seeds of batches.
        targets_of: makes the targets of an example, on the CPU.
        processes: number of processes that share each batch.
        rank: number of this process.

    Raises:
        ValueError: a dataset is empty.
    """

    def __init__(
        self,
        datasets: Sequence[tuple[InstanceDataset, int]],
        augmentation: AugmentConfig,
        seed: int,
        targets_of: Callable[[Example], dict[str, Tensor]],
        *,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        if any(count and not len(dataset) for dataset, count in datasets):
            raise ValueError("Batches: expected datasets with images, one is empty")
        self._datasets, self._augmentation, self._seed = list(datasets), augmentation, seed
        self._targets_of, self._processes, self._rank = targets_of, processes, rank
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}  # dataset: epoch and its order

    def __getitem__(self, step: int) -> Batch:
        samples = []
        for number, (_, count) in enumerate(self._datasets):
            share = count // self._processes
            first = step * count + self._rank * share
            samples += [self._sample(number, i) for i in range(first, first + share)]
        entropy = np.random.SeedSequence((self._seed, _STEP, step, self._rank))
        return Batch(int(entropy.generate_state(1, np.uint64)[0] >> 1), samples)

    def _sample(self, number: int, position: int) -> Sample:
        """The example at a position of a dataset's endless sequence of epochs."""
        dataset, _ = self._datasets[number]
        purposes = _PURPOSES * number
        epoch, place = divmod(position, len(dataset))
        if number not in self._orders or self._orders[number][0] != epoch:
            rng = np.random.default_rng((self._seed, purposes + _ORDER, epoch))
            self._orders[number] = (epoch, rng.permutation(len(dataset)))
        rng = np.random.default_rng((self._seed, purposes + _EXAMPLE, position))
        index = int(self._orders[number][1][place])
        example = draw_example(dataset, index, rng, self._augmentation)
        image = torch.from_numpy(np.ascontiguousarray(example.image.transpose(2, 0, 1)))
        return image, self._targets_of(example)


def draw_example(
    dataset: InstanceDataset, index: int, rng: np.random.Generator, config: AugmentConfig
) -> Example:
    """An augmented image of the dataset; with copy-paste, instances of another are pasted in."""
    example = augment(to_example(dataset[index]), rng, config)
    if rng.random() < config.copy_paste:
        donor = to_example(dataset[int(rng.integers(len(dataset)))])
        donor = augment(donor, rng, config, example.image.shape[:2])
        example = copy_paste(example, donor, rng, config.min_pixels)
    return example


def load_batches(
    batches: Batches, first: int, iterations: int, device: torch.device, num_workers: int = 0
) -> Iterator[Batch]:
    """The batches of the steps from `first` to `iterations`, in order.

    Args:
        device: batches for a GPU are put into pinned memory, which copies without waiting.
        num_workers: number of processes that load ahead; 0 loads a batch when it is asked for.

    Raises:
        GboptError: an image cannot be loaded.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, iterations),
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_use_one_thread,
    )
    try:
        yield from loader
        return
    except GboptError as error:  # a worker puts its whole traceback before the message
        message = str(error).strip().rpartition("GboptError: ")[2]
    raise GboptError(message)  # outside the handler, where it would keep the workers alive


def to_device(sample: Sample, device: torch.device) -> Sample:
    """The sample on a device, its image (3, H, W) float32 in [0, 1]."""
    image, targets = sample
    return (
        image.to(device, non_blocking=True).float().div_(255.0),
        {name: value.to(device, non_blocking=True) for name, value in targets.items()},
    )


def processes_and_rank() -> tuple[int, int]:
    """The number of processes that train together, and the number of this one."""
    if distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


def _use_one_thread(_: int) -> None:
    cv2.setNumThreads(0)  # each core has a worker already, and OpenCV's threads do not fork
