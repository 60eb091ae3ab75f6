"""Pulling weights: a server on this machine stands in for the publisher's."""

from __future__ import annotations

import fcntl
import hashlib
import io
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from support.onnx_networks import needs_onnx, save_red_foreground
from torchvision.models.optical_flow import raft_small

from gbopt_ros.cli.main import main
from gbopt_ros.config import BackgroundConfig, Config, FlowConfig, ProposalConfig
from gbopt_ros.models import catalogue
from gbopt_ros.models.catalogue import (
    CATALOGUE,
    Pixels,
    Published,
    find_weights,
    pixels_of,
    published,
    pull,
)
from gbopt_ros.models.download import lock_unfinished
from gbopt_ros.models.raft import RaftFlow
from gbopt_ros.models.weights import sha256_of
from gbopt_ros.perception.flow import make_flow
from gbopt_ros.perception.load import proposal_weights
from gbopt_ros.perception.onnx_background import OnnxBackground
from gbopt_ros.structures import GboptError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "raft_small"
OF_TORCHVISION = (
    "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "raft_large", "raft_large_things",
    "raft_small",
)  # fmt: skip
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FOREGROUND = {
    "u2netp": Pixels(*IMAGENET),
    "u2net": Pixels(*IMAGENET),
    "isnet-general-use": Pixels(3 * (0.5,), 3 * (1.0,)),
    "birefnet-general-lite": Pixels(*IMAGENET, "logits"),
}


@dataclass
class Server:
    """What it serves and how well, and what it was asked for."""

    content: bytes = CONTENT
    knows_ranges: bool = True
    breaks_after: int | None = None  # bytes of the body
    status: int | None = None
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            if state.status is not None:
                self.send_error(state.status)
                return
            start = int(wanted[len("bytes=") : -1]) if wanted and state.knows_ranges else 0
            size = len(state.content)
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            body = state.content[start:]
            self.wfile.write(body if state.breaks_after is None else body[: state.breaks_after])

        def log_message(self, *ignored: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{listening.server_port}/models/raft.pth"
        yield state
        listening.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gbopt_ros" / "models"


@pytest.fixture
def entry(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the one entry of the catalogue is kept, which the server has."""
    monkeypatch.setattr(
        catalogue, "published", lambda name: Published(name, server.url, DIGEST[:8], "MIT (x/y)")
    )
    return cache / "raft.pth"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -------------------------------------------------------------------------------------- catalogue


def test_catalogue_names_all_weights() -> None:
    assert (*OF_TORCHVISION, *FOREGROUND) == CATALOGUE


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_published_urls_name_their_digest(name: str, cache: Path) -> None:
    found = published(name)
    assert found.licence == "BSD-3-Clause (torchvision)"
    assert re.fullmatch(r"https://download\.pytorch\.org/models/\w+-[0-9a-f]{8}\.pth", found.url)
    assert found.url.endswith(f"-{found.digest}.pth")
    assert found.path == cache / found.url.rpartition("/")[2]
    assert name.removesuffix("_things").replace("_", "") in found.url.replace("_", "")


@pytest.mark.parametrize("name", FOREGROUND)
def test_published_foreground_networks_have_digest_licence_and_pixels(
    name: str, cache: Path
) -> None:
    found = published(name)
    assert re.fullmatch("[0-9a-f]{64}", found.digest)
    assert re.fullmatch(r"https://github\.com/.+/releases/download/v.+\.onnx", found.url)
    assert found.path.parent == cache
    assert re.match(r"(Apache-2\.0|MIT) \(\w+/", found.licence)
    assert pixels_of(found.digest) == found.pixels == FOREGROUND[name]


def test_pixels_of_an_unknown_file() -> None:
    assert pixels_of("0" * 64) is None


@needs_onnx
def test_published_pixels_serve_the_background_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network gives its normalised red channel: (x - 0.5) / 0.25, taken as logits."""
    path = save_red_foreground(tmp_path / "red.onnx", (1, 3), metadata={})
    pixels = Pixels(3 * (0.5,), 3 * (0.25,), "logits")
    entry = Published("red", "https://x/red.onnx", sha256_of(path), "MIT (x/y)", pixels)
    monkeypatch.setattr(catalogue, "_FOREGROUND", (entry,))
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, :, 0] = 0, 51, 255
    network = OnnxBackground.from_file(path, BackgroundConfig(), torch.device("cpu"))
    (background,) = network.background([image])
    np.testing.assert_allclose(background[0], 1 / (1 + np.exp([-2.0, -1.2, 2.0])), atol=1e-6)


def test_models_folder_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue.models_folder() == tmp_path / ".cache" / "gbopt_ros" / "models"


def test_pull_refuses_an_unknown_name() -> None:
    with pytest.raises(GboptError, match=r"resnet: no such weights; known: maskrcnn_resnet50_fpn,"):
        pull("resnet")


# -------------------------------------------------------------------------------------- downloads


def test_pull_once(server: Server, entry: Path) -> None:
    assert pull(NAME) == (entry, DIGEST)
    assert entry.read_bytes() == CONTENT
    assert names(entry.parent) == {"raft.pth", "raft.pth.sha256"}
    assert entry.with_name("raft.pth.sha256").read_text() == f"{DIGEST}  raft.pth\n"
    assert pull(NAME) == (entry, DIGEST)
    assert server.ranges == [None]  # the second time nothing was asked for


def test_pull_continues_a_broken_download(server: Server, entry: Path) -> None:
    server.breaks_after = 300_000
    with pytest.raises(GboptError, match="ended after 300000 of 1048576 bytes") as caught:
        pull(NAME)
    assert f"fetch {server.url} and put it at {entry}" in str(caught.value)
    assert names(entry.parent) == {"raft.pth.part"}
    with pytest.raises(GboptError, match="ended after 600000 of 1048576 bytes"):
        pull(NAME)
    server.breaks_after = None
    assert pull(NAME) == (entry, DIGEST)
    assert entry.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=600000-"]


def test_pull_starts_again_without_ranges(server: Server, entry: Path) -> None:
    server.knows_ranges = False
    entry.parent.mkdir(parents=True)
    entry.with_name("raft.pth.part").write_bytes(CONTENT[:1000])
    assert pull(NAME) == (entry, DIGEST)
    assert entry.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_pull_only_checks_a_complete_part(server: Server, entry: Path) -> None:
    entry.parent.mkdir(parents=True)
    entry.with_name("raft.pth.part").write_bytes(CONTENT)
    assert pull(NAME) == (entry, DIGEST)


def test_pull_drops_a_part_that_is_longer_than_the_file(server: Server, entry: Path) -> None:
    entry.parent.mkdir(parents=True)
    entry.with_name("raft.pth.part").write_bytes(CONTENT + b"more")
    assert pull(NAME) == (entry, DIGEST)
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


@pytest.mark.parametrize("begun", [0, 1000])
def test_pull_refuses_another_file(server: Server, entry: Path, begun: int) -> None:
    """Also where the beginning of another file was there already."""
    if begun:
        entry.parent.mkdir(parents=True)
        entry.with_name("raft.pth.part").write_bytes(b"x" * begun)
    else:
        server.content = CONTENT[:-1] + b"x"
    with pytest.raises(GboptError, match=f"expected one that begins with {DIGEST[:8]}"):
        pull(NAME)
    assert names(entry.parent) == set()
    server.content = CONTENT
    assert pull(NAME) == (entry, DIGEST)


def test_pull_without_a_server_says_what_to_fetch(entry: Path, cache: Path) -> None:
    """Port 9 of this machine refuses; the error says what to fetch and where to put it."""
    url = "http://127.0.0.1:9/raft.pth"
    with pytest.raises(GboptError, match="refused") as caught:
        pull(NAME, url)
    assert f"fetch {url} and put it at {entry}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("status", [403, 404, 500])
def test_pull_from_a_server_that_refuses(server: Server, entry: Path, status: int) -> None:
    server.status = status
    with pytest.raises(GboptError, match=str(server.url)):
        pull(NAME)


def test_pull_refuses_a_second_download_at_a_time(server: Server, entry: Path) -> None:
    entry.parent.mkdir(parents=True)
    with (
        entry.with_name("raft.pth.part").open("a+b") as part,
        pytest.raises(GboptError, match="another process"),
    ):
        fcntl.flock(part, fcntl.LOCK_EX)
        pull(NAME)


def test_lock_refuses_a_download_that_another_process_finished(server: Server, entry: Path) -> None:
    """Its unfinished file is the finished one by now, and must not be written to."""
    entry.parent.mkdir(parents=True)
    part = entry.with_name("raft.pth.part")
    opened = part.open("a+b")
    part.unlink()
    with opened, pytest.raises(GboptError, match="another process"):
        lock_unfinished(part, opened)


def test_pull_into_a_folder_that_cannot_be_made(
    server: Server, entry: Path, tmp_path: Path
) -> None:
    (tmp_path / "gbopt_ros").write_text("in the way")
    with pytest.raises(GboptError, match="cannot be downloaded"):
        pull(NAME)


# ---------------------------------------------------------------------------------- files by hand


def test_pull_takes_a_file_put_there_by_hand(server: Server, entry: Path) -> None:
    entry.parent.mkdir(parents=True)
    entry.write_bytes(CONTENT)
    assert pull(NAME) == (entry, DIGEST)
    assert server.ranges == []
    assert entry.with_name("raft.pth.sha256").is_file()


@pytest.mark.parametrize("recorded", [False, True])
def test_pull_refuses_a_damaged_file(server: Server, entry: Path, recorded: bool) -> None:
    if recorded:
        pull(NAME)
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.write_bytes(CONTENT[1:])
    with pytest.raises(GboptError, match="delete it and pull again"):
        pull(NAME)
    assert entry.is_file()  # it may be dear to somebody


# --------------------------------------------------------------------------------- names of files


def test_find_weights_finds_the_file_of_a_name(cache: Path) -> None:
    expected = published(NAME).path
    with pytest.raises(GboptError, match=f"gbopt models pull {NAME}.* at {expected}"):
        find_weights(NAME)
    with pytest.raises(GboptError, match="pull maskrcnn_resnet50_fpn_v2"):
        proposal_weights(Config(proposal=ProposalConfig(weights="maskrcnn_resnet50_fpn_v2")))
    put_there(expected, b"weights")
    assert find_weights(NAME) == find_weights(expected) == expected
    assert find_weights("elsewhere.pth") == Path("elsewhere.pth")


def put_there(path: Path, content: bytes) -> None:
    """A pulled file with the digest that `pull` writes beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


def test_find_weights_refuses_a_file_that_was_damaged_after_it_was_pulled(cache: Path) -> None:
    path = published(NAME).path
    put_there(path, b"weights")
    assert find_weights(NAME) == path
    path.write_bytes(b"weighty")
    with pytest.raises(GboptError, match=r"SHA-256 is .* damaged one: delete it and pull again"):
        find_weights(NAME)


def test_find_weights_checks_the_published_digest_where_none_was_written(cache: Path) -> None:
    path = published(NAME).path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"put there by hand")
    with pytest.raises(GboptError, match=f"expected one that begins with {published(NAME).digest}"):
        find_weights(NAME)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_find_weights_prefers_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).touch()
    assert find_weights(NAME) == Path(NAME)


def test_make_flow_takes_raft_that_was_pulled(cache: Path) -> None:
    torch.manual_seed(0)
    path = published(NAME).path
    content = io.BytesIO()
    torch.save(raft_small(weights=None).state_dict(), content)
    put_there(path, content.getvalue())
    for backend in ("auto", NAME):
        assert isinstance(make_flow(FlowConfig(backend=backend, weights=NAME), "cpu"), RaftFlow)


# ----------------------------------------------------------------------------------- command line


def test_command_line_models_pull(
    server: Server, entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", NAME]) == 0
    licence = "licence MIT (x/y); the data that it was trained on have terms of their own"
    assert capsys.readouterr().out == f"{entry}\nsha256 {DIGEST}\n{licence}\n"
    entry.unlink()
    server.status = 404
    assert main(["models", "pull", NAME]) == 1
    assert str(entry) in capsys.readouterr().err
    server.status = None
    assert main(["models", "pull", NAME, "--url", server.url]) == 0


def test_command_line_models_pull_with_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "resnet"]) == 1
    assert "no such weights; known: maskrcnn_resnet50_fpn," in capsys.readouterr().err
