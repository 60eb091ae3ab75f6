"""A store: what a robot has collected, and what it has learnt from it, below one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gbopt_ros.config import Config, LearningConfig
from gbopt_ros.io.datasets.coco import CocoDataset, load_coco_dir
from gbopt_ros.io.selection_format import read_replay
from gbopt_ros.learning.data.training_set import TrainingSet
from gbopt_ros.learning.round import Learnt, learn
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.learning.training.trainer import OnStep


class Store:
    """A training set of selected masks and the versions that were learnt from it.

        store = Store("my-store")
        store.add("replay-monday", "replay-tuesday")
        learnt = store.learn(rehearsal="coco-rehearsal", validation="coco-validation")
        print(learnt.decision.reason, store.models.current())

    Args:
        root: folder; it need not exist.

    Attributes:
        root: the folder.
        models: the versions.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.models = ModelStore(self.root)

    def training_set(self, config: LearningConfig | None = None) -> TrainingSet:
        """The training set, to be closed after use (a context manager).

        Every thread opens its own, as SQLite wants it.

        Args:
            config: size limit and policy.

        Raises:
            GboptError: the folder cannot be written, or its catalogue is damaged.
        """
        config = config or LearningConfig()
        return TrainingSet(self.root / "training", config.max_bytes, config.policy)

    def add(self, *replays: str | Path, config: LearningConfig | None = None) -> list[int]:
        """Add the masks of outputs of `gbopt replay`; returns how many frames of each.

        Raises:
            GboptError: a folder is no complete output, or the set cannot be written.
        """
        with self.training_set(config) as training_set:
            return [training_set.add(read_replay(Path(folder))) for folder in replays]

    def forget(self, recordings: Sequence[str], config: LearningConfig | None = None) -> list[int]:
        """Take recordings out of the training set; returns how many frames each had.

        Raises:
            GboptError: there is no such recording; the message lists those that there are.
        """
        with self.training_set(config) as training_set:
            return [training_set.remove(recording) for recording in recordings]

    def learn(
        self,
        config: Config | None = None,
        *,
        rehearsal: CocoDataset | str | Path | None = None,
        validation: CocoDataset | str | Path | None = None,
        on_step: OnStep | None = None,
    ) -> Learnt:
        """One training round on all that was collected; arguments and errors as `learn`.

        Args:
            config: None is the recommended setting.
            rehearsal, validation: labelled images, or a COCO folder.
        """
        config = config or Config()
        with self.training_set(config.learning) as training_set:
            return learn(
                training_set,
                self.models,
                config,
                rehearsal=_dataset(rehearsal),
                validation=_dataset(validation),
                on_step=on_step,
            )


def _dataset(given: CocoDataset | str | Path | None) -> CocoDataset | None:
    return load_coco_dir(given) if isinstance(given, str | Path) else given
