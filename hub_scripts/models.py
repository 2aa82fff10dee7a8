"""`sam-variants models`: the published checkpoints, what they are, and which of them are on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EMBEDDED = {"embedded": False, "embedded-video": True}


def models(
    folder: Annotated[
        list[Path] | None,
        typer.Option("--folder", metavar="DIR", help="Look here too, for official files and converted folders."),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only those that are on this machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """List the published checkpoints and which of them are here.

    Looks into the Hub's cache, into the one of torch.hub and into every --folder; asks no network. An interrupted
    download is not here.

    \b
    sam-variants models
    sam-variants models --here --folder checkpoints
    """
    # Here, because they import PyTorch, for which --help should not wait.
    from sam_variants.configuration.known_checkpoints import CHECKPOINTS
    from sam_variants.hub_scripts.models_table import embedded_row, print_rows, row_of

    for path in folder or []:
        if not path.is_dir():
            raise ValueError(f"--folder {str(path)!r} is no folder")
    rows = [embedded_row(name, video) for name, video in EMBEDDED.items()]
    rows += [row_of(known, folder or []) for known in CHECKPOINTS.values()]
    rows = [row for row in rows if row["here"] or not here]
    if as_json:
        typer.echo(json.dumps({"models": rows}))
    else:
        print_rows(rows)
