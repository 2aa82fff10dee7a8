"""The report of `sam-variants benchmark encode` for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sam_variants.hub_scripts.benchmark_encode import BASELINES, BFLOAT16, COMPILED, OFFICIAL, OURS, THEIRS
from sam_variants.hub_scripts.benchmark_tables import MISSING, milliseconds, new_table, times, verdict

# How many times as fast as a baseline each form of ours should be on two cores, at 1024 pixels.
AIMS: dict[tuple[str, str], float] = {
    (OURS, OFFICIAL): 1.6,
    (COMPILED, OFFICIAL): 2.0,
    (BFLOAT16, OFFICIAL): 3.2,
    (OURS, THEIRS): 1.3,
}
AIMED_SIZE = 1024


def encode_tables(report: dict[str, Any]) -> list[Table]:
    """A table for each model; the last one explains the columns."""
    tables = [model_table(name, section) for name, section in report["models"].items()]
    sentences = (
        tables[-1].caption,
        "× official, × transformers: how many times as fast, with the aim at 1024 pixels and whether it is reached",
        "difference: the largest to the first line, with the standard deviation of its embedding as 1",
    )
    tables[-1].caption = "\n".join(str(sentence) for sentence in sentences if sentence)
    return tables


def model_table(name: str, section: dict[str, Any]) -> Table:
    """Time, ratios, difference and memory of every form of one encoder."""
    side, found = section["image_size"], section["contenders"]
    table = new_table(
        f"{name}, {side} pixels",
        "encoder",
        "ms",
        "× official",
        "× transformers",
        "difference",
        caption=_warm_up(found),
    )
    for form, result in found.items():
        speeds = section["times_as_fast"].get(form, {})
        table.add_row(
            form,
            milliseconds(result["seconds"]),
            *(_speed(form, baseline, speeds.get(baseline), side) for baseline in BASELINES),
            MISSING if form == section["reference"] else f"{result['difference']:.1e}",
        )
    return table


def _speed(form: str, baseline: str, speed: float | None, side: int) -> str:
    aim = AIMS.get((form, baseline))
    if speed is None or aim is None or side != AIMED_SIZE:
        return times(speed)
    return f"{times(speed)} (≥ {aim}: {verdict(speed >= aim)})"


def _warm_up(found: dict[str, Any]) -> str | None:
    if COMPILED not in found:
        return None
    return f"torch.compile took {found[COMPILED]['warm_up_seconds']:.0f} s before the first image"
