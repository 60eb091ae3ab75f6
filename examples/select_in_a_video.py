"""Select the objects in a video, and save its frames with the masks drawn on them.

python examples/select_in_a_video.py my_video.mp4 --out selected
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

import cv2

from gbopt_ros import Pipeline, open_source
from gbopt_ros.io.overlay import draw_masks
from gbopt_ros.structures import GboptError

DEMO = Path(__file__).resolve().parents[1] / "demo"
OUT = Path("example-output/selected")


def main(recording: Path, out: Path, frames: int) -> int:
    """Returns the number of selected masks."""
    source, masks = open_source(recording), 0
    out.mkdir(parents=True, exist_ok=True)
    for selection in Pipeline().run(islice(source, frames)):
        print(selection)
        for selected in selection.frames:
            labels = [f"{confidence:.2f}" for confidence in selected.confidences]
            drawn = draw_masks(selected.frame.image, selected.rles, labels)
            path = out / f"{selected.frame.index:06d}.jpg"
            cv2.imwrite(str(path), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        masks += selection.mask_count
    print(f"{masks} masks, drawn on the images in {out}")
    return masks


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Select the objects in a video.")
    parser.add_argument("recording", type=Path, nargs="?", default=DEMO / "recording")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the images")
    parser.add_argument("--frames", type=int, default=20, help="number of frames to read")
    try:
        main(**vars(parser.parse_args()))
    except (GboptError, OSError) as error:
        sys.exit(f"error: {error}")
