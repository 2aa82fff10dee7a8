"""The parts of `sam-variants segment`: reads an image, loads a pipeline, writes what is known about the masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam_variants.coco_files import coco_image, write_coco
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.image_sources import file_name
from sam_variants.hub_scripts.model_options import load_model
from sam_variants.pipeline_base import pipeline_for
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.processing.image_loading import URL_PREFIXES, rgb_array
from sam_variants.results import Masks


def read_image(source: str) -> np.ndarray:
    """An image file or URL as H×W×3 uint8, upright.

    Raises:
        ValueError: when there is no such file or it is no readable image.
    """
    if not source.startswith(URL_PREFIXES):
        if Path(source).is_dir():
            raise ValueError(f"{source!r} is a folder; give one image file")
        if not Path(source).is_file():
            raise ValueError(f"there is no image file {source!r}")
    try:
        return rgb_array(source)
    except ValueError as error:
        raise ValueError(str(error) if source in str(error) else f"{source!r}: {error}") from error


def load_pipeline(source: str | None, device: str | None, image_size: int | None) -> PromptableSegmentationPipeline:
    """The pipeline for a checkpoint of any layout.

    Args:
        source: what `load_checkpoint` takes; None is the embedded checkpoint.
        device: name of a torch device, or None for the best there is.
        image_size: side of the model's input in pixels, or None for its own.

    Raises:
        ValueError, OSError: for a checkpoint, size or device that can't be used.
    """
    model, processor = load_model(str(default_checkpoint()) if source is None else source, image_size)
    return pipeline_for(PromptableSegmentationPipeline, model, processor, device)


def write_results(masks: Masks, pixels: np.ndarray, out: Path, source: str) -> dict[str, Any]:
    """Write everything that is known about the masks.

    Args:
        masks: of the image.
        pixels: H×W×3 uint8.
        out: an existing folder.
        source: the image's path or URL, whose stem names the files.

    Returns:
        Path of each file: `overlay`, `label_map`, `cutout`, `coco`, and the list `masks`.

    Raises:
        OSError: when a file can't be written.
    """
    name = file_name(source)
    stem = Path(name).stem or "image"
    files: dict[str, Any] = {key: str(out / f"{stem}_{key}.png") for key in ("overlay", "label_map", "cutout")}
    files |= {"coco": str(out / f"{stem}.coco.json"), "masks": []}
    masks.overlay(pixels).save(files["overlay"])
    masks.save_png(files["label_map"])
    masks.cutout(pixels).save(files["cutout"])
    for number, mask in enumerate(masks.data.numpy(), start=1):
        files["masks"].append(str(out / f"{stem}_mask_{number}.png"))
        Image.fromarray(mask.astype(np.uint8) * 255).save(files["masks"][-1])
    write_coco(Path(files["coco"]), coco_image(1, name, masks), masks.to_coco(image_id=1))
    return files


def describe(masks: Masks, files: dict[str, Any]) -> dict[str, Any]:
    """`masks` with score, area, box (xyxy) and file of each, and `files` for the rest; ready for JSON."""
    columns = zip(masks.scores.tolist(), masks.areas.tolist(), masks.boxes.tolist(), files["masks"], strict=True)
    keys = ("score", "area", "box", "file")
    return {
        "masks": [dict(zip(keys, values, strict=True)) for values in columns],
        "files": {name: path for name, path in files.items() if name != "masks"},
    }
