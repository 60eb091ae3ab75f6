"""Options of the verbs that serve something to a browser or to robots, and how they serve it."""

from __future__ import annotations

import argparse
import ipaddress
import logging
from typing import TYPE_CHECKING

from gbopt_ros.structures import GboptError

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"


def add_address_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """Add --host and --port.

    Args:
        port: the default.
    """
    parser.add_argument(
        "--host", default=_LOOPBACK,
        help="address to listen on (default: %(default)s, for this machine alone)",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=_port, default=port, help="port; 0: a free one (default: %(default)s)"
    )


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {text}")
    return int(text)


def check_flask() -> None:
    """Raises GboptError if the web framework is missing."""
    try:
        import flask  # noqa: F401
    except ImportError as error:
        raise GboptError(
            f"this needs the package flask ({error}); pip install 'gbopt_ros[review]'"
        ) from error


def serve_app(app: Flask, args: argparse.Namespace, risk: str) -> None:
    """Serve an application until it is interrupted, and print its address.

    Args:
        args: of `add_address_arguments`.
        risk: what an address that others reach means, for a warning.

    Raises:
        GboptError: the address cannot be listened on.
    """
    from gbopt_ros.web.server import listen

    with listen(app, args.host, args.port) as server:
        if not _is_loopback(args.host):
            log.warning("%s is no loopback address: %s; there is no password", args.host, risk)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        shown = f"[{args.host}]" if ":" in args.host else args.host
        print(f"http://{shown}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
