"""The package as others see it: metadata, messages, the installed commands."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gbopt_ros.cli import doctor
from gbopt_ros.cli.main import VERBS, main
from gbopt_ros.structures import GboptError

REPOSITORY = Path(__file__).resolve().parents[2]
INTERFACES = sorted(
    path for kind in ("msg", "srv", "action") for path in REPOSITORY.glob(f"{kind}/*.{kind}")
)
BUILD = REPOSITORY / "build" / "interfaces"
GBOPT = Path(sys.prefix) / "bin" / "gbopt"

UNITS = re.compile(
    r"pixels|seconds|percent|count\b|no unit|system clock|one of [A-Z]+_\*|as the name says"
)


@pytest.fixture
def manifest() -> ElementTree.Element:
    return ElementTree.parse(REPOSITORY / "package.xml").getroot()


@pytest.fixture
def messages() -> Any:
    """The module of the generated messages."""
    pytest.importorskip("rclpy", reason="no ROS: neither sourced nor as wheels")
    return pytest.importorskip("gbopt_ros.msg", reason="the messages are not built: make setup")


# Metadata


def test_package_xml_and_pip_agree(manifest: ElementTree.Element) -> None:
    found = (each.metadata for each in importlib.metadata.distributions(name="gbopt_ros"))
    # What a sourced colcon workspace has of it is the name and the version, by ament.
    installed = next((each for each in found if "Summary" in each), None)
    if installed is None:
        pytest.skip("not installed by pip")
    for tag, key in (("name", "Name"), ("version", "Version"), ("license", "License")):
        assert installed[key] == manifest.findtext(tag)
    assert installed["Summary"] == " ".join(manifest.findtext("description", "").split())


def test_package_is_built_by_ament_cmake(manifest: ElementTree.Element) -> None:
    assert manifest.get("format") == "3"
    assert manifest.findtext("export/build_type") == "ament_cmake"
    assert manifest.findtext("member_of_group") == "rosidl_interface_packages"
    assert manifest.find("license").get("file") == "LICENSE"  # type: ignore[union-attr]
    assert "Apache License\n" in (REPOSITORY / "LICENSE").read_text()


def test_torch_and_torchvision_are_pinned_as_pairs() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [re.match(r'(torch|torchvision)==(\S+); platform_machine == "(\w+)"', x) for x in lines]
    found = {(m[3], m[1]): m[2] for m in pins if m}
    for machine in ("x86_64", "aarch64"):
        # torchvision 0.(n + 15) belongs to torch 2.n
        minor = int(found[machine, "torch"].split(".")[1])
        assert found[machine, "torchvision"].startswith(f"0.{minor + 15}.")


# Messages


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_message_fields_have_comments_and_units(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# "), "the first line says what the message is"
    fields = [line for line in lines if line and not line.startswith("#") and line != "---"]
    assert fields
    for line in fields:
        declaration, hash_sign, comment = line.partition("#")
        assert hash_sign and comment.strip(), f"no comment: {line}"
        number = re.match(r"(u?int|float)\d+", declaration)
        if number and "=" not in declaration and "0 to 1" not in comment:
            assert UNITS.search(comment), f"no unit: {line}"


def test_message_files_are_importable(messages: Any) -> None:
    for path in INTERFACES:
        module = importlib.import_module(f"gbopt_ros.{path.parent.name}")
        assert hasattr(module, path.stem), f"{path.name} was added after the build: make setup"


def selected_masks(messages: Any) -> Any:
    masks = [
        messages.SelectedMask(
            candidate=i,
            mask=messages.Rle(height=4, width=6, counts=counts),
            box=[float(i), 1.0, 2.5, 3.0],
            score=0.5,
            confidence=0.75,
            margin=1e-3 * i,
        )
        for i, counts in enumerate(["052000", "61X2"])
    ]
    message = messages.SelectedMasks(
        clip_id=7,
        frame_index=2**40,
        height=4,
        width=6,
        model_version="v3",
        masks=masks,
        background_energy=0.25,
        flow_energy=0.5,
        regularization_energy=-0.125,
    )
    message.header.stamp.sec, message.header.stamp.nanosec = 12, 345
    message.header.frame_id = "camera"
    return message


TALKER = """
import sys, time, rclpy
from rclpy.duration import Duration
from rclpy.serialization import deserialize_message
from gbopt_ros.msg import SelectedMasks
from gbopt_ros.srv import SetTarget

rclpy.init()
node = rclpy.create_node("talker")
message = deserialize_message(sys.stdin.buffer.read(), SelectedMasks)
publisher = node.create_publisher(SelectedMasks, "masks", 1)
client = node.create_client(SetTarget, "target")
deadline = time.monotonic() + 20
assert client.wait_for_service(timeout_sec=20)
while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
    time.sleep(0.01)
publisher.publish(message)
assert publisher.wait_for_all_acked(Duration(seconds=20))
answer = client.call_async(SetTarget.Request(mode=SetTarget.Request.MODE_POINT, x=1.5, y=2.0))
rclpy.spin_until_future_complete(node, answer, timeout_sec=20)
print(answer.result().success, answer.result().message)
node.destroy_node()
rclpy.shutdown()
"""


def test_messages_and_services_cross_processes(messages: Any, ros_domain_id: int) -> None:
    """Over the real middleware: another process publishes, and calls a service here."""
    rclpy = importlib.import_module("rclpy")
    serialize = importlib.import_module("rclpy.serialization").serialize_message
    executors = importlib.import_module("rclpy.executors")
    set_target = importlib.import_module("gbopt_ros.srv").SetTarget
    sent, received = selected_masks(messages), []

    def answer(request: Any, response: Any) -> Any:
        response.success = request.mode == set_target.Request.MODE_POINT
        response.message = f"{request.x} {request.y}"
        return response

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain_id)
    node = rclpy.create_node("listener", context=context)
    node.create_subscription(messages.SelectedMasks, "masks", received.append, 1)
    node.create_service(set_target, "target", answer)
    executor = executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    deadline = time.monotonic() + 30
    with subprocess.Popen(
        [sys.executable, "-c", TALKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as talker:
        try:
            assert talker.stdin and talker.stdout
            talker.stdin.write(serialize(sent))
            talker.stdin.close()
            while (talker.poll() is None or not received) and time.monotonic() < deadline:
                executor.spin_once(timeout_sec=0.05)
            shown = talker.stdout.read().decode()
        finally:
            talker.kill()
            executor.shutdown()
            node.destroy_node()
            context.try_shutdown()
    assert received == [sent]
    assert shown.split() == ["True", "1.5", "2.0"]
    assert talker.returncode == 0


def test_install_prefix_works_on_its_own(messages: Any, tmp_path: Path) -> None:
    """What `cmake --install` writes, with nothing of the checkout on the path."""
    if not (BUILD / "CMakeCache.txt").exists():
        pytest.skip("the messages were not built in this checkout: make setup")
    cmake = Path(sys.prefix) / "bin" / "cmake"
    prefix = tmp_path / "prefix"
    subprocess.run(
        [cmake if cmake.exists() else "cmake", "--install", BUILD, "--prefix", prefix],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    site = next(prefix.glob("lib/python*/*-packages"))
    code = (
        "import gbopt_ros.msg, gbopt_ros.srv, gbopt_ros.structures\n"
        "from rclpy.serialization import serialize_message, deserialize_message\n"
        "masks = gbopt_ros.msg.SelectedMasks(height=3)\n"
        "print(gbopt_ros.__file__)\n"
        "print(deserialize_message(serialize_message(masks), gbopt_ros.msg.SelectedMasks).height)\n"
    )
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    shown = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert shown == [str(site / "gbopt_ros" / "__init__.py"), "3"]

    share = prefix / "share"
    assert (share / "ament_index/resource_index/packages/gbopt_ros").exists()
    assert (share / "gbopt_ros/package.xml").exists()
    for path_in_share in INTERFACES:
        assert (share / "gbopt_ros" / path_in_share.relative_to(REPOSITORY)).exists()
    for folder in ("config", "launch", "demo"):
        assert (share / "gbopt_ros" / folder).is_dir() == (REPOSITORY / folder).is_dir()
    for executable in (prefix / "lib/gbopt_ros").iterdir():
        assert os.access(executable, os.X_OK)
        # `colcon build --symlink-install` links to this one.
        assert os.access(BUILD / "executables" / executable.name, os.X_OK)
    version = subprocess.run(
        [prefix / "lib/gbopt_ros/gbopt", "--version"], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert version.stdout == f"gbopt {importlib.metadata.version('gbopt_ros')}\n"


# The command line


def run_gbopt(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GBOPT, *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    "command", [[GBOPT], [sys.executable, "-m", "gbopt_ros.cli"]], ids=["gbopt", "python -m"]
)
def test_program_lists_every_verb(command: list[str | Path]) -> None:
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    for verb in VERBS:
        assert re.search(rf"^    {verb}\s+\S", shown.stdout, re.MULTILINE), verb


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import contextlib, sys\n"
        "from gbopt_ros.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(*sorted({'torch', 'numpy', 'cv2'} & sys.modules.keys()), file=sys.stderr)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr.strip() == ""


def test_version_option_prints_the_version() -> None:
    assert run_gbopt("--version").stdout == f"gbopt {importlib.metadata.version('gbopt_ros')}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"usage: gbopt {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nosuchverb"], ["doctor", "--nosuchoption"], ["--no"]])
def test_main_exits_with_2_on_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: gbopt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (GboptError("x.mcap: is\nempty"), "x.mcap: is empty"),
        (
            OSError(28, "No space left on device", "/out"),
            "/out: no space left on device; free some space or choose another output folder",
        ),
        (
            PermissionError(13, "Permission denied", "/out"),
            "/out: permission denied; choose a place that you may read and write",
        ),
        (MemoryError(), "out of memory; shorten the clips or make the frames smaller"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "the Python module torch is missing; `gbopt doctor` says how to get it",
        ),
        (
            KeyError("k"),
            "unexpected KeyError: 'k' (run with --debug for the traceback)",
        ),
    ],
)
def test_main_reports_failures_in_one_line_and_exits_with_1(
    error: Exception,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: object) -> None:
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == f"gbopt: error: {text}\n"
    assert main(["doctor", "--debug"]) == main(["--debug", "doctor"]) == 1
    assert capsys.readouterr().err.count("Traceback") == 2


def test_main_exits_with_130_on_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "gbopt: interrupted\n"


@pytest.mark.parametrize(
    ("first", "status", "told"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_signals_do_not_break_into_cleaning_up_and_a_late_interrupt_ends_at_once(
    first: signal.Signals,
    status: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now, done = [100.0], []

    def clean_up_slowly(args: object) -> None:
        try:
            signal.raise_signal(first)
        finally:
            signal.raise_signal(signal.SIGINT)
            now[0] += 1.5
            signal.raise_signal(signal.SIGTERM)
            done.append("cleaned up")
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(doctor, "run", clean_up_slowly)
    monkeypatch.setattr("gbopt_ros.cli.main.time.monotonic", lambda: now[0])
    monkeypatch.setattr(os, "_exit", done.append)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(["doctor"]) == status
    assert done == ["cleaned up", 130]
    assert capsys.readouterr().err == f"gbopt: {told}\n"
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_main_accepts_a_closed_output(unbuffered: str) -> None:
    code = (
        "import sys\n"
        "from gbopt_ros.cli import doctor, main\n"
        "doctor.examine = lambda: [doctor.REQUIRED[0].run()]\n"
        "sys.stdin.read()\n"
        "sys.exit(main.main(['doctor']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# Doctor


def test_doctor_reports_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert {"Python", "NumPy", "torch", "device", "ROS 2", "seed proposals"} <= findings.keys()
    for finding in findings.values():
        assert finding["status"] in ("ok", "absent", "broken")
        assert bool(finding["meaning"] and finding["remedy"]) == (finding["status"] != "ok")
    if "messages" in findings and findings["messages"]["status"] == "ok":
        files = [*REPOSITORY.glob("msg/*"), *REPOSITORY.glob("srv/*"), *REPOSITORY.glob("action/*")]
        assert findings["messages"]["found"] == ", ".join(sorted(file.stem for file in files))


def test_doctor_fails_on_something_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = doctor.Finding("torch", "broken", "nms is missing", "no command works", "x", True)
    absent = doctor.Finding("pybullet", "absent", "", "no world", "pip install pybullet")
    monkeypatch.setattr(doctor, "examine", lambda: [broken, absent])
    assert main(["doctor"]) == 1
    shown = capsys.readouterr()
    assert shown.err == "gbopt: error: required, but not in order: torch\n"
    assert shown.out.splitlines()[0] == "broken  torch     nms is missing"
    assert shown.out.splitlines()[3] == f"{'':18}no world; to get it: pip install pybullet"


def test_doctor_survives_a_broken_optional_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    find = partial(doctor.find_module_apart, "fragile", "fragile")
    finding = doctor.Check("fragile", find, "nothing", "nothing").run()
    assert (finding.status, finding.found) == ("broken", "exit -6")
    missing = partial(doctor.find_module_apart, "no_such_module", "")
    assert doctor.Check("no", missing, "", "").run().status == "absent"
