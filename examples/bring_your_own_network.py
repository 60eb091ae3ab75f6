"""Select among the proposals of a network of your own; here it is a threshold on colour.

python examples/bring_your_own_network.py my_video.mp4
"""

import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from gbopt_ros import Pipeline, open_source
from gbopt_ros.masks import boxes_xyxy, encode_all
from gbopt_ros.structures import GboptError, Proposals


class Colourful:
    version = "colourful-1"

    def propose(self, images):
        """`Proposals` for each (H, W, 3) uint8 RGB image: masks and scores, best score first."""
        return [self._proposals(image) for image in images]

    def _proposals(self, image):
        saturation = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]
        _, coloured = cv2.threshold(saturation, 0, 1, cv2.THRESH_OTSU)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(coloured)
        largest = np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:15] + 1
        means = np.array([saturation[labels == i].mean() / 255 for i in largest], np.float32)
        order = np.argsort(-means)
        rles = encode_all(labels == largest[order, None, None])  # of (N, H, W) bool masks
        return Proposals(labels.shape, rles, means[order], boxes_xyxy(rles))


if __name__ == "__main__":
    demo = Path(__file__).resolve().parents[1] / "demo" / "recording"
    recording = sys.argv[1] if len(sys.argv) > 1 else demo
    try:
        frames = islice(open_source(recording), 20)
        for selection in Pipeline(proposal_network=Colourful()).run(frames):
            print(selection.model_version, "selected", selection.mask_count, "masks")
    except GboptError as error:
        sys.exit(f"error: {error}")
