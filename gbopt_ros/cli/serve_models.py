"""Serve the versions of a store over HTTP, for robots that do not share its folder.

Set the address that is printed as parameter `url` of the learner node, and its host and port as
`allowed_hosts` of the robot's proposal node, which then pulls what the learner publishes. Nothing
can be changed over it, and no image or mask is served.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gbopt_ros.cli.serving import add_address_arguments, check_flask, serve_app


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="--out folder of gbopt learn")
    add_address_arguments(parser, port=8611)


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.learning.store.model_store import existing_store

    check_flask()
    from gbopt_ros.web.models import models_app

    serve_app(
        models_app(existing_store(args.store), args.host), args,
        "everybody who reaches it can copy the networks",
    )  # fmt: skip
