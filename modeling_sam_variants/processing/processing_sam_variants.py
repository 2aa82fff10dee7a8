"""The processor: images and prompts in, everything that the model takes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor
from transformers import AutoConfig
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from sam_variants.processing.image_fitting import height_width, size_list
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.inference_session import VideoSessionNames
from sam_variants.processing.mask_prompts import ImageGeometry
from sam_variants.processing.preprocessing import image_processor_for
from sam_variants.processing.prompts import prompt_arrays

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")
IMAGE_SETTINGS = tuple(SamVariantsImageProcessorPil.valid_kwargs.__annotations__)

logger = logging.get_logger(__name__)


class SamVariantsProcessor(VideoSessionNames, ProcessorMixin):
    """Prepares images and prompts for `SamVariantsModel`, and brings its masks back to the images' sizes.

    Args:
        image_processor: the `SamVariantsImageProcessorPil` that belongs to the model.
        image_size: retargets the image processor (a copy of it) to a square input of this side.
    """

    def __init__(self, image_processor: SamVariantsImageProcessorPil, image_size: int | None = None) -> None:
        if image_size is not None:
            image_processor = image_processor.updated(image_size=image_size)
        super().__init__(image_processor)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does; without a saved processor, the one that belongs to the model's config.json.

        Raises:
            OSError: when neither can be read.
            ValueError: when the processor's file holds something else.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except AttributeError as error:  # no JSON object
            source = str(pretrained_model_name_or_path)
            raise ValueError(f"{PROCESSOR_FILES[0]} of {source!r} holds no processor ({error})") from error
        except OSError:
            config = config_without_processor(pretrained_model_name_or_path, kwargs)
            if config is None:
                raise
        changes = {name: kwargs[name] for name in (*IMAGE_SETTINGS, "image_size") if name in kwargs}
        image_processor = image_processor_for(config)
        return cls(image_processor.updated(**changes) if changes else image_processor)

    def __call__(
        self,
        images: Any = None,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: Any = None,
        original_sizes: Any = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Images with prompts in original-image pixels, x then y, as one padded batch.

        With one image, depth counts from the single prompt: a point is (x, y); a list of points is one object with
        several points; a list of such lists is several objects. A box is (x1, y1, x2, y2), a list of boxes several
        objects; masks likewise. With several images (and, if wanted, with one) the first level is the images, and
        each entry follows the same rule. Lists, tuples, arrays and tensors may be mixed and ragged at every level;
        None stands for an image or object without this prompt. The objects of points, boxes and masks belong
        together by index.

        Args:
            images: one image or a list, see `SamVariantsImageProcessorPil.preprocess`.
            input_points: (x, y), each 0..width and 0..height.
            input_labels: one per point, nested like the points: 1 foreground (the default), 0 background, -1 not a
                point, -10 padding.
            input_boxes: (x1, y1, x2, y2).
            input_masks: bool or integer at the image's size, or floating-point logits at the image processor's
                `mask_size`.
            original_sizes: B×2 (height, width), in place of `images`: prompts alone, for embeddings computed before.
            return_tensors: "pt", "np" or None (arrays).
            kwargs: settings of the image processor for this call, such as `image_size`; `device` is where the tensors
                go.

        Returns:
            `pixel_values` B×3×height×width (with images), `original_sizes` and `reshaped_input_sizes` B×2, and of the
            prompts given `input_points` B×P×N×2, `input_labels` B×P×N, `input_boxes` B×P×4 in pixels of the resized
            image, `input_masks` B×P×h×w logits. Padding: coordinates and labels -10, masks NaN.

        Raises:
            ValueError, TypeError: naming the image, prompt or argument that can't be used.
        """
        input_data_format, device = kwargs.pop("input_data_format", None), kwargs.pop("device", None)
        image_processor = self.image_processor.updated(**kwargs) if kwargs else self.image_processor
        if (images is None) == (original_sizes is None):
            raise ValueError("give either images or, for prompts alone, original_sizes")
        if images is not None:
            data = dict(image_processor(images, input_data_format=input_data_format))
        else:
            sizes = size_list("original_sizes", original_sizes)
            reshaped = [image_processor.reshaped_size(*size) for size in sizes]
            data = {"original_sizes": np.array(sizes), "reshaped_input_sizes": np.array(reshaped)}
        if input_masks is not None and not image_processor.do_pad:
            raise ValueError("input_masks cover the padded input, which do_pad=False leaves out")
        geometries = image_geometries(data["original_sizes"], data["reshaped_input_sizes"], image_processor)
        data |= prompt_arrays(geometries, input_points, input_labels, input_boxes, input_masks)
        features = BatchFeature(data, tensor_type=return_tensors)
        if device is not None:
            features.to(device)
        return features

    def post_process_masks(
        self,
        masks: Any,
        original_sizes: Any,
        reshaped_input_sizes: Any = None,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        pad_size: int | dict[str, int] | None = None,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> list[Tensor]:
        """Predicted masks at the size of each original image, see `SamVariantsImageProcessorPil.post_process_masks`."""
        return self.image_processor.post_process_masks(
            masks,
            original_sizes,
            reshaped_input_sizes,
            mask_threshold,
            binarize,
            pad_size,
            max_hole_area,
            max_sprinkle_area,
        )

    @property
    def model_input_names(self) -> list[str]:
        """Every name that a call may return."""
        prompts = ["input_points", "input_labels", "input_boxes", "input_masks"]
        return [*self.image_processor.model_input_names, *prompts]


def config_without_processor(source: Any, options: dict[str, Any]) -> Any:
    """The configuration in a folder or Hub repository that has no saved processor; None where it may have one.

    Args:
        source: the folder or repository.
        options: keyword arguments of `from_pretrained`.
    """
    if may_have_processor(source, options):
        return None
    try:
        config = AutoConfig.from_pretrained(source, **hub_options(options))
    except (OSError, ValueError):  # no such repository, or no config.json: then the first error says more
        return None
    if not str(config.model_type).startswith("sam_variants"):
        return None
    return config


def may_have_processor(source: Any, options: dict[str, Any]) -> bool:
    """Whether a folder or Hub repository has, or may have, a saved processor; a warning says when it has none."""
    try:
        if not all(is_missing(str(source), name, hub_options(options)) for name in PROCESSOR_FILES):
            return True
    except ValueError:  # no name of a repository
        return True
    logger.warning(f"{str(source)!r} has no {PROCESSOR_FILES[0]}; the processor follows from its config.json")
    return False


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Of the keyword arguments of `from_pretrained` those that say where files come from."""
    return {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}


def is_missing(source: str, name: str, options: dict[str, Any]) -> bool:
    """Whether a folder or Hub repository is known not to have a file; one that can't be reached may have it."""
    if Path(source).is_dir():
        return not (Path(source) / options.get("subfolder", "") / name).is_file()
    folder = options.get("subfolder")
    name = f"{folder}/{name}" if folder else name
    places = {key: options[key] for key in ("cache_dir", "revision") if key in options}
    if try_to_load_from_cache(source, name, **places) is _CACHED_NO_EXIST:
        return True
    access = {key: options[key] for key in ("token", "local_files_only") if key in options}
    try:
        hf_hub_download(source, name, **places, **access)
    except EntryNotFoundError as error:
        return not isinstance(error, LocalEntryNotFoundError)
    except Exception:  # of any kind: the client lets errors of its HTTP library through
        return False
    return False


def image_geometries(
    original_sizes: np.ndarray, reshaped_sizes: np.ndarray, image_processor: SamVariantsImageProcessorPil
) -> list[ImageGeometry]:
    """How each image was fitted into the model's input.

    Args:
        original_sizes, reshaped_sizes: B×2 (height, width) before and after resizing.
        image_processor: what fitted them.
    """
    padded = image_processor.input_size([(height, width) for height, width in reshaped_sizes.tolist()])
    pixels_per_cell = height_width(image_processor.pad_size)[0] // height_width(image_processor.mask_size)[0]
    mask = (padded[0] // pixels_per_cell, padded[1] // pixels_per_cell)
    return [
        ImageGeometry(
            index=index,
            original_size=(original[0], original[1]),
            reshaped_size=(reshaped[0], reshaped[1]),
            padded_size=padded,
            mask_size=mask,
        )
        for index, (original, reshaped) in enumerate(zip(original_sizes.tolist(), reshaped_sizes.tolist(), strict=True))
    ]
