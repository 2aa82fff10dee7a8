"""Everything in a photo: what can be set, and the run itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import gradio as gr

from sam_variants import MaskGenerationOptions, Masks, TimeSplit
from sam_variants.spaces_demo.background import end_of_patience
from sam_variants.spaces_demo.gpu import gpu
from sam_variants.spaces_demo.models import Loaded
from sam_variants.spaces_demo.photos import Photo

# Fraction of the work done, and what is being done.
Progress = Callable[[float, str], None]
MOST_POINTS_PER_SIDE = 64
GPU_SECONDS = 60


@dataclass(frozen=True)
class EverythingOptions:
    """What a visitor may set: arguments of the mask-generation pipeline, under its names.

    Attributes:
        points_per_side: points along each side of the photo that are asked about, 1 to `MOST_POINTS_PER_SIDE`.
        pred_iou_thresh: masks are kept when the model expects a better IoU than this, 0..1.
        stability_score_thresh: and when they are at least so stable, 0..1.
        min_mask_region_area: holes and islands of fewer pixels are filled and removed.
        preset: "fast" leaves out points that masks already cover; "full" asks about all.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    min_mask_region_area: int = 0
    preset: str = "fast"

    def __post_init__(self) -> None:
        # First: the options lay out their points at once.
        if not 1 <= self.points_per_side <= MOST_POINTS_PER_SIDE:
            raise gr.Error(
                f"points_per_side must be 1 to {MOST_POINTS_PER_SIDE}, got {self.points_per_side}.",
                print_exception=False,
            )
        try:
            MaskGenerationOptions(**asdict(self))
        except ValueError as error:
            raise gr.Error(f"Everything: {error}.", print_exception=False) from None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for a call of the pipeline."""
        return asdict(self)


def suiting_options(loaded: Loaded) -> EverythingOptions:
    """The defaults, with the thresholds that suit a model (its `config.mask_generation`)."""
    own = loaded.model.config.mask_generation or {}
    known = {each.name for each in fields(EverythingOptions)}
    return EverythingOptions(**{name: value for name, value in own.items() if name in known})


def find_everything(
    loaded: Loaded, photo: Photo, options: EverythingOptions, progress: Progress | None = None
) -> tuple[Masks, TimeSplit]:
    """All masks in a photo, at its original size, and where the time went.

    Args:
        loaded: the model.
        photo: the visitor's.
        options: density and thresholds.
        progress: told the fraction of the points that are done, where the work is done in this process; what it
            raises ends the work.

    Raises:
        gr.Error: when the upload was deleted meanwhile.
    """
    if _find_on_gpu is not _find:
        return _find_on_gpu(loaded, photo, options)
    return _find(loaded, photo, options, progress)


def _find(
    loaded: Loaded, photo: Photo, options: EverythingOptions, progress: Progress | None = None
) -> tuple[Masks, TimeSplit]:
    check = end_of_patience()

    def report(done: int, points: int) -> None:
        check()
        if progress is not None:
            progress(done / max(points, 1), f"{done} of {points} points")

    times = TimeSplit()
    masks = loaded.generator(photo.image(), **options.arguments(), times=times, progress=report)
    return masks, times


# The same function where no GPU is lent; where one is, nothing can be reported from the other process.
_find_on_gpu = gpu(duration=GPU_SECONDS)(_find)
