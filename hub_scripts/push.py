"""`sam-variants push`: a checkpoint in; a repository on the Hub out, in one commit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence, Sized
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from huggingface_hub import HfApi
from rich.console import Console
from rich.table import Table

from sam_variants.hub.model_card import model_card
from sam_variants.hub.push_folder import DELETED, UNCHANGED, PushReport, push_folder
from sam_variants.hub.push_model import write_card
from sam_variants.hub.remote_repo import PushError, RemoteRepo, find_repo
from sam_variants.hub.repo_files import has_code
from sam_variants.hub_scripts.export_remote_code import export_remote_code
from sam_variants.hub_scripts.push_staging import Staged, stage

ADAPTER_CONFIG = "adapter_config.json"
# What can be said of an adapter.
OF_ADAPTERS = ("base_model", "license", "datasets")
# More modules than these are told in one row.
LONGEST_CODE = 10


class Card(StrEnum):
    """What becomes of a README.md that is there already."""

    keep = "keep"
    new = "new"


def push(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT", help="A folder, a Hub repository, or an official .pth, .pt or .safetensors file."
        ),
    ],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name, or a name of your own.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show which files would be pushed, and write nothing anywhere.")
    ] = False,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees a new repository.", show_default="the Hub's setting"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch to commit to; created if missing.", show_default="main")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    max_shard_size: Annotated[
        str | None,
        typer.Option("--max-shard-size", help="Largest weights file, such as 2GB.", show_default="as they are"),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Of the weights: apache-2.0, mit, … or unknown.", show_default="as published"),
    ] = None,
    licence_name: Annotated[str | None, typer.Option("--license-name", help="Name of --license other.")] = None,
    licence_link: Annotated[str | None, typer.Option("--license-link", help="Address of --license other.")] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="What the weights come from: a Hub repository or a preset."),
    ] = None,
    base_model_relation: Annotated[
        str | None, typer.Option("--base-model-relation", help="How: finetune, adapter, quantized or merge.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Hub dataset it was trained on; may be repeated.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option("--evaluation", help="What an evaluate command wrote with --json; may be repeated."),
    ] = None,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Add the model's code, for trust_remote_code=True.")
    ] = False,
    card: Annotated[
        Card, typer.Option("--card", help="keep: a README.md that somebody wrote stays. new: write another.")
    ] = Card.keep,
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Push these files of the folder too.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Put a checkpoint on the Hub: weights, configuration, processor, card and checksums in one commit.

    Checkpoints of other layouts are converted on the way. What the repository holds already is not sent again, and
    shards of an earlier push are deleted; so is generated code, unless --with-code is given again. Log in with
    `hf auth login` before, or set HF_TOKEN.

    \b
    sam-variants push trained me/my-sam --license apache-2.0 --evaluation evaluate.json --dry-run
    sam-variants push sam2.1_hiera_tiny.pt me/sam2.1-tiny --private
    sam-variants push trained me/my-sam --license mit --with-code --create-pr

    The folder of an adapter, as train --lora leaves it, is pushed alone; --base-model says what it belongs to.

    Only files of a checkpoint are pushed; others in the folder are listed, and --include adds them. A README.md that
    somebody wrote, in the folder or on the Hub, keeps its text, and gets the metadata that it lacks.
    """
    given = {
        "license": licence,
        "license_name": licence_name,
        "license_link": licence_link,
        "base_model": base_model,
        "base_model_relation": base_model_relation,
        "datasets": dataset,
        "evaluation": [read_report(path) for path in evaluation or []],
    }
    if (Path(checkpoint) / ADAPTER_CONFIG).is_file():
        whole = {
            **{f"--{name.replace('_', '-')}": value for name, value in given.items() if name not in OF_ADAPTERS},
            **{"--max-shard-size": max_shard_size, "--with-code": with_code, "--include": include},
            **{"--card": card is Card.new},
        }
        how = {"private": private, "revision": revision, "create_pr": create_pr, "commit_message": message}
        asked = {name: given[name] for name in OF_ADAPTERS if given[name]}
        report = push_an_adapter(Path(checkpoint), repo_id, whole, **asked, **how, dry_run=dry_run)
        tell(report, [], as_json)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        staged = stage(checkpoint, folder, max_shard_size)
        if with_code:
            export_remote_code(folder)
        api = HfApi(library_name="sam-variants")
        remote = look_at(api, repo_id, revision, dry_run)
        write_checked_card(
            api, folder, remote or RemoteRepo(repo_id, "model", revision), staged, given, card is Card.new
        )
        report = push_folder(
            folder,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            commit_message=message,
            include=include or (),
            dry_run=dry_run,
            remote=remote,
        )
    tell(report, staged.dropped, as_json)


def push_an_adapter(folder: Path, repo_id: str, whole: dict[str, Any], **how: Any) -> PushReport:
    """Push an adapter; options that are about whole models are refused."""
    if ignored := [option for option, value in whole.items() if value]:
        raise ValueError(f"{', '.join(ignored)}: for whole models, and {folder} holds an adapter; leave it out")
    try:
        from sam_variants.hub_scripts.push_adapter import push_adapter_folder  # peft is of the extra `train`
    except ModuleNotFoundError as error:
        raise ValueError(
            f"an adapter needs {error.name}, which is not installed: pip install 'sam-variants[train]'"
        ) from error
    return push_adapter_folder(folder, repo_id, **how)


def tell(report: PushReport, dropped: Sequence[str], as_json: bool) -> None:
    """Print a report for machines or for people."""
    if as_json:
        typer.echo(json.dumps({**as_values(report), "dropped": list(dropped)}, indent=2))
    else:
        show(report, dropped)


def read_report(path: Path) -> dict[str, Any]:
    """The content of an evaluation's file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--evaluation {path} is no JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--evaluation {path} holds a {type(values).__name__}, expected the report of an evaluation")
    return values


def look_at(api: HfApi, repo_id: str, revision: str | None, dry_run: bool) -> RemoteRepo | None:
    """The repository as it is; None when it can't be reached and nothing is to be written."""
    try:
        return find_repo(api, repo_id, revision=revision)
    except PushError:
        if not dry_run:
            raise
        return None


def write_checked_card(
    api: HfApi, folder: Path, remote: RemoteRepo, staged: Staged, given: dict[str, Any], new: bool
) -> None:
    """Write the card.

    Raises:
        ValueError: when it would not say under which licence the weights are.
    """
    make = partial(model_card, staged.model, remote.repo_id, with_code=has_code(folder), **staged.known)
    asked = {name: value for name, value in given.items() if value}
    card = write_card(api, folder, remote, make, asked, staged.card, new, [staged.weights])
    if not card.data.get("license"):
        raise ValueError(
            "nobody could know what the weights may be used for: give their licence, for example --license "
            "apache-2.0, or --license unknown"
        )


def as_values(report: PushReport) -> dict[str, Any]:
    """A report for machines."""
    sizes = dict(report.files)
    return {
        "repo_id": report.repo_id,
        "url": report.url,
        "dry_run": report.dry_run,
        "creates": report.creates,
        "commit_url": report.commit_url,
        "pr_url": report.pr_url,
        "oid": report.oid,
        "files": [
            {"path": path, "size": sizes.get(path), "change": change} for path, change in sorted(report.changes.items())
        ],
        "left_out": report.left_out,
        "note": report.note,
    }


def show(report: PushReport, dropped: Sequence[str] = ()) -> None:
    """A report for people, with what `stage` left out."""
    console = Console()
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("file", "left"), ("bytes", "right"), ("", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows(report):
        table.add_row(*row)
    console.print(table)
    if dropped:
        what = f"left out, because the code that it names is not in the folder: {', '.join(dropped)}"
        console.print(what, soft_wrap=True, markup=False, highlight=False)
    for line in summary(report):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def rows(report: PushReport) -> list[tuple[str, str, str]]:
    """Path, size and change of every file; after a push the modules of a checkpoint's code, over a hundred, in one."""
    sizes = dict(report.files)
    code = {path: change for path, change in report.changes.items() if path.endswith(".py") and not report.dry_run}
    told = [
        (path, f"{sizes[path]:,}" if path in sizes else "", change)
        for path, change in sorted(report.changes.items())
        if path not in code or len(code) <= LONGEST_CODE
    ]
    if len(code) > LONGEST_CODE:
        for change in dict.fromkeys(code.values()):
            paths = [path for path in code if code[path] == change]
            size = sum(sizes.get(path, 0) for path in paths)
            told.append((f"{len(paths)} modules, *.py", f"{size:,}" if size else "", change))
    return told


def summary(report: PushReport) -> list[str]:
    """What was done, in sentences."""
    lines = []
    if report.left_out:
        lines.append(f"left out, because it belongs to no checkpoint: {', '.join(report.left_out)}")
    sent = [size for path, size in report.files if report.changes.get(path) != UNCHANGED]
    if report.note:
        lines.append(f"not compared with the Hub: {report.note}")
    gone = [path for path, change in report.changes.items() if change == DELETED and path.endswith(".py")]
    if gone:
        verb = "would delete" if report.dry_run else "deleted"
        lines.append(f"{verb} the code of an earlier push, {number(gone, 'module')}: --with-code keeps it")
    if report.dry_run:
        what = "create it and push" if report.creates else "push"
        size = f"{number(sent, 'file')}, {sum(sent):,} bytes"
        told = f"would {what} {size}" if report.has_changes else "has nothing to change"
        lines.append(f"dry run, nothing was written: {told}: {report.url or report.repo_id}")
    elif report.commit_url is None:
        lines.append(f"nothing has changed, no commit was made: {report.url}")
    else:
        lines.append(f"pushed {number(sent, 'file')}, {sum(sent):,} bytes, in one commit: {report.commit_url}")
        lines.append(f"pull request: {report.pr_url}" if report.pr_url else f"the repository: {report.url}")
    return lines


def number(things: Sized, name: str) -> str:
    """ "1 file", "2 files"."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
