"""The report of the benchmark `load` as tables, with the aims beside the numbers."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sam_variants.hub_scripts.benchmark_load import HELP, OURS, PYTHON, THEIRS, TORCH
from sam_variants.hub_scripts.benchmark_loading import CHECKPOINT, PIPELINE, PRETRAINED
from sam_variants.hub_scripts.benchmark_tables import MEGABYTE, MISSING, new_table, times, verdict

STARTS = {
    PYTHON: "python",
    TORCH: "import torch",
    THEIRS: "from transformers import SamModel",
    OURS: "the same and import sam_variants",
    "added": "which adds",
    HELP: HELP,
}
AIM_SECONDS = {"added": 0.3, HELP: 1.0}
AIM_EMBEDDED_SECONDS = 0.5
AIM_PEAK = 1.2
# What every load needs besides weighs tens of megabytes, more than small models do.
LEAST_JUDGED_MEGABYTES = 200
LOADERS = {PRETRAINED: "AutoModel", CHECKPOINT: "load_checkpoint", PIPELINE: "pipeline", THEIRS: "transformers' own"}


def load_tables(report: dict[str, Any]) -> list[Table]:
    """One table for starts of processes, one for each checkpoint that was loaded."""
    preset = report["settings"]["preset"]
    return [
        starts_table(report["starts"]),
        loads_table("the embedded checkpoint", report["embedded"], AIM_EMBEDDED_SECONDS),
        loads_table(f"{preset}, random weights", report["preset"]),
    ]


def starts_table(starts: dict[str, Any]) -> Table:
    table = new_table("starts of a process", "what", "seconds", "processor", "aim")
    for name, label in STARTS.items():
        seconds, cpu_seconds = starts[name]["seconds"], starts[name]["cpu_seconds"]
        table.add_row(label, f"{seconds:.2f}", f"{cpu_seconds:.2f}", judged(seconds, AIM_SECONDS.get(name)))
    return table


def loads_table(title: str, loads: dict[str, Any], aim_seconds: float | None = None) -> Table:
    """Table of what loaders did with one checkpoint.

    Args:
        title: which checkpoint.
        loads: by loader what `benchmark_loading` measured.
        aim_seconds: what it should take at most, or None.
    """
    weights = next(iter(loads.values()))["weights_bytes"] / MEGABYTE
    aim_peak = AIM_PEAK if weights >= LEAST_JUDGED_MEGABYTES else None
    caption = "peak: while it is loaded and every weight read once, above what the process had before"
    columns = ("seconds", "processor", "aim", "peak", "of the weights", "aim")
    table = new_table(f"loading {title}: {weights:,.0f} MB, behind the imports", "how", *columns, caption=caption)
    for name, found in loads.items():
        peak, share = found["peak_bytes"], None
        if peak is not None:
            share = peak / found["weights_bytes"]
        table.add_row(
            LOADERS[name],
            f"{found['seconds']:.2f}",
            f"{found['cpu_seconds']:.2f}",
            judged(found["seconds"], aim_seconds),
            MISSING if peak is None else f"{peak / MEGABYTE:,.0f} MB",
            times(share),
            judged(share, aim_peak),
        )
    return table


def judged(number: float | None, aim: float | None) -> str:
    """What a number should be at most, and whether it is."""
    return MISSING if number is None or aim is None else f"≤ {aim:g} {verdict(number <= aim)}"
