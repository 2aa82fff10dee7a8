"""`sam-variants browse`: look at a labeled dataset in a browser, and mark what is bad in it."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sam_variants.hub_scripts.demo import LOCALHOST, NEEDED, bracketed, check_address, check_installed

NEEDED_TOO = ("datasets", "pyarrow")


def browse(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `sam-variants label` wrote; the run needn't be finished.")
    ],
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Where to listen.", show_default="the first free from 7860 on"),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="ADDRESS", help="0.0.0.0 lets everyone on the network look, and mark what is bad."
        ),
    ] = LOCALHOST,
    is_opened: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = False,
) -> None:
    """Look at a labeled dataset in a browser: its images with their masks, sorted and filtered by number, score and
    size; and mark images and masks that are bad.

    Marks go to DIR/marks.jsonl, one line each: {"key": "a.jpg", "bad": true} for an image, {"key": "a.jpg", "mask": 3,
    "bad": true} for a mask, counted from 1 in the order of its row's objects; of several lines about one, the last
    counts. The page downloads the keys of the images that are not marked, one in a line. Nothing else in DIR is
    changed. The masks themselves stay on the disk: in memory are 8 bytes for each and about 150 for each image. Ctrl+C
    ends it.

    \b
    sam-variants browse labeled --open
    """
    check_installed((*NEEDED, *NEEDED_TOO), "browsing", "demo,label")
    check_address(host, port)
    # Before gradio, which takes seconds to import.
    from sam_variants.spaces_demo.browse_library import Library

    library = Library(folder)
    typer.echo(f"Starting the page of {len(library.current.columns):,} images, which takes some seconds…")
    from sam_variants.spaces_demo.browse_page import serve

    def announce(url: str) -> None:
        typer.echo(f"{folder} is at {url}; Ctrl+C ends it.")
        if is_opened:
            webbrowser.open(url)

    serve(library, announce, server_name=bracketed(host), server_port=port)
