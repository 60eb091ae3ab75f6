"""The selected masks for consumers of vision_msgs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
pytest.importorskip("gbopt_ros.msg", reason="the messages are not built")

from gbopt_ros.msg import SelectedMask, SelectedMasks
from gbopt_ros.nodes import detections
from gbopt_ros.nodes.messages import make_header


def test_detection_array_has_tight_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the types of vision_msgs, which has no wheel."""

    def make_detection(**fields: Any) -> Any:
        position = SimpleNamespace(x=0.0, y=0.0)
        box = SimpleNamespace(center=SimpleNamespace(position=position), size_x=0.0, size_y=0.0)
        return SimpleNamespace(bbox=box, results=[], id="", **fields)

    stand_ins = {
        "Detection2D": make_detection,
        "Detection2DArray": SimpleNamespace,
        "ObjectHypothesisWithPose": lambda: SimpleNamespace(hypothesis=SimpleNamespace()),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(detections, name, stand_in, raising=False)
    header = make_header(5, "camera")
    mask = SelectedMask(box=np.array([2, 4, 10, 8], np.float32), confidence=0.75)
    array = detections.detection_array(SelectedMasks(header=header, masks=[mask]))
    (detection,) = array.detections
    assert array.header == detection.header == header
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (6.0, 6.0)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (8.0, 4.0)
    assert detection.id == ""  # masks have no identity over frames
    assert detection.results[0].hypothesis.score == 0.75
