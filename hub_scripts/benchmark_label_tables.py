"""The report of the benchmark `label` as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sam_variants.hub_scripts.benchmark_generators import OURS, THEIRS

NAMES = {OURS: "a loop over our pipeline", THEIRS: "a loop over transformers' pipeline"}


def label_tables(report: dict[str, Any]) -> list[Table]:
    """One table for speed and overhead, one for the memory of a long run if that was measured."""
    return [speed_table(report), *([memory_table(report["memory"])] if "memory" in report else [])]


def speed_table(report: dict[str, Any]) -> Table:
    settings = report["settings"]
    title = f"{settings['megapixels']:g} MP, {settings['points_per_side']}×{settings['points_per_side']} points"
    table = Table("", "images/s", "masks/s", "ratio", "writing", "resuming", title=title)
    slowest = report["loops"].get(THEIRS, report["loops"][OURS])
    reference = slowest["seconds"] / slowest["images"]
    rows = {f"label --jobs {jobs}": run for jobs, run in report["runs"].items()}
    rows |= {NAMES[name]: run for name, run in report["loops"].items()}
    for name, run in rows.items():
        shares = (f"{100 * run[share]:.1f} %" if share in run else "–" for share in ("writing", "resuming"))
        rate = run["images"] / run["seconds"]
        table.add_row(name, f"{rate:.3g}", f"{run['masks'] / run['seconds']:.3g}", f"{rate * reference:.3g}×", *shares)
    return table


def memory_table(run: dict[str, Any]) -> Table:
    title = f"memory over {run['images']:,} images, {run['images'] / run['seconds']:.3g} a second"
    table = Table("images done", "resident", title=title)
    for done, resident in run["memory"]:
        table.add_row(f"{done:,}", "–" if resident is None else f"{resident / 1e6:,.0f} MB")
    return table
