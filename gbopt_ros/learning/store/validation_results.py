"""What networks propose on a validation set, kept from one round to the next.

    STORE/validation/KEY.json     a COCO result list

A round compares its new version with the parent and with the first network. Earlier rounds have
evaluated both.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

import gbopt_ros
from gbopt_ros.config import Config
from gbopt_ros.evaluation.coco_metrics import InstanceMetrics, evaluate_instances
from gbopt_ros.evaluation.evaluate import evaluate_network, evaluation_config
from gbopt_ros.evaluation.results import CocoResult, load_results
from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.files import sha256_of, write_text
from gbopt_ros.io.json_file import to_json
from gbopt_ros.models.detection import DetectionNetwork
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.folding import folded_copy
from gbopt_ros.models.weights import tensors_digest
from gbopt_ros.perception.proposals import MaskRcnnProposals
from gbopt_ros.structures import GboptError

log = logging.getLogger(__name__)


class ValidationResults:
    """Evaluates networks on a validation set, each one once.

    Args:
        folder: of the results, made with the first one.
        labels: labelled images of seen classes.
        config: `proposal` and `device` are used.
    """

    def __init__(self, folder: Path, labels: CocoDataset, config: Config) -> None:
        self.labels = labels
        self._folder = folder
        self._config = config
        self._conditions = _digest_of(labels, config)
        self._used: set[Path] = set()

    def evaluate(
        self, network: DetectionNetwork, progress: bool = True
    ) -> tuple[InstanceMetrics, list[CocoResult]]:
        """The metrics of a network and its proposals.

        Raises:
            GboptError: an image is missing or not as described, or no image has an instance.
        """
        key = hashlib.sha256(f"{self._conditions} {tensors_digest(network)}".encode()).hexdigest()
        path = self._folder / f"{key}.json"
        self._used.add(path)
        with suppress(GboptError):  # not there yet, or damaged
            results = load_results(path, self.labels)
            return evaluate_instances(self.labels, results), results
        proposer = evaluated_proposals(network, self._config)
        metrics, results = evaluate_network(proposer, self.labels, progress=progress)
        try:
            write_text(path, to_json(results))
        except GboptError as error:
            log.warning("results on the validation set are not kept: %s", error)
        return metrics, results

    def remove_others(self) -> None:
        """Remove the results that were not asked for since the object was made."""
        for path in set(self._folder.glob("*.json")) - self._used:
            with suppress(OSError):
                path.unlink()


def evaluated_proposals(network: DetectionNetwork, config: Config) -> MaskRcnnProposals:
    """A network as it is evaluated, see `evaluation_config`."""
    config = evaluation_config(config)
    device = resolve_device(config.device)
    return MaskRcnnProposals(folded_copy(network, device), "", config.proposal, device)


def _digest_of(labels: CocoDataset, config: Config) -> str:
    """SHA-256 of all that a network's results depend on, apart from the network."""
    facts = {
        "gbopt_ros": gbopt_ros.__version__,
        "torch": torch.__version__,
        "device": str(resolve_device(config.device)),
        "proposal": asdict(evaluation_config(config).proposal),
        "labels": labels.to_coco(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for image in labels.images:
        path = (labels.image_dir or Path()) / image.file_name
        if path.is_file():
            digest.update(sha256_of(path).encode())
    return digest.hexdigest()
