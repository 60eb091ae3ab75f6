"""The model store: versions appear whole, are verified, and can be taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.networks import Point, save_random_weights

from gbopt_ros.io import files
from gbopt_ros.learning.store import model_store
from gbopt_ros.learning.store.model_store import ModelStore, ModelVersion
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.weights import (
    PROPOSALS,
    WeightsInfo,
    load_into,
    read_weights,
    sha256_of,
    tensors_digest,
    write_calibration,
)
from gbopt_ros.structures import Calibration, GboptError


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path)


def publish(store: ModelStore, parent: str = "seed", scale: float = 1.0, **facts: object):
    network = Point()
    network.scale.fill_(scale)
    return store.publish(network, WeightsInfo(PROPOSALS, "slim18-fpn", parent), facts)


Change = Callable[[ModelStore], object]


def scale_of(version: ModelVersion) -> float:
    network = Point()
    load_into(network, read_weights(version.path, PROPOSALS)[1], version.path)
    return network.scale.item()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --------------------------------------------------------------------------------------- publish


def test_model_store_that_is_empty(store: ModelStore, tmp_path: Path) -> None:
    assert store.versions() == []
    assert store.current() is None
    assert listing(tmp_path) == []
    assert store.damaged() == {}
    with pytest.raises(GboptError, match="nothing to roll back"):
        store.rollback()
    with pytest.raises(GboptError, match="v0001"):
        store.get("v0001")


def test_publish_makes_the_version_current(store: ModelStore, tmp_path: Path) -> None:
    version = publish(store, scale=4.0, frames=12)
    assert version.version == "v0001"
    assert version.path == tmp_path / "models" / "v0001" / "model.safetensors"
    assert store.current() == version == store.get("v0001")
    assert store.versions() == [version]
    store.verify(version)
    assert scale_of(version) == 4.0
    assert read_weights(version.path, PROPOSALS)[0].version == "v0001"
    assert version.manifest["parent"] == "seed"
    assert version.manifest["backend"] == "torchvision"
    assert version.manifest["architecture"] == "slim18-fpn"
    assert version.manifest["frames"] == 12
    assert version.manifest["sha256"] == sha256_of(version.path)
    network = Point()
    load_into(network, read_weights(version.path, PROPOSALS)[1], version.path)
    assert version.manifest["tensors"] == tensors_digest(network)
    assert listing(tmp_path / "models") == [
        "current.json",
        "v0001",
        "v0001/card.json",
        "v0001/card.md",
        "v0001/manifest.json",
        "v0001/model.safetensors",
    ]


def test_publish_numbers_versions_in_order(store: ModelStore, tmp_path: Path) -> None:
    for number in range(1, 4):
        publish(store, scale=number)
    assert [v.version for v in store.versions()] == ["v0001", "v0002", "v0003"]
    assert store.current().version == "v0003"
    os.rename(tmp_path / "models" / "v0003", tmp_path / "models" / "v9999")
    (tmp_path / "models" / "v9999" / "manifest.json").write_text(
        json.dumps(store.get("v0002").manifest | {"version": "v9999"})
    )
    assert publish(store).version == "v10000"
    assert [v.version for v in store.versions()] == ["v0001", "v0002", "v9999", "v10000"]


@pytest.mark.parametrize("change", [publish, ModelStore.rollback, lambda store: store.prune(1)])
def test_publish_keeps_others_from_changing_the_store(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    save = model_store.save_weights

    def while_another_tries(*args: object) -> str:
        with pytest.raises(GboptError, match=r"publishing a version is under way in process \d+"):
            change(ModelStore(tmp_path))
        assert ModelStore(tmp_path).current() == first  # reading goes on
        return save(*args)

    first = publish(store)
    monkeypatch.setattr(model_store, "save_weights", while_another_tries)
    assert publish(store, "v0001").version == "v0002"
    assert [v.version for v in store.versions()] == ["v0001", "v0002"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda store: publish(store, "v0002"), "v0002 was current .* now v0003 is"),
        (ModelStore.rollback, "v0002 was current .* now v0001 is"),
        (lambda store: (store.rollback(), store.rollback()), "v0002 was current .* now none is"),
    ],
)
def test_publish_refuses_a_version_whose_parent_is_not_current_any_more(
    store: ModelStore, change: Change, words: str
) -> None:
    publish(store)
    began_with = publish(store, "v0001")
    change(store)
    before, current = store.versions(), store.current()
    info = WeightsInfo(PROPOSALS, "slim18-fpn", "v0002")
    with pytest.raises(GboptError, match=f"{words}: nothing is published; learn again"):
        store.publish(Point(), info, {}, after=began_with)
    assert (store.versions(), store.current()) == (before, current)
    assert store.publish(Point(), info, {}, after=current).version > "v0002"


def test_publish_refuses_a_first_version_where_another_one_is_current(store: ModelStore) -> None:
    publish(store)
    with pytest.raises(GboptError, match=r"no version was current .* now v0001 is"):
        store.publish(Point(), WeightsInfo(PROPOSALS, "slim18-fpn", "seed"), {}, after=None)


def test_publish_lets_others_read_a_version(store: ModelStore, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    version = publish(store)
    assert version.path.parent.stat().st_mode == plain.stat().st_mode
    (plain / "file").touch()
    assert version.path.stat().st_mode == (plain / "file").stat().st_mode


# -------------------------------------------------------------------------------------- rollback


def test_rollback_goes_to_the_parent(store: ModelStore) -> None:
    publish(store, "seed", 1.0)
    publish(store, "v0001", 2.0)
    publish(store, "v0002", 3.0)
    restored = store.rollback()
    assert restored is not None and restored.version == "v0002"
    assert store.current() == restored
    assert scale_of(restored) == 2.0
    assert store.rollback().version == "v0001"
    assert len(store.versions()) == 3
    assert publish(store, "v0001").version == "v0004"  # numbers are never given twice
    assert store.rollback().version == "v0001"


def test_rollback_before_the_first_version(store: ModelStore) -> None:
    publish(store)
    assert store.rollback() is None
    assert store.current() is None
    assert len(store.versions()) == 1


@pytest.mark.parametrize("parent", ["v0001", "v0002"])
def test_rollback_ignores_a_parent_of_another_store(store: ModelStore, parent: str) -> None:
    """Names repeat among stores: a version's parent in this one is older than itself."""
    publish(store, parent)
    publish(store, "v0001")
    assert store.rollback().version == "v0001"
    assert store.rollback() is None
    assert store.current() is None


def test_rollback_leads_to_no_version_with_the_name_of_a_parent_of_another_store(
    store: ModelStore,
) -> None:
    """A store whose learning begins with a version of another one, twice."""
    info = WeightsInfo(PROPOSALS, "slim18-fpn", "v0001")
    assert store.publish(Point(), info, {}, after=None).version == "v0001"
    assert store.rollback() is None  # it is bad
    again = store.publish(Point(), info, {}, after=None)
    assert (again.version, again.manifest["parent"]) == ("v0002", "v0001")
    assert again.manifest["ancestors"] == []
    assert store.rollback() is None


def test_rollback_skips_damaged_ancestors(store: ModelStore) -> None:
    versions = [publish(store, f"v{number:04d}" if number else "seed") for number in range(4)]
    versions[2].path.write_bytes(b"damaged")
    (versions[1].path.parent / "manifest.json").write_text("{")
    assert store.rollback() == versions[0]
    assert list(store.damaged()) == ["v0002", "v0003"]
    versions[0].path.write_bytes(b"damaged")
    assert store.rollback() is None  # to the network before the first version
    assert store.current() is None


def test_rollback_from_a_damaged_manifest_leads_to_an_older_version(store: ModelStore) -> None:
    publish(store)
    publish(store, "v0001")
    publish(store, "v0002")
    store.rollback()  # v0003 was taken back for good
    (store.get("v0002").path.parent / "manifest.json").write_bytes(b"")
    assert name_of(store.rollback()) == "v0001"


def test_rollback_without_a_readable_pointer_leads_to_the_newest_intact_version(
    store: ModelStore, tmp_path: Path
) -> None:
    publish(store)
    publish(store, "v0001")
    publish(store, "v0002").path.unlink()
    (tmp_path / "models" / "current.json").write_bytes(b"")
    assert list(store.damaged()) == ["v0003", "current.json"]
    assert name_of(store.rollback()) == "v0002"
    assert store.current() == store.get("v0002")


def test_rollback_to_no_version_is_durable(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync", synced.append)
    assert store.rollback() is None
    assert synced == [tmp_path / "models"]


# ---------------------------------------------------------------------------------------- crashes


class Crash(BaseException):
    """Stands in for the end of the process: nothing catches it."""


def crash(*_: object, **__: object) -> None:
    raise Crash


@pytest.mark.parametrize(
    "step",
    ["model_store.save_weights", "model_store.to_json", "files.os.replace", "files.sync_tree"],
)
def test_crash_during_publish(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = publish(store, scale=1.0)
    before = listing(tmp_path)
    module, _, name = step.partition(".")
    owner, _, name = name.rpartition(".")
    module = {"model_store": model_store, "files": files}[module]
    with monkeypatch.context() as patch:
        patch.setattr(getattr(module, owner) if owner else module, name, crash)
        with pytest.raises(Crash):
            publish(store, "v0001", 2.0)
    assert listing(tmp_path) == before
    assert store.current() == first
    assert store.versions() == [first]
    assert publish(store, "v0001").version == "v0002"


def test_killed_during_publish(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process cleans nothing up; what it leaves is no version."""
    first = publish(store, scale=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", crash)
        patch.setattr(model_store, "save_weights", lambda path, *_: path.touch() or "0")
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Crash):
            publish(store, "v0001", 2.0)
    (left,) = (p for p in (tmp_path / "models").iterdir() if p.name.startswith("."))
    assert any(left.rglob("manifest.json"))
    assert store.versions() == [first]
    assert store.current() == first
    assert ModelStore(tmp_path).current() == first
    assert not left.exists()  # collected when the store is opened
    assert publish(store, "v0001").version == "v0002"


def test_crash_in_publish_before_the_version_is_current(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(store)
    with monkeypatch.context() as patch:
        patch.setattr(ModelStore, "_make_current", crash)
        with pytest.raises(Crash):
            publish(store, "v0001", 2.0)
    assert store.current() == first
    assert [v.version for v in store.versions()] == ["v0001", "v0002"]
    store.verify(store.get("v0002"))  # it is whole


def test_publish_reports_an_error_of_the_disk(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(store)
    before = listing(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(GboptError, match="No space left"):
            publish(store, "v0001")
    assert listing(tmp_path) == before
    assert store.current() == first


def test_publish_to_a_store_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GboptError, match="cannot be written"):
        publish(ModelStore(tmp_path / "file"))
    assert ModelStore(tmp_path / "file").current() is None


# ----------------------------------------------------------------------------------------- damage


def test_verify_detects_one_flipped_bit(store: ModelStore) -> None:
    version = publish(store)
    content = bytearray(version.path.read_bytes())
    content[-1] ^= 1
    version.path.write_bytes(content)
    with pytest.raises(GboptError, match=r"SHA-256.*damaged, roll back"):
        store.verify(version)


def test_verify_detects_missing_weights(store: ModelStore) -> None:
    version = publish(store)
    version.path.unlink()
    with pytest.raises(GboptError, match="weights of version v0001 are missing"):
        store.verify(version)


@pytest.mark.parametrize(
    "manifest",
    [
        "", "{", "[]", "{}", "\x00\xff", '{"sha256": "0", "created": 1}',
        '{"sha256": 5, "parent": "seed", "created": 1}', '{"sha256": "0", "parent": "seed"}',
    ],
)  # fmt: skip
def test_get_refuses_a_damaged_manifest(store: ModelStore, manifest: str) -> None:
    version = publish(store)
    (version.path.parent / "manifest.json").write_text(manifest, encoding="latin-1")
    for use in (lambda: store.get("v0001"), store.current, store.verified_current, store.serving):
        with pytest.raises(GboptError, match=r"manifest\.json"):
            use()
    assert store.versions() == []
    assert list(store.damaged()) == ["v0001", "current.json"]
    assert store.current_name() == "v0001"
    store.check_origin(Path("any"))  # the learner starts, so that ~/rollback can be called
    assert store.rollback() is None
    assert store.current() is None


@pytest.mark.parametrize("pointer", ["", "{}", "[]", '{"version": 1}', '{"version": "../v0001"}'])
def test_current_refuses_a_damaged_pointer(store: ModelStore, tmp_path: Path, pointer: str) -> None:
    publish(store)
    (tmp_path / "models" / "current.json").write_text(pointer)
    with pytest.raises(GboptError):
        store.current()
    assert len(store.versions()) == 1
    assert publish(store, "v0001").version == "v0002"  # puts it right
    assert store.current().version == "v0002"


def test_current_refuses_a_pointer_to_a_missing_version(store: ModelStore, tmp_path: Path) -> None:
    publish(store)
    (tmp_path / "models" / "current.json").write_text('{"version": "v0007"}')
    with pytest.raises(GboptError, match="v0007"):
        store.current()


# --------------------------------------------------------------------------------------- serving

PASSED, FAILED = {"teacher_gate": {"passed": True}}, {"teacher_gate": {"passed": False}}


def name_of(version: ModelVersion | None) -> str | None:
    return version.version if version is not None else None


def students(store: ModelStore, *decisions: dict[str, object]) -> None:
    """Versions that were each learnt from the one before."""
    for number, facts in enumerate(decisions):
        publish(store, parent=f"v{number:04d}" if number else "seed", **facts)


@pytest.mark.parametrize(
    ("decisions", "serving", "compared"),
    [
        ([{}], "v0001", None),  # its network proposed, too: there was nothing to compare
        ([FAILED], None, None),  # the teacher serves
        ([FAILED, FAILED, PASSED], "v0003", "v0003"),
        ([FAILED, PASSED, FAILED, FAILED], "v0002", "v0002"),
        ([PASSED, {}], "v0002", "v0001"),
        ([{"teacher_gate": None}], "v0001", None),
    ],
)
def test_serving_is_the_newest_version_that_passed(
    store: ModelStore,
    decisions: list[dict[str, object]],
    serving: str | None,
    compared: str | None,
) -> None:
    assert store.serving() is None
    students(store, *decisions)
    assert name_of(store.current()) == f"v{len(decisions):04d}"  # the next round goes on from it
    assert name_of(store.serving()) == serving
    assert name_of(store.serving(compared=True)) == compared


def test_serving_is_an_ancestor_of_the_current_version(store: ModelStore, tmp_path: Path) -> None:
    students(store, PASSED, PASSED)
    assert name_of(store.rollback()) == "v0001"
    publish(store, parent="v0001", **FAILED)
    assert name_of(store.serving()) == "v0001"  # not v0002, which was taken back
    (tmp_path / "models" / "v0001" / "manifest.json").write_text("{")
    assert store.serving() is None


def test_rollback_takes_the_version_in_service_back(store: ModelStore) -> None:
    students(store, FAILED, PASSED, FAILED, FAILED)
    assert name_of(store.rollback()) == "v0001"  # all learnt from the bad v0002 are gone, too
    assert store.serving() is None
    assert store.rollback() is None  # nothing of the store served: the current one was taken back
    assert store.current() is None


def test_rollback_of_a_damaged_version_that_does_not_serve_keeps_the_one_in_service(
    store: ModelStore,
) -> None:
    students(store, PASSED, FAILED, FAILED)
    store.current().path.write_bytes(b"damaged")
    assert name_of(store.rollback()) == "v0002"
    assert name_of(store.serving()) == "v0001"


def test_prune_keeps_the_version_in_service(store: ModelStore) -> None:
    students(store, FAILED, PASSED, {}, *[FAILED] * 4)
    store.prune(2)
    assert [v.version for v in store.versions()] == ["v0001", "v0002", "v0003", "v0006", "v0007"]
    assert name_of(store.serving()) == "v0003"
    assert name_of(store.serving(compared=True)) == "v0002"


# ---------------------------------------------------------------------------------------- origin


def test_check_origin_takes_the_origin_and_versions_of_the_store(
    store: ModelStore, tmp_path: Path
) -> None:
    seed = save_random_weights(tmp_path)[PROPOSALS]
    store.check_origin(tmp_path / "none")  # nothing to compare with
    publish(store)  # an old version, which does not name its origin
    store.check_origin(seed)
    publish(store, origin=sha256_of(seed))
    store.check_origin(seed)
    served = publish(store, origin="of another")
    store.check_origin(served.path)
    with pytest.raises(GboptError, match="learnt from another network; give each network a store"):
        store.check_origin(seed)
    (store.versions()[0].path.parent / "manifest.json").write_text("{")
    store.check_origin(served.path)
    with pytest.raises(GboptError, match="none: cannot be read"):
        store.check_origin(tmp_path / "none")


@pytest.mark.parametrize("known_by", ["origin_tensors", "tensors", None])
def test_check_origin_takes_a_calibrated_copy(
    store: ModelStore, tmp_path: Path, known_by: str | None
) -> None:
    """The network is known as the origin or as a version, in an old store by its file alone."""
    seed, copy = save_random_weights(tmp_path)[PROPOSALS], tmp_path / "calibrated.safetensors"
    write_calibration(seed, Calibration(bias=-1.0, margin=0.5, score=1.0), copy)
    assert sha256_of(copy) != sha256_of(seed)
    version = publish(store, origin=sha256_of(seed))
    tensors = {known_by: tensors_digest(load_mask_rcnn(seed)[0])} if known_by else {}
    old = {key: value for key, value in version.manifest.items() if key != "tensors"}
    (version.path.parent / "manifest.json").write_text(json.dumps(old | tensors))
    store.check_origin(seed)
    if known_by is not None:
        store.check_origin(copy)
    else:
        with pytest.raises(GboptError, match="learnt from another network"):
            store.check_origin(copy)


# ----------------------------------------------------------------------------------------- prune


def test_prune_keeps_the_newest_the_first_and_the_current(store: ModelStore) -> None:
    for number in range(6):
        publish(store, parent=f"v{number:04d}" if number else "seed")
    store.prune(2)
    assert [v.version for v in store.versions()] == ["v0001", "v0005", "v0006"]
    restored = [store.rollback() for _ in range(3)]
    assert [v and v.version for v in restored] == ["v0005", "v0001", None]  # v0004 is gone
    assert publish(store, parent="seed").version == "v0007"


def test_publish_after_rollback_has_other_ancestors(store: ModelStore) -> None:
    publish(store)
    assert store.rollback() is None
    for number in range(1, 6):
        publish(store, parent=f"v{number:04d}" if number > 1 else "seed")
    assert store.current().manifest["ancestors"] == ["v0002", "v0003", "v0004", "v0005"]
    store.prune(2)
    restored = [store.rollback() for _ in range(2)]
    assert [v and v.version for v in restored] == ["v0005", None]  # v0001 is there, and bad


@pytest.mark.parametrize(
    ("parent", "restored"), [("v0001", "v0001"), ("seed", None), ("v0007", None)]
)
@pytest.mark.parametrize("listed", [None, "damaged"])
def test_rollback_with_a_manifest_without_ancestors(
    store: ModelStore, parent: str, restored: str | None, listed: str | None
) -> None:
    publish(store)
    second = publish(store, "v0001")
    path = second.path.parent / "manifest.json"
    manifest = json.loads(path.read_text()) | {"parent": parent, "ancestors": listed}
    if listed is None:
        del manifest["ancestors"]
    path.write_text(json.dumps(manifest))
    third = publish(store, "v0002")
    assert third.manifest["ancestors"] == ([restored] if restored else []) + ["v0002"]
    assert store.rollback().version == "v0002"
    after = store.rollback()
    assert (after and after.version) == restored


def test_prune_keeps_the_current_version(store: ModelStore, tmp_path: Path) -> None:
    for number in range(5):
        publish(store, parent=f"v{number:04d}" if number else "seed")
    store.rollback()
    store.rollback()
    store.prune(1)
    assert [v.version for v in store.versions()] == ["v0001", "v0003", "v0005"]
    store.prune(10)
    assert len(store.versions()) == 3
    assert not [name for name in listing(tmp_path / "models") if name.startswith(".")]


def test_first_skips_versions_with_a_damaged_manifest(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no version"):
        store.first()
    publish(store)
    publish(store, parent="v0001")
    assert store.first().version == "v0001"
    (tmp_path / "models" / "v0001" / "manifest.json").write_text("")
    assert store.first().version == "v0002"


@pytest.mark.parametrize(
    "changes",
    [
        {"created": "yesterday"}, {"created": 1e300}, {"created": float("nan")}, {"created": -1},
        {"teachers": "v0001"}, {"teachers": [1]}, {"gate": []}, {"gate": {"passed": "yes"}},
        {"teacher_gate": 3}, {"teacher_gate": {"reason": 5}}, {"parent": None}, {"sha256": ["a"]},
        {"tensors": {}}, {"origin": ["a"]}, {"origin_tensors": 1},
    ],
    ids=str,
)  # fmt: skip
def test_get_refuses_facts_of_another_type(store: ModelStore, changes: dict[str, object]) -> None:
    manifest = publish(store, gate={"passed": True}).path.with_name("manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    (name,) = changes
    with pytest.raises(GboptError, match=rf"manifest\.json: .*{name}"):
        store.get("v0001")
