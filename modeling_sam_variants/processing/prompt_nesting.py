"""The depth rule: which image and object each prompt belongs to, whatever form it was given in.

A prompt is a point (x, y), a box (x1, y1, x2, y2), a label or a mask. Depth counts the levels of nesting (axes of an
array) down to the single prompt:

| depth above one prompt | one image                   | several images                            |
| ---------------------- | --------------------------- | ----------------------------------------- |
| 0                      | the prompt of the one object | refused                                   |
| 1 (points, labels)     | points of one object         | images, one point each                    |
| 1 (boxes, masks)       | objects                      | images, one object each                   |
| 2 (points, labels)     | objects, points              | images, points of one object each         |
| 2 (boxes, masks)       | images (one), objects        | images, objects                           |
| 3 (points, labels)     | images (one), objects, points | images, objects, points                  |

So with several images the first level is always the images and every entry follows the rule for one image; with one
image the level of images may be left out. Where both readings are possible they mean the same prompts. Levels may be
lists, tuples, arrays or tensors, of different lengths and depths beside each other; None stands for an image or object
without this prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

MAX_LEVELS = 6


@dataclass(frozen=True)
class PromptKind:
    """What one prompt argument is made of.

    Args:
        name: the argument, for errors.
        prompt: one prompt in words.
        own_depth: levels inside one prompt: 1 for points and boxes, 0 for labels, 2 for masks.
        levels: levels of one image above it: 2 (objects, points) or 1 (objects).
    """

    name: str
    prompt: str
    own_depth: int
    levels: int


POINTS = PromptKind("input_points", "a point (x, y)", own_depth=1, levels=2)
LABELS = PromptKind("input_labels", "a label", own_depth=0, levels=2)
BOXES = PromptKind("input_boxes", "a box (x1, y1, x2, y2)", own_depth=1, levels=1)
MASKS = PromptKind("input_masks", "a mask (height x width)", own_depth=2, levels=1)


@dataclass(frozen=True)
class Entry:
    """A value of the user's and the expression that reaches it, such as `input_points[1][0]`."""

    path: str
    value: Any


def prompts_by_image(kind: PromptKind, value: Any, num_images: int) -> list[Any]:
    """Sort one argument by image and object.

    Args:
        kind: which argument.
        value: what the user gave: any form of the depth rule, not None.
        num_images: number of images of the call.

    Returns:
        One item per image: None, or a list with one item per object: None or, for boxes and masks, an `Entry`; for
        points and labels None or a list of `Entry`, one per point (whose value may be None).

    Raises:
        ValueError: for an empty list, too many levels, or another number of images.
        TypeError: for values that are no lists, arrays or numbers.
    """
    value = _plain(kind, value, kind.name)
    depth = _depth(value, kind.name)
    if depth is None:
        absent_images = len(value) if isinstance(value, list) else num_images
        if num_images > 1 and absent_images != num_images:
            raise ValueError(_image_count_error(kind, absent_images, num_images))
        return [None] * num_images
    above = depth - kind.own_depth
    if above > kind.levels + 1:
        raise ValueError(
            f"{kind.name} has {depth} levels; at most {kind.levels + 1 + kind.own_depth} are possible: "
            f"images, {'objects, points' if kind.levels == 2 else 'objects'}, and {kind.prompt}"
        )
    if num_images == 1 and above <= kind.levels:
        return [_unfold(kind, Entry(kind.name, value), kind.levels)]
    if above < 1:
        raise ValueError(
            f"{kind.name} is one prompt, but {num_images} images were given: wrap one entry per image in a list"
        )
    if len(value) != num_images:
        raise ValueError(_image_count_error(kind, len(value), num_images))
    return [_unfold(kind, Entry(f"{kind.name}[{index}]", item), kind.levels) for index, item in enumerate(value)]


def _image_count_error(kind: PromptKind, num_entries: int, num_images: int) -> str:
    return f"{kind.name} has entries for {num_entries} images, but the number of images is {num_images}"


def _unfold(kind: PromptKind, entry: Entry, levels: int) -> Any:
    """Nested lists of exactly `levels` levels above the single prompts; levels that were left out are added."""
    if levels == 0:
        value = entry.value.item() if isinstance(entry.value, np.generic) else entry.value
        return None if value is None and kind is not POINTS else Entry(entry.path, value)
    depth = _depth(entry.value, entry.path)
    if depth is None and (levels == kind.levels or entry.value is None):
        return None
    if depth is not None and depth - kind.own_depth < levels:
        return [_unfold(kind, entry, levels - 1)]
    return [_unfold(kind, Entry(f"{entry.path}[{index}]", item), levels - 1) for index, item in enumerate(entry.value)]


def _plain(kind: PromptKind, value: Any, path: str, levels_left: int = MAX_LEVELS) -> Any:
    """The same as nested lists of numbers, arrays and None: tensors and Pillow masks become arrays, tuples lists."""
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    elif isinstance(value, Image.Image) and kind is MASKS:
        value = _mask_array(value, path)
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, list | tuple):
        if levels_left == 0:
            raise ValueError(f"{path} is nested too deep")
        return [_plain(kind, item, f"{path}[{index}]", levels_left - 1) for index, item in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"{path} has dtype {value.dtype}; numbers are needed")
        return value.item() if value.ndim == 0 else value
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"{path} is of type {type(value).__name__}; give numbers, lists, arrays or tensors")


def _mask_array(image: Image.Image, path: str) -> np.ndarray:
    try:
        array = np.asarray(image)
    except Exception as error:  # decoders of broken files raise anything
        raise ValueError(f"{path} can't be decoded: {error}") from error
    if array.ndim != 2:
        raise ValueError(f"{path} is an image of mode {image.mode}; a mask has one channel")
    return array


def _depth(value: Any, path: str) -> int | None:
    """Levels of nesting down to single numbers; None when there are none, only None."""
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        if value.size == 0:
            raise ValueError(
                f"{path} is empty (shape {value.shape}); give None for an image or object without a prompt"
            )
        return value.ndim
    if not isinstance(value, list):
        return 0
    if not value:
        raise ValueError(f"{path} is empty; give None for an image or object without a prompt")
    depths = [depth for index, item in enumerate(value) if (depth := _depth(item, f"{path}[{index}]")) is not None]
    return 1 + max(depths) if depths else None
