"""The canvas: a photo to click and draw on, with masks over it. Its scripts (canvas_*.js) own the prompts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from sam_variants import Masks
from sam_variants.mask_drawing import distinct_colors

HERE = Path(__file__).parent
# In the order in which they are read; they share one scope.
SCRIPTS = ("geometry", "model", "masks", "view", "input", "panel", "main")
NUM_COLORS = 256
MODES = ("prompt", "pick", "view")
NO_PROMPTS: dict[str, Any] = {"photo": None, "version": 0, "selected": None, "objects": []}
# Of a mask's longer side in the browser, by how many masks there are at most: gradio compares an answer as text.
MASK_SIDES = {8: 2048, 64: 1024, 10_000: 512}


def canvas(
    label: str, *, elem_id: str, mode: str = "prompt", upload_id: str | None = None, track: bool = False
) -> gr.HTML:
    """A canvas for a photo.

    Its value belongs to the browser: `{"photo", "version", "selected", "objects"}`, in pixels of the original. An event
    handler answers with properties: `gr.HTML(photo=…, masks=…, highlight=…, prompts=…, busy=…)`.

    Args:
        label: what it is, for those who can't see it.
        elem_id: its id in the page.
        mode: "prompt": points, boxes and objects (event `prompt`); "pick": masks to look at and choose (event `pick`,
            data {"id"}); "view": only to look at.
        upload_id: id of what holds the page's upload, which gets what is dropped or pasted here.
        track: for the frames of a video: another frame keeps zoom and selection, and objects with `tracked` have masks
            without prompts.

    Raises:
        ValueError: for another mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is none of {MODES}")
    return gr.HTML(
        value=NO_PROMPTS,  # type: ignore[arg-type]
        label=label,
        html_template="<div></div>",
        css_template=(HERE / "canvas.css").read_text(encoding="utf-8"),
        js_on_load="\n".join((HERE / f"canvas_{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
        apply_default_css=False,
        elem_id=elem_id,
        mode=mode,
        upload_id=upload_id,
        track=track,
        colors=distinct_colors(range(NUM_COLORS)).tolist(),
        photo=None,
        masks={},
        highlight=None,
        prompts=[],
        busy=False,
    )


def mask_props(masks: Masks, ids: Sequence[int], *, photo: str, version: int, size: tuple[int, int]) -> dict[str, Any]:
    """The canvas's property `masks`.

    Args:
        masks: N masks, of the original's size or of a smaller one.
        ids: N numbers of the objects.
        photo: the photo's id.
        version: the value's version that this answers.
        size: (height, width) of the original.
    """
    height, width = (now / then for now, then in zip(size, masks.size, strict=True))
    scores = [None] * len(masks) if masks.scores is None else masks.scores.tolist()
    side = next(side for count, side in MASK_SIDES.items() if len(masks) <= count)
    found = []
    for index, (number, score) in enumerate(zip(ids, scores, strict=True)):
        mask = masks[index]
        pixels, (left, top, right, bottom) = cropped(mask)
        found.append(
            {
                "id": int(number),
                "x": left * width,
                "y": top * height,
                "width": (right - left) * width,
                "height": (bottom - top) * height,
                "area": round(int(mask.areas[0]) * width * height),
                "score": score,
                "png": as_png(pixels, side),
            }
        )
    return {"photo": photo, "version": version, "objects": found}


def cropped(mask: Masks) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The bool pixels of a single mask inside its box, and the box (left, top, right, bottom)."""
    pixels = mask.data[0].numpy()
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    if not len(rows):  # a picture needs a pixel
        return pixels[:1, :1], (0, 0, 1, 1)
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return pixels[top:bottom, left:right], (int(left), int(top), int(right), int(bottom))


def as_png(pixels: np.ndarray, side: int) -> str:
    """Bool pixels as a PNG of one bit each, transparent outside the mask; base64. Larger ones are thinned out."""
    step = -(-max(pixels.shape) // side)
    picture = Image.fromarray(pixels[::step, ::step].astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    picture.save(file, "PNG", bits=1, transparency=0)
    return base64.b64encode(file.getvalue()).decode()
