"""Pull published weights; list, describe, verify, roll back and export versions of a model store.

`pull NAME` downloads published weights into `gbopt_ros/models` below `$XDG_CACHE_HOME`
(`~/.cache`), checks their SHA-256 and prints their path, digest and licence. From then on NAME can
be used in place of a weights file: `--weights maskrcnn_resnet50_fpn_v2`, `--set
flow.weights=raft_large`, `--set background.weights=u2netp`. A download that was interrupted is
resumed.

`list` marks the version in service with * and, if that is another one, the version that the next
round goes on from with >. Damaged versions have a !; `verify` fails if there is one, and `rollback`
leads to the newest version before it that is intact. Teachers are networks other than the parent
that proposed the masks.

`card` prints the model card of a version: what it comes from, what it learnt, what was measured,
and the licence. It is beside the weights, too, as card.md and card.json.

`export` writes a network as an ONNX file, for robots that serve it with onnxruntime or TensorRT:
the version of a store that is in service, or a weights file of the proposal or of the background
network. The file is compared with torch, and is written only if they agree.
"""

from __future__ import annotations

import argparse
import logging
import re
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbopt_ros.cli.options import add_config_arguments, config_from_args
from gbopt_ros.config import Config
from gbopt_ros.structures import GboptError

if TYPE_CHECKING:
    from gbopt_ros.learning.store.model_store import ModelVersion

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from gbopt_ros.models.catalogue import CATALOGUE

    parser.add_argument("action", choices=("pull", "list", "card", "verify", "rollback", "export"))
    parser.add_argument(
        "subject",
        metavar="NAME|STORE|FILE",
        help=f"pull: {', '.join(CATALOGUE)}; export: a weights file, or the --out folder of gbopt "
        "learn; otherwise that folder",
    )
    parser.add_argument("--url", default="", help="pull: URL of a mirror with the same file")
    parser.add_argument(
        "--format", choices=("onnx",), default="onnx", help="export: format of the file"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.onnx", help="export: the file to write")
    parser.add_argument(
        "--version", metavar="V", help="card, export: version of the store, such as v0003 "
        "(default: the one in service)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="export: height and width of all images, such as "
        "480x640, for TensorRT (default: any size)",
    )  # fmt: skip
    add_config_arguments(parser, "proposal.max_proposals=30")


def run(args: argparse.Namespace) -> None:
    if args.action == "pull":
        _pull(args.subject, args.url)
    elif args.action == "export":
        _export(args)
    elif args.action == "card":
        _card(Path(args.subject), args.version)
    else:
        _store(args.action, Path(args.subject))


def _pull(name: str, url: str) -> None:
    from gbopt_ros.models import catalogue

    licence = catalogue.published(name).licence
    path, digest = catalogue.pull(name, url)
    print(f"{path}\nsha256 {digest}")
    print(f"licence {licence}; the data that it was trained on have terms of their own")


def _card(store: Path, version: str | None) -> None:
    from gbopt_ros.learning.store.model_card import card_in_markdown, model_card

    found = _version(store, version)
    print(card_in_markdown(model_card(found.manifest | {"version": found.version})), end="")


def _export(args: argparse.Namespace) -> None:
    from gbopt_ros.io.files import replacing
    from gbopt_ros.models.onnx import SUFFIX
    from gbopt_ros.models.onnx_export import check_installed
    from gbopt_ros.models.weights import BACKGROUND, network_of

    if args.out is None:
        raise GboptError(f"export needs the file to write: --out FILE{SUFFIX}")
    if args.out.suffix != SUFFIX:
        raise GboptError(f"--out {args.out}: expected a file name that ends with {SUFFIX}")
    check_installed()
    config, weights = config_from_args(args), _weights(Path(args.subject), args.version)
    export = _export_background if network_of(weights) == BACKGROUND else _export_proposals
    with replacing(args.out) as aside:
        agreement = export(weights, config, aside, args.size)
    print(f"{args.out}\n{agreement}")


def _weights(subject: Path, version: str | None) -> Path:
    """The weights file of a version of a store, or the file itself.

    Raises:
        GboptError: there is no such version, it is damaged, or the file is ONNX already.
    """
    from gbopt_ros.learning.store.model_store import verify_version
    from gbopt_ros.models.catalogue import find_weights
    from gbopt_ros.models.onnx import is_onnx

    path = _version(subject, version).path if subject.is_dir() else find_weights(subject)
    if is_onnx(path):
        raise GboptError(f"{path}: an ONNX file already")
    verify_version(path)
    return path


def _version(store: Path, name: str | None) -> ModelVersion:
    """A version of a store, by default the one in service. Raises GboptError if there is none."""
    from gbopt_ros.learning.store.model_store import existing_store

    versions = existing_store(store)
    if name and not (versions.folder / name).is_dir():
        listed = ", ".join(each.version for each in versions.versions()) or "none"
        raise GboptError(f"{store}: no version {name}; there are: {listed}")
    found = versions.get(name) if name else versions.serving()
    if found is None:
        raise GboptError(
            f"{store}: no version of this store is in service; name a weights file, or --version"
        )
    return found


def _export_proposals(
    weights: Path, config: Config, out: Path, size: tuple[int, int] | None
) -> str:
    """Write a proposal network with the limits of the configuration; says how it agrees."""
    import torch

    from gbopt_ros.models.detection import load_mask_rcnn
    from gbopt_ros.models.onnx_check import check_mask_rcnn, example_images
    from gbopt_ros.models.onnx_export import export_mask_rcnn
    from gbopt_ros.models.weights import DETECTRON2, architecture_of
    from gbopt_ros.perception.proposals import MaskRcnnProposals

    if config.proposal.detectron2_config or architecture_of(weights) == DETECTRON2:
        raise GboptError(
            f"{weights}: a network of detectron2 cannot be exported here; detectron2's own "
            "tools/deploy/export_model.py does it"
        )
    network, info = load_mask_rcnn(weights)
    # It gives the heads the limits of the configuration.
    MaskRcnnProposals(network, info.version, config.proposal, torch.device("cpu"))
    export_mask_rcnn(network, info, out, size)
    return check_mask_rcnn(out, network, example_images(size), config.proposal.mask_threshold)


def _export_background(
    weights: Path, config: Config, out: Path, size: tuple[int, int] | None
) -> str:
    """Write a background network; says how it agrees with torch's."""
    import torch

    from gbopt_ros.models.onnx_check import check_background, example_images
    from gbopt_ros.models.onnx_export import export_background
    from gbopt_ros.perception.background import FpnBackground, load_semantic_fpn

    network, info = load_semantic_fpn(weights)
    export_background(network, info, out, size)
    in_torch = FpnBackground(network, config.background, torch.device("cpu"))
    return check_background(out, in_torch.background, example_images(size))


def _store(action: str, folder: Path) -> None:
    from gbopt_ros.learning.store.model_store import existing_store

    versions = existing_store(folder)
    if action == "rollback":
        versions.rollback()
        serving = versions.serving()
        print(serving.path if serving else "the network before the first version is in service")
        return
    damaged = versions.damaged()
    if not (damaged or versions.versions()):
        log.info("%s: no version yet, for no round has passed the gate", folder)
    current = serving = None
    with suppress(GboptError):  # told below
        current, serving = versions.current(), versions.serving()
    for version in versions.versions():
        created = datetime.fromtimestamp(version.manifest["created"], timezone.utc)
        mark = "*" if version == serving else ">" if version == current else " "
        mark = "!" if version.version in damaged else mark
        print(
            f"{mark} {version.version}  parent {version.manifest['parent']:<6} "
            f"{created:%Y-%m-%d %H:%M}  {_about(version.manifest)}"
        )
    for name, reason in damaged.items():
        print(f"! {name}  {reason}")
    if damaged and action == "verify":
        raise GboptError(f"{folder}: damaged: {', '.join(damaged)}; {next(iter(damaged.values()))}")


def _about(manifest: dict[str, Any]) -> str:
    """Teachers other than the parent, and the reasons of the gates."""
    teachers = [name for name in manifest.get("teachers", []) if name != manifest["parent"]]
    parts = [f"teachers {', '.join(teachers)}"] if teachers else []
    parts += [(manifest.get(gate) or {}).get("reason", "") for gate in ("gate", "teacher_gate")]
    return "; ".join(part for part in parts if part)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{1,4})x([1-9]\d{1,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 480x640, got {text}")
    return int(match[1]), int(match[2])
