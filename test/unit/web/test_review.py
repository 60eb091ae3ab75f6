"""The page of `gbopt review`: what it shows and writes, and whom it refuses."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

flask = pytest.importorskip("flask", reason="pip install 'gbopt_ros[review]'")

from support.labelled_store import SIZE, make_store, masks

from gbopt_ros.learning.data.verdicts import Verdict
from gbopt_ros.learning.store.store import Store
from gbopt_ros.structures import GboptError
from gbopt_ros.web import review
from gbopt_ros.web.review import TOKEN_HEADER, review_app
from gbopt_ros.web.session import ReviewSession


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


@pytest.fixture
def client(store: Store) -> Any:
    return review_app(ReviewSession(store)).test_client()


def token(client: Any) -> dict[str, str]:
    found = re.search(r'data-token="([\w-]{40,})"', client.get("/").text)
    assert found is not None
    return {TOKEN_HEADER: found[1]}


def questions(client: Any, order: str = "unsure") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/questions?order={order}").json["questions"]
    return found


def verdicts(store: Store) -> list[list[int]]:
    with store.training_set() as training_set:
        return [[int(m.verdict) for m in frame.masks] for frame in training_set.frames()]


def told(question: dict[str, Any], verdict: str) -> dict[str, str]:
    return {"image": question["image"], "mask": question["id"], "verdict": verdict}


def test_questions_show_the_least_sure_of_each_clip_or_the_newest(client: Any) -> None:
    first = questions(client)
    assert [round(q["confidence"], 1) for q in first] == [0.1, 0.6, 0.3, 0.7, 0.8, 0.9]
    assert {key: first[0][key] for key in ("recording", "clip", "frame", "model", "track")} == {
        "recording": "desk", "clip": 0, "frame": 1, "model": "v0001", "track": 2
    }  # fmt: skip
    assert first[0]["share"] == pytest.approx(masks(1)[1].mean())
    assert [q["frame"] for q in questions(client, "newest")] == [2, 2, 1, 1, 0, 0]


def test_questions_go_on_behind_those_that_were_skipped(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "_BATCH", 2)
    all_of_them = [q["id"] for q in client.get("/questions?skipped=4").json["questions"]]
    assert len(set(all_of_them)) == 6
    for skipped, count in (("", 2), ("0", 2), ("3", 5), ("-1", 2), ("many", 2)):
        found = client.get(f"/questions?skipped={skipped}").json["questions"]
        assert [q["id"] for q in found] == all_of_them[:count]


def test_verdicts_are_written_at_once_and_undone_one_by_one(client: Any, store: Store) -> None:
    headers, (first, second, *_) = token(client), questions(client)
    answer = client.post("/verdict", json=told(first, "reject"), headers=headers)
    assert answer.json == {
        "progress": {"rejected": 1, "none": 5, "verified": 0, "undoable": 1}
    }  # fmt: skip
    assert verdicts(store) == [[0, 0], [0, -1], [0, 0]]
    client.post("/verdict", json=told(second, "keep"), headers=headers)
    assert verdicts(store) == [[0, 0], [0, -1], [0, 1]]
    assert [q["id"] for q in questions(client)][:1] != [first["id"]]
    assert client.post("/undo", headers=headers).json["question"]["id"] == second["id"]
    assert verdicts(store) == [[0, 0], [0, -1], [0, 0]]
    client.post("/verdict", json=told(first, "keep"), headers=headers)  # a change of mind
    assert verdicts(store) == [[0, 0], [0, 1], [0, 0]]
    for left in ([0, -1], [0, 0]):
        client.post("/undo", headers=headers)
        assert verdicts(store)[1] == left
    answer = client.post("/undo", headers=headers).json
    assert (answer["question"], answer["progress"]["undoable"]) == (None, 0)


def test_pictures_show_the_mask_the_image_alone_and_a_close_up(client: Any) -> None:
    question = questions(client)[0]
    pixels = {}
    for view in ("mask", "plain", "zoom"):
        answer = client.get(f"/picture/{question['image']}/{question['id']}/{view}")
        assert answer.mimetype == "image/jpeg"
        pixels[view] = cv2.imdecode(np.frombuffer(answer.data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels["mask"].shape == pixels["plain"].shape == (*SIZE, 3)
    assert pixels["zoom"].shape == (52, 60, 3)  # 64 pixels about it, cut at two borders
    changed = np.abs(pixels["mask"].astype(int) - pixels["plain"]).max(axis=2) > 40
    assert changed[40, 52] and not changed[5, 5]


def test_a_mask_that_is_gone_is_told_and_changes_nothing(client: Any, store: Store) -> None:
    headers, (first, *_) = token(client), questions(client)
    store.forget("desk")
    answer = client.post("/verdict", json=told(first, "keep"), headers=headers)
    assert answer.status_code == 409 and "the mask is gone" in answer.json["error"]
    assert client.get(f"/picture/{first['image']}/{first['id']}/mask").status_code == 409


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8610", 200), ("127.0.0.1:8610", 200), ("[::1]:8610", 200), ("127.0.0.1", 200),
        (f"{socket.gethostname()}:8610", 200), (f"{socket.gethostname()}.local:8610", 200),
        ("evil.local", 400), ("evil.example", 400), ("evil.example:8610", 400),
        ("localhost.evil.example", 400), ("127.0.0.1.evil.example:80", 400), ("", 400),
    ],
)  # fmt: skip
def test_requests_for_another_host_are_refused(client: Any, host: str, status: int) -> None:
    """A name that a stranger rebinds to this machine is still his name."""
    for path in ("/", "/questions"):
        assert client.get(path, headers={"Host": host}).status_code == status


@pytest.mark.parametrize("headers", [{}, {TOKEN_HEADER: ""}, {TOKEN_HEADER: "a" * 43}])
def test_changes_without_the_token_of_the_page_are_refused(
    client: Any, store: Store, headers: dict[str, str]
) -> None:
    (first, *_) = questions(client)
    assert client.post("/verdict", json=told(first, "keep"), headers=headers).status_code == 403
    answer = client.post("/undo", headers=headers)
    assert (answer.status_code, answer.json) == (
        403, {"error": "expected the token of the page; load it again"}
    )  # fmt: skip
    assert verdicts(store) == [[0, 0]] * 3


@pytest.mark.parametrize(
    "path",
    [
        "/picture/..%2f..%2fcatalogue.sqlite/a/mask", "/picture/../../../etc/passwd",
        "/picture/%2e%2e%2f%2e%2e%2fetc%2fpasswd/x/plain", "/static/page.html", "/page.html",
        "/picture/a/b/other", "/questions?order=random",
    ],
)  # fmt: skip
def test_no_other_file_is_served(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404, 409) and b"root:" not in answer.data


def test_bad_bodies_are_refused(client: Any, store: Store) -> None:
    headers, (first, *_) = token(client), questions(client)
    for body in ([], {}, told(first, "maybe"), told(first, "keep") | {"mask": 7}):
        assert client.post("/verdict", json=body, headers=headers).status_code == 400
    assert client.post("/verdict", data=b"x" * 20_000, headers=headers).status_code in (413, 415)
    assert verdicts(store) == [[0, 0]] * 3


def test_the_page_loads_nothing_from_elsewhere(client: Any) -> None:
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    (nonce,) = set(re.findall(r"'nonce-([\w-]+)'", policy))
    assert answer.text.count(f'nonce="{nonce}"') == 2 and nonce not in client.get("/").text
    assert not re.findall(r"https?://|//\w+\.", answer.text)


def test_a_session_needs_a_store_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no store with a training set"):
        ReviewSession(Store(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_verdicts_and_undo_in_a_session_go_to_all_frames_with_the_image(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with store.training_set() as training_set:
        (first, *_) = training_set.frames()
        (again,) = training_set._read("frame_index = 0")
        training_set._catalogue.execute(
            "INSERT INTO frames SELECT 99, recording, clip_id, 99, stamp_ns, file_name, height, "
            "width, bytes, model_version FROM frames WHERE id = ?", (again.id,),
        )  # fmt: skip
        training_set._insert_masks(99, first.masks[:1])
    session = ReviewSession(store)
    (question,) = (q for q in session.questions("newest", 1))
    session.judge(question.frame.path.name, question.id, Verdict.REJECTED)
    assert verdicts(store) == [[-1, 0], [0, 0], [0, 0], [-1]]
    session.undo()
    assert verdicts(store) == [[0, 0], [0, 0], [0, 0], [0]]
