"""The selected masks for consumers of vision_msgs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from rclpy.qos import QoSProfile

from gbopt_ros.msg import SelectedMask, SelectedMasks
from gbopt_ros.nodes import detections
from gbopt_ros.nodes.base import LATCHED_QOS
from gbopt_ros.nodes.messages import make_header


def test_detection_array_has_tight_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the types of vision_msgs, which has no wheel."""

    def make_detection(**fields: Any) -> Any:
        position = SimpleNamespace(x=0.0, y=0.0)
        box = SimpleNamespace(center=SimpleNamespace(position=position), size_x=0.0, size_y=0.0)
        return SimpleNamespace(bbox=box, results=[], **fields)

    stand_ins = {
        "Detection2D": make_detection,
        "Detection2DArray": SimpleNamespace,
        "ObjectHypothesisWithPose": lambda: SimpleNamespace(hypothesis=SimpleNamespace()),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(detections, name, stand_in, raising=False)
    header = make_header(5, "camera")
    mask = SelectedMask(box=np.array([2, 4, 10, 8], np.float32), confidence=0.75)
    unknown = SelectedMask(box=mask.box)
    mask.track_id = 7
    array = detections.detection_array(SelectedMasks(header=header, masks=[mask, unknown]))
    detection, other = array.detections
    assert array.header == detection.header == header
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (6.0, 6.0)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (8.0, 4.0)
    assert (detection.id, other.id) == ("7", "")
    assert detection.results[0].hypothesis.score == 0.75


class Published(list[Any]):
    """A publisher that keeps what it publishes."""

    publish = list.append

    def get_subscription_count(self) -> int:
        return 0


def test_vision_outputs_say_what_labels_mean_and_which_version_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("Detection2DArray", "LabelInfo", "VisionClass", "VisionInfo"):
        monkeypatch.setattr(detections, name, SimpleNamespace, raising=False)
    monkeypatch.setattr(detections, "AVAILABLE", True)
    made: dict[str, Published] = {}
    qos = {}

    def make(kind: Any, topic: str, profile: QoSProfile) -> Published:
        qos[topic], made[topic] = profile, Published()
        return made[topic]

    outputs = detections.VisionOutputs(make, "boxes", "labels", "version")
    header, mask = make_header(5, "camera"), SelectedMask()
    for version, count in (
        ("bundled", 0),
        ("bundled", 2),
        ("v0012", 1),
        ("v0012", 3),
        ("v9876543210", 0),
    ):
        outputs.publish(SelectedMasks(header=header, masks=[mask] * count, model_version=version))
    maps = [[(c.class_id, c.class_name) for c in info.class_map] for info in made["labels"]]
    all_labels = [(0, "background"), (1, "object"), (2, "object"), (3, "object")]
    assert maps == [all_labels[:1], all_labels[:3], all_labels]
    told = [(i.database_location, i.database_version) for i in made["version"]]
    assert told == [("bundled", 0), ("v0012", 12), ("v9876543210", 2**31 - 1)]
    assert made["boxes"] == []  # nobody listens
    latched = {topic for topic, profile in qos.items() if profile == LATCHED_QOS}
    assert latched == {"labels", "version"}


def test_vision_outputs_do_nothing_without_vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detections, "AVAILABLE", False)
    outputs = detections.VisionOutputs(lambda *_: pytest.fail("a publisher was made"), "", "", "")
    outputs.publish(SelectedMasks(model_version="v0001"))
