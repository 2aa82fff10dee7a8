"""How well mask generation finds the known objects of images: COCO's average recall, and what it finds beside them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from sam_variants.hub_scripts.evaluation_scores import sizes_of
from sam_variants.hub_scripts.mask_matching import code_ious
from sam_variants.mask_codecs import Rle, encode_mask
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.training.mask_metrics import COCO_AREAS, COCO_IOUS, recall_hits
from sam_variants.training.masked_image import MaskedImage

RECALLS = {"ar_100": 100, "ar_1000": 1000}
FOUND_IOUS = {"50": 0.5, "75": 0.75, "90": 0.9}
MATCHING_IOU = 0.5
PART_SHARE, BACKGROUND_SHARE = 0.9, 0.1
"""A mask that is no object is a part of one if so much of it lies there, and background if no more lies on objects."""


@dataclass
class GroupScores:
    """What was found of a group of objects.

    Attributes:
        best: of each object the best IoU with any mask.
        hits: per entry of `RECALLS` how many objects were found, from each of `COCO_IOUS` on.
    """

    best: list[float] = field(default_factory=list)
    hits: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(len(COCO_IOUS), int) for name in RECALLS}
    )

    def add(self, ious: np.ndarray) -> None:
        """Count the objects of one more image: IoUs D×G, of masks in falling order of their scores with objects."""
        self.best += ious.max(axis=0, initial=0.0).tolist()
        hits = recall_hits(ious)
        for name, most in RECALLS.items():
            self.hits[name] += hits[:, :most].sum(axis=1)

    def summary(self) -> dict[str, Any]:
        """`objects`, their number; the shares "found_50", … of them that any mask has; "ar_100" and "ar_1000"."""
        best = np.array(self.best)
        return {
            "objects": len(best),
            **{f"found_{name}": round(float((best >= least).mean()), 4) for name, least in FOUND_IOUS.items()},
            **{name: round(float(np.mean(hits / len(best))), 4) for name, hits in self.hits.items()},
        }


@dataclass
class EverythingScores:
    """What mask generation did on the images of a set.

    Attributes:
        groups: by size of objects: those of `SIZES`, and "coco_small", … by COCO's areas.
        masks: how many it found, in all.
        kinds: how many of them are "part", "background" or "false": see `kinds_of`.
        repeated: how many are an object that another mask of the image is, too.
        seconds: for each image.
    """

    groups: dict[str, GroupScores] = field(default_factory=lambda: defaultdict(GroupScores))
    masks: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("false", "part", "background"), 0))
    repeated: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, codes: Sequence[Rle], example: MaskedImage, seconds: float) -> None:
        """Count one more image: the masks in falling order of their scores."""
        objects = [encode_mask(mask) for mask in example.masks]
        ious = code_ious(codes, objects)
        pixels = example.masks.sum(axis=(1, 2))
        coco = {f"coco_{size}": (least <= pixels) & (pixels <= most) for size, (least, most) in COCO_AREAS.items()}
        for group, chosen in (sizes_of(example.areas) | coco).items():
            if chosen.any():
                self.groups[group].add(ious[:, chosen])
        self.masks += len(codes)
        kinds = kinds_of(codes, objects, ious)
        for kind in self.kinds:
            self.kinds[kind] += kinds.count(kind)
        is_object = np.array(kinds) == "object"
        if is_object.any():
            self.repeated += int(is_object.sum()) - len(np.unique(ious[is_object].argmax(axis=1)))
        self.seconds.append(seconds)

    def summary(self) -> dict[str, Any]:
        """`images`; `masks`, the mean of an image; numbers of `false_masks`, …; `seconds`, the median; each group."""
        return {
            "images": len(self.seconds),
            "masks": round(self.masks / len(self.seconds), 2),
            **{f"{kind}_masks": count for kind, count in self.kinds.items()},
            "repeated_masks": self.repeated,
            "seconds": round(float(np.median(self.seconds)), 4),
            **{name: group.summary() for name, group in self.groups.items()},
        }


def kinds_of(codes: Sequence[Rle], objects: Sequence[Rle], ious: np.ndarray) -> list[str]:
    """What each mask is.

    Args:
        codes, objects: run-length codes of D masks and of the G known objects.
        ious: D×G, of the two.

    Returns:
        "object" (an IoU of `MATCHING_IOU` or more), "part" (almost all of it lies in one object), "background" (almost
        nothing of it lies on an object) or "false": none of these, such as an object with what is beside it.
    """
    if not codes or not objects:
        return ["background"] * len(codes)
    # With a "crowd" pycocotools divides by the first mask's area alone.
    inside = np.asarray(mask_utils.iou(list(codes), list(objects), [1] * len(objects))).max(axis=1)
    on_any = np.asarray(mask_utils.iou(list(codes), [mask_utils.merge(list(objects))], [1]))[:, 0]
    found = np.select(
        [ious.max(axis=1) >= MATCHING_IOU, inside >= PART_SHARE, on_any <= BACKGROUND_SHARE],
        ["object", "part", "background"],
        "false",
    )
    return found.tolist()


def measure_everything(
    pipeline: SamVariantsMaskGenerationPipeline, examples: Iterable[MaskedImage], options: dict[str, Any]
) -> dict[str, Any]:
    """Generate the masks of images and hold them against their objects.

    Args:
        pipeline: of the model.
        examples: with all their objects, or masks of what is missing count as false.
        options: of mask generation.

    Returns:
        `EverythingScores.summary`; nothing without images.
    """
    scores = EverythingScores()
    for index, example in enumerate(examples):
        begin = time.perf_counter()
        masks = pipeline(example.image, **options)
        codes = [annotation["segmentation"] for annotation in masks.to_coco(image_id=index)]
        seconds = time.perf_counter() - begin
        order = np.argsort(-np.asarray(masks.scores), kind="stable").tolist() if codes else []
        scores.add([codes[place] for place in order], example, seconds)
    return scores.summary() if scores.seconds else {}
