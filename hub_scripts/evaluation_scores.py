"""What an evaluation with clicks and boxes sums up: IoU and number of clicks, by size of object, for each method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sam_variants.hub_scripts.evaluation_protocol import NUM_CLICKS, Segmenter, measure
from sam_variants.training.mask_metrics import clicks_to_reach
from sam_variants.training.masked_image import MaskedImage

SIZES = {"all": (0.0, 1.01), "small": (0.0, 0.01), "medium": (0.01, 0.1), "large": (0.1, 1.01)}
"""Sizes of objects: share of the image from (inclusive) and to (exclusive)."""

BY_CLICKS = {1: "click", 3: "three_clicks", 5: "five_clicks"}
NOC_IOUS = {"85": 0.85, "90": 0.9}
NOC_CLICKS = 20
BASELINE_CLICKS = 3
MODEL_SUBSET = "model_on_baseline_scenes"


def sizes_of(areas: np.ndarray) -> dict[str, np.ndarray]:
    """Which of N objects are of each size, N bool, from their shares of the image; sizes that occur."""
    chosen = {size: (areas >= least) & (areas < limit) for size, (least, limit) in SIZES.items()}
    return {size: which for size, which in chosen.items() if which.any()}


@dataclass
class Scores:
    """IoU of every object that a method was asked for, with what is needed to sum them up.

    Attributes:
        areas: of the objects, as shares of their image.
        ious: per measure, as many as areas; NaN where an object has none.
        by_click: of each object after one click, two, …
        seconds: how long the answers took, per kind ("encode" one image, "prompt" one object).
    """

    areas: list[float] = field(default_factory=list)
    ious: dict[str, list[float]] = field(default_factory=dict)
    by_click: list[np.ndarray] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, segmenter: Segmenter, example: MaskedImage, num_clicks: int) -> None:
        """Measure one more image, with an object or more."""
        answers = measure(segmenter, example, num_clicks)
        found = {name: answers.by_click[:, count - 1] for count, name in BY_CLICKS.items() if count <= num_clicks}
        for name, values in (answers.ious | found).items():
            known = self.ious.setdefault(name, [np.nan] * len(self.areas))
            known.extend(values.tolist())
        self.areas.extend(example.areas.tolist())
        self.by_click.extend(answers.by_click)
        for measured in self.ious.values():
            measured.extend([np.nan] * (len(self.areas) - len(measured)))
        self.seconds = segmenter.seconds

    def first(self, count: int) -> Scores:
        """The scores of the first `count` objects, without times."""
        ious = {name: values[:count] for name, values in self.ious.items()}
        return Scores(self.areas[:count], ious, self.by_click[:count])

    def summary(self) -> dict[str, Any]:
        """Means by size of object, and median times in milliseconds.

        Returns:
            Per size of `SIZES` that occurs `objects` (their number), the mean of every measure and, from `NOC_CLICKS`
            clicks on, `click_numbers`; `by_click`, the means after each click; `noc_counts`; and `milliseconds` per
            kind of answer, if there are any.
        """
        areas = np.array(self.areas)
        by_click = np.array(self.by_click)
        counts_clicks = by_click.ndim == 2 and by_click.shape[1] >= NOC_CLICKS
        result: dict[str, Any] = {}
        for size, chosen in sizes_of(areas).items():
            values = {name: np.array(values)[chosen] for name, values in self.ious.items()}
            means = {
                name: round(float(np.nanmean(ious)), 4) for name, ious in values.items() if not np.isnan(ious).all()
            }
            clicks = click_numbers(by_click[chosen]) if counts_clicks else {}
            result[size] = {"objects": int(chosen.sum()), **means, **clicks}
        if by_click.ndim == 2 and by_click.shape[1] > 1:
            result["by_click"] = np.round(by_click.mean(axis=0), 4).tolist()
        if counts_clicks:
            result["noc_counts"] = {name: noc_counts(by_click, least) for name, least in NOC_IOUS.items()}
        if self.seconds:
            result["milliseconds"] = {
                kind: round(1000 * float(np.median(values)), 2) for kind, values in self.seconds.items()
            }
        return result


def click_numbers(by_click: np.ndarray) -> dict[str, float]:
    """ "noc_85" and "noc_90", the mean number of clicks to these IoUs, and "failed_85" and "failed_90", the shares of
    objects that never come there, which count with `NOC_CLICKS`; of N×K IoUs."""
    found = {}
    for name, least in NOC_IOUS.items():
        numbers, reached = clicks_to_reach(by_click[:, :NOC_CLICKS], least)
        found[f"noc_{name}"] = round(float(numbers.mean()), 4)
        found[f"failed_{name}"] = round(float(1 - reached.mean()), 4)
    return found


def noc_counts(by_click: np.ndarray, least: float) -> list[int]:
    """How many objects need 1, 2, … `NOC_CLICKS` clicks, and at the end how many never come there."""
    numbers, reached = clicks_to_reach(by_click[:, :NOC_CLICKS], least)
    return np.bincount(np.where(reached, numbers, NOC_CLICKS + 1), minlength=NOC_CLICKS + 2)[1:].tolist()


def measure_set(
    examples: Iterable[MaskedImage],
    model: Segmenter,
    baselines: dict[str, Segmenter] | None = None,
    num_baseline_images: int = 0,
    num_clicks: int = NUM_CLICKS,
) -> dict[str, dict[str, Any]]:
    """Ask a model about all images of a set, and the baselines about the first of them.

    Args:
        examples: images without objects are passed over.
        model, baselines: what is asked.
        num_baseline_images: how many images the baselines see.
        num_clicks: how many clicks the model gets; the baselines, which are slow, get `BASELINE_CLICKS`.

    Returns:
        The summary of each method, "model" first; where the baselines saw fewer objects, `MODEL_SUBSET` is the model
        on theirs. Nothing where there is no object.
    """
    baselines = baselines or {}
    scores = {name: Scores() for name in ("model", *baselines)}
    num_compared = 0
    for index, example in enumerate(examples):
        if not len(example.masks):
            continue
        scores["model"].add(model, example, num_clicks)
        if index < num_baseline_images:
            num_compared += len(example.masks)
            for name, baseline in baselines.items():
                scores[name].add(baseline, example, min(num_clicks, BASELINE_CLICKS))
    if baselines and 0 < num_compared < len(scores["model"].areas):
        subset = {MODEL_SUBSET: scores["model"].first(num_compared)}
        scores = {"model": scores["model"], **subset, **{name: scores[name] for name in baselines}}
    return {name: score.summary() for name, score in scores.items() if score.areas}
