"""Learn the objects in a recording: select their masks, fine-tune on them, publish a version.

python examples/learn_from_a_bag.py my_bag --store my-store --frames 300 --steps 90
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

from gbopt_ros import Pipeline, Store, load_config, open_source
from gbopt_ros.structures import GboptError

DEMO = Path(__file__).resolve().parents[1] / "demo"


def main(recording: Path, store: Path, frames: int, steps: int) -> bool:
    """Returns whether a new version was published."""
    config, learner = load_config(overrides=[f"learning.iterations={steps}"]), Store(store)
    selections = Pipeline(config).run(islice(open_source(recording), frames))
    learner.add_selections(selections, recording.name)
    # Labelled images that the network knows: it rehearses some, and must not forget the others.
    learnt = learner.learn(config, rehearsal=DEMO / "rehearsal", validation=DEMO / "validation")
    print(learnt.decision.reason)
    print("published:", learnt.version.path if learnt.version else "nothing")
    return learnt.version is not None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn the objects in a recording.")
    parser.add_argument("recording", type=Path, nargs="?", default=DEMO / "recording")
    parser.add_argument(
        "--store", type=Path, default=Path("example-output/store"), help="folder of versions"
    )
    parser.add_argument("--frames", type=int, default=40, help="number of frames to read")
    parser.add_argument("--steps", type=int, default=20, help="number of optimiser steps")
    try:
        main(**vars(parser.parse_args()))
    except GboptError as error:
        sys.exit(f"error: {error}")
