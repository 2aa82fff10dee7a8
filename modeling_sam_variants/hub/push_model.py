"""`model.push_to_hub`: a complete repository folder of a model, pushed in one commit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard, RepoCard

from sam_variants.hub.card_keeping import choose_card, listed, read_card
from sam_variants.hub.checksums import read_checksums
from sam_variants.hub.model_card import Reports, model_card, reports_of
from sam_variants.hub.push_folder import COMMIT_MESSAGE, PushReport, push_folder
from sam_variants.hub.remote_repo import RemoteRepo, find_repo, read_remote
from sam_variants.hub.repo_files import CARD_FILE, has_code
from sam_variants.hub.repo_folder import MAX_SHARD_SIZE, write_repo_folder
from sam_variants.hub.saved_weights import saved_checksums


def push_model(
    model: Any,
    repo_id: str,
    *,
    processor: Any = None,
    card: ModelCard | None = None,
    tags: Sequence[str] | str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] | str | None = None,
    evaluation: Reports = None,
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
        license, base_model, datasets, evaluation: what the card says, see `model_card`.
        token, revision: as for `push_folder`.
        max_shard_size: largest size of one weights file.
        how: further arguments of `push_folder`.

    Returns:
        The commit; when nothing had changed, the one the repository stands at.
    """
    given = {
        "license": license,
        "base_model": base_model,
        "datasets": listed(datasets),
        "evaluation": reports_of(evaluation),
    }
    check_arguments(repo_id, card, [name for name, value in given.items() if value])
    api = HfApi(token=token, library_name="sam-variants")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        write_repo_folder(
            model, folder, processor=processor, card=card, max_shard_size=max_shard_size or MAX_SHARD_SIZE
        )
        remote = find_repo(api, repo_id, revision=revision)
        if card is None:
            make = partial(model_card, model, remote.repo_id, with_code=has_code(folder))
            write_card(api, folder, remote, make, {**given, "tags": listed(tags)})
        report = push_folder(folder, remote.repo_id, token=token, revision=revision, remote=remote, **how)
    return commit_info(report, how.get("commit_message"))


def check_arguments(repo_id: Any, card: Any, said: Sequence[str]) -> None:
    """Raise a TypeError for arguments of another kind, and a ValueError for a card beside what it should say."""
    if not isinstance(repo_id, str):
        raise TypeError(f"repo_id is a {type(repo_id).__name__}, expected a string such as 'owner/name'")
    if card is None:
        return
    if not isinstance(card, RepoCard):
        raise TypeError(
            f"card is a {type(card).__name__}, expected a huggingface_hub.ModelCard; ModelCard(text) makes one"
        )
    if said:
        raise ValueError(f"a card was given, so it says {' and '.join(said)} itself: give one or the other")


def write_card(
    api: HfApi,
    folder: Path,
    remote: RemoteRepo,
    make: Callable[..., ModelCard],
    given: Mapping[str, Any],
    own: ModelCard | None = None,
    new: bool = False,
    sources: Sequence[Mapping[str, str]] = (),
) -> ModelCard:
    """Put the card that a folder gets in a repository into the folder, see `choose_card`.

    Args:
        api, remote: where it goes.
        folder: holds the weights and their checksums.
        make: `model_card` for this checkpoint.
        given, own, new: as for `choose_card`.
        sources: checksums of the same weights in other layouts.
    """
    found = read_remote(api, remote, CARD_FILE)
    there = None if found is None else read_card(found, f"{CARD_FILE} of {remote.repo_id!r}")
    weights = [saved_checksums(read_checksums(folder)), *sources]
    card = choose_card(make, given, own, there, weights, new)
    if found is not None and card is there:
        (folder / CARD_FILE).write_bytes(found)
    else:
        card.save(folder / CARD_FILE)
    return card


def commit_info(report: PushReport, message: str | None) -> CommitInfo:
    """What `huggingface_hub` says about a commit, as transformers' `push_to_hub` returns it."""
    oid = report.oid or ""
    url = report.commit_url or f"{report.url}/commit/{oid}"
    return CommitInfo(url, message or COMMIT_MESSAGE, "", oid, pr_url=report.pr_url)
