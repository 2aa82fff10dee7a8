"""What the pipeline is asked: images with prompts in any form, one request per image, joined into padded batches."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sam_variants.processing.mask_prompts import CERTAIN_LOGIT, ImageGeometry
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.prompts import PADDING, prompt_arrays

ALONE = "the image"
IMAGE_SIZES = ("original_sizes", "reshaped_input_sizes")
PADDING_VALUES: dict[str, float] = {
    "input_points": PADDING,
    "input_labels": PADDING,
    "input_boxes": PADDING,
    "input_masks": float("nan"),
}
EXAMPLE_CALL = "pipe(image, points=[[320, 240]]) or pipe(image, boxes=[172, 18, 410, 308])"
EXAMPLE_ITEM = '{"image": image, "points": [[320, 240]]}'


ReadItem = Callable[[Any, str], "Request"]


@dataclass(frozen=True)
class Request:
    """One image and the prompts for it, as the user gave them.

    Args:
        image: anything the image processor takes.
        points, labels, boxes, masks: prompts in original-image pixels, in any form the processor takes.
        name: what error messages call the image.
    """

    image: Any
    points: Any = None
    labels: Any = None
    boxes: Any = None
    masks: Any = None
    name: str = ALONE


PROMPTS = tuple(field.name for field in fields(Request) if field.name not in ("image", "name"))


class RequestDataset(Dataset):
    """The items of any sized dataset as requests.

    Args:
        items: has a length and numbered items: images, or dicts of an image and its prompts.
        read_item: makes a request of an item and the name that errors give it.
    """

    def __init__(self, items: Any, read_item: ReadItem) -> None:
        self.items, self.read_item = items, read_item

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Request:
        return self.read_item(self.items[index], f"item {index}")


def item_with_prompts(item: Any, name: str) -> Request:
    """A request of an image, or of a dict of an image and its prompts.

    Raises:
        ValueError: for other keys.
    """
    if not isinstance(item, Mapping):
        return Request(item, name=name)
    if "image" not in item or not set(item) <= {"image", *PROMPTS}:
        raise ValueError(f"{name} has the keys {list(item)}; it needs 'image' and takes {', '.join(PROMPTS)}")
    return Request(**item, name=name)


def item_with_image(item: Any, name: str) -> Request:
    """A request of an image, or of a dict (a dataset's row) with an image; what else it holds is not looked at.

    Raises:
        ValueError: for a dict without an image.
    """
    if isinstance(item, Mapping) and "image" not in item:
        raise ValueError(f"{name} has the keys {list(item)}; the image must be under 'image'")
    return Request(item["image"] if isinstance(item, Mapping) else item, name=name)


def read_requests(
    images: Any, prompts: Mapping[str, Any], read_item: ReadItem = item_with_prompts
) -> Request | list[Request] | RequestDataset | Iterator[Request]:
    """Find out what was given: one image, a list, a dataset or a stream.

    Args:
        images: an image, a dict of an image and its prompts, a list of either, a batch of arrays, a dataset with
            numbered items or an iterable. The items of the last two carry their own prompts.
        prompts: value by name in `PROMPTS`; for a list of several images the first level is the images.
        read_item: makes a request of a dict, and of an item of a dataset or iterable; gets the name for errors too.

    Returns:
        One request, a list, a dataset, or a generator that reads the iterable as it goes.

    Raises:
        ValueError: for an empty list, prompts for another number of images, or prompts beside items that carry theirs.
        TypeError: for what is no image.
    """
    is_array = isinstance(images, np.ndarray | Tensor)
    if is_array and images.ndim == 4:
        images = list(images)
    elif is_array or isinstance(images, str | PathLike | Image.Image):
        return Request(images, **prompts)
    if isinstance(images, list | tuple) and not any(isinstance(image, Mapping) for image in images):
        return _from_images(images, prompts)
    is_no_list = isinstance(images, bytes | bytearray | io.IOBase)  # bytes and lines are no images
    if is_no_list or not (isinstance(images, Iterable) or hasattr(images, "__getitem__")):
        raise TypeError(
            f"image is of type {type(images).__name__}; give a PIL image, an array, a path, a URL, a list of these, or "
            'a dataset or generator of these or of dicts such as {"image": image}'
        )
    if given := [name for name, value in prompts.items() if value is not None]:
        raise ValueError(f"{' and '.join(given)} can't go beside items that carry their own prompts: {EXAMPLE_ITEM}")
    if isinstance(images, Mapping):
        return read_item(images, ALONE)
    if isinstance(images, list | tuple):
        return [read_item(item, f"images[{index}]") for index, item in enumerate(images)]
    if hasattr(images, "__getitem__") and hasattr(images, "__len__") and not isinstance(images, IterableDataset):
        return RequestDataset(images, read_item)
    return (read_item(item, f"item {index}") for index, item in enumerate(images))


def _from_images(images: Sequence[Any], prompts: Mapping[str, Any]) -> list[Request]:
    if not images:
        raise ValueError("image is an empty list: give at least one image")
    if len(images) == 1:
        return [Request(images[0], **prompts, name="images[0]")]
    by_image = {name: _split(name, value, len(images)) for name, value in prompts.items()}
    return [
        Request(image, **{name: values[index] for name, values in by_image.items()}, name=f"images[{index}]")
        for index, image in enumerate(images)
    ]


def _split(name: str, value: Any, num_images: int) -> Sequence[Any]:
    if value is None:
        return [None] * num_images
    try:
        entries = list(value)
    except TypeError:
        entries = []
    if len(entries) != num_images:
        raise ValueError(
            f"{name} has {len(entries) or 'no'} entries for {num_images} images; give one entry per image, None for an "
            "image without any"
        )
    return entries


def prepare_request(request: Request, processor: SamVariantsProcessor) -> dict[str, Any]:
    """Read one image and its prompts.

    Returns:
        The processor's tensors for a batch of one, with `points` P×N×2 (original-image pixels, -10 is padding; None
        without points) and `num_objects` P.

    Raises:
        ValueError, TypeError: in terms of the pipeline's arguments; also for an image or object without prompts.
    """
    try:
        prompts = {f"input_{name}": getattr(request, name) for name in PROMPTS}
        inputs = dict(processor(images=[request.image], **prompts, return_tensors="pt"))
        present = has_prompt(inputs)
        points = _points_in_pixels(request, tuple(inputs["original_sizes"][0].tolist()))
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(_in_the_users_words(str(error), request.name)) from error
    if present is None or not present.any():
        raise ValueError(f"{request.name} has no prompts; give points, boxes or masks: {EXAMPLE_CALL}")
    if not present.all():
        raise ValueError(f"object {present[0].tolist().index(False)} of {request.name} has no prompt")
    return inputs | {"points": points, "num_objects": present.shape[1]}


def has_prompt(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """B×P bool: which objects have any prompt; None when there are no prompts at all."""
    found = []
    if "input_labels" in inputs:
        found.append((inputs["input_labels"] != PADDING).any(dim=-1))
    if "input_boxes" in inputs:
        found.append((inputs["input_boxes"] != PADDING).any(dim=-1))
    if "input_masks" in inputs:
        found.append(~inputs["input_masks"].isnan().flatten(2).all(dim=-1))
    return torch.stack(found).any(dim=0) if found else None


def is_single_click(inputs: Mapping[str, Tensor]) -> Tensor:
    """B×P bool: the objects that are described by one point and nothing else, which may mean a part or the whole."""
    if "input_labels" not in inputs:
        return torch.zeros(next(iter(inputs.values())).shape[:2], dtype=torch.bool)
    single = (inputs["input_labels"] >= 0).sum(dim=-1) == 1
    others = has_prompt({name: value for name, value in inputs.items() if name != "input_labels"})
    return single if others is None else single & ~others


def join_requests(prepared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One batch of prepared requests: prompts padded to one shape, which changes no answer.

    Returns:
        `pixel_values` B×3×H×W, `original_sizes` and `reshaped_input_sizes` B×2, `prompts` (the model's tensors by
        name), `single_click` B×P bool, and lists of each image's `points` and `num_objects`.
    """
    most = max(request["num_objects"] for request in prepared)
    prompts = {
        name: _pad_together([request.get(name) for request in prepared], most, value)
        for name, value in PADDING_VALUES.items()
        if any(name in request for request in prepared)
    }
    images = [request["pixel_values"] for request in prepared]
    pixel_values = _pad_together(images, images[0].shape[1], 0.0)
    if "input_masks" in prompts:
        with_mask = next(request for request in prepared if "input_masks" in request)
        pixels_per_cell = with_mask["pixel_values"].shape[2] // with_mask["input_masks"].shape[2]
        prompts["input_masks"] = _with_background(prompts["input_masks"], pixel_values.shape, pixels_per_cell)
    return {
        "pixel_values": pixel_values,
        **{name: torch.cat([request[name] for request in prepared]) for name in IMAGE_SIZES},
        "prompts": prompts,
        "single_click": is_single_click(prompts),
        "points": [request["points"] for request in prepared],
        "num_objects": [request["num_objects"] for request in prepared],
    }


def _pad_together(tensors: Sequence[Tensor | None], num_objects: int, value: float) -> Tensor:
    """Stack 1×P×… tensors of different sizes; None is padding altogether."""
    present = [tensor for tensor in tensors if tensor is not None]
    sizes = [max(lengths) for lengths in zip(*(tensor.shape[2:] for tensor in present), strict=True)]
    joined = present[0].new_full((len(tensors), num_objects, *sizes), value)
    for row, tensor in zip(joined, tensors, strict=True):
        if tensor is not None:
            row[tuple(slice(length) for length in tensor.shape[1:])] = tensor[0]
    return joined


def _with_background(masks: Tensor, image_shape: Sequence[int], pixels_per_cell: int) -> Tensor:
    """Rough masks B×P×h×w over all of joined images, which may have padding now: no object is there."""
    bottom, right = (image_shape[axis] // pixels_per_cell - masks.shape[axis] for axis in (2, 3))
    masks = F.pad(masks, (0, right, 0, bottom), value=math.nan)
    is_partly = masks.isnan() & ~masks.isnan().flatten(2).all(dim=-1)[..., None, None]
    return masks.masked_fill(is_partly, -CERTAIN_LOGIT)


def _points_in_pixels(request: Request, size: tuple[int, int]) -> Tensor | None:
    if request.points is None:
        return None
    unscaled = ImageGeometry(index=0, original_size=size, reshaped_size=size, padded_size=size, mask_size=size)
    arrays = prompt_arrays([unscaled], points=request.points, labels=request.labels)
    return torch.from_numpy(arrays["input_points"][0]) if "input_points" in arrays else None


def _in_the_users_words(message: str, name: str) -> str:
    """A message of the processor, which knows its own arguments and one image only, for a user of the pipeline."""
    for prompt in PROMPTS:
        message = message.replace(f"input_{prompt}", prompt)
    message = message.replace("images[0]", name).replace("image 0", name)
    return message if name == ALONE or name in message else f"{name}: {message}"
