"""The steps of `sam-variants push`, and what is told of them."""

from __future__ import annotations

import json
from collections.abc import Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

import typer
from huggingface_hub import HfApi
from rich.console import Console
from rich.table import Table

from sam_variants.hub.model_card import model_card
from sam_variants.hub.push_folder import DELETED, UNCHANGED, PushReport
from sam_variants.hub.push_model import write_card
from sam_variants.hub.remote_repo import PushError, RemoteRepo, find_repo
from sam_variants.hub.repo_files import has_code
from sam_variants.hub_scripts.push_staging import Staged

# More modules than these are told in one row.
LONGEST_CODE = 10


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
