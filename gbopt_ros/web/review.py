"""The page on which a person looks at masks, and what it asks for.

Nothing on it comes from elsewhere. A page of somebody else, open in the same browser, must not
judge masks: whatever changes something brings the token that only this page knows.
"""

from __future__ import annotations

import secrets

from flask import Flask, Response, abort, g, jsonify, render_template, request

from gbopt_ros.learning.data.verdicts import Verdict
from gbopt_ros.web.server import guarded_app
from gbopt_ros.web.session import ORDERS, VIEWS, ReviewSession

TOKEN_HEADER = "X-Review-Token"
_VERDICTS = {"keep": Verdict.VERIFIED, "reject": Verdict.REJECTED}
_BATCH = 40  # masks that the page gets at once, beside those that it skips
_MAX_SKIPPED = 1000


def review_app(session: ReviewSession, *names: str) -> Flask:
    """The application of a session.

    Args:
        names: as of `guarded_app`.
    """
    app = guarded_app(__name__, *names)
    token = secrets.token_urlsafe(32)

    @app.before_request
    def check_token() -> None:
        if request.method == "POST" and not secrets.compare_digest(
            request.headers.get(TOKEN_HEADER, "").encode(), token.encode()
        ):
            abort(403, "expected the token of the page; load it again")

    @app.after_request
    def allow_own_content(response: Response) -> Response:
        nonce = g.get("nonce", "")
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'; "
            f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        )
        return response

    @app.get("/")
    def page() -> str:
        g.nonce, store = secrets.token_urlsafe(16), session.root.resolve().name
        return render_template("page.html", store=store, token=token, nonce=g.nonce)

    @app.get("/questions")
    def questions() -> Response:
        order = _one_of(request.args.get("order", ORDERS[0]), ORDERS)
        skipped = min(max(request.args.get("skipped", 0, type=int), 0), _MAX_SKIPPED)
        found = [question.to_dict() for question in session.questions(order, _BATCH + skipped)]
        return jsonify(questions=found, progress=session.progress())

    @app.get("/picture/<image>/<mask>/<view>")
    def picture(image: str, mask: str, view: str) -> Response:
        jpeg = session.picture(image, mask, _one_of(view, VIEWS))
        return Response(jpeg, mimetype="image/jpeg")

    @app.post("/verdict")
    def verdict() -> Response:
        told = request.get_json()
        if not isinstance(told, dict) or not all(isinstance(v, str) for v in told.values()):
            abort(400, "expected image, mask and verdict")
        given = _VERDICTS[_one_of(told.get("verdict", ""), tuple(_VERDICTS))]
        session.judge(told.get("image", ""), told.get("mask", ""), given)
        return jsonify(progress=session.progress())

    @app.post("/undo")
    def undo() -> Response:
        question = session.undo()
        back = None if question is None else question.to_dict()
        return jsonify(question=back, progress=session.progress())

    return app


def _one_of(value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        abort(400, f"expected one of {', '.join(known)}")
    return value
