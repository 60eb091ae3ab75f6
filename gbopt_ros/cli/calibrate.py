"""Make confidences probabilities: fit them on recordings with ground truth.

The confidence of a mask is a logistic model of its margin and its network score. This command fits
the coefficients for one proposal network and writes them into a copy of its weights file; the
tensors stay as they are. Use the configuration that will select masks later.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from gbopt_ros.cli.options import SOURCE_HELP, add_config_arguments, config_from_args
from gbopt_ros.config import Config
from gbopt_ros.io.datasets.coco import ANNOTATIONS_NAME, load_coco
from gbopt_ros.io.json_file import Fields
from gbopt_ros.io.sources import open_source
from gbopt_ros.simulation.dataset import RECORDING_NAME
from gbopt_ros.structures import Calibration, GboptError, Rle

if TYPE_CHECKING:
    from gbopt_ros.evaluation.calibration import LabelledMasks
    from gbopt_ros.pipeline import Pipeline

_SUFFIX = ".safetensors"
_Masks = dict[int, tuple[Rle, ...]]  # by frame index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help=f"rosbag2 `{RECORDING_NAME}` and its labels `{ANNOTATIONS_NAME}`, "
        "such as unseen-train of `gbopt world`",
    )
    parser.add_argument("--recording", type=Path, metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="COCO.json",
        help="labels of --recording; its images need a `frame_index`, counted from 0",
    )
    parser.add_argument(
        "--judge", type=Path, metavar="FOLDER", help="labelled recording to judge by, not fitted on"
    )
    add_config_arguments(parser, weights=True)
    parser.add_argument(
        "--out", type=Path, required=True, metavar=f"FILE{_SUFFIX}", help="the weights to write"
    )


def run(args: argparse.Namespace) -> None:
    recordings = _recordings(args)
    if args.out.suffix != _SUFFIX:
        raise GboptError(f"--out {args.out}: expected a file name that ends with {_SUFFIX}")
    config = config_from_args(args)
    truths = [_labels_by_frame(labels) for _, labels in recordings]  # errors come early

    from gbopt_ros.evaluation.calibration import LabelledMasks, fit_calibration
    from gbopt_ros.models.device import resolve_device
    from gbopt_ros.perception.load import proposal_weights
    from gbopt_ros.perception.proposals import MaskRcnnProposals
    from gbopt_ros.pipeline import Pipeline

    write = _writer(config, args.out)
    path, device = proposal_weights(config), resolve_device(config.device)
    # Not `load_proposal_network`: it warns where there is no calibration yet.
    network = MaskRcnnProposals.from_file(path, config.proposal, device)
    # With the calibration that is written, scores count: it is fitted on the masks of then.
    network.calibration = Calibration(bias=0.0, margin=0.0, score=1.0)
    pipeline = Pipeline(config, proposal_network=network)
    masks = [
        _labelled(pipeline, source, truth)
        for (source, _), truth in zip(recordings, truths, strict=True)
    ]
    judged = masks.pop() if args.judge else None
    fitted_on = LabelledMasks.joined(masks)
    calibration = fit_calibration(fitted_on)
    write(calibration)
    _report("fitted on", fitted_on, calibration)
    if judged is not None:
        _report("judged by", judged, calibration)
    print(args.out)


def _recordings(args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Recordings with their labels, that of --judge last."""
    if (args.recording is None) != (args.labels is None):
        raise GboptError("--recording and --labels go together: a recording and its labels")
    for folder in (*args.folders, *([args.judge] if args.judge else [])):
        missing = [n for n in (RECORDING_NAME, ANNOTATIONS_NAME) if not (folder / n).exists()]
        if missing:
            raise GboptError(
                f"{folder}: has no {' and no '.join(missing)}; expected a labelled folder such as "
                "unseen-train of `gbopt world`, or --recording and --labels in its place"
            )
    pairs = [(folder / RECORDING_NAME, folder / ANNOTATIONS_NAME) for folder in args.folders]
    if args.recording is not None:
        pairs.append((args.recording, args.labels))
    if not pairs:
        raise GboptError("nothing to fit on: name labelled folders, or --recording and --labels")
    if args.judge is not None:
        pairs.append((args.judge / RECORDING_NAME, args.judge / ANNOTATIONS_NAME))
    sources = [source.resolve() for source, _ in pairs]
    for (source, _), resolved in zip(pairs, sources, strict=True):
        if sources.count(resolved) > 1:
            raise GboptError(
                f"{source}: given twice; name each recording once, and judge by another one"
            )
    return pairs


def _labels_by_frame(labels: Path) -> tuple[_Masks, _Masks]:
    """The instances and the crowds of every labelled frame."""
    dataset = load_coco(labels)
    if not dataset.images or not all("frame_index" in im.extra for im in dataset.images):
        raise GboptError(f"{labels}: expected images with a `frame_index`, counted from 0")
    indices = {
        image.id: Fields(image.extra, f"{labels}: image {image.id}").integer("frame_index", low=0)
        for image in dataset.images
    }
    instances, crowds = (
        {indices[key]: rles for key, rles in by_image.items()}
        for by_image in (dataset.rles_by_image, dataset.crowd_by_image)
    )
    return instances, crowds


def _labelled(pipeline: Pipeline, path: Path, truth: tuple[_Masks, _Masks]) -> LabelledMasks:
    """Select the masks of a recording, and compare them with its labels."""
    from gbopt_ros.evaluation.calibration import LabelledMasks, label_masks

    source, parts = open_source(path), []
    with tqdm(total=source.count, desc=source.name, unit="frame", dynamic_ncols=True) as progress:
        for selection in pipeline.run(source):
            parts.append(label_masks(selection.frames, *truth))
            progress.update(len(selection))
    return LabelledMasks.joined(parts)


def _writer(config: Config, out: Path) -> Callable[[Calibration], object]:
    """What writes the network's weights with a calibration; those of another library become ours.

    Raises:
        GboptError: our weights files cannot hold the network.
    """
    from gbopt_ros.models.class_agnostic import class_count
    from gbopt_ros.models.detection import load_mask_rcnn
    from gbopt_ros.models.mask_rcnn import CLASSES
    from gbopt_ros.models.weights import (
        DETECTRON2,
        architecture_of,
        save_weights,
        write_calibration,
    )
    from gbopt_ros.perception.load import proposal_weights

    path = proposal_weights(config)
    if architecture_of(path):
        return lambda calibration: write_calibration(path, calibration, out)
    network, info = load_mask_rcnn(path, config.proposal.detectron2_config)
    if info.architecture != DETECTRON2 and class_count(network) != CLASSES:
        raise GboptError(
            f"{path}: a network of {class_count(network)} classes cannot keep a calibration; "
            "`gbopt learn` publishes a class-agnostic one from it, calibrate that"
        )
    return lambda calibration: save_weights(out, network, replace(info, calibration=calibration))


def _report(what: str, masks: LabelledMasks, calibration: Calibration) -> None:
    """Print how far scores alone hold, and how far calibrated confidences do."""
    from gbopt_ros.evaluation.calibration import calibration_quality
    from gbopt_ros.evaluation.tables import text_table
    from gbopt_ros.selection.confidence import confidence

    before = calibration_quality(masks.scores, masks.correct)
    after = calibration_quality(confidence(masks.margins, masks.scores, calibration), masks.correct)
    rows = {
        name: {
            "expected calibration error": [quality.ece],
            "Brier score": [quality.brier],
            "AUC": [quality.auc],
        }
        for name, quality in (("scores alone", before), ("calibrated", after))
    }
    print(f"{what} {before.masks} masks, {100 * before.correct:.1f} % of them right")
    print(text_table(rows, digits=3))
