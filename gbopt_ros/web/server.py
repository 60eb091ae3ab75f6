"""What all web servers of the package share: where they listen, and whom they answer.

A page of somebody else, open in a browser on this machine, must not reach them. So a request must
name this machine in its `Host`: a name of somebody else that was rebound to it (DNS rebinding) is
still another name.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import redirect_stderr
from io import StringIO

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, make_server

from gbopt_ros.structures import GboptError

_MAX_BYTES = 1 << 14  # of a request


def guarded_app(module: str, *names: str) -> Flask:
    """An application without routes that answers requests to this machine alone.

    An error becomes an answer with its text as `error`; a `GboptError` has status 409.

    Args:
        module: `__name__` of the caller, beside which the templates are.
        names: host names that requests may use, beside `localhost`, the name of this machine, the
            same with `.local` (mDNS), and numeric addresses.
    """
    app = Flask(module, template_folder=".", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BYTES
    machine = socket.gethostname()
    own = {name.lower() for name in ("localhost", machine, f"{machine}.local", *names)}

    @app.before_request
    def check_host() -> None:
        if not _is_own(request.host, own):
            abort(400, f"expected a request to this machine, got one to {request.host}")

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.errorhandler(GboptError)
    def explain(error: GboptError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 409

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> tuple[Response, int]:
        return jsonify(error=error.description), error.code or 500

    return app


def listen(app: Flask, host: str, port: int) -> BaseWSGIServer:
    """A server that listens already; `serve_forever` runs it.

    Args:
        port: 0 takes a free one, which `server_port` tells.

    Raises:
        GboptError: the address is not this machine's, or the port is taken.
    """
    try:
        with redirect_stderr(StringIO()):  # werkzeug prints the error,
            return make_server(host, port, app, threaded=True)
    except (OSError, SystemExit) as error:  # and ends the process
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(cause)
        if getattr(cause, "errno", None) in (errno.EADDRINUSE, errno.EACCES):
            advice = "try --port 0"
        else:
            advice = "--host takes an address of this machine, or 0.0.0.0 for all of them"
        raise GboptError(f"{host}:{port}: cannot be listened on: {reason}; {advice}") from cause


def _is_own(host: str, names: set[str]) -> bool:
    """Whether the `Host` of a request is one of the names or a number, which cannot be rebound."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower() in names
    return True
