"""Reports of all benchmarks as Markdown: every table, or the numbers that matter most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

from sam_variants.hub_scripts.benchmark_decode_tables import decode_tables
from sam_variants.hub_scripts.benchmark_demo import demo_tables
from sam_variants.hub_scripts.benchmark_encode_tables import encode_tables
from sam_variants.hub_scripts.benchmark_everything_tables import everything_tables
from sam_variants.hub_scripts.benchmark_label_tables import label_tables
from sam_variants.hub_scripts.benchmark_load_tables import load_tables
from sam_variants.hub_scripts.benchmark_report import circumstances_line, machine_line
from sam_variants.hub_scripts.benchmark_summary import summary_table
from sam_variants.hub_scripts.benchmark_tables import track_tables

# By the benchmark's name, in the order of the page.
TABLES: dict[str, Callable[[dict[str, Any]], list[Table]]] = {
    "encode": encode_tables,
    "decode": decode_tables,
    "everything": everything_tables,
    "track": track_tables,
    "label": label_tables,
    "load": load_tables,
    "demo": demo_tables,
}


def markdown_summary(reports: Sequence[dict[str, Any]]) -> str:
    """One table, below the machines and days of its numbers."""
    reports = in_order(reports)
    machines = dict.fromkeys(machine_line(report) for report in reports)
    return "\n\n".join([*machines, markdown_table(summary_table(reports))])


def markdown_page(reports: Sequence[dict[str, Any]]) -> str:
    """All tables, below the command that measured them and where it ran."""
    return "\n\n".join(part for report in in_order(reports) for part in report_parts(report))


def report_parts(report: dict[str, Any]) -> Iterator[str]:
    """Paragraphs of one report."""
    yield f"## `{report['command']}`"
    yield circumstances_line(report)
    for table in TABLES[report["benchmark"]](report):
        if table.title:
            yield f"**{table.title}**"
        yield markdown_table(table)
        if table.caption:
            yield "\n".join(f"- {line}" for line in str(table.caption).splitlines())


def markdown_table(table: Table) -> str:
    """A table of rich as one of Markdown."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    head, *rows = zip(*columns, strict=True)
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in (head, rules, *rows)
    )


def in_order(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reports in the order of `TABLES`; those of one benchmark as they were given."""
    return sorted(reports, key=lambda report: list(TABLES).index(report["benchmark"]))
