"""The code in a model card, and what it needs to run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCard
from PIL import Image

from sam_variants.processing.video_writer import VideoWriter

WIDTH, HEIGHT = 400, 300


def python_blocks(card: ModelCard) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card.text, re.MULTILINE | re.DOTALL)


def write_material(folder: Path) -> None:
    """The photo and the video that the examples open."""
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    with VideoWriter(folder / "video.mp4", 10) as writer:
        for step in range(3):
            writer.write(np.roll(pixels, 8 * step, axis=1))


def run(code: str) -> dict[str, Any]:
    """Run an example; what it left in its variables."""
    variables: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), variables)
    return variables
