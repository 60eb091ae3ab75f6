"""Downloads that go on where they were cut, limited in size and checked by their SHA-256."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener, urlopen

from tqdm import tqdm

from gbopt_ros.io.files import sha256_of
from gbopt_ros.structures import GboptError

TIMEOUT_S = 30.0  # longest time without a byte
_BLOCK = 1 << 20
FAILURES = (OSError, HTTPException, ValueError)
"""What a download can end with, beside GboptError."""

OpenUrl = Callable[..., Any]
"""As `urllib.request.urlopen`."""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none; urllib then raises HTTPError."""


open_directly: OpenUrl = build_opener(_NoRedirect, ProxyHandler({})).open
"""As `urlopen`, without proxies, and redirects are errors: an address stays on its host."""


def fetch(
    url: str,
    file: BinaryIO,
    title: str,
    *,
    open_url: OpenUrl | None = None,
    max_bytes: int | None = None,
    on_block: Callable[[], None] | None = None,
) -> None:
    """Append the missing bytes of a file; start again if the server does not support ranges.

    Args:
        title: of the progress bar.
        open_url: None: `urlopen`.
        max_bytes: maximum size of the whole file.
        on_block: called before each block, in place of the progress bar. An exception in it ends
            the download, which can go on later.

    Raises:
        FAILURES: the server cannot be reached, refuses, or the connection broke.
        GboptError: the file is larger than `max_bytes`.
    """
    open_url = open_url or urlopen
    done = file.seek(0, os.SEEK_END)
    request = Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = open_url(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code != 416 or not done:  # 416: nothing follows, or the file has become shorter
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{done}"):
            return
        file.truncate(0)
        response = open_url(url, timeout=TIMEOUT_S)
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise ValueError("the server sent another part than the one that was asked for")
        if not resumed:
            done = 0
            file.truncate(0)
        file.seek(done)
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        _check_size(url, total or 0, max_bytes)
        with tqdm(
            total=total, initial=done, desc=title, unit="B", unit_scale=True, dynamic_ncols=True,
            disable=on_block is not None,
        ) as progress:  # fmt: skip
            while block := response.read(_BLOCK):
                if on_block is not None:
                    on_block()
                done += len(block)
                _check_size(url, done, max_bytes)
                file.write(block)
                progress.update(len(block))
    if total is not None and done != total:
        raise ValueError(f"the connection ended after {done} of {total} bytes")


def _check_size(url: str, size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise GboptError(f"{url}: {size} bytes or more, at most {max_bytes} expected")


def lock_unfinished(part: Path, file: BinaryIO) -> None:
    """Lock an unfinished file. Raises GboptError if another process downloads it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = not os.path.samestat(os.fstat(file.fileno()), part.stat())
    except (BlockingIOError, FileNotFoundError):
        taken = True
    if taken:
        raise GboptError(f"{part}: another process downloads it; try again when it is done")


def check_digest(path: Path, digest: str) -> str:
    """The SHA-256 of a file. Raises GboptError if it does not begin with `digest`."""
    found = sha256_of(path)
    if not found.startswith(digest):
        raise GboptError(
            f"{path}: SHA-256 is {found}, expected one that begins with {digest}; "
            "this is another file, or a damaged one: delete it and pull again"
        )
    return found


def reason_of(error: Exception) -> str:
    """Why a download failed, in words."""
    inner = getattr(error, "reason", None)  # urllib wraps the error of the socket
    return " ".join(str(inner or error).split()) or type(error).__name__
