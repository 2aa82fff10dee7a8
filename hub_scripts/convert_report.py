"""What `sam-variants convert` tells a person."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table

# A longer list of dropped keys tells a person nothing.
LONGEST_LIST = 10


def print_report(report: dict[str, Any]) -> None:
    """Tell a person what was read, what it is, and what was written."""
    # Without a box a sha256 fits into 80 columns, and can be copied.
    table = Table(Column(no_wrap=True), Column(overflow="fold"), show_header=False, box=None, pad_edge=False)
    table.add_row("checkpoint", report["checkpoint"])
    for name, value in rows(report):
        table.add_row(name, value)
    Console(markup=False, emoji=False).print(table)  # file names may look like markup
    for file in report["written"]:
        typer.echo(f"{report['out']}/{file['file']}  {size(file['bytes'])}")
    typer.echo(", ".join(f"{name} {seconds:.2f} s" for name, seconds in report["seconds"].items()))


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of the table: what → how it is."""
    parts = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in report["parameters"].items() if number)
    found = [("layout", report["layout"]), ("architecture", architecture(report)), ("model", report["model_class"])]
    for file in report["files"]:
        found += [("sha256", file["sha256"]), ("", evidence(file))]
    found += [("licence", licence(report))] if report["to"] == "ours" else []
    found += [("parameters", parts), ("stored in", precision(report))]
    found += [("quantised", f"{report['quantize']}, through torchao")] if report["quantize"] else []
    found += [("dropped", line) for line in dropped(report["dropped"])]
    return found + [("verified", line) for line in verified(report["verified"])]


def architecture(report: dict[str, Any]) -> str:
    if report["preset"] is not None:
        return f"{report['preset']} (told by {report['told_by']})"
    return f"of no preset, built from {report['told_by']}"


def evidence(file: dict[str, Any]) -> str:
    """What a checksum says."""
    if file["published"] is not None:
        return f"that of the published {file['published']}"
    return f"as {file['equals']} states" if file["equals"] else "not a published file"


def licence(report: dict[str, Any]) -> str:
    if report["licence"] is None:
        return "the card states none, but with --licence; these are not known to be published weights"
    told, base = (listed(report[name]) for name in ("licence", "base_model"))
    return told + (f", weights of {base}" if base else "")


def listed(value: Any) -> str:
    """What a card's metadata says in one or several words."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def precision(report: dict[str, Any]) -> str:
    """The dtypes read and written."""
    stored = ", ".join(report["stored_dtypes"])
    return stored if stored == report["dtype"] else f"{stored}, written in {report['dtype']}"


def dropped(keys: dict[str, str]) -> list[str]:
    """Keys that were left behind, by reason."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in keys.items():
        by_reason.setdefault(reason, []).append(key)
    return [
        ", ".join(names[:LONGEST_LIST])
        + (f" and {len(names) - LONGEST_LIST} more" if len(names) > LONGEST_LIST else "")
        + f": {reason}"
        for reason, names in by_reason.items()
    ]


def verified(found: dict[str, Any] | None) -> list[str]:
    """How far the outputs are from transformers'."""
    if found is None:
        return []
    told = ", ".join(f"{name} {value:.2g}" for name, value in found["differences"].items())
    lines = [f"against transformers' {found['compared_with']}, largest difference: {told}"]
    return lines + ([f"not compared: {found['not_compared']}"] if found["not_compared"] else [])


def size(num_bytes: int) -> str:
    """A file's size for people, in decimal units as file managers show it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"
