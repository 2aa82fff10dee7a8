"""A folder goes to the Hub in one commit, or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, get_token

from sam_variants.hub.checksums import CHECKSUMS_FILE, verify_files
from sam_variants.hub.push_checks import addition, refuse_push
from sam_variants.hub.remote_repo import (
    DEFAULT_BRANCH,
    PushError,
    RemoteRepo,
    explained,
    find_repo,
    generated_modules,
)
from sam_variants.hub.repo_files import leftovers, repo_files

NEW, CHANGED, UNCHANGED, DELETED, UNKNOWN = "new", "changed", "unchanged", "deleted", "unknown"
REPO_TYPES = ("model", "space")
COMMIT_MESSAGE = "Upload with sam-variants"


@dataclass(frozen=True)
class PushReport:
    """What a push did, or would do.

    Attributes:
        repo_id: with its owner.
        files: path and size in bytes of every file that was pushed or lay there unchanged.
        changes: path → "new", "changed", "unchanged" or "deleted"; "unknown" where the Hub could not be asked.
        left_out: files of the folder that don't belong into a repository.
        url: of the repository's page.
        commit_url: of the commit; None when nothing had changed, and for a dry run.
        pr_url: of the pull request, if one was opened.
        oid: the commit the repository stands at; of a pull request, its commit.
        dry_run: whether nothing was done.
        creates: whether the repository was (or would be) created.
        note: why the repository could not be compared with, in a dry run.
    """

    repo_id: str
    files: list[tuple[str, int]]
    changes: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    url: str = ""
    commit_url: str | None = None
    pr_url: str | None = None
    oid: str | None = None
    dry_run: bool = False
    creates: bool = False
    note: str = ""

    @property
    def has_changes(self) -> bool:
        """Whether any file differs from the repository's."""
        return any(change != UNCHANGED for change in self.changes.values())


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    space_sdk: str | None = None,
    include: Sequence[str] = (),
    mirrored: Sequence[str] = (),
    dry_run: bool = False,
    remote: RemoteRepo | None = None,
) -> PushReport:
    """Make a repository on the Hub hold a folder's files, with exactly one commit.

    Nothing is committed when nothing has changed. Weights, their index and generated modules that an earlier push left
    behind are deleted in the same commit, generated modules also when this folder has no code; other files of the
    repository stay. A push that was cut off can be repeated.

    Args:
        folder: a repository's folder, as `write_repo_folder` writes it; weights must match its SHA256SUMS.
        repo_id: `owner/name`, or a name of the token's owner. Created when it does not exist.
        repo_type: "model" or "space".
        private: who sees a repository that is created; None leaves it to the Hub.
        revision: branch to commit to, created when it does not exist; None for the default branch.
        create_pr: open a pull request instead.
        token: None or True for that of `hf auth login` or HF_TOKEN.
        commit_message, commit_description: of the commit.
        space_sdk: of a Space that is created.
        include: patterns of further files of the folder that are pushed.
        mirrored: folders of the repository in which everything that this folder lacks is deleted.
        dry_run: only report what would be done; nothing is written anywhere.
        remote: the repository as `find_repo` found it, when that was asked already.

    Returns:
        What was done.

    Raises:
        ValueError: for damaged weights, a card that the Hub does not take, a repository of another model, a file of
            somebody's own in the way, another visibility than the repository's, or without a token.
        OSError: when the Hub refuses, when the repository was changed by someone else meanwhile, or when it holds
            something else afterwards than was sent.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {str(folder)!r} to push")
    if not isinstance(repo_id, str):
        raise TypeError(f"repo_id is a {type(repo_id).__name__}, expected a string such as 'owner/name'")
    if repo_type not in REPO_TYPES:
        raise ValueError(f"repo_type={repo_type!r} is not allowed; choose one of {', '.join(REPO_TYPES)}")
    chosen, left_out = repo_files(folder, repo_type, include)
    if not chosen:
        raise ValueError(f"the folder {str(folder)!r} holds nothing that belongs into a {repo_type} repository")
    if (folder / CHECKSUMS_FILE).is_file():
        verify_files(folder)
    api = HfApi(token=token, library_name="sam-variants")
    report = PushReport(
        repo_id,
        files=[(name.as_posix(), (folder / name).stat().st_size) for name in chosen],
        left_out=[name.as_posix() for name in left_out],
        dry_run=dry_run,
    )
    if dry_run:
        return rehearsed(api, folder, chosen, report, repo_type, revision, mirrored, remote, private, create_pr)
    if token in (None, True) and get_token() is None:
        raise ValueError("pushing needs a token: log in with `hf auth login`, or set HF_TOKEN to one that may write")
    remote = find_repo(api, repo_id, repo_type, revision) if remote is None else remote
    refuse_push(api, folder, chosen, remote, private, create_pr)
    creates = not remote.exists
    remote = ready_to_commit(api, remote, private, create_pr, space_sdk)
    additions, deletions, changes = compare(api, folder, chosen, mirrored, remote)
    report = replace(
        report, repo_id=remote.repo_id, changes=changes, url=page_of(api, remote), oid=remote.head, creates=creates
    )
    if not report.has_changes:
        return report
    commit = commit_changes(
        api,
        remote,
        [*additions.values(), *(CommitOperationDelete(path, is_folder=False) for path in deletions)],
        commit_message or COMMIT_MESSAGE,
        commit_description,
        create_pr,
    )
    check_arrived(api, remote, additions, commit)
    return replace(report, commit_url=commit.commit_url, pr_url=commit.pr_url, oid=commit.oid)


def rehearsed(
    api: HfApi,
    folder: Path,
    chosen: Sequence[Path],
    report: PushReport,
    repo_type: str,
    revision: str | None,
    mirrored: Sequence[str],
    remote: RemoteRepo | None,
    private: bool | None,
    create_pr: bool,
) -> PushReport:
    """What a push would do, from nothing but reading."""
    try:
        remote = find_repo(api, report.repo_id, repo_type, revision) if remote is None else remote
        refuse_push(api, folder, chosen, remote, private, create_pr)
        _, _, changes = compare(api, folder, chosen, mirrored, remote)
    except PushError as error:
        return replace(report, changes={path: UNKNOWN for path, _ in report.files}, note=str(error))
    return replace(
        report,
        repo_id=remote.repo_id,
        changes=changes,
        url=page_of(api, remote),
        oid=remote.head,
        creates=not remote.exists,
    )


def ready_to_commit(
    api: HfApi, remote: RemoteRepo, private: bool | None, create_pr: bool, space_sdk: str | None
) -> RemoteRepo:
    """The repository with the branch to commit to, created where they do not exist."""
    if remote.head is not None:
        return remote
    with explained(remote.repo_id, "can't be created"):
        if not remote.exists:
            api.create_repo(
                remote.repo_id, private=private, repo_type=remote.repo_type, exist_ok=True, space_sdk=space_sdk
            )
        if remote.revision not in (None, DEFAULT_BRANCH) and not create_pr:
            api.create_branch(remote.repo_id, branch=remote.revision, repo_type=remote.repo_type, exist_ok=True)
    found = find_repo(api, remote.repo_id, remote.repo_type, remote.revision)
    if found.head is None:
        raise PushError(f"{found.repo_id!r} has no revision {found.revision!r} to push to")
    return found


def compare(
    api: HfApi, folder: Path, chosen: Sequence[Path], mirrored: Sequence[str], remote: RemoteRepo
) -> tuple[dict[str, CommitOperationAdd], list[str], dict[str, str]]:
    """What has to be added and deleted for a repository to hold these files, and what that is for each path."""
    changes: dict[str, str] = {}
    additions: dict[str, CommitOperationAdd] = {}
    for name in chosen:
        path = name.as_posix()
        operation = addition(folder, name)
        changes[path] = UNCHANGED
        if not remote.holds(path, operation):
            changes[path] = CHANGED if path in remote.files else NEW
            additions[path] = operation
    stale, modules = leftovers(remote.files, changes, remote.repo_type, mirrored)
    deletions = [*stale, *generated_modules(api, remote, modules)]
    return additions, deletions, changes | dict.fromkeys(deletions, DELETED)


def commit_changes(
    api: HfApi,
    remote: RemoteRepo,
    operations: list[CommitOperationAdd | CommitOperationDelete],
    message: str,
    description: str | None,
    create_pr: bool,
) -> CommitInfo:
    """One commit on top of the commit that was compared with."""
    with explained(remote.repo_id, "can't be pushed to"), warnings.catch_warnings():
        # The Hub remarks on cards that lack what nobody knows, such as a licence.
        warnings.simplefilter("ignore", UserWarning)
        return api.create_commit(
            remote.repo_id,
            operations,
            commit_message=message,
            commit_description=description,
            repo_type=remote.repo_type,
            revision=remote.revision,
            create_pr=create_pr,
            parent_commit=remote.head,
        )


def check_arrived(api: HfApi, remote: RemoteRepo, additions: dict[str, CommitOperationAdd], commit: CommitInfo) -> None:
    """Compare what the Hub holds now with what was sent.

    Raises:
        OSError: naming the files that differ.
    """
    if not additions:
        return
    revision = commit.pr_revision or commit.oid
    with explained(remote.repo_id, "was pushed to, but can't be checked"):
        entries = api.get_paths_info(remote.repo_id, list(additions), repo_type=remote.repo_type, revision=revision)
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    held = replace(remote, head=commit.oid, files=files)
    if wrong := [path for path, operation in additions.items() if not held.holds(path, operation)]:
        raise PushError(
            f"{remote.repo_id!r} holds other content than was sent in {', '.join(wrong)}: push again ({commit.oid})"
        )


def page_of(api: HfApi, remote: RemoteRepo) -> str:
    """The address of a repository's page."""
    kind = "" if remote.repo_type == "model" else f"{remote.repo_type}s/"
    return f"{api.endpoint}/{kind}{remote.repo_id}"
