"""What the evaluation commands measured, in the form of a model card: entries of its metadata, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

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
COMMANDS = {"prompts": "evaluate", "tracking": "evaluate-tracking", "everything": "evaluate-everything"}


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


def kind_of(report: Mapping[str, Any]) -> str:
    """Which command wrote a report: a key of `COMMANDS`.

    Raises:
        ValueError: for anything else than such a report.
    """
    results = report.get("results") if isinstance(report, Mapping) else None
    facts = report.get("model") if isinstance(report, Mapping) else None
    if isinstance(results, Mapping) and isinstance(facts, Mapping) and {"parameters", "image_size"} <= facts.keys():
        if "j" in results.get("session", {}):
            return "tracking"
        if results and all("all" in found.get("model", {}) for found in results.values()):
            return "prompts"
        if results and all("full" in found for found in results.values()):
            return "everything"
    commands = ", ".join(f"sam-variants {command} --json" for command in COMMANDS.values())
    raise ValueError(f"this is no evaluation of a model; give what one of these wrote: {commands}")


def measurements(report: Mapping[str, Any]) -> list[Measurement]:
    """The numbers of a report that belong to its model; those of baselines and times stay out.

    Args:
        report: what an evaluation command wrote with --json.

    Raises:
        ValueError: for anything else than such a report.
    """
    return list(READERS[kind_of(report)](report["results"]))


def prompted(results: Mapping[str, Any]) -> Iterator[Measurement]:
    for name, found in results.items():
        scores = found["model"]["all"]
        for key, title in PROMPTED.items():
            if key in scores:
                yield Measurement(set_of(name), MEAN_IOU, title, scores[key], f"{scores['objects']} objects")


def tracked(results: Mapping[str, Any]) -> Iterator[Measurement]:
    scores = results["session"]
    count = f"{scores['objects']} objects in {scores['clips']} clips"
    for key, title in TRACKED.items():
        if scores.get(key) is not None:
            yield Measurement(CLIPS, MEAN_IOU if key != "j_absent" else key, title, scores[key], count)


def everything(results: Mapping[str, Any]) -> Iterator[Measurement]:
    for name, found in results.items():
        scores, count = found["full"], f"{found['images']} images"
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


def check_model(report: Mapping[str, Any], num_parameters: int) -> None:
    """Raise a ValueError when a report is about another model than one of so many parameters."""
    kind_of(report)
    about = report["model"]
    if about["parameters"] != num_parameters:
        raise ValueError(
            f"the evaluation is of another model: of {about.get('checkpoint')!r} with {about['parameters']:,} "
            f"parameters, where this one has {num_parameters:,}"
        )


def eval_results(reports: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """The entries of the card's `model-index`; values as in the reports, between 0 and 1."""
    return [
        EvalResult(
            task_type=TASK_TYPE,
            task_name=TASK_NAME,
            dataset_type=found.dataset[0],
            dataset_name=found.dataset[1],
            dataset_config=COMMANDS[kind_of(report)],
            dataset_args={**settings_of(report), "image_size": report["model"]["image_size"]},
            metric_type=found.kind,
            metric_name=found.name,
            metric_value=found.value,
        )
        for report in reports
        for found in measurements(report)
    ]


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
