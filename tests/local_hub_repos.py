"""What the local Hub keeps: repositories with commits, branches, tags and pull requests, and the objects of LFS."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import yaml
from local_hub_xet import XetStore

KINDS = ("model", "dataset", "space")
DATE = "2026-01-01T00:00:{:02d}.000Z"
FIRST_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class HubError(Exception):
    """An answer of the Hub that is no success."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.status, self.code, self.message = status, code, message or code


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit: its bytes, or the sha256 and size of an LFS object.

    Attributes:
        data: content of a file that git holds itself; None for an LFS object.
        sha256: of an LFS object; None for others.
        size: of the content in bytes.
        xet_hash: where hf_xet finds the content; None when it was uploaded by LFS.
    """

    data: bytes | None = None
    sha256: str | None = None
    size: int = 0
    xet_hash: str | None = None

    @property
    def oid(self) -> str:
        """git's name of the blob: the content, or the pointer that stands for an LFS object."""
        blob = self.pointer if self.data is None else self.data
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return text.encode()

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    date: str
    files: dict[str, StoredFile]


@dataclass
class Repo:
    """A repository; `refs` maps every full name (refs/heads/main, refs/tags/v1, refs/pr/1) to a commit."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)
    damaged: dict[str, bytes] = field(default_factory=dict)

    def full_ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request; None when there is none of that name."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.refs), None)

    def commit_at(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request, or of (the first digits of) its own name.

        Raises:
            HubError: 404 when there is none.
        """
        if ref := self.full_ref(revision):
            return self.commits[self.refs[ref]]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            for oid, commit in self.commits.items():
                if oid.startswith(revision):
                    return commit
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def history(self, revision: str) -> Iterator[Commit]:
        """The commits that lead to a revision, newest first."""
        oid: str | None = self.commit_at(revision).oid
        while oid:
            yield self.commits[oid]
            oid = self.commits[oid].parent

    def add_commit(self, ref: str, title: str, files: dict[str, StoredFile], parent: str | None) -> Commit:
        """Put a commit on top of a ref, which is made when it is new."""
        number = len(self.commits)
        oid = hashlib.sha1(f"{self.kind} {self.name} {ref} {title} {number}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, DATE.format(number % 60), dict(files))
        self.refs[ref] = oid
        return self.commits[oid]

    def open_pull(self, title: str, head: str) -> int:
        """Open a pull request whose branch starts at a commit, and return its number."""
        number = len(self.pulls) + 1
        self.pulls[number] = {"title": title, "status": "open"}
        self.refs[f"refs/pr/{number}"] = head
        return number

    @property
    def url_path(self) -> str:
        return quote(self.name if self.kind == "model" else f"{self.kind}s/{self.name}")


class HubState:
    """All that the Hub knows.

    Attributes:
        repos: (kind, "owner/name") → repository, where kind is "model", "dataset" or "space".
        lfs: sha256 → content of an LFS object, uploaded once for all repositories.
        log: method and decoded path of every request, in order.
        tokens: token → "write", "read" or "stranger" (belongs to somebody else). Empty: everyone may do everything.
        xet: where hf_xet keeps content; None for a Hub without Xet.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.tokens: dict[str, str] = {}
        self.xet: XetStore | None = None
        self.lock = threading.RLock()

    def repo(self, kind: str, name: str) -> Repo:
        if (kind, name) not in self.repos:
            raise HubError(404, "RepoNotFound", "Repository not found")
        return self.repos[kind, name]

    def create_repo(self, kind: str, name: str, **fields: Any) -> Repo:
        repo = self.repos[kind, name] = Repo(kind, name, **fields)
        first = {path: StoredFile(data=data, size=len(data)) for path, data in FIRST_FILES.items()}
        repo.add_commit("refs/heads/main", "initial commit", first, None)
        return repo

    def content(self, file: StoredFile) -> bytes:
        """The true content of a file."""
        return self.lfs[str(file.sha256)] if file.data is None else file.data

    def card_data(self, commit: Commit) -> dict[str, Any]:
        """The front matter of a commit's README.md; empty without one."""
        readme = commit.files.get("README.md")
        return front_matter(self.content(readme).decode()) if readme else {}


def front_matter(text: str) -> dict[str, Any]:
    """The YAML between the first two lines of dashes; empty without them.

    Raises:
        HubError: 400 when it is no YAML mapping.
    """
    match = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise HubError(400, message=f"Invalid YAML: {error}") from error
    if not isinstance(values or {}, dict):
        raise HubError(400, message="The front matter must be a mapping")
    return values or {}
