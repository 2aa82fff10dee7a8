"""A Hugging Face Hub on this machine for tests: loopback only, in memory, spoken to by the real client.

The fixture `hub` starts one for a test, and points huggingface_hub, transformers and datasets to it:

    def test_push(hub, tmp_path):
        model.push_to_hub("me/tiny")                        # the user is "me"; every token may do everything
        AutoModel.from_pretrained("me/tiny")                # caches lie below the test's tmp_path
        assert "model.safetensors" in hub.files("me/tiny")  # what the repository holds, as bytes
        hub.fail("GET", "*/config.json", status=503, times=1)
        hub.corrupt("me/tiny", "model.safetensors", flip=-1)
        hub.stop(); hub.start()                             # unreachable, then back at the same address
        hub.require_tokens({"hf_w": "write"}); hub.log_in("hf_w")
        hub.use_xet()                                       # from here on uploads and downloads go through hf_xet
        subprocess.run([...], env=hub.environment())        # the same Hub for another process

It knows models, datasets and Spaces; commits, branches, tags and pull requests; LFS and Xet; private and gated
repositories. `hub.hub.repos`, `hub.hub.lfs` and `hub.hub.log` are its state, see `HubState`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import local_hub_api
import local_hub_files
import local_hub_pulls
import pytest
from local_hub_client import client_pointed_at, forget_connections, subprocess_environment
from local_hub_faults import CODES, Fault, Faults
from local_hub_http import HubServer
from local_hub_repos import HubState, Repo, StoredFile
from local_hub_xet import XetStore

ROUTE_MODULES = (local_hub_api, local_hub_files, local_hub_pulls)


class LocalHub:
    """A Hub, its server, and the clients of this process that are pointed to it.

    Attributes:
        url: its address.
        hub: its state: `repos`, `lfs`, `log`, `tokens`.
        home: the folder that stands for ~/.cache/huggingface; `home / "hub"` is the cache of downloads.
    """

    def __init__(self, home: Path, patch: pytest.MonkeyPatch | None = None) -> None:
        self.home = home
        self.patch = patch
        self.hub = HubState()
        self.faults = Faults()
        self.is_xet = False
        self.server: HubServer | None = HubServer(self.hub, self.faults)
        self.url = self.server.url
        self.port = self.server.port

    def start(self) -> None:
        """Be reachable again, at the same address."""
        if self.server is None:
            self.server = HubServer(self.hub, self.faults, self.port)

    def stop(self) -> None:
        """Refuse connections, and hang up on those that are open; nothing is forgotten."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def fail(
        self,
        method: str = "*",
        path: str = "*",
        *,
        status: int | None = None,
        error_code: str | None = None,
        retry_after: int | None = None,
        times: int | None = None,
        **how: Any,
    ) -> Fault:
        """Let requests fail, all or the first `times`.

        Args:
            method: pattern of the method: "GET", "PUT", "*".
            path: pattern of the decoded path without the host, as of fnmatch: "*/resolve/*/model.safetensors",
                "/_lfs/*" (uploads of objects), "*/commit/*", "*/preupload/*", "/api/repos/create".
            status: answer with this instead of carrying the request out.
            error_code: of that answer, as the Hub names it: "RepoNotFound" (default of 401 and 404),
                "RevisionNotFound", "EntryNotFound", "GatedRepo"; "" for none.
            retry_after: seconds in its header Retry-After.
            times: how many requests fail before all is well again; None for all of them.
            **how: instead of a status, or beside it:
                message: text of the answer.
                cut: hang up after so many bytes; of an upload's body (nothing is carried out), else of the answer's.
                truncate: a well-formed answer with only so many bytes.
                garbage: an answer of the right length with every byte wrong.
                lose_answer: carry the request out, then hang up without an answer.
                slow: seconds to wait before anything else.

        Returns:
            The fault: `hits` counts its requests, `stop()` ends it.
        """
        code = CODES.get(status or 0, "") if error_code is None else error_code
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        fault = Fault(method, path, status=status, error_code=code, headers=headers, times=times, **how)
        self.faults.faults.append(fault)
        return fault

    def heal(self) -> None:
        """End all faults; damaged files stay damaged."""
        self.faults.faults.clear()

    def corrupt(
        self,
        repo_id: str,
        path: str,
        *,
        flip: int | None = None,
        truncate: int | None = None,
        content: bytes | None = None,
        repo_type: str = "model",
    ) -> None:
        """Serve a file damaged from now on, in every revision that has it; listings still tell the true sha256.

        The size of a download is that of the damaged content, so that the client notices nothing. A damaged file is
        served over HTTP even where Xet is used.

        Args:
            repo_id, path, repo_type: the file.
            flip: offset of a byte to change; negative from the end.
            truncate: how many bytes to keep; 0 for an empty file.
            content: bytes to serve instead.
        """
        damaged = bytearray(self.files(repo_id, repo_type)[path] if content is None else content)
        if flip is not None:
            damaged[flip] ^= 0xFF
        self.repo(repo_id, repo_type).damaged[path] = bytes(damaged[:truncate])

    def repair(self, repo_id: str, path: str, repo_type: str = "model") -> None:
        """Serve a file as it was uploaded."""
        del self.repo(repo_id, repo_type).damaged[path]

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.hub.repo(repo_type, repo_id)

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Path → content of all files of a revision, as they were uploaded."""
        commit = self.repo(repo_id, repo_type).commit_at(revision)
        return {path: self.hub.content(file) for path, file in commit.files.items()}

    def titles(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[str]:
        """The messages of the commits that lead to a revision, newest first."""
        return [commit.title for commit in self.repo(repo_id, repo_type).history(revision)]

    def put(self, repo_id: str, files: dict[str, bytes], repo_type: str = "model") -> None:
        """Commit files on main without a client, in a repository that is made when it is new."""
        key = (repo_type, repo_id)
        repo = self.hub.repos[key] if key in self.hub.repos else self.hub.create_repo(*key)
        head = repo.commit_at("main")
        added = {path: StoredFile(data=data, size=len(data)) for path, data in files.items()}
        repo.add_commit("refs/heads/main", "put there by the test", {**head.files, **added}, head.oid)

    def gate(self, repo_id: str, repo_type: str = "model") -> None:
        """Refuse the files of a repository: to everyone, or to all but the owner's tokens once there are some."""
        self.repo(repo_id, repo_type).gated = True

    def require_tokens(self, tokens: dict[str, str]) -> None:
        """From now on only these tokens are known: token → "write", "read" (both the owner's) or "stranger".

        The clients send none of them before `log_in`.
        """
        self.hub.tokens.update(tokens)

    def log_in(self, token: str | None) -> None:
        """Let the clients of this process, and of `environment()`, send this token; None for none."""
        assert self.patch is not None
        self.patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            self.patch.setenv("HF_TOKEN", token)

    def use_xet(self) -> None:
        """Upload and download by hf_xet from now on; its content lies in a folder, not on the server."""
        assert self.patch is not None
        self.hub.xet = XetStore(self.home / "xet_store")
        self.is_xet = True
        forget_connections()
        self.patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
        self.patch.setenv("HF_HUB_DISABLE_XET", "0")

    def requests(self, method: str = "*", path: str = "*") -> list[tuple[str, str]]:
        """Those requests so far that a fault with these patterns would have met."""
        wanted = Fault(method, path)
        return [request for request in self.hub.log if wanted.meets(*request)]

    def environment(self) -> dict[str, str]:
        """The environment for a process that shall talk to this Hub; it shares the caches of this test."""
        return subprocess_environment(self.url, self.home, self.is_xet)


@contextmanager
def local_hub(folder: Path) -> Iterator[LocalHub]:
    """A Hub that runs, with the clients of this process pointed to it and their caches below `folder`."""
    hub = LocalHub(folder)
    try:
        with client_pointed_at(hub.url, folder) as patch:
            hub.patch = patch
            yield hub
    finally:
        hub.stop()
