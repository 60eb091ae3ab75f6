"""Train seed proposal and background networks on labelled images.

On several GPUs, or with one thread on each core of a CPU:

    torchrun --nproc-per-node 2 -m gbopt_ros.cli pretrain DATA --out DIR

Each process takes its share of a batch, and gradients are averaged over the processes. The
background network starts from the backbone of the proposal network in DIR, where there is one. A
run that was interrupted, even by kill -9, resumes from its last checkpoint when it is started
again. With --coco the setting is the paper's, config/paper.yaml, unless --config names another.

Several folders are mixed: `--coco COCO replay-1 replay-2` retrains on COCO and the masks of two
recordings (Table 5).

Photographs of which only some objects are labelled, such as COCO's, go into --partial: a region
without a label is not learnt as background where the network is sure of an object. With --teacher
the background network also learns from the foreground maps of another network, which are kept in
OUT/teacher; so it can learn from --photographs, which have no label at all.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbopt_ros.cli.options import add_config_arguments, config_from_args
from gbopt_ros.config.load import bundled_profile
from gbopt_ros.io.json_file import to_json
from gbopt_ros.structures import GboptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn
    from torchvision.models.detection import MaskRCNN

    from gbopt_ros.config import Config
    from gbopt_ros.io.datasets.coco import CocoDataset
    from gbopt_ros.learning.data.datasets import InstanceDataset
    from gbopt_ros.learning.training.trainer import TrainingLog

NETWORKS = ("proposals", "background")
log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        type=Path,
        nargs="*",
        help="COCO folders (annotations.json and images/) and outputs of `gbopt replay`, mixed",
    )
    parser.add_argument(
        "--coco",
        type=Path,
        metavar="DIR",
        help="COCO 2017, in the paper's setting: annotations/instances_train2017.json, train2017/",
    )
    parser.add_argument(
        "--partial",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="COCO folder in which not every object is labelled; may be repeated",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="WEIGHTS",
        help="background network, such as an ONNX file, that the new background network learns "
        "from on the --partial images and the --photographs",
    )
    parser.add_argument(
        "--photographs",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of images that have no label; the background network learns what --teacher "
        "sees in them, in the share of a batch that --partial images have; may be repeated",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights files")
    parser.add_argument("--only", choices=NETWORKS, help="train only this network")
    add_config_arguments(parser, "pretrain.seed=1")


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.io.files import make_folder, write_text
    from gbopt_ros.learning.data.datasets import CocoInstances
    from gbopt_ros.learning.training.pretraining import pretrain_background, pretrain_proposals
    from gbopt_ros.models.background_fpn import build_background
    from gbopt_ros.models.detection import load_mask_rcnn
    from gbopt_ros.models.mask_rcnn import build_mask_rcnn
    from gbopt_ros.models.weights import WeightsInfo, save_weights

    folders = [*([args.coco] if args.coco else []), *args.data]
    if not folders:
        raise GboptError("nothing to learn from: name COCO folders, or use --coco")
    if args.photographs and (args.teacher is None or args.only == "proposals"):
        raise GboptError(
            "--photographs have no label: only the background network learns from them, and from "
            "its teacher; name --teacher"
        )
    config = config_from_args(args, bundled_profile("paper") if args.coco else None)
    wanted = NETWORKS if args.only is None else (args.only,)
    if "proposals" in wanted:  # an error now, not after days of training the other network
        build_mask_rcnn(config.pretrain.proposal_architecture)
    if "background" in wanted:
        build_background(config.pretrain.background_architecture)
    device, rank = _join_processes(config.device)
    dataset: Any = _together([CocoInstances(_labelled(folder)) for folder in folders])
    make_folder(args.out)
    partial, background_partial = _partial(args, config, device, rank)
    checkpoints = {name: args.out / f"{name}.checkpoint" for name in NETWORKS}

    def save(name: str, network: nn.Module, architecture: str, training: TrainingLog) -> None:
        if rank != 0:
            return
        path = args.out / f"{name}.safetensors"
        save_weights(path, network, WeightsInfo(name, architecture, _version(network)), half=True)
        curves = {"config": config.to_dict()["pretrain"], "losses": training.losses}
        write_text(path.with_suffix(".json"), to_json(curves))
        log.info("%s: %d steps, weights in %s", name, len(training.total), path)

    proposals: MaskRCNN | None = None
    if "proposals" in wanted:
        proposals, training = pretrain_proposals(
            dataset, config.pretrain, device, checkpoints["proposals"], partial
        )
        save("proposals", proposals, config.pretrain.proposal_architecture, training)
    elif (args.out / "proposals.safetensors").is_file():
        proposals, _ = load_mask_rcnn(args.out / "proposals.safetensors")
    if "background" in wanted:
        background, training = pretrain_background(
            dataset, config.pretrain, device, proposals, checkpoints["background"],
            background_partial,
        )  # fmt: skip
        save("background", background, config.pretrain.background_architecture, training)
    if rank == 0:  # at the end: an interrupted run does not train the first network again
        for name in wanted:
            checkpoints[name].unlink(missing_ok=True)


def _labelled(folder: Path) -> CocoDataset:
    """A COCO folder, or the selected masks of a replay."""
    from gbopt_ros.io.datasets.coco import load_coco, load_coco_dir
    from gbopt_ros.io.selection_format import SELECTION_NAME

    if (folder / SELECTION_NAME).is_file():
        return load_coco(folder / SELECTION_NAME, folder / "frames")
    return load_coco_dir(folder)


def _partial(
    args: argparse.Namespace, config: Config, device: torch.device, rank: int
) -> tuple[InstanceDataset | None, InstanceDataset | None]:
    """The images that are not wholly labelled, for the proposal and the background network.

    The background network has those of --photographs, too, and the maps of its teacher.
    """
    import torch

    from gbopt_ros.io.datasets.coco import load_coco_dir
    from gbopt_ros.io.sources.folder import list_images
    from gbopt_ros.io.sources.images import read_image
    from gbopt_ros.learning.data.datasets import CocoInstances, Photographs
    from gbopt_ros.learning.data.teacher_maps import maps_folder, write_teacher_maps
    from gbopt_ros.models.catalogue import find_weights
    from gbopt_ros.perception.load import read_background

    partial = [load_coco_dir(path) for path in args.partial]
    for_proposals = [CocoInstances(dataset, complete=False) for dataset in partial]
    if args.teacher is None or args.only == "proposals":
        return _together(for_proposals), _together(for_proposals)

    photographs = [list_images(path) for path in args.photographs]
    if not all(photographs):
        raise GboptError(f"{args.photographs[photographs.index([])]}: no image is in this folder")
    images = [
        {image.file_name: functools.partial(dataset.load_image, image) for image in dataset.images}
        for dataset in partial
    ]
    images += [{path.name: functools.partial(read_image, path) for path in p} for p in photographs]
    # The teacher is heavy and each map is needed many times, so maps are kept in files.
    weights = find_weights(args.teacher)
    places = (*args.partial, *args.photographs)
    folders = [maps_folder(args.out / "teacher", weights, place) for place in places]
    if rank == 0:
        teacher = read_background(weights, config.background, device)
        for of_folder, folder in zip(images, folders, strict=True):
            write_teacher_maps(teacher, of_folder, folder)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    for_background: list[Any] = [
        CocoInstances(dataset, complete=False, teacher=folder)
        for dataset, folder in zip(partial, folders, strict=False)
    ]
    for_background += map(Photographs, photographs, folders[len(partial) :])
    return _together(for_proposals), _together(for_background)


def _together(datasets: Sequence[Any]) -> InstanceDataset | None:
    """One dataset after the other; None if there is none."""
    from torch.utils.data import ConcatDataset

    together: InstanceDataset | None = ConcatDataset(datasets) if datasets else None
    return together


def _version(network: nn.Module) -> str:
    """A name made of the weights, for the masks and the versions learnt from the network."""
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return f"seed-{digest.hexdigest()[:8]}"


def _join_processes(device_name: str) -> tuple[torch.device, int]:
    """The device and the rank of this process; rank 0 without torchrun."""
    import torch

    from gbopt_ros.models.device import resolve_device

    device = resolve_device(device_name)
    if "LOCAL_RANK" not in os.environ:
        return device, 0
    if device.type == "cuda":
        rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if rank >= gpus:
            raise GboptError(
                f"more processes than the {gpus} GPUs here: lower --nproc-per-node of torchrun"
            )
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    # Threads of the group that outlive the interpreter abort the process, after all was saved.
    atexit.register(torch.distributed.destroy_process_group)
    return device, torch.distributed.get_rank()
