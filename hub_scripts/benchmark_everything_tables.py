"""The report of `sam-variants benchmark everything` for people."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

from sam_variants.hub_scripts.benchmark_everything import SAME_IOU
from sam_variants.hub_scripts.benchmark_generators import FAST, OURS, REST, THEIRS
from sam_variants.hub_scripts.benchmark_tables import MEGABYTE, MISSING, new_table, times
from sam_variants.mask_generation.time_split import DECODE, ENCODE

COLUMNS = ("s", f"{ENCODE} + {DECODE} + {REST}", "× ours", "MB", "masks", "same")


def everything_tables(report: dict[str, Any]) -> list[Table]:
    """Tables of what `measure_everything` reports, one for each model and image; the last one explains the columns."""
    sections = report["models"].items()
    tables = [row_table(name, section["options"], row) for name, section in sections for row in section["rows"]]
    tables[-1].caption = "\n".join(
        filter(
            None,
            (
                tables[-1].caption,  # type: ignore[arg-type]
                "× ours: time, with ours as 1; MB: peak of the memory above the weights",
                f"same: masks of the generator that ours has too, with an IoU of {SAME_IOU} or more",
            ),
        )
    )
    return tables


def row_table(model: str, options: dict[str, Any], row: dict[str, Any]) -> Table:
    """Time, memory and agreement of all generators on one image."""
    named = "".join(f", {option} {value}" for option, value in options.items())
    title = f"{model}, {row['megapixels']:g} MP, {row['points_per_side']}² points{named}"
    table = new_table(title, "generator", *COLUMNS, caption=_caption(row))
    for generator, found in row["generators"].items():
        table.add_row(generator, *_cells(row, generator, found))
    return table


def _cells(row: dict[str, Any], generator: str, found: dict[str, Any]) -> list[str]:
    if "failed" in found:
        return ["failed", *[MISSING] * (len(COLUMNS) - 1)]
    agreement, peak = row["agreement"].get(generator), found["peak_bytes"]
    return [
        f"{found['seconds']:.2f}",
        "+".join(f"{seconds:.2f}" for seconds in found["stages"].values()),
        times(row["times_ours"].get(generator)),
        MISSING if peak is None else f"{peak / MEGABYTE:.0f}",
        str(found["masks"]),
        MISSING if agreement is None else f"{agreement['matched']}/{agreement['theirs']}",
    ]


def _caption(row: dict[str, Any]) -> str | None:
    generators = row["generators"]
    sentences = [f"{name} failed: {found['failed']}" for name, found in generators.items() if "failed" in found]
    points = generators.get(THEIRS, {}).get("points_per_batch", math.inf)
    if points < generators[OURS]["points_per_batch"]:
        sentences.append(f"{THEIRS} took {points} points at once, so that their masks fit into memory")
    extra = {name: compared["extra"] for name, compared in row["agreement"].items() if compared["extra"]}
    sentences += [f"{OURS} has {number} masks that {name} has not" for name, number in extra.items()]
    shares = {least: share for least, share in row.get("recall", {}).items() if share is not None}
    if shares:
        found = " and ".join(f"{share:.0%} at an IoU of {least}" for least, share in shares.items())
        sentences.append(f"{FAST} has {found} of the masks of {OURS}")
    return "\n".join(sentences) or None
