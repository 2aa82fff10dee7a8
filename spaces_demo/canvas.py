"""The canvas: a photo to click and draw on, with masks over it. Its scripts (canvas_*.js) own the prompts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from PIL import Image

from sam_variants import Masks
from sam_variants.mask_drawing import distinct_colors
from sam_variants.spaces_demo import limits

HERE = Path(__file__).parent
# In the order in which they are read; they share one scope.
SCRIPTS = ("geometry", "model", "masks", "view", "input", "panel", "main")
NUM_COLORS = 256
MODES = ("prompt", "pick", "view")
NO_PROMPTS: dict[str, Any] = {"photo": None, "version": 0, "selected": None, "objects": []}
# gradio compares all properties of a component with every change, as text.
MAX_TEXT = 900_000
# Longer side of a photo that masks are reduced to, until the text of all of them fits.
SIDES = (2048, 1024, 512, 256)


def canvas(
    label: str, *, elem_id: str, mode: str = "prompt", upload_id: str | None = None, track: bool = False
) -> gr.HTML:
    """A canvas for a photo.

    Its value belongs to the browser: `{"photo", "version", "selected", "objects"}`, in pixels of the original. An event
    handler answers with properties: `gr.HTML(photo=…, masks=…, highlight=…, off=…, prompts=…, busy=…)`; masks whose
    ids are `off` are painted only under the pointer, or where they are highlighted.

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
        max_objects=limits.MAX_VIDEO_OBJECTS if track else limits.MAX_OBJECTS,
        colors=distinct_colors(range(NUM_COLORS)).tolist(),
        photo=None,
        masks={},
        highlight=None,
        off=[],
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
    crops = [cropped(mask) for mask in masks]
    for side in SIDES:
        pictures = [as_png(pixels, min(1, side / max(masks.size))) for pixels, _ in crops]
        if sum(map(len, pictures)) < MAX_TEXT:
            break
    objects = [
        {
            "id": int(number),
            "x": left * width,
            "y": top * height,
            "width": (right - left) * width,
            "height": (bottom - top) * height,
            "area": round(np.count_nonzero(pixels) * width * height),
            "score": score,
            "png": picture,
        }
        for number, score, picture, (pixels, (left, top, right, bottom)) in zip(
            ids, scores, pictures, crops, strict=True
        )
    ]
    return {"photo": photo, "version": version, "objects": objects}


def cropped(mask: Masks) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The bool pixels of a single mask inside its box, and the box (left, top, right, bottom)."""
    pixels = mask.data[0].numpy()
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    if not len(rows):  # a picture needs a pixel
        return pixels[:1, :1], (0, 0, 1, 1)
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    # A copy: a view would keep the pixels around it.
    return pixels[top:bottom, left:right].copy(), (int(left), int(top), int(right), int(bottom))


def as_png(pixels: np.ndarray, scale: float) -> str:
    """Bool pixels, reduced by `scale`, as a PNG of one bit each, transparent outside the mask; base64."""
    if scale < 1:
        sides = [max(1, round(side * scale)) for side in reversed(pixels.shape)]
        pixels = cv2.resize(pixels.astype(np.uint8) * 255, sides, interpolation=cv2.INTER_AREA) > 127
    picture = Image.fromarray(pixels.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    picture.save(file, "PNG", bits=1, transparency=0)
    return base64.b64encode(file.getvalue()).decode()
