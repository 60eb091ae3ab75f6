"""Show the masks of a store on a local web page, to keep or reject them with one key.

The masks that the selection was least sure of come first, one of each clip in turn, or the newest
ones. Every verdict is written at once, as `gbopt import` does, and can be undone. The store may be
in use: a robot can learn meanwhile.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gbopt_ros.cli.serving import add_address_arguments, check_flask, serve_app


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="--out folder of gbopt learn")
    add_address_arguments(parser, port=8610)


def run(args: argparse.Namespace) -> None:
    from gbopt_ros.learning.store.store import Store

    check_flask()
    from gbopt_ros.web.review import review_app
    from gbopt_ros.web.session import ReviewSession

    serve_app(
        review_app(ReviewSession(Store(args.store)), args.host), args,
        "everybody who reaches it can see the images and judge masks",
    )  # fmt: skip
