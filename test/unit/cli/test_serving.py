"""The verbs that serve something: where they listen, what they print, and what they refuse."""

from __future__ import annotations

import builtins
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flask", reason="pip install 'gbopt_ros[review]'")

from support.forks import ForkedProgram
from support.labelled_store import make_store

from gbopt_ros.cli import serving
from gbopt_ros.cli.main import main
from gbopt_ros.learning.store.model_store import ModelStore
from gbopt_ros.structures import GboptError
from gbopt_ros.web.models import models_app
from gbopt_ros.web.server import listen


def test_a_page_is_served_to_this_machine_until_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    server = ForkedProgram("gbopt_ros.cli", ["review", "store", "--port", "0"], log)
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and "\n" in (told := log.read_text())):
            assert server.wait(0.02) is None and time.monotonic() < deadline
        assert told.startswith("http://127.0.0.1:") and told.endswith("/ (Ctrl-C ends it)\n")
        with urllib.request.urlopen(told.split()[0], timeout=30) as answer:
            assert b"<h1>Masks of store</h1>" in answer.read()
        server.interrupt()
        assert server.wait(30) == 0
    finally:
        server.kill()
    assert log.read_text() == told


def test_an_address_that_others_reach_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path)  # which has no version yet
    monkeypatch.setattr("werkzeug.serving.BaseWSGIServer.serve_forever", lambda self: None)
    for host, warned in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        assert main(["serve-models", str(tmp_path / "store"), "--host", host, "--port", "0"]) == 0
        told = capsys.readouterr().err
        assert ("everybody who reaches it can copy the networks" in told) is warned


def test_listen_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    app = models_app(ModelStore(tmp_path))
    with (
        listen(app, "127.0.0.1", 0) as first,
        pytest.raises(GboptError, match=rf"{first.server_port}: cannot be listened on"),
    ):
        listen(app, "127.0.0.1", first.server_port)


def test_without_flask_the_verbs_say_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "flask":
            raise ImportError("No module named 'flask'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(GboptError, match=r"pip install 'gbopt_ros\[review\]'"):
        serving.check_flask()


def test_verbs_make_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for verb in ("review", "serve-models"):
        for wrong in (tmp_path / "none", photographs):
            assert main([verb, str(wrong)]) == 1
            assert f"{wrong}: no store" in capsys.readouterr().err
    assert [*tmp_path.rglob("*")] == [photographs]
