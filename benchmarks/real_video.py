"""Learning from real video without a label: what becomes of frames that were not learnt from.

    python benchmarks/real_video.py ../shared/real/ycbv-* ../shared/real/davis-* --out real --jobs 2

Every SEQUENCE is a folder of frames with a PNG of labels beside each. Masks are selected in the
first 60 % of its frames, one network learns from those of all sequences, and is judged on the last
30 %, which no row learns from; labels decide nothing else. Labels of real recordings are
incomplete: what they leave out counts as a false positive in AP, so look at AR as well.

Rows: before; control, the same steps on rehearsal data alone; ours. Writes OUT/real-video.json, .md
and .jpg: the middle judged frame of each sequence before, after and as labelled. Started again, a
run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tables
from rows import TrainingMasks, digest_of_pool, inputs_of, open_pool
from stored import Stored, digest_of_files
from tabletop import Stills, cores
from tqdm import tqdm
from training import Cell, Result, exit_status, folder_of, run_cells, seeds_of

from gbopt_ros.config import Config, load_config
from gbopt_ros.evaluation.files import write_text
from gbopt_ros.evaluation.overlay import draw_masks
from gbopt_ros.learning.training_set import TrainingSet, read_replay
from gbopt_ros.masks import encode_all
from gbopt_ros.outputs import ReplayWriter, versions
from gbopt_ros.perception.weights import sha256_of
from gbopt_ros.pipeline import Pipeline, background_weights, proposal_weights
from gbopt_ros.resources import find_resource
from gbopt_ros.sources import open_source
from gbopt_ros.sources.clips import cut_clips
from gbopt_ros.sources.coco import CocoDataset, CocoImage, load_coco_dir
from gbopt_ros.sources.davis import load_davis
from gbopt_ros.structures import Image, Rle

LEARNT, JUDGED = 0.6, 0.3  # shares of a sequence: its beginning, its end
ROWS = ("before", "control", "ours")
_SHOWN_SCORE = 0.5
_TILE = (320, 180)  # width and height of a picture in the figure
_TITLE_HEIGHT = 24


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/real-video"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--config", type=Path, default=find_resource("config/demo.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    config, stored = load_config(args.config, args.set), Stored(folder_of(args.out))
    stills = Stills(
        judged_frames(args.sequences),
        load_coco_dir(find_resource("demo/seen-val")),
        load_coco_dir(find_resource("demo/rehearsal")),
    )
    selected = select(args.sequences, config, stored)
    shown = middle_frames(stills.unseen)
    cells = [
        Cell(
            row, seed, selected if row == "ours" else TrainingMasks(), seeded,
            learns=row != "before", shown=tuple(image.id for image in shown),
        )
        for seed, seeded in zip(args.seeds, seeds_of(config, args.seeds), strict=True)
        for row in ROWS
        if row != "before" or seed == args.seeds[0]
    ]  # fmt: skip
    keys = {(cell.row, cell.seed): cell.inputs(inputs_of(stills)) for cell in cells}

    def result_of(cell: Cell) -> Result | None:
        return stored.get("cell", keys[cell.row, cell.seed])

    def on_done(cell: Cell, result: Result) -> None:
        stored.put("cell", keys[cell.row, cell.seed], result)
        tqdm.write(
            f"{cell.row}, seed {cell.seed}: AP {result['unseen']['AP']:.2f}, "
            f"AR5 {result['unseen']['AR5']:.2f}, seen AP {result['seen']['AP']:.2f}"
        )

    missing = [cell for cell in cells if result_of(cell) is None]
    run_cells(missing, stills, args.jobs, on_done)
    rows: dict[str, list[Result]] = {row: [] for row in ROWS}
    for cell in cells:
        result = result_of(cell)
        assert result is not None
        rows[cell.row].append(result)
    write(args, config, stills, rows, selected, shown)


def judged_frames(folders: Sequence[Path]) -> CocoDataset:
    """The last frames of every sequence with their labels."""
    images: list[CocoImage] = []
    rles: dict[int, tuple[Rle, ...]] = {}
    for folder in folders:
        (sequence,) = load_davis(folder)
        labels = sequence.labels()
        for position in range(len(labels) - round(JUDGED * len(labels)), len(labels)):
            label = labels[position]
            path = next(p for p in sorted(folder.glob(f"{sequence.masks[position].stem}.*"))
                        if p.suffix != ".png")  # fmt: skip
            image = CocoImage(len(images) + 1, f"{folder.resolve().name}/{path.name}", *label.shape)
            images.append(image)
            values = [value for value in np.unique(label) if value]
            rles[image.id] = encode_all(label[None] == np.array(values)[:, None, None])
    return CocoDataset(tuple(images), rles, folders[0].resolve().parent)


def select(folders: Sequence[Path], config: Config, stored: Stored) -> TrainingMasks:
    """The masks selected in the beginning of every sequence, as a training set."""
    networks = [sha256_of(weights(config)) for weights in (proposal_weights, background_weights)]
    learning = config.learning
    stages = [
        getattr(config, stage)
        for stage in ("clip", "proposal", "background", "flow", "selection", "outline")
    ]
    inputs = [[digest_of_files(folder) for folder in folders], LEARNT, networks, stages]
    folder = stored.path("set", [inputs, learning.max_bytes, learning.policy])
    if not folder.exists():
        replays = [select_in(path, config, stored, inputs) for path in tqdm(folders, "select")]
        with TrainingSet(folder, learning.max_bytes, learning.policy) as training_set:
            for replay in replays:
                training_set.add(read_replay(replay))
    with TrainingSet(folder, learning.max_bytes, learning.policy) as training_set:
        facts = {"frames": len(training_set), "masks": training_set.instance_count}
    return TrainingMasks(folder, digest_of_pool(open_pool(folder, config)), facts=facts)


def select_in(sequence: Path, config: Config, stored: Stored, inputs: Any) -> Path:
    """Our masks of the beginning of a sequence, as `gbopt replay` writes them."""
    out = stored.path("replay", [inputs, sequence.resolve().name])
    if out.exists():
        return out
    frames = list(open_source(sequence))
    pipeline = Pipeline(config)
    learnt = frames[: round(LEARNT * len(frames))]
    with ReplayWriter(out, sequence.resolve().name) as writer:
        for clip in cut_clips(learnt, config.clip.length, max_gap_s=config.clip.max_gap_s):
            writer.add(pipeline.select(clip, pipeline.perceive(clip)))
        writer.finish(config=config.to_dict(), seconds=dict(pipeline.seconds))
    return out


def middle_frames(judged: CocoDataset) -> list[CocoImage]:
    """One judged frame of every sequence."""
    by_sequence: dict[str, list[CocoImage]] = {}
    for image in judged.images:
        by_sequence.setdefault(image.file_name.split("/")[0], []).append(image)
    return [images[len(images) // 2] for images in by_sequence.values()]


def write(
    args: argparse.Namespace,
    config: Config,
    stills: Stills,
    rows: dict[str, list[Result]],
    selected: TrainingMasks,
    shown: Sequence[CocoImage],
) -> None:
    """The table, the numbers behind it, and the figure."""
    path = args.out / "real-video"
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {cores()} cores, {platform.system()}",
        "sequences": [folder.resolve().name for folder in args.sequences],
        "judged_frames": [image.file_name for image in stills.unseen.images],
        "learnt": selected.facts,
        "rows": {
            row: [{k: v for k, v in result.items() if k != "shown"} for result in results]
            for row, results in rows.items()
        },
        "config": config.to_dict(),
        "versions": versions(),
    }
    write_text(path.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    table = tables.markdown(rows, {})
    write_text(path.with_suffix(".md"), table)
    figure = np.vstack([titles(), *(picture(stills.unseen, image, rows) for image in shown)])
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
    cv2.imwrite(str(path.with_suffix(".jpg")), cv2.cvtColor(figure, cv2.COLOR_RGB2BGR), quality)
    print(f"learnt from {selected.facts}\n{table}")


def titles() -> Image:
    """What the columns of the figure show."""
    strip = np.full((_TITLE_HEIGHT, 3 * _TILE[0], 3), 255, np.uint8)
    for column, title in enumerate((f"before, from score {_SHOWN_SCORE}", "after", "labelled")):
        place = (column * _TILE[0] + 8, _TITLE_HEIGHT - 8)
        cv2.putText(strip, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def picture(judged: CocoDataset, image: CocoImage, rows: dict[str, list[Result]]) -> Image:
    """A judged frame three times, before and after learning and as labelled, side by side."""
    pixels = judged.load_image(image)
    drawn = [
        [found["segmentation"] for found in rows[row][0]["shown"]
         if found["image_id"] == image.id and found["score"] >= _SHOWN_SCORE]
        for row in ("before", "ours")
    ]  # fmt: skip
    return np.hstack(
        [
            cv2.resize(draw_masks(pixels, rles), _TILE, interpolation=cv2.INTER_AREA)
            for rles in (*drawn, judged.rles_by_image[image.id])
        ]
    )


if __name__ == "__main__":
    sys.exit(exit_status(run, parse_arguments()))
