"""The page of `gbopt review` in a real browser: keys, pictures, progress and undo."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flask", reason="pip install 'gbopt_ros[review]'")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

from support.labelled_store import make_store

from gbopt_ros.learning.store.store import Store
from gbopt_ros.web import review
from gbopt_ros.web.review import review_app
from gbopt_ros.web.server import listen
from gbopt_ros.web.session import ReviewSession

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

LOADED = "document.getElementById('whole').complete"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: {', '.join(BROWSERS)}")
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=found, args=["--no-sandbox"]) as started,
    ):
        yield started


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


@pytest.fixture
def page(browser: Any, store: Store) -> Iterator[Any]:
    """The open page; any message of the browser's console fails the test."""
    server = listen(review_app(ReviewSession(store)), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    told: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 860})
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    page.wait_for_selector("#main:not([hidden])")
    page.wait_for_function(LOADED)
    yield page
    page.close()
    server.shutdown()
    thread.join()
    assert not [text for text in told if "409" not in text]


def verdicts(store: Store) -> list[list[int]]:
    with store.training_set() as training_set:
        return [[int(m.verdict) for m in frame.masks] for frame in training_set.frames()]


def press(page: Any, key: str, message: str) -> None:
    page.wait_for_function(LOADED)  # before, no verdict is taken
    page.evaluate("() => { document.querySelector('#message').textContent = ''; }")
    page.keyboard.press(key)
    playwright.expect(page.locator("#message")).to_have_text(message)


def test_one_key_keeps_or_rejects_and_undo_takes_it_back(page: Any, store: Store) -> None:
    assert page.text_content("#counts") == "0 kept, 0 rejected, 6 to go"
    assert page.text_content("#confidence") == "0.10"
    press(page, "j", "Rejected.")
    assert (page.text_content("#confidence"), verdicts(store)[1]) == ("0.60", [0, -1])
    press(page, "k", "Kept.")
    assert page.text_content("#counts") == "1 kept, 1 rejected, 4 to go"
    assert page.evaluate("document.querySelector('#progress').value") == 2
    press(page, "u", "Taken back.")
    assert (page.text_content("#confidence"), verdicts(store)[2]) == ("0.60", [0, 0])
    for _ in range(5):
        press(page, "k", "Kept.")
    assert page.is_visible("#done") and page.is_disabled("#keep")
    assert verdicts(store) == [[1, 1], [1, -1], [1, 1]]


def test_pictures_are_shown_and_change_with_the_order(page: Any) -> None:
    loaded = "id => document.getElementById(id).naturalWidth > 0"
    for name in ("whole", "zoom"):
        page.wait_for_function(loaded, arg=name)
    assert page.get_attribute("#whole", "src").endswith("/mask")
    page.focus("#keep")
    page.keyboard.press(" ")  # it is a key of the page, and does not press the button
    playwright.expect(page.locator("#whole")).to_have_attribute("src", re.compile("/plain$"))
    assert page.text_content("#counts") == "0 kept, 0 rejected, 6 to go"
    page.click("#newest")
    playwright.expect(page.locator("#place")).to_have_text("1, 2")
    page.keyboard.press("s")  # skipped: the next one
    playwright.expect(page.locator("#confidence")).to_have_text("0.70")


def test_skipped_masks_come_again_at_the_end(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "_BATCH", 2)
    page.click("#newest")
    for confidence in ("0.60", "0.70", "0.10", "0.80", "0.30", "0.90", "0.60"):
        playwright.expect(page.locator("#confidence")).to_have_text(confidence)
        page.wait_for_function("!busy")
        page.keyboard.press("s")


def test_a_mask_that_is_gone_is_told_on_the_page(page: Any, store: Store) -> None:
    store.forget("desk")
    page.keyboard.press("k")
    page.wait_for_selector("#message.bad")
    assert "the mask is gone" in page.text_content("#message")
