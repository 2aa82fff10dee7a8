"""Video frames and the prompts on them as tensors: through the image processor, but resized as for video."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam_variants.processing.image_fitting import SQUARE, height_width
from sam_variants.processing.image_loading import rgb_array
from sam_variants.processing.mask_prompts import mask_on_input
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor, image_geometries


class PreparedFrame(NamedTuple):
    """A frame as the model takes it, 1×3×H×W float32, and its size (height, width) before."""

    pixel_values: Tensor
    size: tuple[int, int]


def prepare_frame(processor: SamVariantsProcessor, frame: Any) -> PreparedFrame:
    """Fit one frame into the model's input.

    Where the aspect is not kept (SAM 2), 8-bit pixels are resized with Pillow's bicubic filter: that is what SAM 2
    does with video, other than with images.

    Args:
        processor: of the model.
        frame: anything that the image processor takes; a `PreparedFrame` stays as it is.

    Raises:
        ValueError, TypeError: for what is no image.
    """
    if isinstance(frame, PreparedFrame):
        return frame
    image = rgb_array(frame)
    settings = {}
    image_processor = processor.image_processor
    size = (image.shape[0], image.shape[1])
    if image_processor.resize_mode == SQUARE and image_processor.do_resize:
        height, width = height_width(image_processor.size)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        settings["do_resize"] = False
    batch = image_processor(image, input_data_format="channels_last", return_tensors="pt", **settings)
    return PreparedFrame(batch["pixel_values"], size)


def prepare_prompts(
    processor: SamVariantsProcessor, size: tuple[int, int], points: Any = None, labels: Any = None, boxes: Any = None
) -> dict[str, Tensor]:
    """Prompts of one object in pixels of a frame as tensors in pixels of the model's input.

    Args:
        processor: of the model.
        size: (height, width) of the frame.
        points: (x, y), or a list of them.
        labels: one per point, 1 (the default) on the object, 0 off it.
        boxes: (x1, y1, x2, y2).

    Returns:
        Of those given `points` 1×K×2, `labels` 1×K, `boxes` 1×4.

    Raises:
        ValueError, TypeError: naming the prompt and what is allowed.
    """
    batch = processor(
        original_sizes=[size], input_points=points, input_labels=labels, input_boxes=boxes, return_tensors="pt"
    )
    names = {"input_points": "points", "input_labels": "labels", "input_boxes": "boxes"}
    given = {short: batch[name] for name, short in names.items() if name in batch}
    for name, value in given.items():
        if value.shape[1] != 1:
            raise ValueError(f"{name} is for {value.shape[1]} objects; add_object takes the prompts of one")
    return {name: value[0] for name, value in given.items()}


def prepare_mask(processor: SamVariantsProcessor, size: tuple[int, int], mask: Any) -> Tensor:
    """A mask prompt H×W (bool, or numbers that are 0 outside) as 1×H'×W' bool over the model's input.

    Raises:
        ValueError: for another size than the frame's.
    """
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.shape != size:
        raise ValueError(f"mask has shape {array.shape}, expected the frame's {size} (height, width)")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("mask holds NaN or infinite values; give a bool mask")
    reshaped = [processor.image_processor.reshaped_size(*size)]
    geometry = image_geometries(np.array([size]), np.array(reshaped), processor.image_processor)[0]
    return mask_on_input(torch.from_numpy(array != 0), geometry)[None]
