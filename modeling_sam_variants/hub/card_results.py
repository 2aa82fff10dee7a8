"""What the evaluation commands measured, in the form of a model card: entries of its metadata, and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

from sam_variants.hub.evaluation_report import COMMANDS, is_count, kind_of

TASK_TYPE, TASK_NAME = "mask-generation", "Promptable segmentation"
# The sets of the evaluation commands: the name in the report → (identifier, title) in the card.
SETS = {
    "held_out": ("sam-variants/held-out-scenes", "Held-out synthetic scenes"),
    "coins": ("scikit-image/coins", "Photo of 24 coins"),
}
CLIPS = ("sam-variants/held-out-clips", "Held-out synthetic clips")
MEAN_IOU = "mean_iou"
PROMPTED = {
    "click": "mean IoU, 1 click",
    "best_of_3": "mean IoU, 1 click, best of 3 candidates by the truth",
    "three_clicks": "mean IoU, 3 clicks",
    "box": "mean IoU, box",
}
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
    """

    dataset: tuple[str, str]
    kind: str
    name: str
    value: float
    count: str


def measurements(report: Mapping[str, Any]) -> list[Measurement]:
    """The numbers of a report that belong to its model; those of baselines and times stay out.

    Args:
        report: what an evaluation command wrote with --json.

    Raises:
        ValueError: for anything else than such a report, and for a number that is none from 0 to 1.
    """
    kind = kind_of(report)
    try:
        found = list(READERS[kind](report["results"]))
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"the evaluation is not as `sam-variants {COMMANDS[kind]} --json` writes it: {problem}"
        ) from error
    for number in found:
        if not is_share(number.value):
            raise ValueError(
                f"the evaluation has {number.value!r} for {number.name!r} ({number.dataset[1]}), expected a number "
                "from 0 to 1"
            )
    return found


def is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def counted(scores: Mapping[str, Any], what: str) -> str:
    """ "673 objects"; a TypeError for what is no number."""
    if not is_count(scores[what]):
        raise TypeError(f"{what} is {scores[what]!r}")
    return f"{scores[what]} {what}"


def prompted(results: Mapping[str, Any]) -> Iterator[Measurement]:
    for name, found in results.items():
        scores = found["model"]["all"]
        for key, title in PROMPTED.items():
            if key in scores:
                yield Measurement(set_of(name), MEAN_IOU, title, scores[key], counted(scores, "objects"))


def tracked(results: Mapping[str, Any]) -> Iterator[Measurement]:
    scores = results["session"]
    count = f"{counted(scores, 'objects')} in {counted(scores, 'clips')}"
    for key, title in TRACKED.items():
        if scores.get(key) is not None:
            yield Measurement(CLIPS, MEAN_IOU if key != "j_absent" else key, title, scores[key], count)


def everything(results: Mapping[str, Any]) -> Iterator[Measurement]:
    for name, found in results.items():
        scores, count = found["full"], counted(found, "images")
        for least, share in scores["objects"].items():
            if share is not None:
                title = f"share of objects found, IoU from {least}"
                yield Measurement(set_of(name), "recall", title, share, count)
        if scores["objects_iou"] is not None:
            title = "mean of the best IoU for each object"
            yield Measurement(set_of(name), MEAN_IOU, title, scores["objects_iou"], count)


READERS = {"prompts": prompted, "tracking": tracked, "everything": everything}


def set_of(name: str) -> tuple[str, str]:
    return SETS.get(name, (name, name.replace("_", " ")))


def eval_results(reports: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """The entries of the card's `model-index`; values as in the reports, between 0 and 1."""
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
    return dict(report.get("settings") or {})


def results_text(reports: Sequence[Mapping[str, Any]]) -> str:
    """A table for each report, with the settings it was measured under, in Markdown; values in percent."""
    return "\n\n".join(report_text(report) for report in reports)


def report_text(report: Mapping[str, Any]) -> str:
    rows = [
        f"| {found.dataset[1]} | {found.name} | {100 * found.value:.1f} | {found.count} |"
        for found in measurements(report)
    ]
    used = ", ".join(f"{name} {version}" for name, version in (report.get("versions") or {}).items())
    settings = ", ".join(f"{name} {value}" for name, value in settings_of(report).items())
    told = [
        f"By `sam-variants {COMMANDS[kind_of(report)]}`, with an input of {report['model']['image_size']} pixels.",
        f"Settings: {settings}." if settings else "",
        f"Versions: {used}." if used else "",
    ]
    table = ["| measured on | metric | % | mean over |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([*table, "", " ".join(part for part in told if part)])
