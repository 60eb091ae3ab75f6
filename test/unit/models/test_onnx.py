"""Networks in ONNX files: what is read from them, providers, and errors."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import CPU
from support.onnx_networks import needs_onnx, node, save_onnx, save_red_foreground

from gbopt_ros.models import onnx
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.onnx import OnnxTensor, load_onnx, providers_for
from gbopt_ros.structures import GboptError

CUDA = torch.device("cuda", 1)


@needs_onnx
def test_load_onnx_reads_shapes_metadata_and_digest(tmp_path: Path) -> None:
    path = save_red_foreground(tmp_path / "red.onnx", (4, "width"), {"mean": "1,2,3"})
    network = load_onnx(path, CPU)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert network.input == OnnxTensor("image", (1, 3, 4, "width"), "tensor(float)")
    assert [output.name for output in network.outputs] == ["foreground", "green"]
    assert network.metadata == {"mean": "1,2,3"}
    assert (network.sha256, network.version) == (digest, f"red-{digest[:8]}")
    assert network.layout == (
        "input image (1, 3, 4, width), outputs foreground (1, 1, 4, width), green (1, 1, 4, width)"
    )


@needs_onnx
def test_load_onnx_does_not_repeat_a_digest_in_the_version(tmp_path: Path) -> None:
    path = save_red_foreground(tmp_path / "red.onnx")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert load_onnx(path.rename(tmp_path / f"red-{digest}.onnx"), CPU).version == f"red-{digest}"


@needs_onnx
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_onnx_network_run_takes_and_gives_float32(tmp_path: Path, dtype: type) -> None:
    network = load_onnx(save_red_foreground(tmp_path / "r.onnx", (1, 2), None, 3.0, dtype), CPU)
    values = np.arange(6, dtype=np.float32).reshape(1, 3, 1, 2)
    foreground, green = network.run(values)
    assert foreground.dtype == green.dtype == np.float32
    np.testing.assert_array_equal(foreground, [[[[0, 3]]]])
    np.testing.assert_array_equal(green, [[[[2, 3]]]])


@needs_onnx
def test_onnx_network_run_says_which_input_fails(tmp_path: Path) -> None:
    network = load_onnx(save_red_foreground(tmp_path / "r.onnx", (4, 4)), CPU)
    with pytest.raises(GboptError, match=r"r\.onnx: fails on an input \(1, 3, 4, 5\) \(.+\)$"):
        network.run(np.zeros((1, 3, 4, 5), np.float32))


@needs_onnx
def test_load_onnx_runs_on_the_threads_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    network = load_onnx(save_red_foreground(tmp_path / "r.onnx"), CPU)
    options = network._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.use_deterministic_compute


@pytest.mark.parametrize(
    ("device", "offered", "expected"),
    [
        (CPU, ["CUDA", "CPU"], ["CPU"]),
        (CUDA, ["Azure", "CPU"], ["CPU"]),
        (CUDA, ["CUDA", "CPU"], ["CUDA", "CPU"]),
        (CUDA, ["CPU", "CUDA", "Tensorrt"], ["Tensorrt", "CUDA", "CPU"]),
    ],
)
def test_providers_for_a_device(
    device: torch.device, offered: list[str], expected: list[str]
) -> None:
    found = providers_for(device, [f"{name}ExecutionProvider" for name in offered])
    assert [name.removesuffix("ExecutionProvider") for name, _ in found] == expected
    assert {options["device_id"] for _, options in found[:-1]} <= {"1"}
    assert found[-1][1] == {}


@needs_onnx
def test_load_onnx_chooses_from_the_providers_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, asked = onnx.providers_for, []
    monkeypatch.setattr(onnx, "providers_for", lambda *given: asked.append(given) or choose(*given))
    path = save_red_foreground(tmp_path / "r.onnx")
    assert load_onnx(path, CPU, [onnx.TENSORRT]).providers == (onnx.CPU,)
    load_onnx(path, CPU)
    assert asked[0] == (CPU, [onnx.TENSORRT])
    assert onnx.CPU in asked[1][1]


@needs_onnx
def test_load_onnx_warns_where_the_gpu_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx, "providers_for", lambda *_: [("CPUExecutionProvider", {})])
    load_onnx(save_red_foreground(tmp_path / "r.onnx"), CUDA)
    assert [record.message.split(": ")[1] for record in caplog.records] == [
        "runs on the CPU, since this onnxruntime cannot use the GPU; pip install onnxruntime-gpu "
        "in its place"
    ]


@needs_onnx
@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x08\x12\x00" * 50])
def test_load_onnx_refuses_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(GboptError, match=r"bad\.onnx: cannot be opened as an ONNX network \(.+\)$"):
        load_onnx(path, CPU)


@needs_onnx
def test_load_onnx_refuses_a_truncated_file(tmp_path: Path) -> None:
    path = save_red_foreground(tmp_path / "cut.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GboptError, match=r"cut\.onnx: cannot be opened as an ONNX network"):
        load_onnx(path, CPU)


@needs_onnx
@pytest.mark.parametrize(("count", "dtype"), [(2, np.float32), (1, np.uint8)])
def test_load_onnx_refuses_other_inputs(tmp_path: Path, count: int, dtype: type) -> None:
    inputs = {f"in{number}": (2,) for number in range(count)}
    joined = node("Max", " ".join(inputs), "out")
    path = save_onnx(tmp_path / "n.onnx", [joined], inputs, {"out": (2,)}, dtype=dtype)
    with pytest.raises(GboptError, match=r"expected one input of floats, the file has in0 \(2\)"):
        load_onnx(path, CPU)


def test_load_onnx_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match=r"absent\.onnx: no such ONNX file"):
        load_onnx(tmp_path / "absent.onnx", CPU)


def test_load_onnx_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(GboptError, match=r"pip install 'gbopt_ros\[onnx\]'"):
        load_onnx(tmp_path / "n.onnx", CPU)


@pytest.mark.parametrize(
    ("shape", "expected", "fits"),
    [
        ((1, 3, 4, 5), (1, 3, None, None), True),
        (("batch", 3, None, "width"), (1, 3, None, 5), True),
        ((2, 3, 4, 5), (1, 3, None, None), False),
        ((1, 3, 4), (1, 3, None, None), False),
        ((), (), True),
    ],
)
def test_onnx_tensor_fits(shape: tuple, expected: tuple, fits: bool) -> None:
    assert OnnxTensor("x", shape, "tensor(float)").fits(*expected) == fits


@pytest.mark.parametrize("name", ["yolo.onnx", "YOLO.ONNX"])
def test_load_mask_rcnn_refuses_onnx_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(GboptError, match="proposes masks, and cannot be trained or calibrated"):
        load_mask_rcnn(tmp_path / name)
