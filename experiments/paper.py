"""The paper's Tables 1 to 5, on its own data: Unseen-VIS, COCO 2017 and DAVIS 2017.

    python -m experiments.paper --youtube-vis youtube-vis/train --coco coco --davis DAVIS \\
        --weights seed/proposals.safetensors --set background.weights=seed/background.safetensors

Every network learns on top of --weights, without rehearsal, from the labelled frames of Unseen-VIS
alone; in Table 3 from all frames of DAVIS's training videos. The networks "retrained" in Table 5
are trained from the start on COCO and the masks, in the steps of `pretrain.iterations`. All masks
of another method count, as in the paper. A cell whose data or weights are missing says what it
needs. The last column is the paper's number.

Masks, networks and numbers are cached in OUT/cache by their inputs, and a retraining has
checkpoints: a run that is started again goes on where it stopped. Writes OUT/paper.md and
.json after every table, and OUT/paper.svg at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
from torch.utils.data import ConcatDataset
from tqdm import tqdm

from experiments import methods
from experiments.cache import cache_of, digest_of_weights
from experiments.command_line import config_of, make_parser, run_facts, start
from experiments.methods_table import linked_scores
from experiments.paper_data import (
    COCO,
    RVOS,
    TABLES,
    UNSEEN,
    Cell,
    CellError,
    PaperData,
    Row,
    Stills,
    Table,
)
from experiments.recordings import Recording, networks_of
from experiments.training_masks import MaskMaker, TrainingMasks
from gbopt_ros.config import Config, FlowConfig
from gbopt_ros.config.background import BUNDLED
from gbopt_ros.config.load import bundled_profile
from gbopt_ros.evaluation.davis_metrics import summarise
from gbopt_ros.evaluation.evaluate import evaluate_network, evaluation_config
from gbopt_ros.io.datasets.coco import CocoDataset
from gbopt_ros.io.files import replacing, write_text
from gbopt_ros.learning.data.datasets import CocoInstances
from gbopt_ros.learning.training.fine_tuning import fine_tune
from gbopt_ros.learning.training.pretraining import pretrain_proposals
from gbopt_ros.models.catalogue import CATALOGUE, published
from gbopt_ros.models.detection import load_mask_rcnn
from gbopt_ros.models.device import resolve_device
from gbopt_ros.models.weights import PROPOSALS, WeightsInfo, save_weights
from gbopt_ros.perception.load import proposal_weights, read_proposals

matplotlib.use("Agg")
from matplotlib import pyplot

_SETTING = ("learning.rehearsal_share=0", "flow.weights=raft_large_things")
_QUICK = (
    "clip.length=4", "learning.iterations=1", "learning.batch_size=2", "pretrain.iterations=1",
    "pretrain.batch_size=2", "pretrain.num_workers=0", "flow.backend=dis",
)  # fmt: skip
_NO_FLOW = (
    "ioa", "twb", "distillation", "zs-uvc", "os-uvc", "gt", "truth", "L_I", "constraint", RVOS,
)  # fmt: skip


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    profile = bundled_profile("paper")
    parser = make_parser(__doc__, "benchmark-output/paper", config=profile)
    parser.add_argument("--youtube-vis", type=Path, metavar="DIR", help="YouTube-VIS 2019, train")
    parser.add_argument("--all-frames", type=Path, metavar="DIR", help="its train_all_frames")
    parser.add_argument("--coco", type=Path, metavar="DIR", help="COCO 2017, as released")
    parser.add_argument("--davis", type=Path, metavar="DIR", help="DAVIS 2017, unsupervised")
    parser.add_argument("--weights", metavar="W", help="network trained on COCO (the bundled one)")
    parser.add_argument("--rvos", metavar="file:PATH", help="masks of RVOS, methods/mask_file.py")
    parser.add_argument("--tables", type=int, nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--quick", action="store_true", help="a smoke test on a few videos")
    args = parser.parse_args(arguments)
    if args.rvos and not args.rvos.startswith(methods.FILE):
        parser.error(f"--rvos: expected {methods.FILE}PATH, got {args.rvos}")
    weights = [f"proposal.weights={args.weights}"] if args.weights else []
    args.set = [*_SETTING, *(_QUICK if args.quick else ()), *weights, *args.set]
    return args


class Benchmark:
    """Makes the numbers of rows; masks, networks and numbers are made once."""

    def __init__(self, args: argparse.Namespace, config: Config, data: PaperData) -> None:
        self._config, self._data, self._cache = config, data, cache_of(args.out)
        self._rvos: str | None = args.rvos

    def on_stills(self, row: Row, stills: Callable[[], Stills]) -> dict[str, float]:
        """COCO metrics of the network of a row. Raises CellError if something is missing."""
        judged = stills()
        path = self._network(row, lambda: self._data.unseen_train)
        section = evaluation_config(self._config).proposal
        inputs = {
            "network": digest_of_weights(path),
            "stills": judged.digest,
            "evaluation": asdict(section) | {"weights": ""},
        }

        def make() -> dict[str, float]:
            network = read_proposals(path, section, resolve_device(self._config.device))
            return evaluate_network(network, judged.dataset)[0].to_dict()

        measured: dict[str, float] = self._cache.get_or_make("metrics", inputs, make)
        return measured

    def on_davis(self, row: Row) -> dict[str, float]:
        """J and F of UnOVOST on the network of a row. Raises CellError if something is missing."""
        videos = self._data.davis_val
        path = self._network(row, lambda: self._data.davis_train)
        proposal = replace(self._config.proposal, weights=str(path))
        config = self._ready("unovost", replace(self._config, proposal=proposal))
        networks = networks_of(config)
        inputs = [[video.digest for video in videos], networks, config.tracks]

        def make() -> dict[str, float]:
            maker = MaskMaker(videos, None, CocoDataset((), {}), config, self._cache)
            masks, _ = maker.scored("unovost", videos)
            scores = [
                score
                for video in videos
                for score in linked_scores(
                    video.sequence.labels(),
                    [masks[video.name, index] for index in video.sequence.frame_indices],
                    video.name,
                    config.tracks,
                )
            ]
            return asdict(summarise(scores))

        measured: dict[str, float] = self._cache.get_or_make("davis", inputs, make)
        return measured

    def _network(self, row: Row, videos: Callable[[], Sequence[Recording]]) -> Path:
        """The weights of a row's network, after learning the masks of these videos."""
        _require(self._config.proposal.weights)
        if row.method == "before":
            return proposal_weights(self._config)
        rehearses = row.retrain or self._config.learning.rehearsal_share > 0
        coco = self._data.coco_train if rehearses else None
        masks = self._masks(row.method, videos())
        if not masks.quality or not masks.quality["masks"]:
            raise CellError("found no mask to learn")
        inputs = {
            "masks": masks.digest,
            "coco": coco.digest if coco else "",
            "parent": "" if row.retrain else digest_of_weights(proposal_weights(self._config)),
            "settings": self._config.pretrain if row.retrain else self._config.learning,
        }
        path = self._cache.path("network", inputs, ".safetensors")
        if not path.exists():
            train = self._retrained if row.retrain else self._fine_tuned
            save_weights(path, *train(masks, coco.dataset if coco else None, path))
            path.with_suffix(".checkpoint").unlink(missing_ok=True)
        return path

    def _fine_tuned(self, masks: TrainingMasks, coco: CocoDataset | None, _: Path) -> Any:
        parent, info = load_mask_rcnn(proposal_weights(self._config))
        data = masks.dataset(self._config), CocoInstances(coco) if coco else None
        device = resolve_device(self._config.device)
        return fine_tune(parent, *data, self._config.learning, device)[0], info

    def _retrained(self, masks: TrainingMasks, coco: CocoDataset | None, path: Path) -> Any:
        assert coco is not None
        mixture: Any = ConcatDataset([CocoInstances(coco), masks.dataset(self._config)])  # type: ignore[list-item]
        config, device = self._config.pretrain, resolve_device(self._config.device)
        network, _ = pretrain_proposals(mixture, config, device, path.with_suffix(".checkpoint"))
        return network, WeightsInfo(PROPOSALS, config.proposal_architecture, path.stem)

    def _masks(self, method: str, videos: Sequence[Recording]) -> TrainingMasks:
        """What a method learns, made once."""
        config = self._ready(method, self._config)
        if method == RVOS:
            if self._rvos is None:
                raise CellError("needs masks of RVOS: file:PATH")
            method = self._rvos
        coco = self._data.coco_train if method == "distillation" else None
        made = methods.make_method(method) if method.startswith(methods.FILE) else None
        inputs = {
            "method": [method, getattr(made, "digest", ""), coco.digest if coco else ""],
            "videos": [video.digest for video in videos],
            "networks": networks_of(config),
            "settings": [config.motion, config.selection, config.outline, config.learning],
        }

        def make() -> dict[str, Any]:
            rehearsal = coco.dataset if coco else CocoDataset((), {})
            masks = MaskMaker(videos, None, rehearsal, config, self._cache).masks_of(method)
            assert masks.folder is not None
            return asdict(masks) | {"folder": masks.folder.name}

        known = self._cache.get_or_make("training-masks", inputs, make)
        return TrainingMasks(**known | {"folder": self._cache.folder / known["folder"]})

    def _ready(self, method: str, config: Config) -> Config:
        """The configuration that a method gets, once all of its weights are there."""
        for name in config.background.networks:
            _require("" if name == BUNDLED else name)
        if method in _NO_FLOW or config.flow.backend == "dis":
            return replace(config, flow=FlowConfig(backend="dis"))  # weights are not looked at
        _require(config.flow.weights)
        return config


def _require(weights: str) -> None:
    """Raises CellError if there is no such file, and no weights were pulled by this name."""
    path = Path(weights)
    if weights in CATALOGUE and not path.exists():
        path = published(weights).path
    if weights and not path.is_file():
        raise CellError(f"needs {weights}")


def cells_of(benchmark: Benchmark, data: PaperData, table: Table, row: Row) -> dict[str, Cell]:
    """The cells of a row by their columns."""
    makers: dict[str, Callable[[], dict[str, float]]] = {
        UNSEEN: lambda: benchmark.on_stills(row, lambda: data.unseen_test),
        COCO: lambda: benchmark.on_stills(row, lambda: data.coco_val),
        "": lambda: benchmark.on_davis(row),
    }
    cells: dict[str, Cell] = {}
    for on, names in table.metrics.items():
        try:
            measured: Mapping[str, Cell] = makers[on]()
        except CellError as error:
            measured = dict.fromkeys(names, str(error))
        cells |= {f"{on} {name}".strip(): measured.get(name) for name in names}
    return cells


def run(args: argparse.Namespace) -> None:
    """Make the tables, and write them after each."""
    config = config_of(args)
    data = PaperData(args.youtube_vis, args.all_frames, args.coco, args.davis, args.out, args.quick)
    benchmark = Benchmark(args, config, data)
    found: dict[int, list[dict[str, Any]]] = {number: [] for number in args.tables}
    rows = [(number, row) for number in found for row in TABLES[number].rows]
    for number, row in tqdm(rows, "rows", unit="row", dynamic_ncols=True):
        table = TABLES[number]
        cells = cells_of(benchmark, data, table, row)
        marks = dict(zip(table.marks, row.marks, strict=True))
        found[number].append({"label": row.title, **marks, "cells": cells, "paper": row.paper})
        if row is table.rows[-1]:
            write(args.out / "paper", run_facts(config), found)
    figure(found, args.out / "paper.svg")
    print((args.out / "paper.md").read_text(encoding="utf-8"))


def write(
    path: Path, facts: Mapping[str, Any], found: Mapping[int, Sequence[Mapping[str, Any]]]
) -> None:
    """The tables so far as Markdown and JSON; `path` has no suffix."""
    tables = {number: {"title": TABLES[number].title, "rows": found[number]} for number in found}
    text = json.dumps({**facts, "tables": tables}, indent=2, ensure_ascii=False)
    write_text(path.with_suffix(".json"), text + "\n")
    write_text(path.with_suffix(".md"), "\n".join(TABLES[n].markdown(n, found[n]) for n in found))


def figure(found: Mapping[int, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """The first metric of every row as a bar, and the paper's number as a dot."""
    heights = [0.6 + 0.3 * len(rows) for rows in found.values()]
    chart, axes = pyplot.subplots(
        len(found), 1, figsize=(7, 0.5 + sum(heights)), squeeze=False,
        height_ratios=heights, layout="constrained",
    )  # fmt: skip
    for axis, (number, rows) in zip(axes[:, 0], found.items(), strict=True):
        table = TABLES[number]
        for place, row in enumerate(reversed(rows)):
            value = row["cells"][table.columns[0]]
            if isinstance(value, float):
                axis.barh(place, value, height=0.6, color="tab:blue", alpha=0.4)
            axis.plot(row["paper"], place, "o", color="0.2", markersize=4)
        names = [" ".join([row["label"], *(row[m] for m in table.marks)]) for row in rows[::-1]]
        axis.set_yticks(range(len(rows)), names)
        axis.set_title(f"Table {number}: {table.columns[0]} (dot: the paper)", fontsize=10)
        axis.set_xlim(left=0)
    with replacing(path) as aside:
        chart.savefig(aside)
    pyplot.close(chart)


if __name__ == "__main__":
    sys.exit(start(run, parse_arguments()))
