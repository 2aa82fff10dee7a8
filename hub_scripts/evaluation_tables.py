"""The report of `sam-variants evaluate` for people: a table for each measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.table import Table

from sam_variants.hub_scripts.benchmark_tables import MISSING, new_table
from sam_variants.hub_scripts.evaluation_scores import NOC_CLICKS, SIZES

MEGABYTE = 1e6
PROMPTED = {
    "click": "1 click",
    "level": "its level",
    "best_of_3": "best of 3",
    "three_clicks": "3 clicks",
    "five_clicks": "5 clicks",
    "box": "box",
}
NOC = {"noc_85": "NoC@85", "failed_85": "never, %", "noc_90": "NoC@90", "failed_90": "never, %"}
FOUND = {
    "found_50": "IoU ≥ 0.5",
    "found_75": "≥ 0.75",
    "found_90": "≥ 0.9",
    "ar_100": "AR@100",
    "ar_1000": "AR@1000",
}
TRACKED = {"j_and_f": "J&F", "j": "J", "f": "F", "j_first": "1st frame", "j_reappeared": "came back"}


def report_tables(report: Mapping[str, Any], titles: Mapping[str, str]) -> Iterator[Table]:
    """A table for each set and measure of a report.

    Args:
        report: what `evaluate` returns.
        titles: of the sets, for people.
    """
    tables: dict[str, Callable[[str, Mapping[str, Any]], Iterator[Table]]] = {
        "results": prompt_tables,
        "everything": everything_tables,
        "video": video_tables,
    }
    for section, build in tables.items():
        for name, found in report.get(section, {}).items():
            yield from build(titles.get(name, name), found)
    if "speed" in report:
        yield speed_table(report["speed"])


def prompt_tables(title: str, results: Mapping[str, Any]) -> Iterator[Table]:
    """Mean IoU in percent, a row per method and size of object; and the numbers of clicks, where they were counted."""
    shown = [name for name in PROMPTED if any(name in summary["all"] for summary in results.values())]
    times = (times_text(method, summary.get("milliseconds", {})) for method, summary in results.items())
    caption = "\n".join(text for text in times if text)
    headings = (PROMPTED[name] for name in shown)
    table = new_table(f"{title}: mean IoU in %", "method", "objects", *headings, caption=caption)
    table.columns[0].min_width = len("  medium")
    for method, summary in results.items():
        for label, row in rows_by_size(method.replace("_", " "), summary):
            table.add_row(label, str(row["objects"]), *(percent(row.get(name)) for name in shown))
        table.add_section()
    yield table
    if "noc_90" in results["model"]["all"]:
        caption = f"NoC@85: clicks to an IoU of 0.85; objects that never come there count with {NOC_CLICKS}"
        table = new_table(f"{title}: number of clicks", "objects", "number", *NOC.values(), caption=caption)
        for label, row in rows_by_size("all", results["model"]):
            numbers = (percent(row[name]) if name.startswith("failed") else f"{row[name]:.2f}" for name in NOC)
            table.add_row(label, str(row["objects"]), *numbers)
        yield table


def times_text(method: str, times: Mapping[str, float]) -> str:
    """How long a method takes."""
    steps = {"encode": "an image", "prompt": "a prompt"}
    told = ", ".join(f"{times[kind]:.1f} ms {step}" for kind, step in steps.items() if kind in times)
    return f"{method.replace('_', ' ')}: {told}" if told else ""


def rows_by_size(name: str, summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The numbers of all objects under a name, then those of each size."""
    for size in SIZES:
        if size in summary:
            yield (name if size == "all" else f"  {size}"), summary[size]


def everything_tables(title: str, found: Mapping[str, Any]) -> Iterator[Table]:
    """What mask generation finds, by size."""
    images = "1 image" if found["images"] == 1 else f"{found['images']} images"
    caption = (
        f"{found['masks']:.1f} masks and {found['seconds']:.2f} s an image; of all masks {found['false_masks']} are "
        f"false, {found['part_masks']} parts of objects, {found['background_masks']} background, "
        f"{found['repeated_masks']} repetitions"
    )
    if "all" in found:
        number = found["all"]["objects"]
        caption = f"{round(number * found['all']['found_50'])} of {number} objects found, {caption}"
    heading = f"{title}, everything in {images}: objects found in %"
    table = new_table(heading, "objects", "number", *FOUND.values(), caption=caption)
    coco = ((f"  {name.removeprefix('coco_')} (COCO)", found[name]) for name in found if name.startswith("coco_"))
    for label, row in [*rows_by_size("all", found), *coco]:
        table.add_row(label, str(row["objects"]), *(percent(row[name]) for name in FOUND))
    yield table


def video_tables(title: str, found: Mapping[str, Any]) -> Iterator[Table]:
    """J and F, in percent."""
    heading = f"{title}: {found['objects']} objects in {found['clips']} clips, in %"
    table = new_table(heading, "one click in the first frame", *TRACKED.values(), "ms/frame")
    numbers = (percent(found.get(name)) for name in TRACKED)
    table.add_row("model", *numbers, f"{found.get('milliseconds_per_frame', 0):.1f}")
    yield table


def speed_table(speed: Mapping[str, Any]) -> Table:
    """Times and memory."""
    peak = speed["peak_memory_bytes"]
    memory = "" if peak is None else f"at the peak {peak / MEGABYTE:.0f} MB ({speed['memory']}) above the model's own"
    heading = f"An image of {speed['image_width']}×{speed['image_height']} pixels: milliseconds"
    table = new_table(heading, "step", "median", "95 % within", "runs", caption=memory)
    for kind in ("encode", "prompt"):
        times = speed[kind]
        table.add_row(kind, f"{times['median_ms']:.1f}", f"{times['p95_ms']:.1f}", str(times["runs"]))
    return table


def percent(share: float | None) -> str:
    """A share of 1."""
    return MISSING if share is None else f"{100 * share:.1f}"
