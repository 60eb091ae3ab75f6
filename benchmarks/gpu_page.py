"""The page that `benchmarks.gpu` writes: Markdown, from what its JSON holds."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.conformance import HALF, TF32
from benchmarks.gpu_setup import NO_GPU
from benchmarks.isolated import MEASURED

Row = dict[str, Any]

QUANTITIES = (
    ("mean IoU of masks, at least", "iou"),
    ("score, at most", "score"),
    ("mean background probability, at most", "background"),
    ("median flow, pixels, at most", "flow"),
)

INTRODUCTION = """# On a GPU

`python -m benchmarks.gpu --out docs/gpu.md` writes this page on a machine with one NVIDIA GPU, in
at most 8 minutes, and `docs/lab-notebook-data/gpu.json`. A part that fails is listed with its
reason, and the others go on. The same command then measures only what is missing.
"""

NOTHING = """
**Nothing was measured on a GPU yet.** The CPU form of the command (`--device cpu --quick`) runs in
the tests. {why}
"""

TITLES = {
    "conformance": (
        "Precision",
        "Networks in two precisions, on images and pairs of the bundled recording. Masks are "
        "matched one to one, and a mask without a partner has the IoU 0. Scores are compared "
        "where the IoU is at least 0.5.",
    ),
    "streams": (
        "CUDA streams",
        "The three networks at once on one clip, as the pipeline runs them, against one after the "
        "other.",
    ),
    "speed_random": (
        "Speed of large networks",
        "Mask R-CNN R50-FPN, a background network with R50 and RAFT large, with random weights, "
        "on moving squares. The number of synthetic pairs says nothing about trained networks.",
    ),
    "speed_bundled": (
        "Speed of the bundled networks",
        "The recommended settings, with flow by DIS on the CPU, on a clip of the bundled "
        "recording.",
    ),
    "learning": (
        "Learning",
        "Fine-tuning with the recommended settings on the bundled labelled images, half of every "
        "batch as selected masks. The learner has a process of its own: on one GPU its memory "
        "adds to that of the live graph.",
    ),
    "onnx": (
        "ONNX Runtime",
        "The bundled networks, exported by `gbopt models export`, against torch in float32, one "
        "image at a time.",
    ),
}


def page(results: dict[str, Any]) -> str:
    """The whole page.

    Args:
        results: what the JSON holds: `setup`, `machine` (None without a GPU), `parts` by name.
    """
    setup, machine = results["setup"], results["machine"]
    parts = {name: results["parts"][name] for name in TITLES if name in results["parts"]}
    measured = any(part["rows"] for part in parts.values())
    text = INTRODUCTION
    if not (measured and setup["device"] == "cuda"):
        why = "The values below are of a CPU: they show that it works, and no more." * measured
        text += NOTHING.format(why=why).replace(" \n", "\n")
    if machine is not None:
        height, width = setup["size"]
        versions = (f"{name} {value}" for name, value in machine["versions"].items() if value)
        text += (
            f"\n{machine['device']}{_gib(', ', machine['memory_bytes'])}. {', '.join(versions)}. "
            f"Images {width}x{height}, clips of {setup['frames']} frames.\n"
        )
    text += "\n" + table(
        ["part", "outcome", "seconds", "within tolerance"],
        ([title(name), _outcome(part), f"{part['seconds']:.0f}", _passed(part)]
         for name, part in parts.items()),
    )  # fmt: skip
    text += f"\n## Tolerances\n\n{tolerances()}"
    for name, part in parts.items():
        text += f"\n## {title(name)}\n\n{textwrap.fill(TITLES[name][1], 100)}\n"
        if part["rows"]:
            text += "\n" + BODIES[name](part["rows"])
    return text


def title(name: str) -> str:
    return TITLES[name][0]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tolerances() -> str:
    return table(
        ["between", *(name for name, _ in QUANTITIES)],
        (
            [title, *(f"{getattr(within, field):g}" for _, field in QUANTITIES)]
            for title, within in (("float16 and float32", HALF), ("float32 and float32", TF32))
        ),
    )


def compared(rows: Sequence[Row]) -> str:
    """The rows that have a tolerance."""
    return table(
        ["network", "comparison", "measured (tolerance)", "verdict"],
        (
            [
                row["network"],
                row["comparison"],
                "; ".join(f"{name} {_value(row, name)}" for name in row["values"]),
                "pass" if row["passed"] else "**fail**",
            ]
            for row in rows
            if "values" in row
        ),
    )


def streams(rows: Sequence[Row]) -> str:
    text = compared(rows)
    for row in rows:
        if "serial_seconds" in row:
            serial, at_once = row["serial_seconds"], row["at_once_seconds"]
            text += (
                f"\n{row['frames']} frames: {serial:.3g} s one after the other, {at_once:.3g} s at "
                f"once (median), {serial / at_once:.2f} times as fast.\n"
            )
    return text


def speed(rows: Sequence[Row]) -> str:
    text = ""
    for row in rows:
        if "share" in row:
            text += (
                f"One part after the other: **{row['frames_per_second']:.3g} frames a second**. "
                f"Networks take {row['share']['networks']:.1%}, motion included; selection and "
                f"outlines the rest. {row['flow_pairs']['synthetic']} synthetic pairs, "
                f"{row['masks']} masks selected in {row['frames']} frames.\n\n"
            )
            text += table(
                ["part", "ms a frame", "share"],
                ([name, f"{1e3 * row['seconds'][name] / row['frames']:.1f}", f"{share:.1%}"]
                 for name, share in row["share"].items() if name != "networks"),
            )  # fmt: skip
    known = {name: value for row in rows for name, value in row.items()}
    ways = (
        ("Clip by clip with everything at once, as `gbopt replay` does", "at_once", "memory"),
        ("One frame at a time with the profile `robot`, as the live graph", "live", "live_memory"),
    )
    for way, speed_of, memory_of in ways:
        text += f"\n{way}: "
        if speed_of in known:
            rate = known[speed_of]["frames_per_second"]
            text += f"**{rate:.3g} frames a second**, GPU memory {_memory(known[memory_of])}.\n"
        else:
            text += f"{'not measured' if known.get('half') else NO_GPU}.\n"
    if "gpu_share" in known:
        share = known["gpu_share"]
        text += (
            f"\nClip by clip, the GPU computes {share['networks']:.1%} of the time, only copies "
            f"{share['copies']:.1%}, and waits for the host {share['host']:.1%}.\n"
        )
    return text


def learning(rows: Sequence[Row]) -> str:
    return table(
        ["network", "batch", "seconds a step", "loss, first and last step", "peak GPU memory"],
        (
            [
                row["network"],
                str(row["batch"]),
                f"{row['seconds_per_step']:.3g}",
                " ".join(f"{loss:.3g}" for loss in row["losses"]),
                _memory(row["memory"]),
            ]
            for row in rows
        ),
    )


def onnx(rows: Sequence[Row]) -> str:
    lines = (
        [
            row["network"],
            row["provider"],
            row["missing"] if "missing" in row else f"{row['ms_per_image']:.1f}",
            f"{row['torch_ms_per_image']:.1f}" if "values" in row else "-",
        ]
        for row in rows
    )
    head = ["network", "provider", "ms an image", "torch, ms an image"]
    named = [{**row, "network": f"{row['network']}, {row['provider']}"} for row in rows]
    return table(head, lines) + "\n" + compared(named)


BODIES: dict[str, Callable[[Sequence[Row]], str]] = {
    "conformance": compared,
    "streams": streams,
    "speed_random": speed,
    "speed_bundled": speed,
    "learning": learning,
    "onnx": onnx,
}


def _outcome(part: Row) -> str:
    if part["status"] == MEASURED:
        return MEASURED
    kept = ", what it found before is kept" * bool(part["rows"])
    return f"{part['status']}: {part['reason']}{kept}"


def _passed(part: Row) -> str:
    verdicts = [row["passed"] for row in part["rows"] if "passed" in row]
    return f"{sum(verdicts)} of {len(verdicts)}" if verdicts else "-"


def _value(row: Row, name: str) -> str:
    """A measured value with its limit, if it has one."""
    limits = [
        f" ({words} {limits[name]:g})"
        for words, limits in (("at least", row["at_least"]), ("at most", row["at_most"]))
        if name in limits
    ]
    return f"{row['values'][name]:.4g}{''.join(limits)}"


def _memory(peak: dict[str, int] | None) -> str:
    if peak is None:
        return NO_GPU
    tensors, reserved = _gib("", peak["allocated"]), _gib("", peak["reserved"])
    return f"at most {tensors} of tensors, {reserved} with torch's reserve"


def _gib(before: str, count: int | None) -> str:
    return "" if count is None else f"{before}{count / 2**30:.2f} GiB"
