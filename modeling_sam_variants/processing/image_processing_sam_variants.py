"""The image processor: any images in, the tensors that the image encoders take out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypedDict

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.utils import logging

from sam_variants.configuration.remote_code import without_remote_code
from sam_variants.mask_regions import clean_masks
from sam_variants.mask_runs import MaskGeometry
from sam_variants.processing.coordinates import longest_side_shape
from sam_variants.processing.image_fitting import (
    LONGEST_SIDE,
    RESIZE_MODES,
    SQUARE,
    TENSOR_RESAMPLING,
    height_width,
    pad_right_and_bottom,
    resize_longest_side,
    resize_square,
    shared_input_size,
    size_list,
    standard_size,
    to_float,
)
from sam_variants.processing.image_loading import flatten_images, open_image, rgb_array
from sam_variants.processing.mask_generation_methods import MaskGenerationMethods
from sam_variants.processing.mask_post_processing import upscale_logits, upscale_to_masks
from sam_variants.processing.upscaled_masks import UpscaledMasks

logger = logging.get_logger(__name__)

# Keys of a saved configuration that say what it is for, not how images are processed.
SERVICE_KEYS = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")
SIZE_KEYS = ("size", "pad_size", "mask_size")


class SamVariantsImageProcessorKwargs(TypedDict, total=False):
    """What the constructor, a saved configuration and a call accept; see `SamVariantsImageProcessorPil`."""

    resize_mode: str
    do_convert_rgb: bool | None
    do_resize: bool | None
    size: int | dict[str, int] | None
    resample: PILImageResampling | int | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | list[float] | tuple[float, ...] | None
    image_std: float | list[float] | tuple[float, ...] | None
    do_pad: bool | None
    pad_size: int | dict[str, int] | None
    pad_to_multiple_of: int | None
    mask_size: int | dict[str, int] | None
    input_data_format: str | None
    return_tensors: str | None


class SamVariantsImageProcessorPil(MaskGenerationMethods, PilBackend):
    """Fits images into the square that a SAM model takes, exactly as the official predictors do, without torchvision.

    `resize_mode="longest_side"` (SAM, MobileSAM; segment-anything's `ResizeLongestSide` and `Sam.preprocess`): the
    longer side is resized to `size["longest_edge"]` by Pillow on 8-bit pixels, then the pixels are normalised, then
    zeros are added right and below up to `pad_size`. `resize_mode="square"` (SAM 2's `SAM2Transforms`): the pixels
    are rescaled to 0..1, resized to `size["height"]`×`size["width"]` with antialiasing in float32, normalised.

    Args:
        image_size: retargets `size`, `pad_size` and `mask_size` together to a square of this side.
        resize_mode: "longest_side" or "square".
        size: `{"longest_edge": 1024}`, in square mode `{"height": 1024, "width": 1024}`, or one number.
        pad_size: `{"height": 1024, "width": 1024}` or one number: the model's input size.
        pad_to_multiple_of: pad each side only to the next multiple of so many pixels (a multiple of the encoder's
            stride), which saves time on images that are no squares; for models whose configuration has
            `pad_input=False`. Images of one batch get one size, in which all of them fit.
        mask_size: `{"height": 256, "width": 256}` or one number: the size of mask prompts given as logits.
        resample: Pillow's filter; square mode knows bilinear and bicubic.
        do_rescale, rescale_factor: multiply pixels 0..255 by the factor (off for SAM, whose mean and deviation are on
            0..255; on for SAM 2).
        image_mean, image_std: of the red, green and blue channel.
        do_resize, do_normalize, do_pad: switches of the steps.
        do_convert_rgb: always True.
        input_data_format: "channels_first" or "channels_last" for arrays whose shape leaves it open.

    Raises:
        TypeError: for an unknown argument.
        ValueError: for a value outside the above.
    """

    valid_kwargs = SamVariantsImageProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values", "original_sizes", "reshaped_input_sizes"]

    resize_mode = LONGEST_SIDE
    do_convert_rgb = True
    do_resize = True
    size = SizeDict(longest_edge=1024)
    resample = PILImageResampling.BILINEAR
    do_rescale = False
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = (123.675, 116.28, 103.53)
    image_std = (58.395, 57.12, 57.375)
    do_pad = True
    pad_size = SizeDict(height=1024, width=1024)
    pad_to_multiple_of: int | None = None
    mask_size = SizeDict(height=256, width=256)

    def __init__(self, image_size: int | None = None, **kwargs: Any) -> None:
        known = (*self.valid_kwargs.__annotations__, *SERVICE_KEYS)
        if unknown := sorted(set(kwargs) - set(known)):
            raise TypeError(f"{type(self).__name__} has no arguments {unknown}; it knows {sorted(known)}")
        clashing = [key for key in SIZE_KEYS if key in kwargs]
        if image_size is not None and clashing:
            raise ValueError(f"image_size={image_size} sets {SIZE_KEYS} together; leave out {clashing}")
        super().__init__(**without_remote_code(type(self), kwargs))
        if image_size is not None:
            self._retarget(image_size)

    @property
    def image_size(self) -> int:
        """The longer side of the model's input in pixels."""
        return max(height_width(self.pad_size))

    def updated(self, image_size: int | None = None, **changes: Any) -> Self:
        """A copy with other settings; `image_size` retargets `size`, `pad_size` and `mask_size` together.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        clashing = [key for key in SIZE_KEYS if key in changes]
        if image_size is not None and clashing:
            raise ValueError(f"image_size={image_size} sets {SIZE_KEYS} together; leave out {clashing}")
        copy = type(self)(**{**self.to_dict(), **changes})
        if image_size is not None:
            copy._retarget(image_size)
        return copy

    def _retarget(self, image_size: int) -> None:
        """Another square input; masks keep their ratio to it (a quarter of the stride, exactly)."""
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size <= 0:
            raise ValueError(f"image_size={image_size!r} must be a positive whole number of pixels")
        stride = 4 * height_width(self.pad_size)[0] // height_width(self.mask_size)[0]
        if image_size % stride:
            raise ValueError(f"image_size={image_size} must be a multiple of the encoder's stride {stride}")
        self.size = standard_size("size", image_size, self.resize_mode)
        self.pad_size = SizeDict(height=image_size, width=image_size)
        self.mask_size = SizeDict(height=4 * image_size // stride, width=4 * image_size // stride)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a saved configuration; `image_size=` retargets it, keys that mean nothing here are reported."""
        image_size = kwargs.pop("image_size", None)
        known = (*cls.valid_kwargs.__annotations__, *SERVICE_KEYS)
        foreign = sorted(key for key in image_processor_dict if key not in known)
        if foreign:
            logger.warning(f"{cls.__name__} does without these keys of the saved configuration: {foreign}")
        values = {key: value for key, value in image_processor_dict.items() if key in known}
        built = super().from_dict(values, **kwargs)
        if image_size is None:
            return built
        changes = {key: kwargs[key] for key in SIZE_KEYS if key in kwargs}
        if isinstance(built, tuple):
            return built[0].updated(image_size=image_size, **changes), built[1]
        return built.updated(image_size=image_size, **changes)

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Check every setting and give it its one form."""
        mode = kwargs["resize_mode"]
        if mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode={mode!r} must be one of {RESIZE_MODES}")
        if not kwargs["do_convert_rgb"]:
            raise ValueError("do_convert_rgb=False is not possible: the models take RGB")
        if mode == SQUARE and kwargs["resample"] not in TENSOR_RESAMPLING:
            raise ValueError(f"resample={kwargs['resample']} must be one of {list(TENSOR_RESAMPLING)} in square mode")
        for name in ("image_mean", "image_std"):
            value = kwargs[name]
            kwargs[name] = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
            if len(kwargs[name]) != 3:
                raise ValueError(f"{name}={value} must be one number or three")
        kwargs["size"] = standard_size("size", kwargs["size"], mode)
        for name in ("pad_size", "mask_size"):
            kwargs[name] = standard_size(name, kwargs[name], SQUARE)
        if kwargs["pad_to_multiple_of"] is not None:
            _check_multiple(kwargs)
        return kwargs

    def to_dict(self) -> dict[str, Any]:
        """All settings; one that most checkpoints lack is written only where it is used."""
        values = super().to_dict()
        if values.get("pad_to_multiple_of") is None:
            values.pop("pad_to_multiple_of", None)
        return values

    def preprocess(self, images: Any, image_size: int | None = None, **kwargs: Any) -> BatchFeature:
        """Images of any sizes to one batch.

        Args:
            images: one image or a list: PIL images, arrays or tensors (H×W, H×W×C, C×H×W, or a batch of these),
                paths, URLs.
            image_size: another input size for this call.
            kwargs: the constructor's arguments, for this call; `return_tensors` is "pt", "np" or None.

        Returns:
            `pixel_values` B×3×height×width float32 (a list when `do_pad=False` leaves different sizes),
            `original_sizes` B×2 int64 and `reshaped_input_sizes` B×2 int64, both (height, width).

        Raises:
            ValueError, TypeError: naming the image or argument that can't be used.
        """
        if image_size is not None:
            return self.updated(image_size=image_size).preprocess(images, **kwargs)
        return super().preprocess(images, **kwargs)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths and URLs; what is an image already stays as it is. Pixels are converted in `process_image`."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(item) for item in image_url_or_urls]
        return open_image(image_url_or_urls) if isinstance(image_url_or_urls, str) else image_url_or_urls

    def process_image(
        self, image: Any, do_convert_rgb: bool | None = None, input_data_format: str | None = None, **kwargs: Any
    ) -> np.ndarray:
        """One image of any kind as 3×H×W uint8 RGB, upright, on white where it was transparent."""
        return np.moveaxis(rgb_array(image, input_data_format), -1, 0)

    def _prepare_image_like_inputs(
        self, images: Any, *args: Any, input_data_format: str | None = None, **kwargs: Any
    ) -> list[np.ndarray]:
        arrays = []
        for index, image in enumerate(flatten_images(images)):
            try:
                arrays.append(self.process_image(image, input_data_format=input_data_format))
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"images[{index}]: {error}") from error
        return arrays

    def _preprocess_image_like_inputs(
        self, images: Any, *args: Any, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        input_data_format = kwargs.pop("input_data_format")
        arrays = self._prepare_image_like_inputs(images, input_data_format=input_data_format)
        fitted = [self._fit(array, **kwargs) for array in arrays]
        shapes = [shape for _, shape in fitted]
        pixel_values: Any = [pixels for pixels, _ in fitted]
        if kwargs["do_pad"]:
            size = shared_input_size(shapes, height_width(kwargs["pad_size"]), kwargs["pad_to_multiple_of"])
            pixel_values = [pad_right_and_bottom(pixels, size) for pixels in pixel_values]
        if len({pixels.shape for pixels in pixel_values}) == 1:
            pixel_values = np.stack(pixel_values)
        data = {
            "pixel_values": pixel_values,
            "original_sizes": np.array([array.shape[1:] for array in arrays], dtype=np.int64),
            "reshaped_input_sizes": np.array(shapes, dtype=np.int64),
        }
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _fit(self, image: np.ndarray, **settings: Any) -> tuple[np.ndarray, tuple[int, int]]:
        """3×H×W uint8 → the image as the model sees it, 3×height×width float32 without padding, and its size."""
        size, resample = settings["size"], settings["resample"]
        factor = settings["rescale_factor"] if settings["do_rescale"] else None
        if settings["resize_mode"] == SQUARE and settings["do_resize"]:
            # One channel at a time: as floating-point numbers a large photo takes four times its bytes.
            channels = [
                resize_square(to_float(channel[None], factor), height_width(size), resample) for channel in image
            ]
            pixels = np.concatenate(channels)
        elif settings["resize_mode"] == SQUARE:
            pixels = to_float(image, factor)
        else:
            resized = resize_longest_side(image, size.longest_edge, resample) if settings["do_resize"] else image
            pixels = to_float(resized, factor)
        if settings["do_normalize"]:
            mean, std = (np.array(settings[name], np.float32).reshape(3, 1, 1) for name in ("image_mean", "image_std"))
            pixels = (pixels - mean) / std
        height, width = pixels.shape[1:]
        return pixels, (height, width)

    def reshaped_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size has inside the model's input."""
        if not self.do_resize:
            return height, width
        if self.size.longest_edge is None:
            return height_width(self.size)
        return longest_side_shape(height, width, self.size.longest_edge)

    def input_size(self, reshaped_sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """(height, width) of the model's input for a batch of images that have these sizes inside it."""
        return shared_input_size(reshaped_sizes, height_width(self.pad_size), self.pad_to_multiple_of)

    def covered_size(self, mask_shape: Sequence[int]) -> tuple[int, int]:
        """(height, width) in pixels of the model's input that predicted masks of …×h×w cells cover."""
        if self.pad_to_multiple_of is None:
            return height_width(self.pad_size)
        height, width = mask_shape[-2:]
        pixels_per_cell = height_width(self.pad_size)[0] // height_width(self.mask_size)[0]
        return height * pixels_per_cell, width * pixels_per_cell

    def post_process_masks(
        self,
        masks: Tensor | np.ndarray | Sequence[Tensor | np.ndarray],
        original_sizes: Any,
        reshaped_input_sizes: Any = None,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        pad_size: int | dict[str, int] | None = None,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[Tensor]:
        """Predicted masks at the size of each original image (segment-anything's `Sam.postprocess_masks`).

        Args:
            masks: logits B×P×M×h×w, or one P×M×h×w per image. What this method gave with `binarize=False` may come
                again, to be binarized or left as it is.
            original_sizes: B×2 (height, width), as the processor returned them.
            reshaped_input_sizes: B×2 (height, width); None computes them from `original_sizes`.
            mask_threshold: logit above which a pixel belongs to the mask.
            binarize: False returns the logits, float32, upscaled when they are first looked at.
            pad_size: the model's input size, when it is not this processor's.
            max_hole_area: holes of at most so many cells of the logits are filled, as SAM 2's image predictor can.
            max_sprinkle_area: specks of at most so many cells are removed.

        Returns:
            One P×M×height×width tensor per image, bool (or float32).

        Raises:
            ValueError: when the numbers of images or axes don't agree, or masks come again with another size or areas.
        """
        sizes = size_list("original_sizes", original_sizes, len(masks))
        if reshaped_input_sizes is None:
            reshaped = [self.reshaped_size(*size) for size in sizes]
        else:
            reshaped = size_list("reshaped_input_sizes", reshaped_input_sizes, len(masks))
        given = None if pad_size is None else height_width(standard_size("pad_size", pad_size, SQUARE))
        results = []
        for index, (logits, size, inner_size) in enumerate(zip(masks, sizes, reshaped, strict=True)):
            tensor = torch.as_tensor(logits)
            if tensor.ndim != 4:
                raise ValueError(f"masks[{index}] must be P x M x h x w, got shape {tuple(tensor.shape)}")
            if isinstance(tensor, UpscaledMasks):
                if tensor.shape[2:] != size or max_hole_area > 0 or max_sprinkle_area > 0:
                    raise ValueError(
                        f"masks[{index}] were brought to {tuple(tensor.shape[2:])} already: original_sizes={size}, "
                        f"max_hole_area={max_hole_area} and max_sprinkle_area={max_sprinkle_area} need the model's "
                        "pred_masks"
                    )
                results.append(tensor > mask_threshold if binarize else tensor)
                continue
            padded = None if self.resize_mode == SQUARE else given or self.covered_size(tensor.shape)
            tensor = clean_masks(tensor, max_hole_area, max_sprinkle_area, mask_threshold)
            if binarize:
                results.append(upscale_to_masks(tensor, size, inner_size, padded, mask_threshold))
            elif tensor.requires_grad and torch.is_grad_enabled():
                results.append(upscale_logits(tensor, size, inner_size, padded))
            else:
                geometry = MaskGeometry(size, inner_size, padded) if padded else MaskGeometry(size)
                results.append(UpscaledMasks(tensor, geometry))
        return results


def _check_multiple(settings: dict[str, Any]) -> None:
    """Refuse `pad_to_multiple_of` where it can't be meant."""
    multiple = settings["pad_to_multiple_of"]
    if settings["resize_mode"] == SQUARE or not settings["do_pad"]:
        raise ValueError(f"pad_to_multiple_of={multiple!r} needs do_pad=True and resize_mode={LONGEST_SIDE!r}")
    stride = 4 * height_width(settings["pad_size"])[0] // height_width(settings["mask_size"])[0]
    is_whole = isinstance(multiple, int) and not isinstance(multiple, bool)
    if not is_whole or multiple <= 0 or multiple % stride:
        raise ValueError(f"pad_to_multiple_of={multiple!r} must be a multiple of the encoder's stride {stride}")
