"""Objects in space from depth images, over real DDS: values, and everything that may be missing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rcl_interfaces.msg import Log
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, PointCloud2
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from support.networks import save_random_weights
from support.recordings import disc_frames
from support.ros import Graph, ros_arguments

from gbopt_ros.masks import encode
from gbopt_ros.msg import SelectedMask, SelectedMasks
from gbopt_ros.nodes import messages_3d
from gbopt_ros.nodes.base import LATCHED_QOS, LINK_QOS, RESULT_QOS
from gbopt_ros.nodes.composed import compose
from gbopt_ros.nodes.messages import (
    Stamped,
    encode_image,
    encode_rle,
    make_header,
    stamp_ns,
)
from gbopt_ros.nodes.objects_3d import Objects3dNode
from gbopt_ros.nodes.wiring import DEPTH, remapping, remaps_depth

DEPTH_TOPIC, INFO_TOPIC = "camera/depth/image_raw", "camera/depth/camera_info"
POINTS = "/objects_3d/output/points"
HEIGHT, WIDTH, FOCAL = 40, 60, 50.0
SECOND = 10**9
WARN = 30  # of rcl_interfaces/Log
COLOURS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def depth_message(depth: np.ndarray, stamp: int, *, encoding: str = "16UC1") -> ImageMessage:
    """Metres, as a camera sends them; NaN as it is, or as 0 in millimetres."""
    stored = depth.astype("<f4")
    if encoding == "16UC1":
        stored = np.nan_to_num(1000 * depth).round().astype("<u2")
    return ImageMessage(
        header=make_header(stamp, "optical"), height=len(depth), width=depth.shape[1],
        encoding=encoding, step=stored.strides[0], data=stored.tobytes(),
    )  # fmt: skip


def info_message(stamp: int, **changes: Any) -> CameraInfo:
    k = [FOCAL, 0.0, WIDTH / 2, 0.0, FOCAL, HEIGHT / 2, 0.0, 0.0, 1.0]
    values: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "k": k}
    return CameraInfo(header=make_header(stamp, "optical"), **(values | changes))


def masks_message(stamp: int, *masks: np.ndarray, tracks: Sequence[int] = ()) -> SelectedMasks:
    selected = [
        SelectedMask(mask=encode_rle(encode(mask)), confidence=0.75, track_id=track)
        for mask, track in zip_longest(masks, tracks, fillvalue=0)
    ]
    return SelectedMasks(
        header=make_header(stamp, "optical"), height=HEIGHT, width=WIDTH, masks=selected
    )


def square(top: int, left: int, side: int = 12) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def read(cloud: PointCloud2) -> np.ndarray:
    """The points of a cloud by its own fields."""
    kinds = {7: "<f4", 6: "<u4"}
    fields = {f.name: (kinds[f.datatype], f.offset) for f in cloud.fields}
    dtype = np.dtype({
        "names": list(fields), "formats": [k for k, _ in fields.values()],
        "offsets": [o for _, o in fields.values()], "itemsize": cloud.point_step,
    })  # fmt: skip
    assert (cloud.height, cloud.row_step) == (1, cloud.width * cloud.point_step)
    return np.frombuffer(cloud.data, dtype)


@dataclass
class Camera:
    """Everything that the node subscribes to, from the observer of a graph."""

    graph: Graph
    stamp: int = 10**18
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        make = self.graph.observer.create_publisher
        self.depth = make(ImageMessage, DEPTH_TOPIC, qos_profile_sensor_data)
        self.info = make(CameraInfo, INFO_TOPIC, qos_profile_sensor_data)
        self.images = make(ImageMessage, "clip_buffer/output/image", LINK_QOS)
        self.masks = make(SelectedMasks, "selector/output/masks", RESULT_QOS)
        for publisher in (self.depth, self.info, self.images, self.masks):
            self.graph.wait(lambda p=publisher: p.get_subscription_count() > 0, "the node")
        self.clouds = self.graph.observe(PointCloud2, POINTS)
        self.graph.wait(
            lambda: self.node._points.get_subscription_count() > 0, "the observer to be known"
        )

    @property
    def node(self) -> Any:
        return self.graph.nodes["objects_3d"]

    def told(self) -> tuple[bytes, str]:
        status = self.node.health.status("objects_3d", "active", {})
        return status.level, status.message

    def show(self, depth: ImageMessage | None, info: CameraInfo | None) -> None:
        """A colour image with what belongs to it, once all of it has arrived."""
        buffer = self.node._frames
        if depth is not None:
            self.depth.publish(depth)
        if info is not None:
            self.info.publish(info)
        self.images.publish(encode_image(Stamped(make_header(self.stamp, "optical"), COLOURS)))
        self.graph.wait(lambda: self.stamp in buffer._images, "the image")
        if depth is not None:
            self.graph.wait(lambda: stamp_ns(depth.header.stamp) in buffer._recent, "the depth")
        if info is not None:
            self.graph.wait(lambda: self.node._info == info, "the camera info")

    def select(self, *masks: np.ndarray, tracks: Sequence[int] = ()) -> None:
        """The masks of the image; waits until the node has worked on them."""
        health = self.node.health
        names = ("done", "frames not located", "failures")
        before, located = sum(map(health.counted, names)), health.counted("done")
        clouds = len(self.clouds)
        self.masks.publish(masks_message(self.stamp, *masks, tracks=tracks))
        self.graph.wait(lambda: sum(map(health.counted, names)) > before, "the masks to be used")
        if health.counted("done") > located:
            self.graph.wait(lambda: len(self.clouds) > clouds, "the points, which come later")
        self.stamp += SECOND // 10


@pytest.fixture
def camera(request: pytest.FixtureRequest, ros_domain_id: int) -> Iterator[Camera]:
    """The node alone; parametrise indirectly with parameters."""
    arguments = ros_arguments(None, **getattr(request, "param", {}))
    arguments += remapping(DEPTH, DEPTH_TOPIC)
    with Graph(ros_domain_id, lambda c: [Objects3dNode(context=c)], arguments) as graph:
        graph.start()
        yield Camera(graph)


class Tf2:
    """In the place of tf2_ros: a camera that looks straight down from (1, 2, `height`)."""

    class TransformException(Exception):
        pass

    height: float | None = None

    def __init__(self, **options: Any) -> None:
        pass

    def lookup_transform(self, target: str, source: str, when: Any) -> TransformStamped:
        if Tf2.height is None:
            raise Tf2.TransformException("two trees")
        assert (target, source) == ("base", "optical")
        assert when.nanoseconds >= 10**18
        down = Quaternion(x=1.0, y=0.0, z=0.0, w=0.0)  # half a turn about x
        return TransformStamped(
            transform=Transform(translation=Vector3(x=1.0, y=2.0, z=Tf2.height), rotation=down)
        )

    Buffer: Any = None


Tf2.Buffer = Tf2


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> type[Tf2]:
    listener = lambda buffer, node: SimpleNamespace(unregister=lambda: None)  # noqa: E731
    monkeypatch.setattr(Tf2, "height", None)
    monkeypatch.setattr(Tf2, "TransformListener", listener, raising=False)
    monkeypatch.setitem(sys.modules, "tf2_ros", Tf2)
    return Tf2


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_points_have_the_places_colours_and_labels_of_the_masks(
    camera: Camera, encoding: str
) -> None:
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    depth[5:17, 30:42] = 1.5
    depth[10, 35] = np.nan
    camera.show(depth_message(depth, camera.stamp, encoding=encoding), info_message(camera.stamp))
    camera.select(square(20, 10), square(5, 30))
    (cloud,) = camera.clouds
    assert stamp_ns(cloud.header.stamp) == 10**18
    assert cloud.header.frame_id == "optical"
    points = read(cloud)
    assert np.bincount(points["label"]).tolist() == [0, 144, 143]  # without the hole
    rows, columns = np.nonzero(square(5, 30) & ~np.isnan(depth))
    near = points[points["label"] == 2]
    np.testing.assert_allclose(near["z"], 1.5)
    np.testing.assert_allclose(near["x"], 1.5 * (columns - WIDTH / 2) / FOCAL, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(near["y"], 1.5 * (rows - HEIGHT / 2) / FOCAL, rtol=1e-5, atol=1e-6)
    bits = np.ascontiguousarray(near["rgb"]).view("<u4")
    channels = np.stack([bits >> 16, bits >> 8 & 255, bits & 255], axis=-1)
    np.testing.assert_array_equal(channels, COLOURS[rows, columns])
    assert camera.told() == (DiagnosticStatus.OK, "active")
    for tracks, labels in (((9, 4), {4, 9}), ((9, 0), {1, 2})):
        camera.show(depth_message(depth, camera.stamp), info_message(camera.stamp))
        camera.select(square(20, 10), square(5, 30), tracks=tracks)
        assert set(read(camera.clouds[-1])["label"].tolist()) == labels


@pytest.mark.parametrize("camera", [{"target_frame": "base"}], indirect=True)
def test_missing_transform_is_one_warning_and_ends(tf2: type[Tf2], camera: Camera) -> None:
    """Then the points are in the target frame, with the distance between depth and colour in time.

    The fixture of tf2 comes first: a node looks for it when it is configured.
    """
    latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    log = camera.graph.observe(Log, "/rosout", latched)
    depth = np.full((HEIGHT, WIDTH), 1.25, np.float32)
    for _ in range(3):
        camera.show(depth_message(depth, camera.stamp), info_message(camera.stamp))
        camera.select(square(10, 10))
    level, message = camera.told()
    assert level == DiagnosticStatus.WARN
    assert "no transform from 'optical' to 'base': two trees" in message
    assert camera.node.health.counted("frames not located") == 3 and not camera.clouds
    tf2.height = 1.25
    late = camera.stamp + 10_000_000
    camera.show(depth_message(depth, late), info_message(late))
    camera.select(square(10, 10))
    (cloud,) = camera.clouds
    assert (cloud.header.frame_id, stamp_ns(cloud.header.stamp)) == ("base", late - 10_000_000)
    points = read(cloud)
    rows, columns = np.nonzero(square(10, 10))
    np.testing.assert_allclose(points["x"], 1 + 1.25 * (columns - WIDTH / 2) / FOCAL, rtol=1e-5)
    np.testing.assert_allclose(points["y"], 2 - 1.25 * (rows - HEIGHT / 2) / FOCAL, rtol=1e-5)
    np.testing.assert_allclose(points["z"], 0, atol=1e-6)
    assert camera.told() == (DiagnosticStatus.OK, "active")
    camera.node.get_logger().warning("the last one")

    def warned() -> list[str]:
        return [m.msg for m in log if m.name == "objects_3d" and m.level == WARN]

    camera.graph.wait(lambda: "the last one" in warned(), "the log")
    assert len(warned()) == 2 and "two trees" in warned()[0]


def test_missing_or_wrong_input_is_a_warning_that_says_what_is_wrong(camera: Camera) -> None:
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    small = depth[:20, :30]

    def refused(depth: ImageMessage | None, info: CameraInfo | None, words: str) -> None:
        camera.show(depth, info)
        camera.select(square(10, 10))
        level, message = camera.told()
        assert level == DiagnosticStatus.WARN
        assert words in message, message
        assert not camera.clouds

    def taken(depth: np.ndarray, points: int, *masks: np.ndarray, **changes: Any) -> None:
        camera.show(depth_message(depth, camera.stamp), info_message(camera.stamp, **changes))
        camera.select(*(masks or [square(10, 10)]))
        assert camera.told() == (DiagnosticStatus.OK, "active")
        assert camera.clouds.pop().width == points

    refused(None, None, f"no depth image yet on /{DEPTH_TOPIC} (sensor_msgs/msg/Image")
    refused(
        depth_message(depth, camera.stamp), None,
        f"no camera info yet on /{INFO_TOPIC}: 1 publish it (best effort), but nothing arrives",
    )  # fmt: skip
    refused(None, info_message(camera.stamp), "nearest depth image is 0.100 s from")
    stamp = camera.stamp
    refused(depth_message(small, stamp), info_message(stamp), "has 30x20 pixels and the masks have")
    stamp = camera.stamp
    coloured = encode_image(Stamped(make_header(stamp, "optical"), COLOURS))
    refused(coloured, info_message(stamp), "expected encoding 16UC1, mono16, 32FC1, got 'rgb8'")
    stamp = camera.stamp
    cut = depth_message(depth, stamp)
    cut.data = cut.data[:-1]
    refused(cut, info_message(stamp), "bytes of data: expected a step of at least 120")
    stamp = camera.stamp
    refused(depth_message(depth, stamp), info_message(stamp, k=[0.0] * 9), "camera calibrated?")
    stamp = camera.stamp
    refused(
        depth_message(depth, stamp),
        info_message(stamp, width=WIDTH * 2),
        "camera info is of 120x40",
    )
    stamp = camera.stamp
    refused(
        depth_message(depth, stamp), info_message(stamp, d=[0.1], distortion_model="odd"), "'odd'"
    )
    taken(depth, 144)
    taken(depth, 144, d=[0.0] * 5, distortion_model="plumb_bob")
    taken(depth, 144, d=[-0.3, 0.1, 0.0, 0.0, 0.0], distortion_model="plumb_bob")
    taken(np.full_like(depth, np.nan), 0)
    taken(np.zeros_like(depth), 0)
    taken(depth, 0, np.zeros((HEIGHT, WIDTH), bool))
    # No camera image of this stamp: masks from before the node was active.
    camera.masks.publish(masks_message(5, square(10, 10)))
    camera.graph.wait(lambda: camera.node.health.counted("masks without image") == 1, "the masks")
    # A mask that does not fit its image ends nothing.
    camera.show(depth_message(depth, camera.stamp), info_message(camera.stamp))
    bad = masks_message(camera.stamp, square(10, 10))
    bad.masks[0].mask.counts = "nonsense"
    camera.masks.publish(bad)
    camera.graph.wait(lambda: "masks cannot be used" in camera.told()[1], "the warning")
    camera.stamp += SECOND
    taken(depth, 144)


def test_camera_info_that_is_elsewhere_is_named(camera: Camera) -> None:
    graph, elsewhere = camera.graph, "/camera/color/camera_info"
    graph.observer.destroy_publisher(camera.info)
    graph.observer.create_publisher(CameraInfo, elsewhere, qos_profile_sensor_data)
    graph.wait(lambda: graph.observer.count_publishers(elsewhere) == 1, "the other topic")
    graph.wait(lambda: graph.observer.count_publishers(f"/{INFO_TOPIC}") == 0, "it to go")
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    camera.show(depth_message(depth, camera.stamp), None)
    camera.select(square(10, 10))
    assert camera.told()[1].endswith(
        f"no camera info yet on /{INFO_TOPIC}: nobody publishes it; there is {elsewhere} "
        "(sensor_msgs/msg/CameraInfo)"
    )


def test_depth_images_that_a_busy_process_loses_are_counted(camera: Camera) -> None:
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    camera.show(depth_message(depth, camera.stamp), None)
    camera.graph.executor.create_task(time.sleep, 2.0)  # it takes no message meanwhile
    time.sleep(0.2)
    for n in range(1, 20):
        camera.depth.publish(depth_message(depth, camera.stamp + n))
        time.sleep(0.01)
    buffer = camera.node._frames
    camera.graph.wait(lambda: camera.stamp + 19 in buffer._recent, "the last one")
    assert len(buffer._recent) == 6  # the first one, and the queue of depth 5
    assert camera.node.health.counted("depth images lost before arrival") == 14


def test_camera_info_may_come_once_with_any_stamp(camera: Camera) -> None:
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    camera.show(depth_message(depth, camera.stamp), info_message(0))
    camera.select(square(10, 10))
    camera.show(depth_message(depth, camera.stamp), None)
    camera.select(square(20, 10))
    assert [cloud.width for cloud in camera.clouds] == [144, 144]
    assert camera.told() == (DiagnosticStatus.OK, "active")


def test_camera_info_may_be_latched_and_older_than_the_node(ros_domain_id: int) -> None:
    arguments = [*ros_arguments(None), *remapping(DEPTH, DEPTH_TOPIC)]
    with Graph(ros_domain_id, lambda c: [Objects3dNode(context=c)], arguments) as graph:
        info, node = info_message(0), graph.nodes["objects_3d"]
        graph.observer.create_publisher(CameraInfo, INFO_TOPIC, LATCHED_QOS).publish(info)
        for _ in range(2):
            graph.start()
            graph.wait(lambda: node._info == info, "the camera info", patience_s=20.0)
            for again in (node.trigger_deactivate, node.trigger_activate):
                assert again() == TransitionCallbackReturn.SUCCESS
            assert node._info == info
            for down in (node.trigger_deactivate, node.trigger_cleanup):
                assert down() == TransitionCallbackReturn.SUCCESS
        graph.wait(lambda: graph.observer.count_subscribers(INFO_TOPIC) == 0, "both to go")


def test_camera_info_that_is_not_latched_is_not_asked_for_as_such(camera: Camera) -> None:
    """The driver would warn of a subscription that its QoS does not serve."""
    camera.node._look_for_latched_info()
    found = camera.graph.observer.get_subscriptions_info_by_topic(f"/{INFO_TOPIC}")
    assert [each.qos_profile.durability for each in found] == [DurabilityPolicy.VOLATILE]


@pytest.mark.parametrize("camera", [{"rectified": True}], indirect=True)
def test_rectified_images_are_described_by_p(camera: Camera) -> None:
    p = [25.0, 0.0, 10.0, 0.0, 0.0, 20.0, 5.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    info = info_message(camera.stamp, p=p, d=[0.3], distortion_model="plumb_bob")
    camera.show(depth_message(depth, camera.stamp), info)
    camera.select(square(10, 10))
    rows, columns = np.nonzero(square(10, 10))
    points = read(camera.clouds[0])
    np.testing.assert_allclose(points["x"], (columns - 10) / 25, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(points["y"], (rows - 5) / 20, rtol=1e-5)


def test_tf_is_taken_beside_the_executor_of_the_nodes(
    tf2: type[Tf2], monkeypatch: pytest.MonkeyPatch, ros_domain_id: int
) -> None:
    """Also in a namespace, with a tf tree of the robot's own, and under another name."""
    threads: set[str] = set()

    def listen(buffer: Any, node: Any) -> Any:
        def heard(message: Any) -> None:
            threads.add(threading.current_thread().name)

        node.create_subscription(Header, "/tf", heard, 10)
        return SimpleNamespace(unregister=lambda: None)

    monkeypatch.setattr(tf2, "TransformListener", listen)
    arguments = [
        *("--ros-args", "-r", "__ns:=/robot1", "-r", "__node:=objects", "-r", "/tf:=tf"),
        *("-p", "target_frame:=base", "-p", "use_sim_time:=true"),
    ]
    with Graph(ros_domain_id, lambda c: [Objects3dNode(context=c)], arguments) as graph:
        node = graph.nodes["objects"]
        names = lambda: set(graph.observer.get_node_names_and_namespaces())  # noqa: E731
        for _ in range(2):  # also after it was configured again
            threads.clear()
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            tf = graph.observer.create_publisher(Header, "/robot1/tf", 10)
            graph.wait(lambda tf=tf: tf.get_subscription_count() == 1, "the listener")
            tf.publish(Header())
            graph.wait(lambda: bool(threads), "the message")
            assert threads == {"objects_tf"}
            assert graph.observer.count_subscribers("/clock") == 1  # of the node alone
            graph.wait(lambda: ("objects_tf", "/robot1") in names(), "its node")
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
            graph.wait(lambda: ("objects_tf", "/robot1") not in names(), "its node to go")
            assert "objects_tf" not in {thread.name for thread in threading.enumerate()}
            graph.observer.destroy_publisher(tf)


@pytest.mark.parametrize("camera", [{"target_frame": "base"}], indirect=True)
def test_without_tf2_a_target_frame_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, camera: Camera
) -> None:
    if camera.node._transforms._tf2 is not None:
        pytest.skip("tf2_ros is installed")
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    camera.show(depth_message(depth, camera.stamp), info_message(camera.stamp))
    camera.select(square(10, 10))
    assert "target_frame 'base' needs tf2_ros" in camera.told()[1]


@pytest.mark.parametrize("camera", [{"target_frame": "base"}], indirect=True)
def test_transform_comes_from_tf2_ros_where_it_is_installed(camera: Camera) -> None:
    """The camera rises; its image is of a moment in between."""
    if camera.node._transforms._tf2 is None:
        pytest.skip("tf2_ros comes with an installed ROS")
    from tf2_ros import TransformBroadcaster

    broadcaster = TransformBroadcaster(camera.graph.observer)
    for seconds, height in ((-1, 2.0), (1, 4.0)):
        transform = TransformStamped(header=make_header(camera.stamp + seconds * SECOND, "base"))
        transform.child_frame_id = "optical"
        transform.transform.translation.z = height
        broadcaster.sendTransform(transform)
    depth = np.full((HEIGHT, WIDTH), 1.25, np.float32)
    camera.show(depth_message(depth, camera.stamp), info_message(camera.stamp))
    buffer, header = camera.node._transforms._buffer, make_header(camera.stamp, "optical")
    when = Time.from_msg(header.stamp)
    camera.graph.wait(lambda: buffer.can_transform("base", "optical", when), "the transforms")
    camera.select(square(10, 10))
    np.testing.assert_allclose(read(camera.clouds[0])["z"], 4.25, rtol=1e-6)


def test_boxes_are_published_where_vision_msgs_is_installed(camera: Camera) -> None:
    if not messages_3d.AVAILABLE:
        pytest.skip("vision_msgs comes with an installed ROS")
    from vision_msgs.msg import Detection3DArray

    detections = camera.graph.observe(Detection3DArray, "/objects_3d/output/detections")
    camera.graph.wait(lambda: camera.node._detections.get_subscription_count() > 0, "the observer")
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    camera.show(depth_message(depth, camera.stamp), info_message(camera.stamp))
    camera.select(square(20, 30), tracks=(7,))
    camera.graph.wait(lambda: len(detections) == 1, "the boxes")
    (detection,) = detections[0].detections
    assert detections[0].header == detection.header == make_header(10**18, "optical")
    assert detection.id == "7"
    centre, size = detection.bbox.center.position, detection.bbox.size
    # Rows 20 to 31 and columns 30 to 41, at 50 pixels a metre.
    assert (centre.x, centre.y, centre.z) == pytest.approx((0.11, 0.11, 1.0), abs=0.005)
    assert (size.x, size.y, size.z) == pytest.approx((0.22, 0.22, 0.0), abs=0.01)
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("object", 0.75)
    assert result.pose.pose == detection.bbox.center


def test_composed_graph_locates_the_masks_of_a_clip(
    ros_domain_id: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Masks come a clip later than their depth images, which came in between."""
    weights = save_random_weights(tmp_path_factory.mktemp("weights"))
    arguments = [*ros_arguments(weights), *remapping(DEPTH, DEPTH_TOPIC)]
    assert remaps_depth(arguments)
    frames = disc_frames(4)
    height, width = frames[0].size
    depth = np.full((height, width), 1.0, np.float32)

    def make(context: rclpy.Context) -> list[Any]:
        return compose(has_depth=True, context=context)

    with Graph(ros_domain_id, make, arguments) as graph:
        graph.start()
        depths = graph.observer.create_publisher(ImageMessage, DEPTH_TOPIC, 10)
        infos = graph.observer.create_publisher(CameraInfo, INFO_TOPIC, 10)
        masks = graph.observe(SelectedMasks, "/selector/output/masks")
        clouds = graph.observe(PointCloud2, POINTS)
        graph.wait(lambda: infos.get_subscription_count() > 0, "the node")
        for frame in frames:
            depths.publish(depth_message(depth, frame.stamp_ns))
            infos.publish(info_message(frame.stamp_ns, height=height, width=width))
            graph.feed([frame])
        graph.wait(lambda: len(masks) == len(clouds) == 4, "masks and points")
        for selected, cloud in zip(masks, clouds, strict=True):
            assert cloud.header == make_header(stamp_ns(selected.header.stamp), "optical")
            assert set(read(cloud)["label"].tolist()) <= set(messages_3d.labels(selected.masks))
        assert sum(cloud.width for cloud in clouds) > 0
