"""Versions that travel over HTTP from one store to another: what arrives, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flask", reason="pip install 'gbopt_ros[review]'")

from support.networks import tiny_mask_rcnn

from gbopt_ros.learning.store import pull
from gbopt_ros.learning.store.model_store import ModelStore, ModelVersion
from gbopt_ros.learning.store.pull import RemoteStore, Unreachable
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo
from gbopt_ros.structures import Calibration, GboptError
from gbopt_ros.web.models import models_app
from gbopt_ros.web.server import listen

NETWORK = tiny_mask_rcnn()
INFO = WeightsInfo(PROPOSALS, "slim18-fpn", "seed", calibration=Calibration(0.1, 0.2, 0.3))
DATA = [{"recording": "desk", "clips": [{"clip": 3, "frames": 5, "masks": 9, "verified": 2}]}]
FACTS: dict[str, Any] = {
    "gate": {"passed": True, "reason": "AP 50 against 49"}, "frames": 5, "instances": 9,
    "teachers": ["seed"], "data": DATA, "origin": "ab" * 32, "origin_licence": "MIT (x/y)",
}  # fmt: skip


class Learner:
    """A store that is served, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.models = ModelStore(folder)
        self.asked: list[tuple[str, str | None]] = []
        app = models_app(self.models)
        app.before_request(self._note)
        self.server = listen(app, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}/"

    def _note(self) -> None:
        from flask import request

        self.asked.append((request.path, request.headers.get("Range")))

    def publish(self, **changes: Any) -> ModelVersion:
        info = replace(INFO, version=self.models.current_name() or INFO.version)
        return self.models.publish(NETWORK, info, FACTS | changes)


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    made = Learner(tmp_path / "learner")
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def robot(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "robot")


def follow(learner: Learner, robot: ModelStore, **options: Any) -> None:
    remote = RemoteStore(learner.url, [learner.host])
    remote.follow(robot, remote.serving(compared=False), keep=10, **options)


def test_a_store_follows_another_one_forwards_and_back(learner: Learner, robot: ModelStore) -> None:
    follow(learner, robot)
    assert robot.current() is None
    first = learner.publish()
    follow(learner, robot)
    second = learner.publish()
    follow(learner, robot)
    assert [version.version for version in robot.versions()] == ["v0001", "v0002"]
    assert not robot.damaged()
    current = robot.verified_current()
    assert current is not None and current.manifest == second.manifest
    assert current.path.read_bytes() == second.path.read_bytes()
    count = len(learner.asked)
    follow(learner, robot)  # nothing is fetched twice
    learner.models.rollback()
    follow(learner, robot)
    assert [path for path, _ in learner.asked[count:]] == ["/serving.json"] * 2
    assert robot.current_name() == first.version
    learner.models.rollback()
    follow(learner, robot)
    assert robot.current() is None
    assert not list((robot.folder / "unfinished").iterdir())


def test_a_cut_download_goes_on(learner: Learner, robot: ModelStore, monkeypatch: Any) -> None:
    version = learner.publish()
    size = version.path.stat().st_size
    monkeypatch.setattr("gbopt_ros.models.download._BLOCK", 1 << 16)
    blocks: list[None] = []

    def cut() -> None:
        blocks.append(None)
        if len(blocks) == 3:
            raise Unreachable("the robot went behind a wall")

    with pytest.raises(Unreachable, match="behind a wall"):
        follow(learner, robot, on_block=cut)
    assert robot.current() is None and not robot.versions()
    (part,) = (robot.folder / "unfinished").iterdir()
    done = part.stat().st_size
    assert 0 < done < size
    follow(learner, robot)
    assert learner.asked[-1] == (f"/models/v0001/{version.path.name}", f"bytes={done}-")
    assert robot.current_name() == "v0001" and not robot.damaged()


def test_weights_that_are_others_or_too_large_are_refused(
    learner: Learner, robot: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = learner.publish()
    content = version.path.read_bytes()
    too_large = rf"{len(content)} bytes or more, at most 1000 expected"
    with monkeypatch.context() as smaller, pytest.raises(GboptError, match=too_large):
        smaller.setattr(pull, "MAX_WEIGHTS_BYTES", 1000)
        follow(learner, robot)
    version.path.write_bytes(content[:-4] + b"\0\1\2\3")
    with pytest.raises(GboptError, match="SHA-256 is"):
        follow(learner, robot)
    assert not robot.versions() and robot.current() is None
    assert not list((robot.folder / "unfinished").iterdir())
    version.path.write_bytes(content)
    follow(learner, robot)
    assert robot.current_name() == "v0001"


def test_a_version_of_the_same_name_is_not_replaced(learner: Learner, robot: ModelStore) -> None:
    own = robot.publish(tiny_mask_rcnn(seed=5), INFO, FACTS)
    learner.publish()
    with pytest.raises(GboptError, match="another version of the same name"):
        follow(learner, robot)
    assert robot.verified_current() == own


def test_a_version_that_is_damaged_here_is_fetched_again(
    learner: Learner, robot: ModelStore
) -> None:
    learner.publish()
    follow(learner, robot)
    current = robot.current()
    assert current is not None
    current.path.write_bytes(b"damaged")
    follow(learner, robot)
    assert not robot.damaged()


@pytest.mark.parametrize(
    "url",
    [
        "http://{host}@evil.example:1/", "http://evil.example/{host}", "http://user@{host}/",
        "http://evil.example:{port}/", "ftp://{host}/", "file:///etc/passwd", "", "http://[::1",
        "http://127.0.0.1:99999/", "http://{host}.evil.example/", "//{host}/",
    ],
)  # fmt: skip
def test_hosts_that_are_not_allowed_are_never_asked(
    learner: Learner, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(pull, "open_directly", lambda *_, **__: pytest.fail("asked"))
    url = url.format(host=learner.host, port=learner.host.partition(":")[2])
    with pytest.raises(GboptError, match=r"allowed_hosts|no http or https address"):
        RemoteStore(url, [learner.host])
    with pytest.raises(GboptError, match="allowed_hosts"):
        RemoteStore(learner.url, [""])


def test_only_the_host_of_an_address_counts() -> None:
    hosts = ["Learner:8611", " [::1]:8611 ", "learner:443"]
    for url, expected in (
        ("http://learner:8611/../x?y#z", "http://learner:8611"),
        ("http://[::1]:8611", "http://[::1]:8611"),
        ("https://LEARNER/models", "https://learner:443"),
    ):
        assert RemoteStore(url, hosts).url == expected


class _Answers(BaseHTTPRequestHandler):
    """Answers everything with what the server was given."""

    def do_GET(self) -> None:
        status, headers, body = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def impostor() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _manifest(**changes: Any) -> bytes:
    manifest = FACTS | {
        "version": "v0001", "parent": "seed", "sha256": "0" * 64, "created": 1.0
    } | changes  # fmt: skip
    return json.dumps({"manifest": manifest}).encode()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "302"),
        ((404, {}, b""), "404"),
        ((200, {}, b"<html>"), "expected JSON"),
        ((200, {}, b"[]"), "expected a JSON object"),
        ((200, {}, _manifest(version="../../x")), "expected a version such as v0001"),
        ((200, {}, _manifest(sha256="../x")), "expected a SHA-256"),
        ((200, {}, _manifest(gate={"passed": False})), "did not pass the gate"),
        ((200, {}, _manifest(gate=None)), "'gate'|gate: expected a JSON object"),
        ((200, {}, _manifest(created="now")), "'created'"),
        ((200, {}, _manifest(data=[{"recording": 7}])), "'recording': expected text"),
    ],
)
def test_answers_that_are_no_version_are_refused(
    impostor: Any, robot: ModelStore, answer: tuple[int, dict[str, str], bytes], message: str
) -> None:
    impostor.answer = answer
    host = f"127.0.0.1:{impostor.server_port}"
    with pytest.raises(GboptError, match=message):
        RemoteStore(f"http://{host}/", [host]).serving(compared=False)


def test_a_host_that_does_not_answer_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="refused"):
        RemoteStore("http://127.0.0.1:1/", ["127.0.0.1:1"]).serving(compared=False)


def test_nothing_but_versions_is_served_and_nothing_can_be_changed(learner: Learner) -> None:
    learner.publish()
    (learner.models.root / "training").mkdir()
    (learner.models.root / "training" / "catalogue.sqlite").write_text("secret")
    client = models_app(learner.models).test_client()
    for path in (
        "/models/v0001/../../training/catalogue.sqlite", "/training/catalogue.sqlite",
        "/models/..%2f..%2ftraining/catalogue.sqlite", "/models/v0001/..%2fmanifest.json",
        "/models/v0009/manifest.json", "/models/current.json", "/lock",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 404 and b"secret" not in answer.data
    for method in ("post", "put", "delete", "patch"):
        assert getattr(client, method)("/models/v0001/manifest.json").status_code == 405
    assert client.get("/serving.json", headers={"Host": "evil.example"}).status_code == 400
    part = client.get("/models/v0001/model.safetensors", headers={"Range": "bytes=8-11"})
    weights = learner.models.get("v0001").path.read_bytes()
    assert (part.status_code, part.data) == (206, weights[8:12])
    assert part.headers["Content-Range"] == f"bytes 8-11/{len(weights)}"
    assert "v0001 (serves)" in client.get("/").text
    assert client.get("/models/v0001/card.md").text.startswith("# Model card of v0001\n")
