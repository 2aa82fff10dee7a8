"""What a repository on the Hub holds before something is pushed to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, RepoFile
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from sam_variants.hub.hub_errors import OFFLINE, hub_reason
from sam_variants.hub.repo_files import GENERATED_CODE

DEFAULT_BRANCH = "main"
DOWNLOADS_AT_ONCE = 8
SWITCHED_OFF = "HF_HUB_OFFLINE is set, which switches the network off"


@dataclass(frozen=True)
class RemoteRepo:
    """A repository as it was found.

    Attributes:
        repo_id: with its owner.
        repo_type: "model" or "space".
        revision: the branch, tag or commit that was asked for; None for the default branch.
        exists: whether there is such a repository.
        head: the commit the revision stands at; None where there is none yet.
        is_private: whether only its owner sees it.
        files: path → what the Hub says of the file; where there is no such revision yet, those of the default branch,
            which a new branch starts with.
    """

    repo_id: str
    repo_type: str
    revision: str | None
    exists: bool = False
    head: str | None = None
    is_private: bool = False
    files: Mapping[str, RepoFile] = field(default_factory=dict)

    def holds(self, path: str, operation: CommitOperationAdd) -> bool:
        """Whether the repository has a file with the content that is to be pushed."""
        found = self.files.get(path)
        if found is None:
            return False
        if found.lfs is not None:
            return found.lfs.sha256 == operation.upload_info.sha256.hex()
        return found.size == operation.upload_info.size and found.blob_id == git_checksum(operation)


def find_repo(api: HfApi, repo_id: str, repo_type: str = "model", revision: str | None = None) -> RemoteRepo:
    """Look at a repository, changing nothing.

    Args:
        api: with the token to use.
        repo_id: with or without the owner, who then is the token's.
        repo_type: "model" or "space".
        revision: branch, tag, commit or pull request (`refs/pr/1`).

    Raises:
        OSError: when the Hub can't be asked.
    """
    with explained(repo_id, "can't be read"):
        full_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        blank = RemoteRepo(full_id, repo_type, revision)
        try:
            info = api.repo_info(full_id, repo_type=repo_type, revision=revision)
            head = info.sha
        except RevisionNotFoundError:
            info, head = api.repo_info(full_id, repo_type=repo_type), None
        except RepositoryNotFoundError:
            return blank
        listing = api.list_repo_tree(full_id, recursive=True, revision=info.sha, repo_type=repo_type)
        files = {entry.path: entry for entry in listing if isinstance(entry, RepoFile)}
        return RemoteRepo(full_id, repo_type, revision, True, head, bool(info.private), files)


def read_remote(api: HfApi, repo: RemoteRepo, path: str) -> bytes | None:
    """The content of a small file of a repository; None when it has none of that name.

    Raises:
        OSError: when it can't be downloaded.
    """
    if path not in repo.files:
        return None
    with explained(repo.repo_id, f"can't be read ({path})"):
        local = api.hf_hub_download(repo.repo_id, path, repo_type=repo.repo_type, revision=repo.head)
        return Path(local).read_bytes()


def generated_modules(api: HfApi, repo: RemoteRepo, paths: list[str]) -> list[str]:
    """Those Python files of a repository that were generated from the package, and not written by somebody."""
    if not paths:
        return []
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        contents = list(pool.map(lambda path: read_remote(api, repo, path), paths))
    return [path for path, content in zip(paths, contents, strict=True) if (content or b"").startswith(GENERATED_CODE)]


def git_checksum(operation: CommitOperationAdd) -> str:
    """The name that git gives to a file's content."""
    with operation.as_file() as file:
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def explained(repo_id: str, what: str) -> Iterator[None]:
    """Say in one sentence what the Hub refused, instead of its client's own errors.

    Raises:
        OSError: for whatever went wrong on the way to the Hub; errors about a value pass.
    """
    try:
        yield
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        if isinstance(error, PushError):
            raise
        raise PushError(f"{repo_id!r} {what}: {reason_for(error)}") from error
    except Exception as error:
        # Which HTTP library raises what, when there is no connection, depends on the version of huggingface_hub.
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise PushError(f"{repo_id!r} {what}: {reason_for(error)}") from error
        raise


def reason_for(error: Exception) -> str:
    """The same as `hub_reason`, for what is not only read."""
    reason = hub_reason(error)
    return SWITCHED_OFF if reason == OFFLINE else reason


class PushError(OSError):
    """The Hub did not do what was asked for; its message is for people."""
