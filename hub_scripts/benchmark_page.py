"""`sam-variants benchmark page`: reports of the benchmarks as Markdown, for README and PERFORMANCE.md."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

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
    # Here, because it imports PyTorch, for which --help should not wait.
    from sam_variants.hub_scripts.benchmark_markdown import TABLES, markdown_page, markdown_summary

    found = [read_report(path, TABLES) for path in reports]
    text = markdown_summary(found) if summary else markdown_page(found)
    if into is None:
        typer.echo(text)
    else:
        into.write_text(with_numbers(into.read_text(encoding="utf-8"), text, into), encoding="utf-8")


def read_report(path: Path, known: Collection[str]) -> dict[str, Any]:
    """The report in a file, of one of the benchmarks that are known.

    Raises:
        typer.BadParameter: when there is none.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["benchmark"] not in known or "command" not in report:
            raise KeyError(report["benchmark"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        message = f"{path} is no report: write one with `sam-variants benchmark encode --json > {path}`"
        raise typer.BadParameter(message, param_hint="REPORT") from error
    return report


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
