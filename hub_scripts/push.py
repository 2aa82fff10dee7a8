"""`sam-variants push`: a checkpoint in; a repository on the Hub out, in one commit."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

ADAPTER_CONFIG = "adapter_config.json"
# What can be said of an adapter.
OF_ADAPTERS = ("base_model", "license", "datasets")


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
    # Here, because they import PyTorch, for which --help should not wait.
    from huggingface_hub import HfApi

    from sam_variants.hub.push_folder import push_folder
    from sam_variants.hub.remote_repo import RemoteRepo
    from sam_variants.hub_scripts.export_remote_code import export_remote_code
    from sam_variants.hub_scripts.push_run import look_at, push_an_adapter, read_report, tell, write_checked_card
    from sam_variants.hub_scripts.push_staging import stage

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
