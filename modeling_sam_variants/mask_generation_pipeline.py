"""`pipeline("mask-generation")`: images in, the `Masks` of everything in them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor
from transformers.pipelines.mask_generation import MaskGenerationPipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from sam_variants.encoded_image import EncodedImage, encode_images
from sam_variants.mask_generation.mask_generator import generate_masks
from sam_variants.mask_generation.time_split import ENCODE, TimeSplit
from sam_variants.mask_generation_arguments import (
    Settings,
    check_count,
    check_timeout,
    model_defaults,
    read_names,
    read_settings,
    with_one_grid,
)
from sam_variants.memory_budget import AtOnce, Budget, MemoryNeeds, group_images
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pipeline_base import SamVariantsPipeline, is_ours
from sam_variants.pipeline_requests import ALONE, Request, item_with_image, read_requests
from sam_variants.pretrained_part import evaluating
from sam_variants.processing.image_loading import rgb_array
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.results import Masks

# Encoded together on a GPU, as far as max_memory allows; on a CPU it gains nothing.
IMAGES_AT_ONCE = 8


class SamVariantsMaskGenerationPipeline(SamVariantsPipeline):
    """Segments everything in images (segment-anything's `SamAutomaticMaskGenerator`), with any model of this package.

    It is what transformers' task "mask-generation" builds. For a model of another package it makes transformers' own
    `MaskGenerationPipeline`, as if this one weren't there. A model that the pipeline loaded itself is fused for
    inference; one that was passed as an object stays as it is.

    Args:
        model: a `SamVariantsModel`, for video or not; `pipeline("mask-generation", model=…)` takes a folder or Hub
            repository too.
        image_processor: the `SamVariantsImageProcessorPil` for this model; None makes the one that belongs to it.
        processor: the same, in a `SamVariantsProcessor`, whose image processor goes first.
        kwargs: as for every pipeline of transformers: `device`, `batch_size`, `num_workers`, …; the options of the
            calls set their defaults.

    Raises:
        ValueError: for a processor that doesn't fit the model, or an option that can't be.
        TypeError: for an unknown option, or two names of one option.
    """

    model: SamVariantsModel
    # As transformers' own pipeline has it, but for models that were passed as an object.
    _load_processor = False
    _load_image_processor = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # Copying comes without a model.
        model = kwargs.get("model", *args[:1])
        if not (args or kwargs) or is_ours(model):
            return super().__new__(cls)
        if kwargs.get("image_processor") is None:
            if folder := getattr(model, "name_or_path", ""):
                # `pipeline()` goes on without one that it can't load: this says why it can't.
                AutoImageProcessor.from_pretrained(folder)
            raise ValueError(
                f"there is no image processor for the {type(model).__name__}; pass the one that belongs to it: "
                'pipeline("mask-generation", model=…, image_processor=…)'
            )
        return MaskGenerationPipeline(*args, **kwargs)

    def __init__(
        self,
        model: SamVariantsModel,
        image_processor: SamVariantsImageProcessorPil | None = None,
        processor: SamVariantsProcessor | None = None,
        **kwargs: Any,
    ) -> None:
        if processor is None and image_processor is not None:
            processor = SamVariantsProcessor(image_processor)
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            check_count(name, kwargs.get(name), least)
        super().__init__(model=model, processor=processor, **kwargs)
        self._memory_needs: dict[Any, MemoryNeeds] = {}
        self._settings(self._forward_params)

    def __call__(  # type: ignore[override]
        self, image: Any, *, batch_size: int | None = None, num_workers: int | None = None, **options: Any
    ) -> Any:
        """Find everything in one image or many.

        Args:
            image: a PIL image, array, tensor, path or URL; a list of these; a dict with an "image", of whose other
                keys none is looked at; or a list, dataset or generator of images or such dicts.
            batch_size: images, or crops of one image, that are encoded at once.
            num_workers: processes that read images ahead.
            options: the fields of `MaskGenerationOptions`, and of transformers' names `points_per_crop`
                (`points_per_side`), `crops_n_layers` (`crop_n_layers`) and `crops_nms_thresh` (`box_nms_thresh` and
                `crop_nms_thresh`). What is not given is as the model's `config.mask_generation` says, else the
                official default; `points_per_batch=None` takes all points at once.
                Further `max_hole_area` and `max_sprinkle_area`: holes and specks of at most so many cells of the
                decoder's logits are filled and removed, as SAM 2 can. `output_rle_mask` and `output_bboxes_mask`: the
                results answer transformers' keys "rle_mask" and "bounding_boxes" too.
                `timeout`: seconds to wait for a server that an image comes from, None for ever. `max_memory`: bytes,
                or text such as "1.5GB", that a call may need above the weights; no more images, crops and points are
                taken at once than fit. `times`: a `TimeSplit` to which the seconds are added. `progress`: called
                with (points done, points in all) of the current image.

        Returns:
            A `Masks` with `scores` (predicted IoU), `stability_scores`, `points` (the one that found the mask) and
            `crop_boxes`, which also answers the keys of transformers' result. A list gives a list of them, a dataset
            or generator an iterator.

        Raises:
            ValueError: an option that can't be, an image that can't be read, too little `max_memory`.
            TypeError: an argument of a wrong kind, an unknown option, or two names of one option.
        """
        requests = read_requests(image, {}, item_with_image)
        if batch_size is None and self._batch_size is None and self.device.type != "cpu":
            batch_size = IMAGES_AT_ONCE if options.get("max_memory", self._forward_params.get("max_memory")) else None
        check_count("batch_size", batch_size, 1)
        check_count("num_workers", num_workers, 0)
        # A list of one, because the base class would forget batch_size, which counts for crops too.
        is_single = isinstance(requests, Request)
        results = super().__call__(
            [requests] if is_single else requests, batch_size=batch_size, num_workers=num_workers, **options
        )
        return results[0] if is_single else results

    def _sanitize_parameters(
        self, local_files_only: bool | None = None, **given: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """`local_files_only` is what `pipeline()` leaves here after it has used it."""
        named = read_names(given)
        reading = {"timeout": named.pop("timeout")} if "timeout" in named else {}
        check_timeout(reading.get("timeout"))
        return reading, with_one_grid(named), {}

    def _settings(self, forward_params: dict[str, Any]) -> Settings:
        return read_settings(forward_params, model_defaults(self.model.config))

    def preprocess(self, input_: Request, **preprocess_parameters: Any) -> np.ndarray:  # type: ignore[override]
        """H×W×3 uint8."""
        return read_request(input_, **preprocess_parameters)

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Masks]:
        """One image's masks after the other, as soon as they are there."""
        settings = self._settings(forward_params)
        read = partial(_result_or_error, read_request)  # without self: other processes need no model
        if isinstance(inputs, Sized):
            images: Any = PipelineDataset(inputs, read, preprocess_params)
        else:
            images = PipelineIterator(inputs, read, preprocess_params)
            num_workers = min(num_workers, 1)
        loader = DataLoader(images, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
        return self._results(loader, self._budget(settings, batch_size), settings)

    def _results(self, images: Iterable[np.ndarray | Exception], budget: Budget, settings: Settings) -> Iterator[Masks]:
        for group, at_once in group_images(images, budget):
            planned = replace(settings, options=replace(settings.options, points_per_batch=at_once.points))
            with (settings.times or TimeSplit()).stage(ENCODE):
                encoded = self.forward(group, settings=planned)
            # From the back, so that an embedding is let go of when its image is done.
            encoded.reverse()
            for image in group:
                yield self.postprocess(encoded.pop(), image, planned, at_once.images)

    def _budget(self, settings: Settings, batch_size: int) -> Budget:
        most = AtOnce(batch_size, settings.options.points_per_batch)
        if settings.max_memory is None:
            return Budget(most)
        image_processor, options = self.processor.image_processor, settings.options
        masks = (options.multimask_output, options.use_m2m)
        dtypes = (self.model.image_encoder.dtype, self.model.mask_decoder.dtype)
        known_by = (*dtypes, self.model.device, image_processor.image_size, *masks)
        if known_by not in self._memory_needs:
            with self.device_placement():
                self._memory_needs[known_by] = MemoryNeeds(self.model, image_processor, *masks)
        num_points = sum(len(grid) * 4**layer for layer, grid in enumerate(options.layer_point_grids()))
        return Budget(most, settings.max_memory, self._memory_needs[known_by], num_points)

    def _forward(  # type: ignore[override]
        self, input_tensors: Sequence[np.ndarray], settings: Settings
    ) -> list[EncodedImage]:
        """Encode images, or crops of one."""
        with evaluating(self.model):
            return encode_images(
                self.model,
                self.processor.image_processor,
                input_tensors,
                max_hole_area=settings.max_hole_area,
                max_sprinkle_area=settings.max_sprinkle_area,
                mask_threshold=settings.options.mask_threshold,
                points_at_once=settings.options.points_per_batch,
            )

    def postprocess(  # type: ignore[override]
        self, model_outputs: EncodedImage, image: np.ndarray, settings: Settings, images_at_once: int
    ) -> Masks:
        """Ask an encoded image about its points; its crops are encoded on the way."""
        with self.device_placement(), evaluating(self.model), self.get_inference_context()():
            masks = generate_masks(
                image,
                partial(self._forward, settings=settings),
                settings.options,
                whole_image=model_outputs,
                crops_at_once=images_at_once,
                times=settings.times,
                progress=settings.progress,
            )
        masks.optional_keys = settings.optional_keys
        return masks


def read_request(request: Request, **reading: Any) -> np.ndarray:
    """The image of a request, H×W×3 uint8.

    Raises:
        ValueError, TypeError: when it can't be read, with its name.
    """
    try:
        return rgb_array(request.image, **reading)
    except (TypeError, ValueError) as error:
        if request.name == ALONE:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{request.name}: {error}") from error


def _result_or_error(read: Callable[..., np.ndarray], request: Request, **parameters: Any) -> np.ndarray | Exception:
    """What reading gives; an error is raised where it is looked at, and not wrapped by a process that reads ahead."""
    try:
        return read(request, **parameters)
    except (OSError, TypeError, ValueError) as error:
        return error


def _as_it_is(image: Any) -> Any:
    return image
