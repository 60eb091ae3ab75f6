"""What the demo recording gives, as digests: the same before and after a change of structure.

    python test/support/digests.py                        # print all digests of this machine
    python test/support/digests.py --expect digests.json  # exit status 1 where one differs

Digests are exact, so they hold for one machine, its number of threads fixed at one. What holds on
every machine, within a tolerance, is in `test/integration/test_golden.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT / "demo" / "recording"
STEPS = 20  # of fine-tuning


def digest(values: Any) -> str:
    """SHA-256 of plain values; floats as they are."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def replay(out: Path, options: Iterable[str]) -> Path:
    """Run `gbopt replay` on the demo recording, on the CPU."""
    from gbopt_ros.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()):
        status = main(["replay", str(RECORDING), "--out", str(out), "--set=device=cpu", *options])
    assert status == 0
    return out


def replay_content(out: Path) -> dict[str, Any]:
    """Masks, confidences and energies of a replay's output."""
    selected = json.loads((out / "selected.json").read_text())
    masks, confidences = [], []
    for annotation in selected["annotations"]:
        masks.append([annotation["image_id"], annotation["segmentation"]["counts"]])
        confidences.append(round(annotation["confidence"], 6))
    energies = [list(image["energy"].values()) for image in selected["images"]]
    return {"masks": masks, "energies": energies, "confidences": confidences}


def fine_tuned_weights(replayed: Path) -> dict[str, np.ndarray]:
    """The weights after some steps on what a replay selected, beside rehearsal."""
    from gbopt_ros.config import LearningConfig
    from gbopt_ros.io.datasets.coco import load_coco_dir
    from gbopt_ros.learning.data.datasets import CocoInstances
    from gbopt_ros.learning.store.store import Store
    from gbopt_ros.learning.training.fine_tuning import fine_tune
    from gbopt_ros.models.detection import load_mask_rcnn

    config = LearningConfig(iterations=STEPS)
    network, _ = load_mask_rcnn(ROOT / "demo/weights/proposals.safetensors")
    rehearsal = CocoInstances(load_coco_dir(ROOT / "demo/rehearsal"))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.add(replayed)
        with store.training_set() as training_set:
            selected = training_set.labelled_images()
        trained, _ = fine_tune(network, selected, rehearsal, config, torch.device("cpu"))
    return {name: value.numpy() for name, value in trained.state_dict().items()}


def live_masks(profile: Path | None) -> list[list[Any]]:
    """The masks of the composed graph in lockstep with the recording: stamp, run lengths."""
    from threading import Event, Thread

    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from gbopt_ros.io.sources import open_source
    from gbopt_ros.msg import SelectedMasks
    from gbopt_ros.nodes.base import RESULT_QOS
    from gbopt_ros.nodes.composed import compose
    from gbopt_ros.nodes.messages import stamp_ns
    from gbopt_ros.nodes.player import player
    from gbopt_ros.nodes.wiring import CAMERA

    found: list[list[Any]] = []

    def receive(message: Any) -> None:
        masks = [[mask.mask.counts, round(mask.confidence, 6)] for mask in message.masks]
        found.append([stamp_ns(message.header.stamp), masks])

    arguments = ["--ros-args", "-r", f"{CAMERA[0]}:{CAMERA[1]}:=camera/image_raw"]
    arguments += ["-p", "device:=cpu", *(["-p", f"profile:={profile}"] if profile else [])]
    arguments += ["-p", "idle_timeout_s:=600.0", "-p", "stall_timeout_s:=600.0"]
    context = rclpy.Context()
    rclpy.init(args=["digests", *arguments], context=context)
    nodes = compose(context=context)
    observer = rclpy.create_node("observer", context=context, use_global_arguments=False)
    observer.create_subscription(SelectedMasks, "selector/output/masks", receive, RESULT_QOS)
    executor = SingleThreadedExecutor(context=context)
    for node in (*nodes, observer):
        executor.add_node(node)
        assert node is observer or node.start()
    stop = Event()

    def spin() -> None:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = Thread(target=spin)
    thread.start()
    try:
        with player("camera/image_raw", lockstep=True, patience_s=600.0) as playing:
            playing.play(open_source(RECORDING))
    finally:
        stop.set()
        thread.join()
        for node in nodes:
            node.close()
        observer.destroy_node()
        executor.shutdown()
        context.try_shutdown()
    return sorted(found)


def all_digests(folder: Path) -> dict[str, str]:
    """The digests by name."""
    torch.set_num_threads(1)
    found: dict[str, str] = {}
    ways = {"no profile": []} | {
        path.stem: ["--config", str(path)] for path in sorted((ROOT / "config").glob("*.yaml"))
    }
    for name, options in ways.items():
        content = replay_content(replay(folder / name, options))
        found |= {f"replay, {name}, {what}": digest(value) for what, value in content.items()}
        print(name, flush=True, file=sys.stderr)
    weights = fine_tuned_weights(folder / "no profile")
    content = hashlib.sha256()
    for name in sorted(weights):
        content.update(weights[name].tobytes())
    found[f"weights after {STEPS} steps"] = content.hexdigest()[:16]
    for name, profile in (("no profile", None), ("robot", ROOT / "config" / "robot.yaml")):
        masks = live_masks(profile)
        found[f"live, {name}, masks"] = digest([[s, [m for m, _ in f]] for s, f in masks])
        found[f"live, {name}, confidences"] = digest([[c for _, c in f] for _, f in masks])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expect", type=Path, help="digests printed earlier on this machine")
    arguments = parser.parse_args()
    # A domain of its own, on this machine alone: other nodes would take part in the live graph.
    os.environ.setdefault("ROS_DOMAIN_ID", "101")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with tempfile.TemporaryDirectory() as folder:
        found = all_digests(Path(folder))
    print(json.dumps(found, indent=1))
    if arguments.expect is None:
        return 0
    expected = json.loads(arguments.expect.read_text())
    differing = [
        name for name in sorted(expected.keys() | found) if expected.get(name) != found.get(name)
    ]
    print("differing:", differing or "none")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
