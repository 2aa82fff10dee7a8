"""`model.push_to_hub`: a complete repository folder of a model, pushed in one commit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard

from sam_variants.hub.card_keeping import choose_card, read_card
from sam_variants.hub.checksums import read_checksums
from sam_variants.hub.model_card import model_card
from sam_variants.hub.push_folder import COMMIT_MESSAGE, PushReport, push_folder
from sam_variants.hub.remote_repo import RemoteRepo, find_repo, read_remote
from sam_variants.hub.repo_files import CARD_FILE
from sam_variants.hub.repo_folder import MAX_SHARD_SIZE, write_repo_folder


def push_model(
    model: Any,
    repo_id: str,
    *,
    processor: Any = None,
    card: ModelCard | None = None,
    tags: Sequence[str] | str | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    max_shard_size: int | str | None = MAX_SHARD_SIZE,
    **how: Any,
) -> CommitInfo:
    """Write a model's repository folder and push it.

    Args:
        model: a `SamVariantsModel`.
        repo_id: `owner/name`, or a name of the token's owner.
        processor: the model's; None makes the one that belongs to it.
        card: the repository's card; None keeps the one that is there, or writes one.
        tags: further tags for the card.
        token, revision: as for `push_folder`.
        max_shard_size: largest size of one weights file.
        how: further arguments of `push_folder`.

    Returns:
        The commit; when nothing had changed, the one the repository stands at.
    """
    api = HfApi(token=token, library_name="sam-variants")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        write_repo_folder(
            model, folder, processor=processor, card=card, max_shard_size=max_shard_size or MAX_SHARD_SIZE
        )
        remote = find_repo(api, repo_id, revision=revision)
        if card is None:
            make = partial(model_card, model, remote.repo_id, with_code=any(folder.glob("*.py")))
            given = {"tags": [tags] if isinstance(tags, str) else list(tags or ())}
            write_card(api, folder, remote, make, given)
        report = push_folder(folder, remote.repo_id, token=token, revision=revision, remote=remote, **how)
    return commit_info(report, how.get("commit_message"))


def write_card(
    api: HfApi,
    folder: Path,
    remote: RemoteRepo,
    make: Callable[..., ModelCard],
    given: Mapping[str, Any],
    own: ModelCard | None = None,
    new: bool = False,
) -> ModelCard:
    """Put the card that a folder gets in a repository into the folder, see `choose_card`."""
    found = read_remote(api, remote, CARD_FILE)
    there = None if found is None else read_card(found, f"{CARD_FILE} of {remote.repo_id!r}")
    same = holds_weights(remote, read_checksums(folder))
    card = choose_card(make, given, own, there, same, new)
    if found is not None and card is there:
        (folder / CARD_FILE).write_bytes(found)
    else:
        card.save(folder / CARD_FILE)
    return card


def holds_weights(remote: RemoteRepo, checksums: Mapping[str, str]) -> bool:
    """Whether a repository has exactly these weights: file name → sha256."""
    found = {path: entry.lfs.sha256 for path, entry in remote.files.items() if entry.lfs is not None}
    return bool(checksums) and all(found.get(name) == checksum for name, checksum in checksums.items())


def commit_info(report: PushReport, message: str | None) -> CommitInfo:
    """What `huggingface_hub` says about a commit, as transformers' `push_to_hub` returns it."""
    oid = report.oid or ""
    url = report.commit_url or f"{report.url}/commit/{oid}"
    return CommitInfo(url, message or COMMIT_MESSAGE, "", oid, pr_url=report.pr_url)
