"""What learning from a recording gains: before, rehearsal only (the control), ours, true masks.

    python benchmarks/learning_gain.py --seeds 0 1 2 --out learning_gain

Every row starts from the seed network and takes the same number of steps on batches of the same
size; the control fills its batches with rehearsal data alone. Two rows bound what selection can
give: "gt" learns from the proposals that agree best with the simulator's masks, each at an IoU of
at least 0.5, and "truth" from the simulator's masks themselves. Selection runs once, it has no
random part. Writes OUT.json and OUT.md: unseen and seen metrics, mean and spread over the seeds,
and precision and recall of the selected masks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from gbopt_ros.config import Config, load_config
from gbopt_ros.evaluation.coco_metrics import METRICS, InstanceMetrics, evaluate_network
from gbopt_ros.evaluation.mask_quality import mask_precision_recall
from gbopt_ros.learning.finetune import fine_tune
from gbopt_ros.learning.pools import CocoPool
from gbopt_ros.learning.training_set import SelectedPool, TrainingSet, read_replay
from gbopt_ros.masks import iou_matrix
from gbopt_ros.outputs import ReplayWriter, versions
from gbopt_ros.perception.device import resolve_device
from gbopt_ros.perception.proposals import MaskRcnnProposals, load_mask_rcnn
from gbopt_ros.pipeline import (
    Pipeline,
    evaluation_config,
    load_proposal_network,
    proposal_weights,
)
from gbopt_ros.resources import find_resource
from gbopt_ros.sources import open_source
from gbopt_ros.sources.coco import CocoDataset, load_coco, load_coco_dir


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed, 20 steps: a smoke test")
    parser.add_argument("--out", type=Path, default=Path("learning_gain"))
    parser.add_argument("--recording", type=Path, help="default: the demo's")
    parser.add_argument("--recording-gt", type=Path, help="COCO JSON with frame_index")
    parser.add_argument("--unseen", type=Path, help="labelled stills; default: the demo's test")
    parser.add_argument("--seen", type=Path, help="labelled stills; default: the demo's")
    parser.add_argument("--replay", type=Path, help="use this replay output, do not select anew")
    parser.add_argument("--rows", nargs="+", default=["before", "control", "ours", "gt", "truth"])
    parser.add_argument("--config", type=Path, default=find_resource("config/demo.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    seeds = [0] if args.quick else args.seeds
    extra = ["learning.iterations=20"] if args.quick else []
    config = load_config(args.config, [*args.set, *extra])
    device = resolve_device(config.device)
    unseen = load_coco_dir(args.unseen or find_resource("demo/unseen-test"))
    seen = load_coco_dir(args.seen or find_resource("demo/seen-val"))
    rehearsal = CocoPool(load_coco_dir(find_resource("demo/rehearsal")))
    parent, _ = load_mask_rcnn(proposal_weights(config))

    rows: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        replay = args.replay or select(args, config, Path(scratch) / "replay")
        quality = selected_quality(args, replay)
        with TrainingSet(Path(scratch) / "training", config.learning.max_bytes) as training_set:
            training_set.add(read_replay(replay))
            pools = {
                "control": None,
                "ours": training_set.labelled_images(config.learning.min_confidence),
                "gt": gt_pool(args, config, replay) if "gt" in args.rows else None,
                "truth": truth_pool(args, replay),
            }
            for seed in seeds:
                for row in args.rows:
                    if row == "before" and row in rows:
                        continue
                    network = parent
                    if row != "before":
                        network, _ = fine_tune(
                            parent,
                            pools[row],
                            rehearsal,
                            replace(config.learning, seed=seed),
                            device,
                        )
                    proposer = MaskRcnnProposals(
                        network, row, evaluation_config(config).proposal, device
                    )
                    result = {
                        "seed": seed,
                        "unseen": metrics(proposer, unseen).to_dict(),
                        "seen": metrics(proposer, seen).to_dict(),
                    }
                    rows.setdefault(row, []).append(result)
                    print(
                        f"{row} seed {seed}: unseen AP {result['unseen']['AP']:.2f} "
                        f"AP50 {result['unseen']['AP50']:.2f} seen AP {result['seen']['AP']:.2f}",
                        flush=True,
                    )
    result = {
        "rows": rows,
        "selected_masks": quality,
        "config": config.to_dict(),
        "versions": versions(),
    }
    args.out.with_suffix(".json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    table = markdown(rows, quality)
    args.out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


def select(args: argparse.Namespace, config: Config, out: Path) -> Path:
    """Replay the recording; returns the folder of the result."""
    source = open_source(args.recording or find_resource("demo/recording"))
    pipeline = Pipeline(config)
    with ReplayWriter(out, source.name) as writer:
        for selection in pipeline.run(source):
            writer.add(selection)
        writer.finish(seconds=dict(pipeline.seconds))
    return out


def truth_pool(args: argparse.Namespace, replay: Path) -> SelectedPool:
    """The frames of the replay with the simulator's masks."""
    gt = load_coco(args.recording_gt or find_resource("demo/recording.json"))
    entries = [
        (replay / "frames" / f"{image.extra['frame_index']:06d}.jpg", gt.rles_by_image[image.id])
        for image in gt.images
        if gt.rles_by_image[image.id]
    ]
    return SelectedPool([(path, rles, ()) for path, rles in entries if path.is_file()])


def gt_pool(args: argparse.Namespace, config: Config, replay: Path) -> SelectedPool:
    """The frames of the replay with the best proposal of each of the simulator's masks."""
    gt = load_coco(args.recording_gt or find_resource("demo/recording.json"))
    truth = {image.extra["frame_index"]: gt.rles_by_image[image.id] for image in gt.images}
    network = load_proposal_network(config)
    entries = []
    for frame in open_source(args.recording or find_resource("demo/recording")):
        (proposals,) = network.propose([frame.image])
        overlap = iou_matrix(proposals.rles, truth.get(frame.index, ()))
        chosen = []
        while overlap.size and overlap.max() >= 0.5:
            i, j = np.unravel_index(overlap.argmax(), overlap.shape)
            chosen.append(proposals.rles[i])
            overlap[i, :] = overlap[:, j] = 0.0
        if chosen:
            path = replay / "frames" / f"{frame.index:06d}.jpg"
            entries.append((path, tuple(chosen), ()))
    return SelectedPool(entries)


def selected_quality(args: argparse.Namespace, replay: Path) -> dict[str, float]:
    """Precision and recall of the selected masks at IoU 0.5 against the simulator's."""
    gt = load_coco(args.recording_gt or find_resource("demo/recording.json"))
    truth = {image.extra["frame_index"]: gt.rles_by_image[image.id] for image in gt.images}
    chosen = load_coco(replay / "selected.json")
    masks = {image.extra["frame_index"]: chosen.rles_by_image[image.id] for image in chosen.images}
    quality = mask_precision_recall(truth, masks)
    return {"precision": 100 * quality.precision, "recall": 100 * quality.recall}


def metrics(proposer: MaskRcnnProposals, dataset: CocoDataset) -> InstanceMetrics:
    return evaluate_network(proposer, dataset, progress=False)[0]


def markdown(rows: dict[str, list[dict]], quality: dict[str, float]) -> str:
    """A table of mean and standard deviation over the seeds, percent."""
    header = ["", *(f"unseen {m}" for m in METRICS), "seen AP"]
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    for name, results in rows.items():
        columns = [[r["unseen"][m] for r in results] for m in METRICS]
        columns.append([r["seen"]["AP"] for r in results])
        cells = [
            f"{np.mean(c):.1f}" + (f" ± {np.std(c, ddof=1):.1f}" if len(c) > 1 else "")
            for c in columns
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines.append("")
    lines.append(
        f"Selected masks at IoU 0.5: precision {quality['precision']:.1f}, "
        f"recall {quality['recall']:.1f}."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
