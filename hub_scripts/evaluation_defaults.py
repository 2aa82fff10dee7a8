"""What evaluations are made on where nothing else is said; apart, so that `--help` tells it without PyTorch."""

from __future__ import annotations

NUM_SCENES = 100
SCENE_SIZE = 256
"""Side of a held-out scene in pixels."""
FIRST_SEED = 1_000_000
MAX_OBJECTS = 8
MIN_AREA = 0.002
HELD_OUT_SEEDS = 1_000_000_000
"""Seeds of clips from here on are for evaluations; `clip_stream` draws only from below."""
# The built-in sets of images.
HELD_OUT, COINS, PHOTO_OBJECTS, CELL = BUILT_IN = ("held_out", "coins", "photo_objects", "cell")
