"""The CPU form of what is measured on a GPU, and the page that tells it."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from support.forks import FORKS

from benchmarks import gpu
from benchmarks.gpu_page import page
from benchmarks.isolated import FAILED, MEASURED, NOT_THERE
from gbopt_ros.structures import GboptError

ROOT = Path(__file__).resolve().parents[3]
NOTHING = "**Nothing was measured on a GPU yet.**"
SETUP = {"device": "cuda", "quick": False, "size": [480, 640], "frames": 30, "flow": ""}
MACHINE = {"device": "NVIDIA X", "memory_bytes": 2**34, "versions": {"torch": "2", "cudnn": None}}


def part(*rows: dict[str, Any], status: str = MEASURED, reason: str = "") -> dict[str, Any]:
    return {"status": status, "reason": reason, "rows": list(rows), "seconds": 2.0}


# ------------------------------------------------------------------------------ the whole command


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """JSON and page of the CPU form, whose last part does not exist."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.md"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gpu.PARTS, "absent", 20)
        # Without CUDA a fork will do, which need not import torch anew.
        patch.setattr(multiprocessing, "get_context", lambda _: FORKS)
        gpu.run(gpu.parse_arguments(["--device", "cpu", "--quick", "--out", str(out)]))
    return json.loads(out.with_suffix(".json").read_text("utf-8")), out.read_text("utf-8")


@pytest.fixture
def rows(measured: tuple[dict[str, Any], str], request: pytest.FixtureRequest) -> Any:
    return measured[0]["parts"][request.param]["rows"]


def test_a_part_that_fails_does_not_stop_the_others(measured: tuple[dict[str, Any], str]) -> None:
    parts = measured[0]["parts"]
    assert {name for name, part in parts.items() if part["status"] == MEASURED} == {
        "conformance", "streams", "speed_random", "speed_bundled", "learning", "onnx",
    }  # fmt: skip
    assert parts["absent"]["status"] == FAILED
    assert parts["absent"]["reason"].startswith("AttributeError: module 'benchmarks.gpu_parts'")


@pytest.mark.parametrize("rows", ["conformance"], indirect=True)
def test_rounded_weights_move_the_networks_a_little(rows: list[dict[str, Any]]) -> None:
    masks, background, flow = (row["values"] for row in rows)
    assert all(row["passed"] for row in rows)
    assert masks["masks"] == 30  # N = 15 in each of 2 images
    assert 0.9 <= masks["mean IoU"] < 1
    assert 0 < masks["largest score difference"] <= 0.05
    assert 0 < background["mean difference"] < 0.01
    assert 0 < flow["median end-point difference"] < 0.5


@pytest.mark.parametrize("rows", ["streams"], indirect=True)
def test_networks_at_once_equal_serial_ones_bit_for_bit(rows: list[dict[str, Any]]) -> None:
    *compared, times = rows
    assert len(compared) == 3
    assert all(row["passed"] for row in compared)
    assert compared[0]["values"]["mean IoU"] == 1
    assert compared[1]["values"]["largest difference"] == 0
    assert compared[2]["values"]["99th percentile"] == 0
    assert times["frames"] == 2
    assert min(times["serial_seconds"], times["at_once_seconds"]) > 0


@pytest.mark.parametrize("rows", ["speed_random", "speed_bundled"], indirect=True)
def test_speed_has_the_share_of_every_part(rows: list[dict[str, Any]]) -> None:
    (row,) = rows
    share = dict(row["share"])
    networks = share.pop("networks")
    assert sum(share.values()) == pytest.approx(1)
    assert networks == pytest.approx(1 - share["selection"] - share["outlines"])
    assert networks > 0.5
    assert row["frames_per_second"] == pytest.approx(2 / row["seconds"]["total"])
    assert (row["size"], row["proposals"]) == ([96, 128], 30)


@pytest.mark.parametrize("rows", ["learning"], indirect=True)
def test_learning_takes_steps_with_finite_losses(rows: list[dict[str, Any]]) -> None:
    (row,) = rows
    assert row["passed"]
    assert (row["batch"], row["steps"], row["memory"]) == (2, 2, None)
    assert row["seconds_per_step"] > 0
    assert all(0 < loss < 10 for loss in row["losses"])


@pytest.mark.parametrize("rows", ["onnx"], indirect=True)
def test_an_exported_network_gives_what_torch_gives(rows: list[dict[str, Any]]) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `onnx`)")
    (row,) = rows
    assert row["provider"] == "CPU"
    assert row["values"]["largest difference"] < 1e-4
    assert min(row["ms_per_image"], row["torch_ms_per_image"]) > 0


def test_page_of_a_cpu_says_so(measured: tuple[dict[str, Any], str]) -> None:
    results, text = measured
    assert text == page(results)
    assert NOTHING in text
    assert "The values below are of a CPU" in text
    assert text.count("as `gbopt replay` does: no CUDA GPU.") == 2
    assert "| bundled Mask R-CNN | 2 |" in text


# ------------------------------------------------------------------------------- what is measured


def test_page_without_a_gpu_says_that_nothing_was_measured() -> None:
    parts = {"streams": part(status=NOT_THERE, reason="no CUDA GPU")}
    text = page({"setup": SETUP, "machine": None, "parts": parts})
    assert NOTHING in text
    assert "| CUDA streams | not measured: no CUDA GPU | 2 | - |" in text
    assert "of a CPU:" not in text


def test_page_of_a_gpu() -> None:
    """A pass, a fail and a part that was cut off; speed and memory with everything at once."""
    compared = {"network": "N", "comparison": "C", "at_least": {}, "at_most": {"mean": 0.5}}
    good = compared | {"values": {"mean": 0.25}, "passed": True}
    bad = compared | {"values": {"mean": 0.75}, "passed": False}
    memory = {"allocated": 2**30, "reserved": 3 * 2**29}
    at_once = {"at_once": {"frames_per_second": 12.5}, "memory": memory, "half": True}
    share = {"gpu_share": {"networks": 0.5, "copies": 0.125, "host": 0.375}}
    parts = {
        "conformance": part(good, bad, status=FAILED, reason="not done after 70 s"),
        "speed_random": part(at_once, share),
        "onnx": part({"network": "N", "provider": "CUDA", "missing": "fails: E", "passed": False}),
    }
    text = page({"setup": SETUP, "machine": MACHINE, "parts": parts})
    assert NOTHING not in text
    assert "NVIDIA X, 16.00 GiB. torch 2. Images 640x480, clips of 30 frames." in text
    cut = "failed: not done after 70 s, what it found before is kept"
    assert f"| Precision | {cut} | 2 | 1 of 2 |" in text
    assert "| N | C | mean 0.25 (at most 0.5) | pass |" in text
    assert "| N | C | mean 0.75 (at most 0.5) | **fail** |" in text
    peak = "GPU memory at most 1.00 GiB of tensors, 1.50 GiB with torch's reserve"
    assert f"as `gbopt replay` does: **12.5 frames a second**, {peak}." in text
    assert "as the live graph: not measured." in text
    assert "computes 50.0% of the time, only copies 12.5%, and waits for the host 37.5%" in text
    assert "| N | CUDA | fails: E | - |" in text


def test_page_in_the_documentation_is_that_of_its_json() -> None:
    written = ROOT / "docs/gpu.md"
    assert gpu.json_of(written) == ROOT / "docs/lab-notebook-data/gpu.json"
    results = json.loads(gpu.json_of(written).read_text("utf-8"))
    assert written.read_text("utf-8") == page(results)
    assert results["parts"].keys() == gpu.PARTS.keys()
    assert results["setup"] == SETUP


# ------------------------------------------------------------------------------- the command again


def test_parts_measured_before_are_kept_for_the_same_machine_only(tmp_path: Path) -> None:
    facts = {"setup": SETUP, "machine": MACHINE}
    args = gpu.parse_arguments(["--out", str(tmp_path / "gpu.md")])
    assert gpu.kept_parts(args, facts) == {}
    parts = {"streams": part(), "learning": part(status=FAILED, reason="R")}
    gpu.write(args.out, facts | {"parts": parts})
    assert gpu.kept_parts(args, facts) == parts
    other = facts | {"machine": MACHINE | {"device": "NVIDIA Y"}}
    with pytest.raises(GboptError, match=r"gpu\.json: holds measurements of NVIDIA X .* --again"):
        gpu.kept_parts(args, other)
    args.again = True
    assert gpu.kept_parts(args, other) == {}


def test_what_was_not_measured_is_replaced_by_any_machine(tmp_path: Path) -> None:
    args = gpu.parse_arguments(["--out", str(tmp_path / "gpu.md")])
    nothing = {"streams": part(status=NOT_THERE, reason="no CUDA GPU")}
    gpu.write(args.out, {"setup": SETUP, "machine": None, "parts": nothing})
    assert gpu.kept_parts(args, {"setup": SETUP, "machine": MACHINE}) == {}


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"onnx": part(status=NOT_THERE, reason="R"), "streams": part({"passed": True})}, 0),
        ({"streams": part({"passed": False})}, 1),
        ({"streams": part(status=FAILED, reason="R")}, 1),
    ],
)
def test_exit_status_tells_failures_and_broken_tolerances(
    monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any], status: int
) -> None:
    monkeypatch.setattr(gpu, "run", lambda _: {"parts": parts})
    assert gpu.main([]) == status
