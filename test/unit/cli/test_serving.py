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


def test_listen_says_why_it_cannot_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = models_app(ModelStore(tmp_path))
    with listen(app, "127.0.0.1", 0) as first:
        port = first.server_port
        with pytest.raises(GboptError) as taken:
            listen(app, "127.0.0.1", port)
    reason = "cannot be listened on: Address already in use; try --port 0"
    assert str(taken.value) == f"127.0.0.1:{port}: {reason}"
    with pytest.raises(GboptError) as foreign:  # 192.0.2.0/24 is for documentation alone
        listen(app, "192.0.2.1", 0)
    assert str(foreign.value) == (
        "192.0.2.1:0: cannot be listened on: Cannot assign requested address; "
        "--host takes an address of this machine, or 0.0.0.0 for all of them"
    )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("port", ["80000", "-1", "http"])
def test_a_port_is_a_number_of_16_bits(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve-models", "store", "--port", port])
    assert f"argument --port: expected 0 to 65535, got {port}" in capsys.readouterr().err


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
