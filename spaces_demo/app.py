"""The Space: click on a thing in a photo to get its mask, or find everything in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

import sam_variants

MAX_MEGAPIXELS = 100
MAX_SIDE = 2048
MAX_CLICKS = 50
MAX_WAITING = 30
LIMITS: dict[str, Any] = {"max_file_size": "20mb", "state_session_capacity": 50}
SESSION_SECONDS = 3600
INCLUDE, EXCLUDE = "include", "exclude"
# Best first by the score that the model gives them; "automatic" is what the package's pipelines answer.
AUTOMATIC, *CANDIDATES = "automatic", "1st", "2nd", "3rd"
DOT_COLOURS = {1: (40, 200, 90), 0: (230, 60, 60)}
NO_IMAGE = f"Upload an image, or take the example below. Larger ones are reduced to {MAX_SIDE} pixels."
UNREADABLE = f"This can't be read: take a JPEG, PNG or WebP file of at most {MAX_MEGAPIXELS} megapixels."
EXAMPLES = Path(__file__).parent / "examples"
INTRODUCTION = """# Segment Anything, small
Click on something. Click again to add to it, or switch to *exclude* to take away from it. It runs on a processor alone,
with the small checkpoint that is part of `sam-variants`: it follows edges and surfaces, and knows no things."""


def load_pipeline() -> sam_variants.SamVariantsMaskGenerationPipeline:
    """The embedded checkpoint, which needs no network, ready for inference."""
    model: Any = sam_variants.load_checkpoint(sam_variants.default_checkpoint())
    return sam_variants.SamVariantsMaskGenerationPipeline(
        model=model.fuse(), processor=sam_variants.processor_for(model), device="cpu"
    )


GENERATOR = load_pipeline()


@dataclass
class Photo:
    """What one visitor works on: an image, encoded once, and the clicks on it."""

    image: Image.Image
    embeddings: Any
    points: list[tuple[int, int]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    candidate: str = AUTOMATIC


def explained(preprocess: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An image input's way to read an upload, with advice; of a subclass gradio would write a stub beside this file."""

    def checked(payload: Any) -> Any:
        try:
            return preprocess(payload)
        except (OSError, Image.DecompressionBombError) as error:
            raise gr.Error(UNREADABLE) from error

    return checked


def read_image(path: str) -> Image.Image:
    """An image file as RGB, upright and not too large to be answered in a second.

    Raises:
        gr.Error: for what is no image, or one with too many pixels.
    """
    try:
        with Image.open(path) as opened:
            megapixels = opened.width * opened.height / 1e6
            if megapixels > MAX_MEGAPIXELS:  # before a pixel of it is decoded
                raise gr.Error(f"This image has {megapixels:.0f} megapixels; at most {MAX_MEGAPIXELS} are taken.")
            image = ImageOps.exif_transpose(opened)
        # Transparent parts become white and 16 bits 8, which Pillow's own conversion gets wrong.
        image = sam_variants.Masks(np.zeros((0, image.height, image.width), dtype=bool)).overlay(image)
    except gr.Error:
        raise
    except Exception as error:  # decoders of broken files raise anything
        raise gr.Error(UNREADABLE) from error
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return image


@torch.inference_mode()
def open_photo(path: str) -> Photo:
    """Read and encode an image file; raises gr.Error as `read_image`."""
    image = read_image(path)
    inputs = GENERATOR.processor(images=image, return_tensors="pt")
    return Photo(image, GENERATOR.model.get_image_embeddings(inputs["pixel_values"]))


@torch.inference_mode()
def segment(photo: Photo) -> sam_variants.Masks:
    """The mask of the clicked thing: the chosen one of the model's three candidates.

    The automatic choice is the best of them for a single click, and else the model's single answer.
    """
    is_automatic = photo.candidate == AUTOMATIC
    prompts = {"input_points": [photo.points], "input_labels": [photo.labels]}
    size = (photo.image.height, photo.image.width)
    inputs = GENERATOR.processor(original_sizes=[size], return_tensors="pt", **prompts)
    outputs = GENERATOR.model(
        image_embeddings=photo.embeddings,
        input_points=inputs["input_points"],
        input_labels=inputs["input_labels"],
        multimask_output=not is_automatic or len(photo.points) == 1,
    )
    order = outputs.iou_scores[0, 0].argsort(descending=True)
    chosen = order[0 if is_automatic else CANDIDATES.index(photo.candidate)]
    logits = outputs.pred_masks[:, :, chosen, None]
    pixels = GENERATOR.processor.post_process_masks(logits, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    return sam_variants.Masks(pixels[0][:, 0], scores=outputs.iou_scores[0, 0, chosen, None])


def start(path: str | None) -> tuple[Any, ...]:
    """A new image: forget the old one, and let the model choose again."""
    if path is None:
        return None, None, None, NO_IMAGE, AUTOMATIC
    photo = open_photo(path)
    return photo, photo.image, None, f"{photo.image.width}×{photo.image.height} pixels. Click on something.", AUTOMATIC


def click(photo: Photo | None, kind: str, event: gr.SelectData) -> tuple[Any, ...]:
    """One more click; the event's index is x, y in pixels of the image."""
    photo = needed(photo)
    if len(photo.points) >= MAX_CLICKS:
        raise gr.Error(f"{MAX_CLICKS} clicks are enough: undo some, or clear them.")
    x, y = (int(place) for place in event.index)
    if not (0 <= x < photo.image.width and 0 <= y < photo.image.height):
        raise gr.Error(f"The click at {x}, {y} is outside the image.")
    photo.points.append((x, y))
    photo.labels.append(int(kind == INCLUDE))
    return answer(photo)


def choose(photo: Photo | None, candidate: str) -> tuple[Any, ...]:
    """Show another of the model's candidates."""
    photo = needed(photo)
    photo.candidate = candidate
    return answer(photo)


def undo(photo: Photo | None) -> tuple[Any, ...]:
    """Take the last click back."""
    photo = needed(photo)
    if photo.points:
        photo.points.pop()
        photo.labels.pop()
    return answer(photo)


def clear(photo: Photo | None) -> tuple[Any, ...]:
    """Take all clicks back."""
    photo = needed(photo)
    photo.points.clear()
    photo.labels.clear()
    return answer(photo)


def find_everything(photo: Photo | None) -> tuple[Any, ...]:
    """All masks in the image; the clicks stay for later."""
    photo = needed(photo)
    masks = GENERATOR(photo.image, preset="fast")
    if not len(masks):
        return photo, photo.image, None, "Nothing was found that the model is sure of."
    return photo, masks.overlay(photo.image), masks.cutout(photo.image), f"{len(masks)} masks."


def answer(photo: Photo) -> tuple[Any, ...]:
    """What the page shows for the clicks: state, picture, cut-out and one line."""
    if not photo.points:
        return photo, photo.image, None, "Click on something."
    if 1 not in photo.labels:
        return photo, with_dots(photo.image, photo), None, "Click on the thing itself too, with include."
    masks = segment(photo)
    line = f"{int(masks.areas[0]):,} pixels; the model expects an IoU of {masks.scores.item():.2f}."
    return photo, with_dots(masks.overlay(photo.image), photo), masks.cutout(photo.image), line


def with_dots(picture: Image.Image, photo: Photo) -> Image.Image:
    """A copy of a picture with the clicks: green includes, red excludes."""
    picture = picture.copy()
    draw, radius = ImageDraw.Draw(picture), max(3, min(picture.size) // 100)
    for (x, y), label in zip(photo.points, photo.labels, strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=DOT_COLOURS[label], outline="white", width=max(1, radius // 3))
    return picture


def needed(photo: Photo | None) -> Photo:
    if photo is None:
        raise gr.Error("There is no image yet: upload one, or take the example.")
    return photo


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="Segment Anything, small", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        photo = gr.State(None, time_to_live=SESSION_SECONDS)
        with gr.Row():
            with gr.Column(scale=3):
                canvas = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Image", height=480
                )
                with gr.Row():
                    kind = gr.Radio([INCLUDE, EXCLUDE], value=INCLUDE, label="A click means")
                    candidate = gr.Radio([AUTOMATIC, *CANDIDATES], value=AUTOMATIC, label="Candidate")
                with gr.Row():
                    undo_button = gr.Button("Undo")
                    clear_button = gr.Button("Clear")
                    everything_button = gr.Button("Everything", variant="primary")
                line = gr.Markdown(NO_IMAGE)
            with gr.Column(scale=2):
                cutout = gr.Image(label="Cut-out", format="png", interactive=False, height=480)
        canvas.preprocess = explained(canvas.preprocess)  # type: ignore[method-assign, assignment]
        outputs = [photo, canvas, cutout, line]
        # One at a time, also of different kinds: they share the processor, and those of a visitor the photo.
        events: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
        canvas.upload(start, [canvas], [*outputs, candidate], **events)
        canvas.clear(lambda: start(None), None, [*outputs, candidate], **events)
        # By default, clicks that come while one is answered are lost.
        canvas.select(click, [photo, kind], outputs, show_progress="minimal", trigger_mode="multiple", **events)
        candidate.input(choose, [photo, candidate], outputs, **events)
        for button, action in ((undo_button, undo), (clear_button, clear), (everything_button, find_everything)):
            button.click(action, [photo], outputs, **events)
        gr.Examples(
            [[str(path)] for path in sorted(EXAMPLES.glob("*.jpg"))],
            inputs=[canvas],
            outputs=[*outputs, candidate],
            fn=start,
            run_on_click=True,
            cache_examples=False,
            api_visibility="private",
        )
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


if __name__ == "__main__":
    build().launch(theme=gr.themes.Soft(), **LIMITS)
