"""The fast preset of mask generation beside the full one: what each finds on an image, and how soon."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from sam_variants.hub_scripts.benchmark_tables import MISSING, new_table, times
from sam_variants.hub_scripts.mask_matching import code_ious
from sam_variants.mask_codecs import Rle, encode_mask
from sam_variants.mask_generation.time_split import DECODE, ENCODE, TimeSplit
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.training.masked_image import MaskedImage

FULL, FAST = PRESETS = ("full", "fast")
SETS = {"held_out": "scenes", "coins": "coins", "photos": "photos"}
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
LEAST_IOUS = (0.75, 0.9)


@dataclass
class PresetScores:
    """What a preset did on all images of a set.

    Attributes:
        masks: how many it found.
        seconds: all of them, by stage and "total".
        same_ious: for every mask of the full preset the best IoU with one of this.
        object_ious: the same for every known object.
    """

    masks: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((ENCODE, DECODE, "total"), 0.0))
    same_ious: list[float] = field(default_factory=list)
    object_ious: list[float] = field(default_factory=list)

    def add(self, codes: Sequence[Rle], full: Sequence[Rle], objects: Sequence[Rle]) -> None:
        """Count one more image: what was found, what the full preset found, and what there is."""
        self.masks += len(codes)
        self.same_ious += best_ious(codes, full)
        self.object_ious += best_ious(codes, objects)

    def summary(self, images: int) -> dict[str, Any]:
        """Means per image of `masks` and `seconds`; `same` and `objects`: shares found at `LEAST_IOUS`, by IoU.

        Of known objects further `objects_iou`, the mean of the best IoUs; None where there are none.
        """
        return {
            "masks": self.masks / images,
            "seconds": {stage: seconds / images for stage, seconds in self.seconds.items()},
            "same": shares(self.same_ious),
            "objects": shares(self.object_ious),
            "objects_iou": float(np.mean(self.object_ious)) if self.object_ious else None,
        }


def best_ious(codes: Sequence[Rle], wanted: Sequence[Rle]) -> list[float]:
    """For every wanted mask the IoU with the best of others."""
    return code_ious(codes, wanted).max(axis=0, initial=0.0).tolist()


def shares(ious: Sequence[float]) -> dict[str, float | None]:
    """Share of IoUs from each of `LEAST_IOUS` on."""
    return {str(least): float(np.mean(np.array(ious) >= least)) if ious else None for least in LEAST_IOUS}


def photos() -> Iterator[MaskedImage]:
    """Photos that come with scikit-image, without known objects.

    Raises:
        ImportError: scikit-image is missing.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError("the photos are scikit-image's: pip install scikit-image") from error
    for name in PHOTOS:
        image = getattr(data, name)()
        yield MaskedImage(image, np.zeros((0, *image.shape[:2]), dtype=bool))


def measure_presets(
    pipeline: SamVariantsMaskGenerationPipeline, examples: Iterable[MaskedImage], options: dict[str, Any]
) -> dict[str, Any]:
    """Let both presets work on images, in turn.

    Args:
        pipeline: of the model.
        examples: at least one.
        options: of mask generation.

    Returns:
        `images`, their number; for each preset `PresetScores.summary`; `times_as_fast`: the full preset's time by the
        fast one's.
    """
    scores = {preset: PresetScores() for preset in PRESETS}
    images = 0
    for example in examples:
        objects = [encode_mask(mask) for mask in example.masks]
        found: dict[str, list[Rle]] = {}
        # Whoever goes second would profit from warm caches every time.
        for preset in PRESETS if images % 2 else reversed(PRESETS):
            split, begin = TimeSplit(), time.perf_counter()
            masks = pipeline(example.image, times=split, **{**options, "preset": preset})
            seconds = {**split.seconds, "total": time.perf_counter() - begin}
            found[preset] = [annotation["segmentation"] for annotation in masks.to_coco(image_id=images)]
            for stage in scores[preset].seconds:
                scores[preset].seconds[stage] += seconds[stage]
        for preset, score in scores.items():
            score.add(found[preset], found[FULL], objects)
        images += 1
    speed = scores[FULL].seconds["total"] / scores[FAST].seconds["total"]
    return {
        "images": images,
        "times_as_fast": speed,
        **{preset: score.summary(images) for preset, score in scores.items()},
    }


def presets_table(results: dict[str, dict[str, Any]]) -> Table:
    """A row for each set and preset."""
    table = new_table(
        "mask generation, means per image",
        "images",
        *("preset", "masks", "s", "same", "objects", "IoU"),
        caption=f"same: masks of the full preset that this one has too, objects: known objects that it has; both in %, "
        f"with an IoU of at least {'/'.join(map(str, LEAST_IOUS))}\nIoU: the mean of the best for each known object, "
        "in %",
    )
    for name, result in results.items():
        for preset in PRESETS:
            found = result[preset]
            table.add_row(
                f"{SETS[name]} ({result['images']})" if preset == FULL else "",
                preset if preset == FULL else f"{preset}, {times(result['times_as_fast'])}",
                f"{found['masks']:.1f}",
                f"{found['seconds']['total']:.2f}",
                *("/".join(map(percent, found[kind].values())) for kind in ("same", "objects")),
                percent(found["objects_iou"]),
                end_section=preset == FAST,
            )
    return table


def percent(share: float | None) -> str:
    """A share of 1."""
    return MISSING if share is None else f"{100 * share:.1f}"
