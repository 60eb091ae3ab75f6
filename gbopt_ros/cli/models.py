"""List the versions of a model store, verify them, or roll back to the parent."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "verify", "rollback"))
    parser.add_argument("store", type=Path, help="the --out folder of gbopt learn")


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.learning.model_store import ModelStore

    store = ModelStore(args.store)
    if args.action == "rollback":
        restored = store.rollback()
        print(restored.path if restored else "the network before the first version is in service")
        return
    current = store.current()
    for version in store.versions():
        if args.action == "verify":
            store.verify(version)
        created = datetime.fromtimestamp(version.manifest["created"], timezone.utc)
        served = "*" if current is not None and current.version == version.version else " "
        gate = version.manifest.get("gate", {}).get("reason", "")
        print(
            f"{served} {version.version}  parent {version.manifest['parent']:<6} "
            f"{created:%Y-%m-%d %H:%M}  {gate}"
        )
