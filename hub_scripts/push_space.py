"""`sam-variants push-space`: the demo and the package it runs; out a Space on the Hub, in one commit."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

PACKAGE = "sam_variants"
SPACE = "spaces_demo"
# Of the demo, what a Space looks for at its root; the rest lies in the package that it carries.
ROOT_FILES = ("README.md", "app.py", "requirements.txt", "thumbnail.png")
# Of the package, what a Space has no use for: patterns of paths.
NOT_CARRIED = ("hub_scripts", "training", "labeling", f"{SPACE}/browse*")
# What the card says in this package, and on the Hub as an address.
THUMBNAIL = "thumbnail.png"
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
    its secrets and its hardware stay as they are. README.md, app.py, requirements.txt and thumbnail.png are the demo's
    own and written each time: for a Space with others, give --folder. Log in with `hf auth login` before, or set
    HF_TOKEN.

    \b
    sam-variants push-space me/segment-anything --dry-run
    sam-variants push-space me/segment-anything --private
    """
    # Here, because they import PyTorch, for which --help should not wait.
    from sam_variants.hub.push_folder import push_folder
    from sam_variants.hub_scripts.push_run import as_values, show

    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "space"
        write_space(staged, folder, with_owner(repo_id))
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


def with_owner(repo_id: str) -> str | None:
    """The name of a Space with its owner; None where that can't be found out, of which `push_folder` says why."""
    from huggingface_hub import HfApi

    from sam_variants.hub.remote_repo import PushError, find_repo

    try:
        return repo_id if "/" in repo_id else find_repo(HfApi(), repo_id, "space").repo_id
    except PushError:
        return None


def write_space(target: Path, folder: Path | None = None, repo_id: str | None = None) -> None:
    """Lay out a Space: its own files, and beside them the installed package, which has the modules of the demo.

    Args:
        target: a new folder.
        folder: the Space's own files; by default those of this package's demo.
        repo_id: owner/name on the Hub; the card of this package's demo then names the thumbnail's address there.

    Raises:
        ValueError: when the folder is no Space.
    """
    from sam_variants.hub.repo_files import CARD_FILE

    if folder is None:
        target.mkdir()
        for name in ROOT_FILES:
            with as_file(files(f"{PACKAGE}.{SPACE}") / name) as file:
                shutil.copy(file, target / name)
        if repo_id is not None:
            name_thumbnail(target / CARD_FILE, repo_id)
    else:
        if not (folder / CARD_FILE).is_file():
            raise ValueError(f"--folder {str(folder)!r} is no Space: it has no README.md with the Space's settings")
        shutil.copytree(folder, target, ignore=IGNORED)
        # A clone of a Space carries the package as it was then.
        shutil.rmtree(target / PACKAGE, ignore_errors=True)
    with as_file(files(PACKAGE)) as package:
        shutil.copytree(package, target / PACKAGE, ignore=IGNORED)
    # In a checkout they lie elsewhere than in an installed package, but are found by the same names.
    for part in ("configuration", SPACE):
        with as_file(files(f"{PACKAGE}.{part}")) as installed:
            shutil.copytree(installed, target / PACKAGE / part, ignore=IGNORED, dirs_exist_ok=True)
    for path in [path for pattern in NOT_CARRIED for path in (target / PACKAGE).glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ROOT_FILES:
        (target / PACKAGE / SPACE / name).unlink()


def name_thumbnail(card: Path, repo_id: str) -> None:
    """Replace the thumbnail's file name in a card's settings by the address that the Hub wants."""
    from huggingface_hub import constants

    address = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main/{THUMBNAIL}"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace(f"\nthumbnail: {THUMBNAIL}\n", f"\nthumbnail: {address}\n", 1), encoding="utf-8")
