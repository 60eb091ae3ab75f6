"""Frames to rosbags and back: every storage, topics, stamps, damage."""

from __future__ import annotations

import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import rosbags.rosbag2.storage_mcap as storage_mcap
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionMode, Reader
from support.recordings import (
    PERIOD_NS,
    START_NS,
    assert_same_frames,
    compressed_message,
    image_message,
    noise_frames,
    storage_file,
    string_message,
    write_messages,
)

from gbopt_ros.io.limits import FREE_BYTES
from gbopt_ros.io.rosbag_writer import write_rosbag
from gbopt_ros.io.sources import open_source, rosbag_storage
from gbopt_ros.io.sources.images import COMPRESSED_TYPE, IMAGE_TYPE, encode_image
from gbopt_ros.structures import Frame, GboptError

TOPIC = "/camera/color/image_raw"
STORAGES = pytest.mark.parametrize("storage", ["mcap", "sqlite3"])


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MCAP files of a few small frames have several chunks, as those of a camera have."""
    write = storage_mcap.McapWriter.write

    def write_and_close(self: storage_mcap.McapWriter, *arguments: object) -> None:
        write(self, *arguments)
        if self.chunk.bio.tell() > 8000:
            self.close_chunk()

    monkeypatch.setattr(storage_mcap.McapWriter, "write", write_and_close)


# -------------------------------------------------------------------------------------- round trip


@STORAGES
@pytest.mark.parametrize("compressed", [None, "png"])
def test_write_rosbag_keeps_frames_bit_for_bit(
    tmp_path: Path, storage: str, compressed: str
) -> None:
    frames = noise_frames(7)
    bag = tmp_path / "walk"
    count = write_rosbag(frames, bag, storage=storage, topic=TOPIC, compressed=compressed)
    assert count == 7
    assert {f.name for f in tmp_path.iterdir()} == {"walk"}
    assert storage_file(bag).stem == "walk"
    for path in (bag, storage_file(bag)):
        source = open_source(path)
        assert (source.name, source.count) == ("walk", 7)
        assert_same_frames(source, frames)
        assert_same_frames(source, frames)
    (bag / "metadata.yaml").unlink()
    assert_same_frames(open_source(bag), frames)


@STORAGES
def test_write_rosbag_keeps_jpeg_frames_nearly(tmp_path: Path, storage: str) -> None:
    frames = [
        Frame(cv2.GaussianBlur(f.image, (0, 0), 3), f.stamp_ns, f.index, f.frame_id)
        for f in noise_frames(3, (48, 64))
    ]
    bag = tmp_path / "bag"
    write_rosbag(frames, bag, storage=storage, topic=TOPIC, compressed="jpeg", jpeg_quality=95)
    for got, frame in zip(open_source(bag), frames, strict=True):
        assert (got.stamp_ns, got.index, got.frame_id) == (frame.stamp_ns, frame.index, "camera")
        assert np.abs(got.image.astype(int) - frame.image).mean() < 3


@given(stamps=st.lists(st.integers(0, 2**31 * 10**9 - 1), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_write_rosbag_keeps_any_stamp_in_header_and_log(
    tmp_path_factory: pytest.TempPathFactory, stamps: list[int]
) -> None:
    image = np.zeros((1, 1, 3), np.uint8)
    bag = tmp_path_factory.mktemp("stamps") / "bag"
    write_rosbag((Frame(image, s, i) for i, s in enumerate(stamps)), bag, topic=TOPIC)
    assert [f.stamp_ns for f in open_source(bag)] == sorted(stamps)
    with Reader(bag) as reader:
        assert [time for _, time, _ in reader.messages()] == sorted(stamps)


def test_write_rosbag_sets_topic_type_and_frame_id(tmp_path: Path) -> None:
    write_rosbag(noise_frames(1), tmp_path / "raw", topic="/a", frame_id="optical")
    write_rosbag(noise_frames(1), tmp_path / "jpeg", topic="/a/compressed", compressed="jpeg")
    for name, topic, kind in (
        ("raw", "/a", IMAGE_TYPE),
        ("jpeg", "/a/compressed", COMPRESSED_TYPE),
    ):
        with Reader(tmp_path / name) as reader:
            assert [(c.topic, c.msgtype) for c in reader.connections] == [(topic, kind)]
    assert next(iter(open_source(tmp_path / "raw"))).frame_id == "optical"


@pytest.mark.parametrize(
    ("topics", "asked", "count"),
    [
        ({"/left/compressed": 2}, "/left", 2),
        ({"/left/compressed": 2}, "/left/compressed", 2),
        ({"/left/compressed": 2, "/left": 3}, "/left", 3),
        ({"/left/compressed": 2, "/left": 3}, "/left/compressed", 2),
    ],
)
def test_rosbag_source_takes_the_base_name_of_a_compressed_topic(
    topics: dict[str, int], asked: str, count: int, tmp_path: Path
) -> None:
    """As image_transport does; a topic of this very name is taken before."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    raw = IMAGE_TYPE, image_message(pixels, "rgb8")
    jpeg = COMPRESSED_TYPE, compressed_message(encode_image(pixels, "jpeg").tobytes())
    messages = {}
    for topic, frames in topics.items():
        kind, message = jpeg if topic.endswith("/compressed") else raw
        messages[topic] = kind, [(START_NS + n, message) for n in range(frames)]
    write_messages(tmp_path / "in", messages)
    assert len(list(open_source(tmp_path / "in", topic=asked))) == count
    with pytest.raises(GboptError, match="no topic /front; image topics are: /left"):
        open_source(tmp_path / "in", topic="/front")


def test_rosbag_source_range_and_stride(tmp_path: Path) -> None:
    write_rosbag(noise_frames(10), tmp_path / "bag", topic=TOPIC)
    source = open_source(tmp_path / "bag", start=2.5 * PERIOD_NS / 1e9, stride=3, resize=(8, 6))
    assert [(f.index, f.size) for f in source] == [(3, (6, 8)), (6, (6, 8)), (9, (6, 8))]


@STORAGES
def test_rosbag_source_allows_a_change_of_size(tmp_path: Path, storage: str) -> None:
    frames = [*noise_frames(2), *noise_frames(4, (10, 50))[2:]]
    write_rosbag(frames, tmp_path / "bag", storage=storage, topic=TOPIC)
    assert_same_frames(open_source(tmp_path / "bag"), frames)


@STORAGES
def test_rosbag_source_memory_does_not_grow(tmp_path: Path, storage: str) -> None:
    image = np.zeros((120, 160, 3), np.uint8)  # 58 kB
    peaks = []
    for count in (60, 600):
        bag = tmp_path / str(count)
        tracemalloc.start()
        write_rosbag(
            (Frame(image, i * PERIOD_NS, i) for i in range(count)),
            bag,
            storage=storage,
            topic=TOPIC,
        )
        assert sum(1 for _ in open_source(bag)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        shutil.rmtree(bag)
    assert peaks[1] - peaks[0] < 1_000_000  # 31 MB more were written and read
    assert peaks[1] < 8_000_000


# --------------------------------------------------------------------------------- stamps, order


@STORAGES
def test_rosbag_source_takes_the_log_time_for_a_header_without_stamp(
    tmp_path: Path, storage: str
) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    messages = [
        (START_NS, image_message(pixels, "rgb8", 0)),
        (START_NS + 5, image_message(pixels, "rgb8", 77)),
    ]
    bag = write_messages(tmp_path / "bag", {TOPIC: (IMAGE_TYPE, messages)}, storage=storage)
    assert [f.stamp_ns for f in open_source(bag)] == [START_NS, 77]


@STORAGES
def test_rosbag_source_orders_messages_by_log_time(tmp_path: Path, storage: str) -> None:
    pixels = np.zeros((1, 1, 3), np.uint8)
    times = [50, 10, 40, 20, 30]
    messages = [(t, image_message(pixels, "rgb8", t)) for t in times]
    bag = write_messages(tmp_path / "bag", {TOPIC: (IMAGE_TYPE, messages)}, storage=storage)
    assert [(f.index, f.stamp_ns) for f in open_source(bag)] == list(enumerate(sorted(times)))


@pytest.mark.parametrize("with_footer", [True, False])
def test_rosbag_source_reads_an_mcap_without_index_from_its_start(
    tmp_path: Path, small_chunks: None, with_footer: bool
) -> None:
    frames = noise_frames(12)
    write_rosbag(frames, tmp_path / "bag", topic=TOPIC)
    data = storage_file(tmp_path / "bag").read_bytes()
    (summary,) = struct.unpack("<Q", data[-28:-20])
    file = tmp_path / "plain.mcap"
    end = b"\x02" + struct.pack("<QQQI", 20, 0, 0, 0) + data[-8:] if with_footer else b""
    file.write_bytes(data[:summary] + end)
    source = open_source(file)
    if with_footer:
        assert source.count == 12
        assert_same_frames(source, frames)
        return
    assert source.count is None
    got = []
    with pytest.raises(GboptError, match=r"12 frames before the damage.*mcap recover plain\.mcap"):
        for frame in source:
            got.append(frame)
    assert_same_frames(got, frames)


def test_rosbag_source_reads_files_without_metadata_in_natural_order(tmp_path: Path) -> None:
    frames = noise_frames(12)
    bag = tmp_path / "split"
    bag.mkdir()
    for part in range(12):
        write_rosbag(frames[part : part + 1], tmp_path / "part", topic=TOPIC)
        storage_file(tmp_path / "part").rename(bag / f"split_{part}.mcap")
        shutil.rmtree(tmp_path / "part")
    source = open_source(bag)
    assert source.count == 12
    assert_same_frames(source, frames)


# ------------------------------------------------------------------------------------------ topics


def two_cameras(tmp_path: Path, storage: str, right: int = 1) -> Path:
    pixels = np.zeros((2, 2, 3), np.uint8)
    data = encode_image(pixels, "png").tobytes()
    return write_messages(
        tmp_path / "bag",
        {
            "/left": (IMAGE_TYPE, [(1, image_message(pixels, "rgb8", 1))]),
            "/right/compressed": (
                COMPRESSED_TYPE,
                [(2, compressed_message(data, "png", 2))] * right,
            ),
            "/chatter": ("std_msgs/msg/String", [(3, string_message("hello"))]),
        },
        storage=storage,
    )


@STORAGES
def test_rosbag_source_asks_for_one_of_several_topics(tmp_path: Path, storage: str) -> None:
    bag = two_cameras(tmp_path, storage)
    with pytest.raises(
        GboptError,
        match=r"several image topics, name the one to read \(topic=\.\.\. in Python\): "
        r"/left.*/right/compressed",
    ) as error:
        open_source(bag)
    assert "/chatter" not in str(error.value)
    assert [f.stamp_ns for f in open_source(bag, topic="/left")] == [1]
    assert [f.stamp_ns for f in open_source(bag, topic="/right/compressed")] == [2]


def test_rosbag_source_does_not_count_an_empty_topic(tmp_path: Path) -> None:
    source = open_source(two_cameras(tmp_path, "mcap", right=0))
    assert [f.stamp_ns for f in source] == [1]


@STORAGES
def test_rosbag_source_refuses_a_missing_topic_or_no_image(tmp_path: Path, storage: str) -> None:
    bag = two_cameras(tmp_path, storage)
    with pytest.raises(GboptError, match=r"no topic /front; image topics are: /left.*/right"):
        open_source(bag, topic="/front")
    with pytest.raises(GboptError, match="topic /chatter is of type std_msgs/msg/String, expected"):
        open_source(bag, topic="/chatter")


@STORAGES
def test_rosbag_source_refuses_a_bag_without_image_topic(tmp_path: Path, storage: str) -> None:
    topics = {"/chatter": ("std_msgs/msg/String", [(3, string_message("hello"))])}
    bag = write_messages(tmp_path / "bag", topics, storage=storage)
    with pytest.raises(GboptError, match="no image topic; its topics are: /chatter"):
        open_source(bag)


@STORAGES
def test_rosbag_source_refuses_empty_bags(tmp_path: Path, storage: str) -> None:
    with pytest.raises(GboptError, match="no image topic; its topics are: none"):
        open_source(write_messages(tmp_path / "nothing", {}, storage=storage))
    bag = write_messages(tmp_path / "silent", {TOPIC: (IMAGE_TYPE, [])}, storage=storage)
    with pytest.raises(GboptError, match="empty, it holds no image"):
        list(open_source(bag))


# -------------------------------------------------------------------------------- broken messages


def test_rosbag_source_skips_and_counts_undecodable_frames(tmp_path: Path) -> None:
    data = encode_image(noise_frames(1)[0].image, "jpeg").tobytes()
    contents = [data, data[:200], data, b"", b"no image at all", data]
    messages = [(i + 1, compressed_message(d, "jpeg", i + 1)) for i, d in enumerate(contents)]
    messages.insert(3, (3, b"\x00\x01\x00\x00no message"))
    bag = write_messages(tmp_path / "bag", {TOPIC: (COMPRESSED_TYPE, messages)})
    source = open_source(bag)
    assert [f.index for f in source] == [0, 2, 6]
    assert source.skipped == 4


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("hsv8", "unknown image encoding 'hsv8': supported are"), ("16UC1", "depth, not colour")],
)
def test_rosbag_source_refuses_encodings_without_colour(
    tmp_path: Path, encoding: str, message: str
) -> None:
    messages = [(1, image_message(np.zeros((2, 2, 3), np.uint8), encoding))]
    bag = write_messages(tmp_path / "bag", {TOPIC: (IMAGE_TYPE, messages)})
    with pytest.raises(GboptError, match=message):
        list(open_source(bag))


# ------------------------------------------------------------------------------- compressed storage


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        ("mcap", CompressionMode.STORAGE),
        ("mcap", CompressionMode.FILE),
        ("sqlite3", CompressionMode.FILE),
        ("sqlite3", CompressionMode.MESSAGE),
    ],
)
def test_rosbag_source_reads_zstd_compressed_bags(
    tmp_path: Path, storage: str, mode: CompressionMode
) -> None:
    frames = noise_frames(3)
    messages = [(f.stamp_ns, image_message(f.image, "rgb8", f.stamp_ns)) for f in frames]
    topics = {TOPIC: (IMAGE_TYPE, messages)}
    bag = write_messages(tmp_path / "bag", topics, storage=storage, compression=mode)
    assert_same_frames(open_source(bag), frames)
    if mode in (CompressionMode.FILE, CompressionMode.MESSAGE):
        with pytest.raises(GboptError, match=r"compressed with zstd; open the bag's folder"):
            list(open_source(storage_file(bag)))


@STORAGES
def test_rosbag_source_unpacks_no_more_than_the_disk_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    """A file of zeros shrinks to nearly nothing."""
    frames = [
        Frame(np.zeros((256, 512, 3), np.uint8), 1 + i * 10**8, i, "camera") for i in range(3)
    ]
    messages = [(f.stamp_ns, image_message(f.image, "rgb8", f.stamp_ns)) for f in frames]
    bag = write_messages(
        tmp_path / "bag", {TOPIC: (IMAGE_TYPE, messages)},
        storage=storage, compression=CompressionMode.FILE,
    )  # fmt: skip
    assert storage_file(bag).stat().st_size < 20_000
    for free, fits in ((3 * 256 * 512 * 3, False), (10**7, True)):
        usage = SimpleNamespace(free=FREE_BYTES + free)
        monkeypatch.setattr(rosbag_storage.shutil, "disk_usage", lambda _, usage=usage: usage)
        if fits:
            assert_same_frames(open_source(bag), frames)
        else:
            with pytest.raises(GboptError, match=f"more than the {free} bytes"):
                open_source(bag)


# ------------------------------------------------------------------------------------------ damage


@STORAGES
@pytest.mark.parametrize("as_folder", [True, False])
def test_rosbag_source_reports_a_cut_file(
    tmp_path: Path, small_chunks: None, storage: str, as_folder: bool
) -> None:
    frames = noise_frames(12)
    write_rosbag(frames, tmp_path / "bag", storage=storage, topic=TOPIC)
    file = storage_file(tmp_path / "bag")
    data = file.read_bytes()
    longest = 0
    for kept in np.linspace(1, len(data) - 1, 40).astype(int):
        file.write_bytes(data[:kept])
        got = []
        with pytest.raises(GboptError):
            for frame in open_source(file.parent if as_folder else file):
                got.append(frame)
        assert_same_frames(got, frames[: len(got)])
        longest = max(longest, len(got))
    assert longest == (12 if storage == "mcap" else 0)


@pytest.fixture(scope="module", params=["mcap", "sqlite3"])
def sound_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bag = tmp_path_factory.mktemp("sound") / "bag"
    write_rosbag(noise_frames(6, (4, 4)), bag, storage=request.param, topic=TOPIC)
    return storage_file(bag)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_rosbag_source_loses_no_frame_silently_to_flipped_bytes(
    sound_file: Path, data: st.DataObject
) -> None:
    content = bytearray(sound_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file = sound_file.with_stem("flipped")
    file.write_bytes(content)
    count = 0
    try:
        source = open_source(file)
        for _ in source:
            count += 1
        assert count + source.skipped == 6
    except GboptError:
        assert count <= 6


def test_rosbag_source_error_names_frame_and_recovery(tmp_path: Path, small_chunks: None) -> None:
    write_rosbag(noise_frames(12), tmp_path / "bag", topic=TOPIC)
    file = storage_file(tmp_path / "bag")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    source = open_source(file)
    with pytest.raises(GboptError) as error:
        list(source)
    assert "4 frames before the damage were read" in str(error.value)
    assert "`mcap recover bag.mcap`" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_rosbag_source_refuses_an_unclosed_database(tmp_path: Path, suffix: str) -> None:
    write_rosbag(noise_frames(2), tmp_path / "bag", storage="sqlite3", topic=TOPIC)
    (tmp_path / "bag" / f"bag.db3{suffix}").write_bytes(b"rest")
    with pytest.raises(GboptError, match=f"bag.db3{suffix} holds a part of it; run `sqlite3"):
        open_source(tmp_path / "bag")


def replace_in_metadata(bag: Path, old: str, new: str) -> None:
    text = (bag / "metadata.yaml").read_text()
    assert old in text
    (bag / "metadata.yaml").write_text(text.replace(old, new))


@STORAGES
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda bag: storage_file(bag).unlink(), "files are missing"),
        (lambda bag: (bag / "metadata.yaml").write_text("a: [\n"), "Could not load YAML"),
        (lambda bag: (bag / "metadata.yaml").write_text(""), "Invalid bag metadata"),
        (
            lambda bag: replace_in_metadata(bag, "message_count: 3", "message_count: 5"),
            "5 messages are stated, 3 are there; 3 frames",
        ),
        (
            lambda bag: replace_in_metadata(
                bag, "serialization_format: cdr", "serialization_format: x"
            ),
            "Serialization format",
        ),
        *(
            (
                lambda bag, old=old, new=new: replace_in_metadata(bag, old, new),
                "expected text and whole numbers of every topic",
            )
            for old, new in (
                ("message_count: 3", "message_count: three"),
                (f"name: {TOPIC}", "name: 5"),
                ("type: sensor_msgs/msg/Image", "type: [1]"),
            )
        ),
    ],
)
def test_rosbag_source_refuses_damaged_folders(
    tmp_path: Path, storage: str, spoil: Callable[[Path], object], message: str
) -> None:
    bag = tmp_path / "bag"
    write_rosbag(noise_frames(3), bag, storage=storage, topic=TOPIC)
    spoil(bag)
    with pytest.raises(GboptError, match=message):
        list(open_source(bag))


# ----------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"storage": "zip"}, "storage: expected one of mcap, sqlite3, got 'zip'"),
        ({"topic": "camera"}, "topic: expected an absolute ROS name"),
        ({"topic": "/a//b"}, "topic: expected an absolute ROS name"),
        ({"compressed": "webp"}, "compressed: expected one of"),
        ({"jpeg_quality": 0}, "jpeg_quality: expected 1 to 100"),
    ],
)
def test_write_rosbag_refuses_arguments_out_of_range(
    tmp_path: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(GboptError, match=message):
        write_rosbag(noise_frames(1), tmp_path / "bag", **{"topic": TOPIC, **arguments})
    assert list(tmp_path.iterdir()) == []


def interrupted() -> Iterator[Frame]:
    yield from noise_frames(3)
    raise GboptError("the source broke off")


def out_of_range() -> Iterator[Frame]:
    yield Frame(np.zeros((1, 1, 3), np.uint8), 2**31 * 10**9, 0)


@STORAGES
@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (interrupted, "the source broke off"),
        (out_of_range, "does not fit a ROS header"),
        (list, "no frame to write"),
    ],
)
def test_write_rosbag_leaves_nothing_after_a_failure(
    tmp_path: Path, storage: str, frames: Callable[[], Iterator[Frame]], message: str
) -> None:
    with pytest.raises(GboptError, match=message):
        write_rosbag(frames(), tmp_path / "new" / "deep" / "bag", storage=storage, topic=TOPIC)
    assert list(tmp_path.iterdir()) == []


def test_write_rosbag_keeps_an_existing_output(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "mine").write_text("x")
    with pytest.raises(GboptError, match="exists already"):
        write_rosbag(noise_frames(1), tmp_path / "bag", topic=TOPIC)
    assert (tmp_path / "bag" / "mine").read_text() == "x"


def test_write_rosbag_reports_an_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GboptError, match="cannot be written"):
        write_rosbag(noise_frames(1), tmp_path / "file" / "bag", topic=TOPIC)


@pytest.mark.parametrize("compressed", [None, "png"])
def test_no_changed_byte_of_an_mcap_file_goes_unnoticed(
    compressed: str | None, tmp_path: Path
) -> None:
    frames = noise_frames(3, (12, 16))
    write_rosbag(frames, tmp_path / "bag", topic="/camera", compressed=compressed)
    whole = storage_file(tmp_path / "bag").read_bytes()
    refused = 0
    for at in random.Random(0).sample(range(len(whole)), 80):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        (tmp_path / "changed.mcap").write_bytes(changed)
        try:
            assert_same_frames(open_source(tmp_path / "changed.mcap"), frames)
        except GboptError:
            refused += 1
    assert refused > 60  # the rest are bytes that nothing depends on, such as the library's name


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_compressed_message_or_chunk_has_a_limit(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_message(np.zeros((200, 300, 3), np.uint8), "rgb8")
    mode = CompressionMode.STORAGE if storage == "mcap" else CompressionMode.MESSAGE
    bag = write_messages(
        tmp_path / "bag", {"/camera": (IMAGE_TYPE, [(1, image)])}, storage=storage, compression=mode
    )
    assert [frame.size for frame in open_source(bag)] == [(200, 300)]
    assert storage_file(bag).stat().st_size < 100_000
    monkeypatch.setattr(rosbag_storage, "MAX_CHUNK_BYTES", 100_000)
    with pytest.raises(GboptError, match="100000"):
        list(open_source(bag))


def test_rosbag_source_skips_images_of_too_many_pixels(tmp_path: Path) -> None:
    write_rosbag(noise_frames(2, (12, 16)), tmp_path / "bag", topic="/camera")
    assert len(list(open_source(tmp_path / "bag", max_pixels=192))) == 2
    with pytest.raises(GboptError, match=r"none of 2 images can be decoded; .*16x12 pixels are"):
        list(open_source(tmp_path / "bag", max_pixels=191))
