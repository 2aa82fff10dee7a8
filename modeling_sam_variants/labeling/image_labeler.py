"""Images in, their masks as COCO annotations out: the operator of every labeling run."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sam_variants.checkpoint_layouts.load_checkpoint import find_locally
from sam_variants.checkpoint_layouts.load_whole import load_whole
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub.saved_weights import checkpoint_checksums
from sam_variants.labeling.items import FailedImage, Item, LabeledImage
from sam_variants.labeling.label_settings import LabelSettings
from sam_variants.labeling.model_slots import ModelSlots
from sam_variants.labeling.prompted_masks import PromptedMasks, request_of, with_prompts
from sam_variants.labeling.read_ahead import one_line
from sam_variants.labeling.stage_times import StageTimes
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.time_split import POST_PROCESSING, TimeSplit
from sam_variants.mask_generation_arguments import model_defaults, read_bytes, read_settings
from sam_variants.mask_generation_pipeline import IMAGES_AT_ONCE, SamVariantsMaskGenerationPipeline
from sam_variants.memory_budget import group_images
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pipeline_base import SamVariantsPipeline, pipeline_for
from sam_variants.results import Masks

EMBEDDED = "embedded"
# More at once only need more memory.
FEW_THREADS = 2
MOST_JOBS = 8
GPU_JOBS = 2
NOT_OF_A_DATASET = ("id", "image_id")
# Lost with the device: every later image would fail too, and none of them is at fault.
DEVICE_ERRORS: tuple[type[Exception], ...] = (getattr(torch, "AcceleratorError", torch.OutOfMemoryError),)


class ImageLabeler:
    """Finds the masks of images, everything in them or what is prompted.

    It loads its model when it is first needed. It can be pickled, which leaves the model behind, and called from
    several threads.

    Args:
        settings: what to do.
        device: name of a torch device, or None for a GPU where there is one.
        jobs: how many calls are made at once; each computes on its share of the CPU's threads. None: on a CPU of two
            cores one, which is as fast as two there and needs less memory; of more cores one per thread of torch,
            at most 8; else two, so that one's masks are made while the other's are asked for.
        max_memory: bytes, or text such as "1.5GB", that all calls together may need above the weights; images that
            need more fail. None for no limit.
        times: where encoding, decoding and post-processing are added.

    Raises:
        ValueError: a device or limit that can't be.
    """

    def __init__(
        self,
        settings: LabelSettings,
        device: str | None = None,
        *,
        jobs: int | None = None,
        max_memory: int | str | None = None,
        times: StageTimes | None = None,
    ) -> None:
        self.settings, self.device = settings, device
        self.times = times or StageTimes()
        self.max_memory = read_bytes("max_memory", max_memory)
        if self.max_memory is not None and settings.mode != "everything":
            raise ValueError(f"max_memory limits everything mode only, got {max_memory!r} for mode={settings.mode!r}")
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        self._given_jobs = jobs
        self._start()

    def _start(self) -> None:
        self._pipe: SamVariantsPipeline | None = None
        self._loading = threading.Lock()
        self._slots: ModelSlots | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = ("settings", "device", "max_memory", "_given_jobs")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.times = StageTimes()
        self._start()

    @classmethod
    def for_checkpoint(
        cls,
        checkpoint: str | None = None,
        *,
        device: str | None = None,
        jobs: int | None = None,
        max_memory: int | str | None = None,
        image_size: int | None = None,
        batch_size: int | None = None,
        mode: str = "everything",
        generation: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> ImageLabeler:
        """Load a checkpoint and find out the rest of the settings from it.

        Args:
            checkpoint: what `load_checkpoint` takes; None for the embedded one.
            device, jobs, max_memory: as for `ImageLabeler`.
            image_size: side of the model's input in pixels, or None for its own.
            batch_size: images that are encoded together; None for 8 on a GPU, else 1.
            mode: as in `LabelSettings`.
            generation: options of mask generation; the others are the model's own, else the official defaults.
            settings: further fields of `LabelSettings`.

        Raises:
            ValueError, TypeError, OSError: a checkpoint, device or option that can't be used.
        """
        source = str(default_checkpoint()) if checkpoint is None else checkpoint
        named = dict(generation or {})
        if named and mode != "everything":
            raise ValueError(f"{sorted(named)} are options of everything mode, not of mode={mode!r}")
        read_settings(named, {})  # before anything slow happens
        precision = settings.get("dtype", LabelSettings.dtype), settings.get("quantize")
        pipe = _load(source, image_size, *precision, mode, device)
        if batch_size is None:
            batch_size = 1 if pipe.device.type == "cpu" else IMAGES_AT_ONCE
        found = LabelSettings(
            checkpoint=source,
            model=EMBEDDED if checkpoint is None else _name_of(checkpoint),
            weights=weights_sha256(source),
            image_size=pipe.model.config.image_size,
            mode=mode,
            generation=_whole_generation(named, pipe.model) if mode == "everything" else {},
            batch_size=batch_size,
            **settings,
        )
        labeler = cls(found, device, jobs=jobs, max_memory=max_memory)
        labeler._pipe = pipe
        labeler._refuse_too_little_memory()
        return labeler

    def _refuse_too_little_memory(self) -> None:
        """Raise ValueError where not even an image of the model's own size could be labeled."""
        if self.max_memory is None:
            return
        side = self.settings.image_size
        images = [np.zeros((side, side, 3), dtype=np.uint8)]
        pipe: Any = self.pipe
        settings = read_settings({**self.settings.generation, **self._limit()}, {})
        next(group_images(images, pipe._budget(settings, 1)))

    def _limit(self) -> dict[str, Any]:
        return {} if self.max_memory is None else {"max_memory": self.max_memory // self._open_slots().number}

    @property
    def pipe(self) -> SamVariantsPipeline:
        """The pipeline that does the work, loaded when it is first asked for.

        Raises:
            ValueError, OSError: the checkpoint can't be loaded, or has other weights than the run was begun with.
        """
        with self._loading:
            if self._pipe is None:
                settings = self.settings
                found = weights_sha256(settings.checkpoint)
                if found != settings.weights:
                    raise ValueError(
                        f"the weights of {settings.checkpoint!r} are others than those that the run was begun with: "
                        f"sha256 {found}, not {settings.weights}"
                    )
                precision = settings.dtype, settings.quantize
                self._pipe = _load(settings.checkpoint, settings.image_size, *precision, settings.mode, self.device)
            return self._pipe

    @property
    def jobs(self) -> int:
        """How many calls may be made at once."""
        return self._open_slots().number

    def _open_slots(self) -> ModelSlots:
        on_cpu = self.pipe.device.type == "cpu"
        with self._loading:
            if self._slots is None:
                threads = torch.get_num_threads()
                by_threads = 1 if threads <= FEW_THREADS else min(threads, MOST_JOBS)
                number = self._given_jobs or (by_threads if on_cpu else GPU_JOBS)
                self._slots = ModelSlots(number, max(1, threads // number) if on_cpu else None)
            return self._slots

    def __call__(self, items: Sequence[Item], pixels: Sequence[np.ndarray | str]) -> list[LabeledImage | FailedImage]:
        """Label images, encoded together.

        Args:
            items: the images, with their prompts where the mode is "prompts".
            pixels: H×W×3 uint8 of each, or why there are none.

        Returns:
            What became of each, in the same order. Where the model can't do them together, each is tried alone, and
            those that fail alone have failed.

        Raises:
            Exception: the device is lost, which is no fault of an image.
        """
        slots = self._open_slots()
        slots.use_share()
        readable = [index for index, found in enumerate(pixels) if not isinstance(found, str)]
        with slots.one():
            masks = self._tried([items[index] for index in readable], [pixels[index] for index in readable])
        results: dict[int, LabeledImage | FailedImage] = {}
        for index, found in zip(readable, masks, strict=True):
            if found is None:
                with slots.all():
                    (found,) = self._tried([items[index]], [pixels[index]], is_last_try=True)
            with self.times.stage(POST_PROCESSING):
                results[index] = _result(items[index], found)
        return [
            results[index] if index in results else FailedImage(item.key, str(pixels[index]))
            for index, item in enumerate(items)
        ]

    def _tried(
        self, items: Sequence[Item], pixels: Sequence[Any], is_last_try: bool = False
    ) -> Sequence[Masks | str | None]:
        """The masks of each image, or why there are none; None for those that should be tried alone."""
        try:
            return self._masks(items, pixels)
        except Exception as error:
            needs_memory = is_memory_error(error)
            if isinstance(error, DEVICE_ERRORS) and not needs_memory:
                raise
            if len(items) > 1 or (needs_memory and not is_last_try):
                return [None] * len(items)
            height, width = pixels[0].shape[:2]
            no_memory = f"there is not enough memory for an image of width {width}, height {height}"
            return [no_memory if needs_memory else one_line(error)]

    def _masks(self, items: Sequence[Item], pixels: Sequence[Any]) -> list[Masks]:
        if not items:
            return []
        times = TimeSplit()
        pipe: Any = self.pipe
        # Many calls are no mistake here, of which transformers would warn.
        pipe.call_count = 0
        try:
            if self.settings.mode == "everything":
                return self._everything(pipe, pixels, times)
            pipe.times = self.times
            return self._prompted(pipe, items, pixels)
        finally:
            self.times.add(times.seconds)

    def _everything(self, pipe: Any, pixels: Sequence[Any], times: TimeSplit) -> list[Masks]:
        options = {**self._limit(), **self.settings.generation}
        return pipe(list(pixels), batch_size=self.settings.batch_size, times=times, **options)

    def _prompted(self, pipe: Any, items: Sequence[Item], pixels: Sequence[Any]) -> list[Masks]:
        asked = [index for index, item in enumerate(items) if item.prompts is not None and len(item.prompts)]
        nothing = [Masks.from_rle([], array.shape[:2]) for array in pixels]
        if not asked:
            return nothing
        requests = [request_of(items[index].prompts, pixels[index]) for index in asked]
        # Errors about an image that is alone don't count it.
        answers = [pipe(requests[0])] if len(requests) == 1 else pipe(requests, batch_size=self.settings.batch_size)
        found = dict(zip(asked, answers, strict=True))
        return [found.get(index, empty) for index, empty in enumerate(nothing)]


def is_memory_error(error: Exception) -> bool:
    """Whether memory ran out, of the machine or of its GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def weights_sha256(checkpoint: str) -> str:
    """The sha256 of a checkpoint's weights file; of several the sha256 over theirs, whatever they are called."""
    found = sorted(checkpoint_checksums(find_locally(checkpoint)[0]).values())
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def _load(
    checkpoint: str, image_size: int | None, dtype: str, quantize: str | None, mode: str, device: str | None
) -> SamVariantsPipeline:
    model, processor = load_whole(checkpoint, image_size, quantize)
    model.fuse().encode_in(getattr(torch, dtype))
    kind: Any = SamVariantsMaskGenerationPipeline if mode == "everything" else PromptedMasks
    return pipeline_for(kind, model, processor, device)


def _name_of(checkpoint: str) -> str:
    """The same on every machine: of a path only the last name."""
    path = Path(checkpoint).expanduser()
    return os.path.basename(path.resolve()) if path.exists() else checkpoint


def _whole_generation(named: Mapping[str, Any], model: SamVariantsModel) -> dict[str, Any]:
    """All options that are in force, ready for JSON; of the two forms of a grid the one that is."""
    settings = read_settings(named, model_defaults(model.config))
    options = {each.name: getattr(settings.options, each.name) for each in fields(MaskGenerationOptions)}
    grids = options.pop("point_grids")
    if grids is not None:
        options |= {"points_per_side": None, "point_grids": [grid.tolist() for grid in grids]}
    return options | {"max_hole_area": settings.max_hole_area, "max_sprinkle_area": settings.max_sprinkle_area}


def _result(item: Item, masks: Masks | str | None) -> LabeledImage | FailedImage:
    if not isinstance(masks, Masks):
        return FailedImage(item.key, str(masks))
    annotations = [
        {name: value for name, value in annotation.items() if name not in NOT_OF_A_DATASET}
        for annotation in masks.to_coco(image_id=0)
    ]
    return LabeledImage(item, masks.size, with_prompts(annotations, item.prompts))
