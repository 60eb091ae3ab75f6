"""Names of ROS parameters."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")

from gbopt_ros.nodes.parameters import check_names
from gbopt_ros.structures import GboptError


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("selction.k", "parameter selction.k: no node has it; did you mean selection.k"),
        ("trian_every_clips", "no node has it; did you mean train_every_clips"),
        ("zzz", "parameter zzz: no node has it$"),
        ("probe", "parameter probe is now called validation"),
    ],
)
def test_check_names_refuses_what_no_node_has(name: str, complaint: str) -> None:
    with pytest.raises(GboptError, match=complaint):
        check_names(["selection.k", name])


def test_check_names_takes_the_parameters_of_all_nodes_and_of_ros() -> None:
    check_names(["selection.k", "store", "queue", "use_sim_time", "qos_overrides./a.publisher.x"])
