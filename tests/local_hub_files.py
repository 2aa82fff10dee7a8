"""The local Hub's files: how they are uploaded (LFS or Xet), committed, and downloaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from typing import Any

from local_hub_access import repo_of, role_of
from local_hub_api import REPO
from local_hub_http import Request, Response, error_response, route
from local_hub_repos import HubError, Repo, StoredFile

LFS_NAMES = re.compile(r".*\.(safetensors|bin|pt|pth|onnx|parquet|arrow|zip|tar|gz|npz|npy|mp4|png|jpe?g)", re.I)
LFS_SIZE = 10_000_000


@route("POST", REPO + "/preupload/{revision}")
def preupload(request: Request) -> Response:
    repo = repo_of(request, write=True)
    files = repo.commit_at(request.arguments["revision"]).files

    def mode(values: dict[str, Any]) -> dict[str, Any]:
        path = values["path"]
        is_lfs = bool(LFS_NAMES.fullmatch(path)) or values["size"] > LFS_SIZE
        oid = files[path].etag if path in files else None
        return {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, "oid": oid}

    return Response({"files": [mode(values) for values in request.json()["files"]]})


@route("POST", "/{owner}/{name}.git/info/lfs/objects/batch")
@route("POST", "/{kinds}/{owner}/{name}.git/info/lfs/objects/batch")
def lfs_batch(request: Request) -> Response:
    repo_of(request, write=True)

    def action(values: dict[str, Any]) -> dict[str, Any]:
        known = {"oid": values["oid"], "size": values["size"]}
        if values["oid"] in request.state.lfs:
            return known
        upload = {"href": f"{request.base_url}/_lfs/{values['oid']}"}
        verify = {"href": f"{request.base_url}/_lfs/verify"}
        return {**known, "actions": {"upload": upload, "verify": verify}}

    return Response({"transfer": "basic", "objects": [action(values) for values in request.json()["objects"]]})


@route("PUT", "/_lfs/{sha256}")
def lfs_upload(request: Request) -> Response:
    sha256 = request.arguments["sha256"]
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise HubError(400, message=f"the content is not that of {sha256}")
    request.state.lfs[sha256] = request.body
    return Response(headers={"ETag": f'"{sha256}"'})


@route("POST", "/_lfs/verify")
def lfs_verify(request: Request) -> Response:
    values = request.json()
    content = request.state.lfs.get(values["oid"])
    return Response({}, 200 if content is not None and len(content) == values["size"] else 404)


@route("GET", REPO + "/{direction}-token/{revision}")
def xet_token(request: Request) -> Response:
    direction = request.arguments["direction"]
    store = request.state.xet
    if store is None or direction not in ("xet-read", "xet-write"):
        raise HubError(404, message="this Hub has no Xet storage")
    repo_of(request, write=direction == "xet-write", content=True)
    expires = int(time.time()) + 3600
    names = {"X-Xet-Cas-Url": store.url, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": expires}
    return Response({"casUrl": store.url, "accessToken": "t", "exp": expires}, headers=names)


@route("POST", REPO + "/commit/{revision}")
def commit(request: Request) -> Response:
    """Apply a list of operations, all or none, as one commit on a branch, or as a new pull request."""
    makes_pull = request.query.get("create_pr") in ("1", "true")
    repo = repo_of(request, write=not makes_pull)
    if makes_pull and role_of(request) is None:
        raise HubError(401, "RepoNotFound", "Invalid username or password.")
    revision = request.arguments["revision"]
    head = repo.commit_at(revision)
    ref = repo.full_ref(revision)
    if ref is None or ref.startswith("refs/tags/"):
        raise HubError(400, message=f"{revision} is no branch")
    header, files = apply_operations(request, dict(head.files))
    if header.get("parentCommit") not in (None, head.oid):
        raise HubError(412, message="A commit has happened since. Please refresh and try again.")
    title, pull_url = header.get("summary", ""), None
    if makes_pull:
        number = repo.open_pull(title, head.oid)
        ref, pull_url = f"refs/pr/{number}", f"{request.base_url}/{repo.url_path}/discussions/{number}"
    made = repo.add_commit(ref, title, files, head.oid)
    url = f"{request.base_url}/{repo.url_path}/commit/{made.oid}"
    names = {"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": "", "pullRequestUrl": pull_url}
    return Response(names)


def apply_operations(request: Request, files: dict[str, StoredFile]) -> tuple[dict[str, Any], dict[str, StoredFile]]:
    """The header of a commit, and the files after it."""
    header: dict[str, Any] = {}
    for line in request.body.splitlines():
        operation = json.loads(line)
        key, value = operation["key"], operation["value"]
        if key == "header":
            header = value
        elif key == "file":
            data = base64.b64decode(value["content"])
            files[value["path"]] = StoredFile(data=data, size=len(data))
        elif key == "lfsFile":
            files[value["path"]] = uploaded_file(request, value["oid"])
        elif key in ("deletedFile", "deletedFolder"):
            files = without(files, value["path"], is_folder=key == "deletedFolder")
        else:
            raise HubError(400, message=f"unknown operation {key!r}")
    return header, files


def uploaded_file(request: Request, sha256: str) -> StoredFile:
    """An object that was uploaded before, by LFS or Xet.

    Raises:
        HubError: 400 when it was not.
    """
    state = request.state
    xet_hash = state.xet.hash_of(sha256) if state.xet else None
    if xet_hash and sha256 not in state.lfs:
        state.lfs[sha256] = state.xet.content(sha256)
    if sha256 not in state.lfs:
        raise HubError(400, message=f"the LFS object {sha256} was never uploaded")
    return StoredFile(sha256=sha256, size=len(state.lfs[sha256]), xet_hash=xet_hash)


def without(files: dict[str, StoredFile], path: str, is_folder: bool) -> dict[str, StoredFile]:
    folder = path.rstrip("/") + "/"
    kept = {name: file for name, file in files.items() if not (name.startswith(folder) if is_folder else name == path)}
    if len(kept) == len(files):
        raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
    return kept


@route("GET HEAD", "/{owner}/{name}/resolve/{revision}/{path*}")
@route("GET HEAD", "/{kinds}/{owner}/{name}/resolve/{revision}/{path*}")
@route("GET", "/{owner}/{name}/raw/{revision}/{path*}")
@route("GET", "/{kinds}/{owner}/{name}/raw/{revision}/{path*}")
def download(request: Request) -> Response:
    """A file, or the range of it that is asked for; with the headers by which the client names it in its cache."""
    repo = repo_of(request, content=True)
    found = repo.commit_at(request.arguments["revision"])
    path = request.arguments["path"]
    headers: dict[str, Any] = {"X-Repo-Commit": found.oid, "Accept-Ranges": "bytes"}
    if path not in found.files:
        return error_response(HubError(404, "EntryNotFound", "Entry not found"), headers)
    file = found.files[path]
    content = repo.damaged.get(path)
    if content is None:
        content = request.state.content(file)
        headers.update(xet_headers(request, repo, found.oid, file))
    headers["ETag"] = f'"{file.etag}"'
    if file.sha256:
        headers.update({"X-Linked-Etag": headers["ETag"], "X-Linked-Size": len(content)})
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    return Response(content, headers=headers) if wanted is None else part_of(content, wanted, headers)


def xet_headers(request: Request, repo: Repo, oid: str, file: StoredFile) -> dict[str, str]:
    if file.xet_hash is None:
        return {}
    token_route = f"{request.base_url}/api/{repo.kind}s/{repo.name}/xet-read-token/{oid}"
    return {"X-Xet-Hash": file.xet_hash, "X-Xet-Refresh-Route": token_route}


def part_of(content: bytes, wanted: re.Match[str], headers: dict[str, Any]) -> Response:
    first = int(wanted[1])
    last = min(int(wanted[2] or len(content)), len(content) - 1)
    if first > last:
        return Response(b"", 416, {**headers, "Content-Range": f"bytes */{len(content)}"})
    part = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
    return Response(content[first : last + 1], 206, {**headers, **part})
