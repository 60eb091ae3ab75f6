"""Checkpoints that training resumes from after any interruption, even `kill -9`.

The batch and the random numbers of a step are functions of the seed and the step. So a checkpoint
holds no state of a random generator, and the number of workers may change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gbopt_ros.io.files import replacing
from gbopt_ros.structures import GboptError, first_line


class Checkpoint:
    """The checkpoint file of a training.

    Args:
        path: file; read at once where it exists.
        identity: settings and data of the training, plain values by name; must equal those in the
            file.
        every: number of steps between two checkpoints.
        writes: whether this process writes; one of several that train together does.

    Raises:
        GboptError: the file cannot be read, or belongs to another training.
    """

    def __init__(
        self, path: Path, identity: dict[str, Any], every: int, *, writes: bool = True
    ) -> None:
        self._path, self._identity, self._every, self._writes = path, identity, every, writes
        self._content = self._read() if path.is_file() else None

    @property
    def step(self) -> int:
        """Number of steps done when the file was written; 0 where there is no file."""
        return int(self._content["step"]) if self._content else 0

    def restore(
        self,
        network: nn.Module,
        averaged: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        losses: dict[str, list[float]],
    ) -> None:
        """Restore the state after `step` steps; changes nothing where there is no file."""
        content, self._content = self._content, None
        if content is None:
            return
        try:
            network.load_state_dict(content["network"])
            if averaged is not None:
                averaged.load_state_dict(content["averaged"])
            optimizer.load_state_dict(content["optimizer"])
            losses.update({name: values.tolist() for name, values in content["losses"].items()})
        except (KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise GboptError(
                f"{self._path}: this checkpoint does not fit the network "
                f"({first_line(error)}); remove it to train anew"
            ) from error

    def is_due(self, step: int, iterations: int) -> bool:
        """Whether to write after `step` steps; always after the last."""
        return self._writes and (step % self._every == 0 or step == iterations)

    def write(
        self,
        step: int,
        network: nn.Module,
        averaged: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        losses: dict[str, list[float]],
    ) -> None:
        """Write the file atomically. Raises GboptError if it cannot be written."""
        content = {
            "identity": self._identity,
            "step": step,
            "network": network.state_dict(),
            "averaged": averaged.state_dict() if averaged is not None else None,
            "optimizer": optimizer.state_dict(),
            "losses": {name: torch.tensor(v, dtype=torch.float64) for name, v in losses.items()},
        }
        # With a file that is open, torch passes the error of a full disk on.
        with replacing(self._path) as aside, aside.open("wb") as file:
            torch.save(content, file)

    def _read(self) -> dict[str, Any]:
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle can raise anything
            raise GboptError(
                f"{self._path}: not a readable checkpoint ({type(error).__name__}); "
                "remove it to train anew"
            ) from error
        if not isinstance(content, dict) or not {"identity", "step", "network"} <= content.keys():
            raise GboptError(f"{self._path}: not a checkpoint; remove it to train anew")
        stored = content["identity"]
        changed = [
            f"{name} was {stored.get(name)!r}, now {self._identity.get(name)!r}"
            for name in sorted(stored.keys() | self._identity.keys())
            if stored.get(name) != self._identity.get(name)
        ]
        if changed:
            raise GboptError(
                f"{self._path}: this training was begun with other settings or data "
                f"({'; '.join(changed[:3])}); use the same again, or another --out"
            )
        return content
