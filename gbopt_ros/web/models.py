"""The versions of a store, read-only, for robots that do not share its folder.

    /serving.json?compared=0      manifest of the version that serves, null before the first
    /models/v0001/model.safetensors, manifest.json, card.json, card.md

Weights can be fetched in parts (HTTP ranges), so that a cut download goes on. Nothing else of the
store is served: no image, no mask.
"""

from __future__ import annotations

from flask import Flask, Response, abort, jsonify, render_template_string, request, send_file

from gbopt_ros.learning.store.model_card import CARD_JSON, CARD_MARKDOWN
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.learning.store.pull import SERVING_NAME
from gbopt_ros.learning.store.version import MANIFEST_NAME, WEIGHTS_NAME
from gbopt_ros.structures import GboptError
from gbopt_ros.web.server import guarded_app

_TYPES = {
    WEIGHTS_NAME: "application/octet-stream",
    MANIFEST_NAME: "application/json",
    CARD_JSON: "application/json",
    CARD_MARKDOWN: "text/markdown",
}
_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Models of {{ store }}</title></head><body>
<h1>Models of {{ store }}</h1>
<ul>{% for name in versions %}
<li>{{ name }}{% if name == serving %} (serves){% endif %}: {% for file in files %}
<a href="models/{{ name }}/{{ file }}">{{ file }}</a>{% endfor %}</li>{% endfor %}
</ul></body></html>
"""


def models_app(models: ModelStore, *names: str) -> Flask:
    """The application that serves a store.

    Args:
        names: as of `guarded_app`.
    """
    app = guarded_app(__name__, *names)

    @app.get("/")
    def index() -> str:
        serving = models.serving()
        return render_template_string(
            _INDEX,
            store=models.root.resolve().name,
            versions=[version.version for version in models.versions()],
            serving=serving.version if serving is not None else "",
            files=list(_TYPES),
        )

    @app.get(f"/{SERVING_NAME}")
    def serving() -> Response:
        version = models.serving(compared=request.args.get("compared") == "1")
        return jsonify(manifest=None if version is None else version.manifest)

    @app.get("/models/<version>/<name>")
    def file(version: str, name: str) -> Response:
        if name not in _TYPES:
            abort(404)
        try:
            path = models.get(version).path.with_name(name)
        except GboptError:
            abort(404)
        if not path.is_file():
            abort(404)
        # The digest tells versions apart; a time of change would not, on a copied store.
        return send_file(path.resolve(), mimetype=_TYPES[name], conditional=True, etag=False)

    return app
