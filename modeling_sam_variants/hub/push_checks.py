"""What is asked before anything is written to the Hub, for a push and for its dry run alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, RepoCard

from sam_variants.hub.remote_repo import DEFAULT_BRANCH, RemoteRepo, explained, generated_modules, read_remote
from sam_variants.hub.repo_files import CARD_FILE, CONFIG_FILE, OWN_MODEL_TYPE, SPACE


def refuse_push(
    api: HfApi, folder: Path, chosen: Sequence[Path], remote: RemoteRepo, private: bool | None, create_pr: bool
) -> None:
    """Refuse a push that the Hub would refuse, and one that would write over what is somebody's own.

    Args:
        api: with the token to use.
        folder, chosen: what is pushed: files, relative to the folder.
        remote: the repository as it was found.
        private, create_pr: as for `push_folder`.

    Raises:
        ValueError: saying what is in the way.
        OSError: when the Hub can't be asked.
    """
    refuse_settings(remote, private, create_pr)
    changed = [name.as_posix() for name in chosen if not remote.holds(name.as_posix(), addition(folder, name))]
    if remote.repo_type != SPACE:
        refuse_another_model(api, remote)
        refuse_own_modules(api, remote, changed)
    if CARD_FILE in changed:
        refuse_card(folder / CARD_FILE, remote)


def addition(folder: Path, name: Path) -> CommitOperationAdd:
    """The operation that adds a file of a folder."""
    return CommitOperationAdd(path_in_repo=name.as_posix(), path_or_fileobj=folder / name)


def refuse_settings(remote: RemoteRepo, private: bool | None, create_pr: bool) -> None:
    """Refuse another visibility than the repository's, and a branch that can't be made."""
    if remote.exists and private is not None and private != remote.is_private:
        now, wanted = ("private", "public") if remote.is_private else ("public", "private")
        raise ValueError(
            f"private={private}, but {remote.repo_id!r} exists and is {now}; its settings on the Hub make it {wanted}"
        )
    if remote.head is None and remote.revision not in (None, DEFAULT_BRANCH):
        if create_pr:
            raise ValueError(
                f"{remote.repo_id!r} has no revision {remote.revision!r} that a pull request could be opened to"
            )
        if str(remote.revision).startswith("refs/"):
            raise ValueError(f"{remote.repo_id!r} has no {remote.revision!r}, and only branches can be created")


def refuse_another_model(api: HfApi, remote: RemoteRepo) -> None:
    """Refuse to put a model where one of another package lies."""
    content = read_remote(api, remote, CONFIG_FILE)
    try:
        config = json.loads(content or b"{}")
    except ValueError:
        return
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(model_type, str) and not model_type.startswith(OWN_MODEL_TYPE):
        raise ValueError(
            f"{remote.repo_id!r} holds another model (its config.json has model_type={model_type!r}): give another "
            "repository"
        )


def refuse_own_modules(api: HfApi, remote: RemoteRepo, changed: Sequence[str]) -> None:
    """Refuse to write a generated module over one that somebody wrote."""
    modules = [path for path in changed if path.endswith(".py") and path in remote.files]
    if own := sorted(set(modules) - set(generated_modules(api, remote, modules))):
        raise ValueError(
            f"{remote.repo_id!r} has files of its own where generated code would go: {', '.join(own)}; rename them "
            "there, or push without the code"
        )


def refuse_card(card: Path, remote: RemoteRepo) -> None:
    """Refuse a card whose metadata the Hub does not take, which it says only when the repository exists already."""
    with explained(remote.repo_id, f"can't be pushed to ({CARD_FILE} can't be checked)"):
        try:
            content = card.read_text(encoding="utf-8-sig")
            RepoCard(content, ignore_metadata_errors=True).validate(remote.repo_type)
        except ValueError as error:
            raise ValueError(f"the Hub does not take the metadata in {CARD_FILE}: {problem(str(error))}") from error


def problem(answer: str) -> str:
    """What the Hub says about a card, in one line."""
    try:
        values = json.loads(answer)
        told = [item["message"] for item in values.get("errors") or []] or [values["error"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        told = [answer]
    return " ".join("; ".join(map(str, told)).split())
