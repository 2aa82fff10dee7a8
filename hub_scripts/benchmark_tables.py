"""The report of `sam-variants benchmark track` for people: tables with the aims beside the numbers."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sam_variants.hub_scripts.benchmark_compare import REST
from sam_variants.hub_scripts.benchmark_track import DISTURBED, HALF_SIZE, ONE_BY_ONE, OURS, THEIRS
from sam_variants.hub_scripts.benchmark_trackers import DISTURBANCE, OUR_PARTS

AIM_TIMES_AS_FAST = 1.1
AIM_HALF_SIZE = 6.0
AIM_GROWTH = 0.02
MEGABYTE = 1e6
MISSING = "–"


def track_tables(report: dict[str, Any]) -> list[Table]:
    """Tables of what `measure_track` reports."""
    preset = report["settings"]["preset"]
    tables = []
    for name, section in (("tiny dimensions", report["small"]), (preset, report["preset"])):
        tables += [time_table(name, section), parts_table(name, section)]
    tables.append(memory_table(report["memory"]))
    half = half_size_table(report)
    return tables if half is None else [*tables, half]


def new_table(title: str, first: str, *columns: str, caption: str | None = None) -> Table:
    """An empty table: text in the first column, numbers in the others."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds."""
    return MISSING if seconds is None else f"{1000 * seconds:.1f}"


def times(factor: float | None) -> str:
    """A factor."""
    return MISSING if factor is None else f"{factor:.2f}×"


def verdict(is_reached: bool) -> str:
    """Whether an aim is reached."""
    return "yes" if is_reached else "no"


def time_table(name: str, section: dict[str, Any]) -> Table:
    """Time of a frame by number of objects, and whether answers are equal."""
    table = new_table(
        f"{name}, {section['image_size']} pixels, random weights: ms per frame, memory full",
        "objects",
        *("ours", "one by one", THEIRS, "ours is", "limit", "difference"),
        caption=_time_caption(section["rows"]),
    )
    for row in section["rows"]:
        seconds, limit, difference = row["seconds"], row.get("limit_seconds"), row["differences"].get(THEIRS)
        speed = row["times_as_fast"].get(THEIRS)
        table.add_row(
            str(row["objects"]),
            *(milliseconds(seconds.get(tracker)) for tracker in (OURS, ONE_BY_ONE, THEIRS)),
            MISSING if speed is None else f"{times(speed)} {verdict(speed >= AIM_TIMES_AS_FAST)}",
            MISSING if limit is None else f"{milliseconds(limit)} {verdict(seconds[OURS] <= limit)}",
            MISSING if difference is None else f"{difference:.1e}",
        )
    return table


def _time_caption(rows: list[dict[str, Any]]) -> str:
    sentences = [f"ours is: times as fast as transformers, aim {AIM_TIMES_AS_FAST}"]
    if any("limit_seconds" in row for row in rows):
        sentences.append("limit: one encoder pass and N times the rest of one object; N objects must stay below it")
    sentences.append(
        "difference: the largest between our logits and transformers' on the measured frames; the logits' standard "
        f"deviation is {rows[0]['logits_std']:.2f}. Both keep memories in bfloat16, so what differs in the last bit of "
        "float32 can grow from frame to frame"
    )
    disturbed = [row["differences"][DISTURBED] for row in rows if DISTURBED in row["differences"]]
    if disturbed:
        sentences.append(
            f"by how much ours differs from itself when pixels change by {DISTURBANCE:.0e} of their value: "
            f"{disturbed[0]:.1e}"
        )
    return "\n".join(sentences)


def parts_table(name: str, section: dict[str, Any]) -> Table:
    """Where the time of a frame goes."""
    table = new_table(f"{name}: where the time goes, ms per frame", "objects, tracker", *OUR_PARTS, REST)
    for row in section["rows"]:
        for tracker in (OURS, THEIRS):
            if tracker in row["parts"]:
                parts = row["parts"][tracker]
                cells = (milliseconds(parts[part]) for part in (*OUR_PARTS, REST))
                table.add_row(f"{row['objects']}, {tracker}", *cells)
    return table


def memory_table(memory: dict[str, list[dict[str, Any]]]) -> Table:
    """Memory on the way through a long video."""
    table = new_table(
        "tiny dimensions, one object: memory in MB",
        "tracker",
        *(f"frame {line['frame']}" for line in memory[OURS]),
        "growth",
        caption="held by the session, and resident in the process with all its libraries; a process each\n"
        f"growth: from the first to the last of these frames, aim {AIM_GROWTH:.0%}",
    )
    for name, lines in memory.items():
        for kind, digits in (("held", 2), ("resident", 1)):
            sizes = [line[f"{kind}_bytes"] for line in lines]
            if None in sizes:
                continue
            growth = sizes[-1] / sizes[0] - 1
            table.add_row(
                f"{name}, {kind}",
                *(f"{size / MEGABYTE:.{digits}f}" for size in sizes),
                f"{growth:+.1%} {verdict(growth <= AIM_GROWTH)}",
            )
    return table


def half_size_table(report: dict[str, Any]) -> Table | None:
    """Half the input size: what it saves with the preset, and what it costs in J with a trained tracker."""
    rows = [row for row in report["preset"]["rows"] if HALF_SIZE in row["seconds"]]
    accuracy = report["half_size_j"]
    if not rows and "results" not in accuracy:
        return None
    caption = f"no J: {accuracy['skipped']}" if "skipped" in accuracy else "J: mean IoU in % on held-out clips"
    table = new_table("half the input size", "model", "pixels", "ms per frame", "J", "half is", "aim", caption=caption)
    side = report["preset"]["image_size"]
    for row in rows:
        name = f"{report['settings']['preset']}, {row['objects']} object{'s' * (row['objects'] > 1)}, random weights"
        speed = row["half_size_times_as_fast"]
        table.add_row(name, str(side), milliseconds(row["seconds"][OURS]), MISSING, "", "")
        reached = f"≥ {AIM_HALF_SIZE:.0f}×: {verdict(speed >= AIM_HALF_SIZE)}"
        table.add_row("", str(side // 2), milliseconds(row["seconds"][HALF_SIZE]), MISSING, times(speed), reached)
    if "results" in accuracy:
        own, half = (accuracy["results"][str(size)] for size in accuracy["image_sizes"])
        for size, summary, name in zip(accuracy["image_sizes"], (own, half), (accuracy["checkpoint"], ""), strict=True):
            change = "" if name else f"{100 * (half['j'] - own['j']):+.1f} J"
            cells = (f"{summary['milliseconds_per_frame']:.1f}", f"{100 * summary['j']:.1f}")
            speed = own["milliseconds_per_frame"] / half["milliseconds_per_frame"]
            table.add_row(name, str(size), *cells, "" if name else times(speed), change)
    return table
