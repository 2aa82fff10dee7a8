"""The local Hub of the tests, as the real client sees it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import NoneType
from typing import Any

import huggingface_hub.hf_api
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from local_hub import LocalHub, local_hub
from transformers.utils.hub import hf_api

CONTENT = bytes(range(256)) * 500
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def upload(name: str = "weights.bin", content: bytes = CONTENT, repo: str = "me/a", **options: Any) -> Any:
    return HfApi().create_commit(repo, [CommitOperationAdd(name, content)], commit_message=f"add {name}", **options)


def download(name: str = "weights.bin", repo: str = "me/a", **options: Any) -> bytes:
    return Path(hf_hub_download(repo, name, **options)).read_bytes()


def outcome(action: Callable[..., Any], *arguments: Any) -> HfHubHTTPError | None:
    """The error that an action ends with; None for success."""
    try:
        action(*arguments)
    except HfHubHTTPError as error:
        return error
    return None


def status(action: Callable[..., Any], *arguments: Any) -> int | None:
    error = outcome(action, *arguments)
    return error and error.response.status_code


@pytest.fixture
def filled(hub: LocalHub) -> LocalHub:
    """A Hub with a file of weights in the repository me/a."""
    HfApi().create_repo("me/a")
    upload()
    return hub


def test_everything_is_put_back(tmp_path: Path) -> None:
    before = {name: value for name, value in vars(constants).items() if name.isupper()}
    threads = set(threading.enumerate())
    for name in ("first", "second"):
        with local_hub(tmp_path / name) as hub:
            hub.put("me/a", {"config.json": b"{}"})
            assert download("config.json") == b"{}"
            assert (tmp_path / name / "hub" / "models--me--a").is_dir()
            clients = [hf_api(), HfApi(), huggingface_hub.hf_api.api, HfFileSystem()]
            assert {client.endpoint for client in clients} == {hub.url}
    assert {name: value for name, value in vars(constants).items() if name.isupper()} == before
    assert {thread.name for thread in set(threading.enumerate()) - threads} <= {"tqdm_monitor"}


OTHER_PROCESS = """
import subprocess, sys, threading
from pathlib import Path
from local_hub import local_hub

with local_hub(Path(sys.argv[1])) as hub:
    hub.put("me/a", {"a.txt": b"1"})
    import datasets.config
    assert datasets.config.HF_ENDPOINT == hub.url and not datasets.config.HF_HUB_OFFLINE
    load = "import huggingface_hub; print(open(huggingface_hub.hf_hub_download('me/a', 'a.txt')).read())"
    found = subprocess.run([sys.executable, "-c", load], env=hub.environment(), capture_output=True, text=True)
    assert found.stdout == "1\\n", found.stderr
    assert hub.requests("GET", "*/a.txt")
assert datasets.config.HF_ENDPOINT == "https://huggingface.co" and datasets.config.HF_HUB_OFFLINE
assert threading.active_count() == 1, threading.enumerate()
"""


def test_other_processes_and_a_late_import_of_datasets(tmp_path: Path) -> None:
    """datasets reads its settings at import: those of a test must not stay when the test is over."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_ENDPOINT"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", OTHER_PROCESS, tmp_path]
    subprocess.run(command, cwd=Path(__file__).parent, env=environment, check=True)


@pytest.mark.parametrize("is_xet", [False, True], ids=["lfs", "xet"])
@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_folder_there_and_back(kind: str, is_xet: bool, hub: LocalHub, tmp_path: Path) -> None:
    if is_xet:
        hub.use_xet()
    api = HfApi()
    api.create_repo("me/a", repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    files = {"README.md": b"---\nlicense: mit\n---\n", "weights.bin": CONTENT, "sub/more.bin": CONTENT[:99999]}
    for path, content in files.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    api.upload_folder(repo_id="me/a", folder_path=tmp_path / "folder", repo_type=kind)
    assert {path: hub.files("me/a", kind)[path] for path in files} == files
    assert bool(hub.requests("PUT", "/_lfs/*")) != is_xet
    folder = Path(snapshot_download("me/a", repo_type=kind))
    assert {path: (folder / path).read_bytes() for path in files} == files
    assert bool(hub.requests("GET", "*/xet-read-token/*")) == is_xet
    assert not api.verify_repo_checksums("me/a", repo_type=kind).mismatches
    (known,) = api.get_paths_info("me/a", ["weights.bin"], repo_type=kind)
    assert known.lfs.sha256 == SHA256
    assert [entry.path for entry in api.list_repo_tree("me/a", "sub", repo_type=kind)] == ["sub/more.bin"]
    assert HfFileSystem().read_block(f"{kind}s/me/a/weights.bin", 300, 20) == CONTENT[300:320]
    api.delete_repo("me/a", repo_type=kind)
    assert not api.repo_exists("me/a", repo_type=kind)


def test_revisions(filled: LocalHub) -> None:
    api = HfApi()
    api.create_tag("me/a", tag="v1")
    api.create_branch("me/a", branch="next")
    made = upload(content=b"next", revision="next")
    assert download(revision="v1") == download() == CONTENT
    assert download(revision="next") == download(revision=made.oid) == b"next"
    pull = upload(content=b"better", create_pr=True)
    assert (pull.pr_num, pull.pr_revision) == (1, "refs/pr/1")
    upload("second.bin", revision="refs/pr/1")
    assert download(revision="refs/pr/1") == b"better"
    assert "second.bin" not in api.list_repo_files("me/a")
    api.merge_pull_request("me/a", 1)
    assert download() == b"better"
    assert api.get_discussion_details("me/a", 1).status == "merged"
    assert [commit.title for commit in api.list_repo_commits("me/a")] == filled.titles("me/a")
    assert filled.titles("me/a") == ["add weights.bin (#1)", "add weights.bin", "initial commit"]
    refs = api.list_repo_refs("me/a", include_pull_requests=True)
    assert [[ref.name for ref in group] for group in (refs.branches, refs.tags)] == [["main", "next"], ["v1"]]
    api.delete_branch("me/a", branch="next")
    with pytest.raises(RevisionNotFoundError):
        download(revision="next")


def test_commits_are_whole_or_nothing(filled: LocalHub) -> None:
    api = HfApi()
    adding, deleting = CommitOperationAdd("x.txt", b"1"), CommitOperationDelete("no_such_file")
    with pytest.raises(HfHubHTTPError, match="412") as caught:
        api.create_commit("me/a", [adding], commit_message="x", parent_commit="0" * 40)
    assert caught.value.response.status_code == 412
    with pytest.raises(RemoteEntryNotFoundError, match="no_such_file"):
        api.create_commit("me/a", [adding, deleting], commit_message="x")
    with pytest.raises(ValueError, match="YAML"):
        upload("README.md", b"---\na: [\n---\n")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/a")
    assert filled.titles("me/a") == ["add weights.bin", "initial commit"]
    api.create_commit("me/a", [adding, CommitOperationDelete("weights.bin")], commit_message="x")
    assert set(filled.files("me/a")) == {".gitattributes", "x.txt"}


@pytest.mark.parametrize(
    ("token", "write", "read_private", "read_gated"),
    [
        ("hf_w", None, NoneType, NoneType),
        ("hf_r", 403, NoneType, NoneType),
        ("hf_x", 403, RepositoryNotFoundError, GatedRepoError),
        (None, 401, RepositoryNotFoundError, GatedRepoError),
        ("hf_wrong", 401, HfHubHTTPError, HfHubHTTPError),
    ],
)
def test_tokens(token: str | None, write: int | None, read_private: type, read_gated: type, filled: LocalHub) -> None:
    api = HfApi()
    api.create_repo("me/private", private=True)
    upload("a.txt", b"1", "me/private")
    filled.put("me/gated", {"a.txt": b"1"})
    filled.gate("me/gated")
    filled.require_tokens({"hf_w": "write", "hf_r": "read", "hf_x": "stranger"})
    filled.log_in(token)

    assert status(upload, "b.txt", b"1") == write
    assert status(api.create_repo, "me/new") == write
    assert type(outcome(download, "a.txt", "me/private")) is read_private
    assert type(outcome(download, "a.txt", "me/gated")) is read_gated
    if token != "hf_wrong":
        assert download() == CONTENT
        assert ("me/private" in {repo.id for repo in api.list_models()}) == (read_private is NoneType)


DOWNLOAD_FAULTS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"status": 401}, RepositoryNotFoundError),
    ({"status": 404}, RepositoryNotFoundError),
    ({"status": 403, "error_code": "GatedRepo"}, GatedRepoError),
    ({"status": 404, "error_code": "EntryNotFound"}, RemoteEntryNotFoundError),
    ({"status": 404, "error_code": "RevisionNotFound"}, RevisionNotFoundError),
    ({"status": 403}, LocalEntryNotFoundError),
    ({"status": 429, "retry_after": 60}, LocalEntryNotFoundError),
    ({"status": 503}, LocalEntryNotFoundError),
    ({"method": "GET", "status": 503}, HfHubHTTPError),
    ({"method": "GET", "truncate": 1000}, OSError),
    ({"method": "GET", "cut": 0}, Exception),
]


@pytest.mark.parametrize(("fault", "error"), DOWNLOAD_FAULTS)
def test_downloads_that_fail(fault: dict[str, Any], error: type[Exception], filled: LocalHub) -> None:
    made = filled.fail(path="*/resolve/*", **fault)
    with pytest.raises(error):
        download()
    assert made.hits
    made.stop()
    assert download() == CONTENT


def test_downloads_that_recover(filled: LocalHub) -> None:
    """The client goes on where it was cut off, and waits when told so, here for a moment only."""
    cuts = filled.fail("GET", "*/weights.bin", cut=1000, times=3)
    assert download() == CONTENT
    assert cuts.hits == 3
    busy = filled.fail("GET", "*/resolve/*", status=429, retry_after=60, times=2)
    assert download(force_download=True) == CONTENT
    assert busy.hits == 2


def test_answers_of_garbage(filled: LocalHub) -> None:
    filled.fail("GET", "*/weights.bin", garbage=True)
    assert download() == bytes(byte ^ 0x5A for byte in CONTENT)
    assert mismatches()


def test_slow_answers(filled: LocalHub) -> None:
    """A server that is stopped meanwhile does not wait for them."""
    filled.fail("HEAD", "*", slow=0.2, times=1)
    start = time.monotonic()
    assert download() == CONTENT
    assert time.monotonic() - start >= 0.2
    forever = filled.fail("HEAD", "*", slow=600)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(download, "other.bin")
        while not forever.hits:
            time.sleep(0.01)
        filled.stop()
        with pytest.raises(Exception, match="disconnected"):
            waiting.result(timeout=60)


UPLOAD_FAULTS: list[tuple[dict[str, Any], type[Exception], int]] = [
    ({"method": "PUT", "path": "/_lfs/*", "cut": 1000}, RuntimeError, 6),
    ({"method": "PUT", "path": "/_lfs/*", "status": 503}, RuntimeError, 6),
    ({"path": "*/preupload/*", "status": 403}, HfHubHTTPError, 1),
    ({"path": "*/commit/*", "status": 503}, HfHubHTTPError, 1),
    ({"path": "*/commit/*", "status": 412}, HfHubHTTPError, 1),
]


@pytest.mark.parametrize(("fault", "error", "hits"), UPLOAD_FAULTS)
def test_uploads_that_fail(fault: dict[str, Any], error: type[Exception], hits: int, filled: LocalHub) -> None:
    """Nothing is committed, and doing it again succeeds."""
    made = filled.fail(**fault)
    with pytest.raises(error):
        upload("new.bin", CONTENT[1:])
    assert made.hits == hits
    assert filled.titles("me/a") == ["add weights.bin", "initial commit"]
    filled.heal()
    upload("new.bin", CONTENT[1:])
    assert filled.files("me/a")["new.bin"] == CONTENT[1:]


def test_xet_tells_nothing_but_that_it_failed(hub: LocalHub) -> None:
    """hf_xet retries in its own way, and ends in Python's ConnectionError without a status."""
    hub.use_xet()
    HfApi().create_repo("me/a")
    made = hub.fail("GET", "*/xet-write-token/*", status=503)
    with pytest.raises(ConnectionError, match="503"):
        upload()
    assert made.hits == 6
    made.stop()
    upload()
    hub.fail("GET", "*/xet-read-token/*", status=503, times=2)
    assert download() == CONTENT


def test_a_commit_whose_answer_is_lost(filled: LocalHub) -> None:
    filled.fail("POST", "*/commit/*", lose_answer=True, times=1)
    with pytest.raises(Exception, match="disconnected"):
        upload("new.bin", CONTENT[1:])
    assert filled.files("me/a")["new.bin"] == CONTENT[1:]


def test_a_hub_that_is_down(filled: LocalHub) -> None:
    filled.stop()
    with pytest.raises(LocalEntryNotFoundError):
        download()
    filled.start()
    assert download() == CONTENT
    filled.stop()
    assert download() == CONTENT


@pytest.mark.parametrize("is_xet", [False, True], ids=["lfs", "xet"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"flip": -1}, CONTENT[:-1] + b"\0"),
        ({"truncate": 10}, CONTENT[:10]),
        ({"truncate": 0}, b""),
        ({"content": b"else"}, b"else"),
    ],
)
def test_damaged_files(damage: dict[str, Any], expected: bytes, is_xet: bool, hub: LocalHub) -> None:
    """The client takes them as they come; only the checksums tell."""
    if is_xet:
        hub.use_xet()
    HfApi().create_repo("me/a")
    upload()
    hub.corrupt("me/a", "weights.bin", **damage)
    assert download() == expected
    assert [mismatch["path"] for mismatch in mismatches()] == ["weights.bin"]
    hub.repair("me/a", "weights.bin")
    assert download(force_download=True) == CONTENT
    assert not mismatches()


def mismatches() -> list[dict[str, str]]:
    return HfApi().verify_repo_checksums("me/a").mismatches


@pytest.mark.parametrize("name", ["two words", "0" * 40, "refs/pr/9"])
def test_what_can_be_no_branch_is_refused(hub: LocalHub, name: str) -> None:
    hub.put("me/tiny", {"config.json": b"{}"})
    with pytest.raises(HfHubHTTPError, match="can't be the name of a branch"):
        HfApi().create_branch("me/tiny", branch=name)
