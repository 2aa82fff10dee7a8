"""What the evaluation commands measured, in the form of a model card: entries of its metadata, and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from huggingface_hub import EvalResult

from sam_variants.hub.evaluation_report import COMMANDS, is_count, kind_of

TASK_TYPE, TASK_NAME = "mask-generation", "Promptable segmentation"
# The sets of the evaluation commands: the name in the report → (identifier, title) in the card.
SETS = {
    "held_out": ("sam-variants/held-out-scenes", "Held-out synthetic scenes"),
    "coins": ("scikit-image/coins", "Photo of 24 coins"),
    "photo_objects": ("sam-variants/photo-objects", "Ten objects in photos, outlined by hand"),
    "cell": ("scikit-image/cell", "Photo of a cell, outlined by hand"),
    "held_out_clips": ("sam-variants/held-out-clips", "Held-out synthetic clips"),
}
MEAN_IOU = "mean_iou"
PROMPTED = {
    "click": "mean IoU, 1 click",
    "best_of_3": "mean IoU, 1 click, best of 3 candidates by the truth",
    "level": "mean IoU, 1 click, candidate for the object's level (whole, part, part of a part)",
    "three_clicks": "mean IoU, 3 clicks",
    "five_clicks": "mean IoU, 5 clicks",
    "box": "mean IoU, box",
}
CLICK_NUMBERS = {
    "noc_85": ("number_of_clicks", "clicks to an IoU of 0.85, 20 where it is never reached", "clicks"),
    "failed_85": ("failure_rate", "objects without an IoU of 0.85 after 20 clicks", "share"),
    "noc_90": ("number_of_clicks", "clicks to an IoU of 0.90, 20 where it is never reached", "clicks"),
    "failed_90": ("failure_rate", "objects without an IoU of 0.90 after 20 clicks", "share"),
}
FOUND = {
    "found_50": ("recall", "everything: share of objects found, IoU from 0.50"),
    "found_75": ("recall", "everything: share of objects found, IoU from 0.75"),
    "found_90": ("recall", "everything: share of objects found, IoU from 0.90"),
    "ar_100": ("average_recall", "everything: AR@100"),
    "ar_1000": ("average_recall", "everything: AR@1000"),
}
CONTOURS = {"f": ("boundary_f", "F: contour accuracy on the frames after it"), "j_and_f": ("j_and_f", "J&F")}
TRACKED = {
    "j_first": "mean IoU on the prompted frame",
    "j": "J: mean IoU on the frames after it",
    "j_visible": "mean IoU, visible objects",
    "j_reappeared": "mean IoU, objects that came back",
    "j_absent": "share of empty answers for hidden objects",
}


@dataclass(frozen=True)
class Measurement:
    """One number of a report.

    Attributes:
        dataset: identifier and title of what it was measured on.
        kind: the metric, as the Hub calls it.
        name: of the metric, for people.
        value: as it stands in the report.
        count: "673 objects": how many of what it is a mean of.
        unit: "share" (0 to 1), or "clicks" (0 or more).
    """

    dataset: tuple[str, str]
    kind: str
    name: str
    value: float
    count: str
    unit: str = "share"

    @property
    def text(self) -> str:
        """The value for people: a share in percent."""
        return f"{100 * self.value:.1f} %" if self.unit == "share" else f"{self.value:.2f} {self.unit}"


def measurements(report: Mapping[str, Any]) -> list[Measurement]:
    """The numbers of a report that belong to its model; those of baselines and times and counts stay out.

    Args:
        report: what an evaluation command wrote with --json.

    Raises:
        ValueError: for anything else than such a report, for a share that is no number from 0 to 1, and for no number.
    """
    kind = kind_of(report)
    try:
        found = list(READERS[kind](report))
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"the evaluation is not as `sam-variants {COMMANDS[kind]} --json` writes it: {problem}"
        ) from error
    for number in found:
        if not is_number(number.value, 1 if number.unit == "share" else math.inf):
            expected = "a number from 0 to 1" if number.unit == "share" else "a number from 0 on"
            raise ValueError(
                f"the evaluation has {number.value!r} for {number.name!r} ({number.dataset[1]}), expected {expected}"
            )
    if not found:
        raise ValueError(
            "the evaluation has no number for a card, such as one of speed alone: measure prompts, noc, everything or "
            "video"
        )
    return found


def is_number(value: Any, most: float) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= most
    )


def counted(scores: Mapping[str, Any], what: str) -> str:
    """ "673 objects"; a TypeError for what is no number."""
    if not is_count(scores[what]):
        raise TypeError(f"{what} is {scores[what]!r}")
    return f"{scores[what]} {what}"


def measured(report: Mapping[str, Any]) -> Iterator[Measurement]:
    """What `sam-variants evaluate` writes, also without the sections that older ones did not have."""
    for name, found in report.get("results", {}).items():
        yield from prompted(set_of(name), found["model"]["all"])
    for name, found in report.get("everything", {}).items():
        yield from found_objects(set_of(name), found)
    for name, found in report.get("video", {}).items():
        yield from tracked(set_of(name), found)


def prompted(dataset: tuple[str, str], scores: Mapping[str, Any]) -> Iterator[Measurement]:
    count = counted(scores, "objects")
    for key, title in PROMPTED.items():
        if key in scores:
            yield Measurement(dataset, MEAN_IOU, title, scores[key], count)
    for key, (kind, title, unit) in CLICK_NUMBERS.items():
        if key in scores:
            yield Measurement(dataset, kind, title, scores[key], count, unit)


def found_objects(dataset: tuple[str, str], found: Mapping[str, Any]) -> Iterator[Measurement]:
    if "all" in found:
        count = f"{counted(found['all'], 'objects')} in {counted(found, 'images')}"
        for key, (kind, title) in FOUND.items():
            yield Measurement(dataset, kind, title, found["all"][key], count)


def tracked(dataset: tuple[str, str], scores: Mapping[str, Any]) -> Iterator[Measurement]:
    count = f"{counted(scores, 'objects')} in {counted(scores, 'clips')}"
    shown = {key: (MEAN_IOU if key != "j_absent" else key, title) for key, title in TRACKED.items()} | CONTOURS
    for key, (kind, title) in shown.items():
        if scores.get(key) is not None:
            yield Measurement(dataset, kind, title, scores[key], count)


def session(report: Mapping[str, Any]) -> Iterator[Measurement]:
    yield from tracked(SETS["held_out_clips"], report["results"]["session"])


def presets(report: Mapping[str, Any]) -> Iterator[Measurement]:
    for name, found in report["results"].items():
        scores, count = found["full"], counted(found, "images")
        for least, share in scores["objects"].items():
            if share is not None:
                title = f"share of objects found, IoU from {least}"
                yield Measurement(set_of(name), "recall", title, share, count)
        if scores["objects_iou"] is not None:
            title = "mean of the best IoU for each object"
            yield Measurement(set_of(name), MEAN_IOU, title, scores["objects_iou"], count)


READERS = {"prompts": measured, "tracking": session, "everything": presets}


def set_of(name: str) -> tuple[str, str]:
    return SETS.get(name, (name, name.replace("_", " ")))


def eval_results(reports: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """The entries of the card's `model-index`; values as in the reports, shares between 0 and 1."""
    return [
        EvalResult(
            task_type=TASK_TYPE,
            task_name=TASK_NAME,
            dataset_type=found.dataset[0],
            dataset_name=found.dataset[1],
            dataset_config=config,
            dataset_args={**settings_of(report), "image_size": report["model"]["image_size"]},
            metric_type=found.kind,
            metric_name=found.name,
            metric_value=found.value,
        )
        for report, config in zip(reports, dataset_configs(reports), strict=True)
        for found in measurements(report)
    ]


def dataset_configs(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each report is called in the metadata, where entries of one data set and name share their settings.

    Raises:
        ValueError: for two reports of one command with the same settings.
    """
    plain = [f"{COMMANDS[kind_of(report)]}, {report['model']['image_size']} pixels" for report in reports]
    configs: list[str] = []
    for name, report in zip(plain, reports, strict=True):
        own = settings_of(report)
        alike = [settings_of(other) for other, its in zip(reports, plain, strict=True) if its == name]
        differing = sorted({key for other in alike for key in own | other if own.get(key) != other.get(key)})
        configs.append(", ".join([name, *(f"{key} {own.get(key)}" for key in differing)]))
    if twice := next((config for config in configs if configs.count(config) > 1), None):
        raise ValueError(f"there are two evaluations with the same settings ({twice}): give one of them")
    return configs


def settings_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a report; of data on somebody's machine only the name, as folders may tell who that is."""
    settings = dict(report.get("settings") or {})
    data = str(settings.get("data", ""))
    return settings | ({"data": PurePath(data).name} if PurePath(data).is_absolute() else {})


def results_text(reports: Sequence[Mapping[str, Any]]) -> str:
    """A table for each report, with the settings it was measured under, in Markdown."""
    return "\n\n".join(report_text(report) for report in reports)


def report_text(report: Mapping[str, Any]) -> str:
    rows = [f"| {found.dataset[1]} | {found.name} | {found.text} | {found.count} |" for found in measurements(report)]
    used = ", ".join(f"{name} {version}" for name, version in (report.get("versions") or {}).items())
    settings = ", ".join(f"{name} {value}" for name, value in settings_of(report).items())
    told = [
        f"By `sam-variants {COMMANDS[kind_of(report)]}`, with an input of {report['model']['image_size']} pixels.",
        f"Settings: {settings}." if settings else "",
        f"Versions: {used}." if used else "",
    ]
    table = ["| measured on | metric | value | mean over |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([*table, "", " ".join(part for part in told if part)])
