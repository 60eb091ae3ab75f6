"""Pull published weights; list, verify and roll back the versions of a model store.

`pull NAME` downloads weights that torchvision publishes into `gbopt_ros/models` below
`$XDG_CACHE_HOME` (`~/.cache`), checks their SHA-256 and prints their path. From then on NAME can be
used in place of a weights file: `--weights maskrcnn_resnet50_fpn_v2`, `--set
flow.weights=raft_large`. A download that was interrupted is resumed.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from gbopt_ros.models.catalogue import CATALOGUE

    parser.add_argument("action", choices=("pull", "list", "verify", "rollback"))
    parser.add_argument(
        "subject",
        metavar="NAME|STORE",
        help=f"pull: {', '.join(CATALOGUE)}; otherwise the --out folder of gbopt learn",
    )
    parser.add_argument("--url", default="", help="pull: URL of a mirror with the same file")


def run(args: argparse.Namespace) -> None:
    if args.action == "pull":
        _pull(args.subject, args.url)
    else:
        _store(args.action, Path(args.subject))


def _pull(name: str, url: str) -> None:
    from gbopt_ros.models.catalogue import pull

    path, digest = pull(name, url)
    print(f"{path}\nsha256 {digest}")


def _store(action: str, folder: Path) -> None:
    from gbopt_ros.learning.store.store import Store

    versions = Store(folder).models
    if action == "rollback":
        restored = versions.rollback()
        print(restored.path if restored else "the network before the first version is in service")
        return
    current = versions.current()
    for version in versions.versions():
        if action == "verify":
            versions.verify(version)
        created = datetime.fromtimestamp(version.manifest["created"], timezone.utc)
        served = "*" if current is not None and current.version == version.version else " "
        gate = version.manifest.get("gate", {}).get("reason", "")
        print(
            f"{served} {version.version}  parent {version.manifest['parent']:<6} "
            f"{created:%Y-%m-%d %H:%M}  {gate}"
        )
