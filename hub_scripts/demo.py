"""`sam-variants demo`: the Space on this machine."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sam_variants.spaces_demo.models import ModelStore

# What the extra `demo` brings: the page, and the server for MCP clients.
NEEDED = ("gradio", "mcp")
LOCALHOST = "127.0.0.1"


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="CHECKPOINT",
            help="A folder, a file, or owner/name on the Hub that is offered too; may be repeated.",
            show_default="the embedded ones",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Where to listen.", show_default="the first free from 7860 on"),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="0.0.0.0 lets everyone on the network in.")
    ] = LOCALHOST,
    no_hub: Annotated[
        bool, typer.Option("--no-hub", help="Visitors can't load other models from the Hub than those of --model.")
    ] = False,
    is_opened: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = False,
) -> None:
    """Show the demo in a browser: click on a thing, find everything, follow things through a video.

    It starts with the embedded checkpoints and needs no network. What is uploaded stays on this machine. Ctrl+C ends
    it.

    \b
    sam-variants demo --open
    sam-variants demo --model trained --model facebook/sam2.1-hiera-tiny --port 8000
    """
    check_installed()
    check_address(host, port)
    paths, others = existing(model or [])
    typer.echo("Starting the demo, which takes some seconds…")
    # Gradio comes with an extra, and takes seconds to import.
    from sam_variants.spaces_demo.app import serve
    from sam_variants.spaces_demo.model_downloads import REPO_ID
    from sam_variants.spaces_demo.models import configure

    if strange := [name for name in others if not REPO_ID.fullmatch(name)]:
        raise ValueError(f"--model {strange[0]!r} is neither a file or folder here nor owner/name of one on the Hub")
    models = configure(paths, allow_hub=not no_hub, hub_ids=others)
    check_loadable(models, paths)

    def announce(url: str) -> None:
        typer.echo(f"The demo is at {url} with {', '.join(models.choices())}; Ctrl+C ends it.")
        if is_opened:
            webbrowser.open(url)

    serve(announce, server_name=bracketed(host), server_port=port)


def check_installed(needed: Sequence[str] = NEEDED, what: str = "the demo", extras: str = "demo") -> None:
    """See that packages are there.

    Args:
        needed: their names.
        what: needs them.
        extras: of this package, which bring them.

    Raises:
        ValueError: saying how to install them.
    """
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ValueError(
            f'{what} needs {" and ".join(missing)}, not installed here: pip install "sam-variants[{extras}]"'
        )


def check_loadable(models: ModelStore, paths: Sequence[Path]) -> None:
    """Load what lies on this machine, which shows now what visitors would be told later.

    Raises:
        ValueError: saying which option is wrong.
    """
    from gradio import Error

    for path in paths:
        try:
            models.get(path.resolve().name)
        except Error as error:
            raise ValueError(f"--model {str(path)!r} can't be used: {error.message}") from error


def check_address(host: str, port: int | None) -> None:
    """See that a server can listen there.

    Raises:
        ValueError: saying which option to change.
    """
    bare = host.strip("[]")
    try:
        socket.create_server((bare, port or 0), family=socket.AF_INET6 if ":" in bare else socket.AF_INET).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        if port is None:
            raise ValueError(f"--host {host} can't be listened on: {reason}") from error
        raise ValueError(f"{host} port {port} can't be listened on ({reason}): try another --port or --host") from error


def bracketed(host: str) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def existing(checkpoints: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Checkpoints that lie on this machine, and the others."""
    paths = [Path(given) for given in checkpoints if Path(given).exists()]
    return paths, [given for given in checkpoints if not Path(given).exists()]
