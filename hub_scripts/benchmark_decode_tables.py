"""The report of `sam-variants benchmark decode` for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sam_variants.hub_scripts.benchmark_decode import OURS, PLAIN, THEIRS
from sam_variants.hub_scripts.benchmark_tables import MISSING, milliseconds, new_table, times

CONTENDERS = (OURS, PLAIN, THEIRS)


def decode_tables(report: dict[str, Any]) -> list[Table]:
    """A table for each model; the last one explains the columns."""
    tables = [model_table(name, section) for name, section in report["models"].items()]
    tables[-1].caption = (
        "masks and scores for prompts given together on an encoded image, milliseconds for each prompt\n"
        "difference: the largest between ours and transformers' (or else our plain form's) logits or scores, with "
        "their standard deviation as 1"
    )
    return tables


def model_table(name: str, section: dict[str, Any]) -> Table:
    """Time for each prompt, by how many are given together."""
    table = new_table(
        f"{name}, {section['image_size']} pixels: ms per prompt",
        "prompts",
        *CONTENDERS,
        "× plain form",
        f"× {THEIRS}",
        "difference",
    )
    for row in section["rows"]:
        found, count = row["contenders"], row["prompts"]
        table.add_row(
            f"{count} {row['kind']}",
            *(milliseconds(found[form]["seconds"] / count if form in found else None) for form in CONTENDERS),
            *(times(row["times_as_fast"].get(baseline)) for baseline in (PLAIN, THEIRS)),
            MISSING if OURS not in found else f"{found[OURS]['difference']:.1e}",
        )
    return table
