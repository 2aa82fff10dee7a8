"""`sam-variants push-space`: the demo and the package it runs; out a Space on the Hub, in one commit."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from sam_variants.hub.push_folder import push_folder
from sam_variants.hub_scripts.push import as_values, show

PACKAGE = "sam_variants"
SPACE = "spaces_demo"
# Of the package, what a Space has no use for: its commands, and the demo itself, which is the Space's root.
NOT_CARRIED = ("hub_scripts", SPACE)
IGNORED = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")
SPACE_SDK = "gradio"


def push_space(
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name, or a name of your own.")],
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="A Space's own files.", show_default="the demo of this package"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show which files would be pushed, and write nothing anywhere.")
    ] = False,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees a new Space.", show_default="the Hub's setting"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch to commit to; created if missing.", show_default="main")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Put the demo on the Hub as a Space, in one commit.

    The Space carries this package, its two embedded checkpoints included, in the folder sam_variants/, and installs
    only what requirements.txt names. Files there that this version no longer has are deleted; other files of the Space,
    its secrets and its hardware stay as they are. README.md, app.py and requirements.txt are the demo's own and written
    each time: for a Space with others, give --folder. Log in with `hf auth login` before, or set HF_TOKEN.

    \b
    sam-variants push-space me/segment-anything --dry-run
    sam-variants push-space me/segment-anything --private
    """
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "space"
        write_space(staged, folder)
        report = push_folder(
            staged,
            repo_id,
            repo_type="space",
            private=private,
            revision=revision,
            create_pr=create_pr,
            commit_message=message,
            space_sdk=SPACE_SDK,
            mirrored=(PACKAGE,),
            dry_run=dry_run,
        )
    if as_json:
        typer.echo(json.dumps(as_values(report), indent=2))
    else:
        show(report)


def write_space(target: Path, folder: Path | None = None) -> None:
    """Lay out a Space: its own files, and beside them the installed package.

    Args:
        target: a new folder.
        folder: the Space's own files; by default those of this package's demo.

    Raises:
        ValueError: when the folder is no Space.
    """
    if folder is None:
        with as_file(files(f"{PACKAGE}.{SPACE}")) as demo:
            shutil.copytree(demo, target, ignore=IGNORED)
        (target / "__init__.py").unlink()
    else:
        if not (folder / "README.md").is_file():
            raise ValueError(f"--folder {str(folder)!r} is no Space: it has no README.md with the Space's settings")
        shutil.copytree(folder, target, ignore=IGNORED)
        # A clone of a Space carries the package as it was then.
        shutil.rmtree(target / PACKAGE, ignore_errors=True)
    with as_file(files(PACKAGE)) as package:
        shutil.copytree(package, target / PACKAGE, ignore=IGNORED)
    # In a checkout they lie elsewhere than in an installed package, but are found by the same names.
    with as_file(files(f"{PACKAGE}.configuration")) as configuration:
        shutil.copytree(configuration, target / PACKAGE / "configuration", ignore=IGNORED, dirs_exist_ok=True)
    for name in NOT_CARRIED:
        shutil.rmtree(target / PACKAGE / name, ignore_errors=True)
