"""How much a file or a message may ask for, before any of it is made."""

from __future__ import annotations

MAX_PIXELS = 64_000_000
"""Pixels of one image; the default of `clip.max_pixels`."""

MAX_ELONGATION = 64
"""The longer side of an image, in shorter ones: networks enlarge the shorter side."""

IMAGES_OF_CLIP = 8
"""The frames of a clip have at most this many times the pixels of the largest image."""

MAX_CHUNK_BYTES = 1 << 30
"""Bytes of a chunk of an MCAP file, or of a message, when it is no longer compressed."""

FREE_BYTES = 1 << 30
"""Bytes that unpacking the files of a bag leaves free on the disk."""

MAX_JSON_BYTES = 1 << 30
"""Bytes of a JSON file; in memory it takes up to 20 times as many."""

MAX_CONFIG_VALUES = 10_000
"""Values in a YAML configuration, with each alias counted as what it stands for."""
