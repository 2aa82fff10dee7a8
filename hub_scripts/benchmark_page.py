"""`sam-variants benchmark page`: reports of the benchmarks as Markdown, for README and PERFORMANCE.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from sam_variants.hub_scripts.benchmark_decode_tables import decode_tables
from sam_variants.hub_scripts.benchmark_demo import demo_tables
from sam_variants.hub_scripts.benchmark_encode_tables import encode_tables
from sam_variants.hub_scripts.benchmark_everything_tables import everything_tables
from sam_variants.hub_scripts.benchmark_label_tables import label_tables
from sam_variants.hub_scripts.benchmark_load_tables import load_tables
from sam_variants.hub_scripts.benchmark_report import circumstances_line
from sam_variants.hub_scripts.benchmark_summary import summary_table
from sam_variants.hub_scripts.benchmark_tables import track_tables

# By the benchmark's name, in the order of the page.
TABLES = {
    "encode": encode_tables,
    "decode": decode_tables,
    "everything": everything_tables,
    "track": track_tables,
    "label": label_tables,
    "load": load_tables,
    "demo": demo_tables,
}
BEGIN, END = "<!-- numbers: written by `sam-variants benchmark page` -->", "<!-- end of the numbers -->"


def page(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT...", help="What the other benchmarks print with --json.")
    ],
    summary: Annotated[bool, typer.Option("--summary", help="One short table instead of all of them.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="FILE",
            help=f"Replace what stands in a file between the lines {BEGIN} and {END}, instead of printing.",
        ),
    ] = None,
) -> None:
    """Write reports of the other benchmarks as Markdown, with the commands, the day and the machine.

    \b
    sam-variants benchmark encode --json > encode.json
    sam-variants benchmark page encode.json > PERFORMANCE.md
    sam-variants benchmark page encode.json track.json --summary --into README.md
    """
    found = in_order([read_report(path) for path in reports])
    text = markdown_table(summary_table(found)) if summary else markdown_page(found)
    if into is None:
        typer.echo(text)
    else:
        into.write_text(with_numbers(into.read_text(encoding="utf-8"), text, into), encoding="utf-8")


def read_report(path: Path) -> dict[str, Any]:
    """The report in a file.

    Raises:
        typer.BadParameter: when there is none.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["benchmark"] not in TABLES or "command" not in report:
            raise KeyError(report["benchmark"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        message = f"{path} is no report: write one with `sam-variants benchmark encode --json > {path}`"
        raise typer.BadParameter(message, param_hint="REPORT") from error
    return report


def in_order(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reports in the order of `TABLES`; those of one benchmark as they were given."""
    return sorted(reports, key=lambda report: list(TABLES).index(report["benchmark"]))


def markdown_page(reports: Sequence[dict[str, Any]]) -> str:
    """All tables, below the command that measured them and where it ran."""
    return "\n\n".join(part for report in reports for part in report_parts(report))


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


def with_numbers(text: str, numbers: str, path: Path) -> str:
    """A page with other numbers between its two lines.

    Raises:
        typer.BadParameter: when the lines are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise typer.BadParameter(f"{path} has no lines {BEGIN} and {END}, in this order", param_hint="--into")
    return f"{before}{BEGIN}\n\n{numbers}\n\n{END}{after}"
