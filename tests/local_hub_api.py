"""The local Hub's API around files: accounts, repositories, listings, branches, tags and pull requests."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import parse_qs

from local_hub_access import repo_named, repo_of, require_write, role_of
from local_hub_http import Request, Response, route
from local_hub_repos import KINDS, Commit, HubError, Repo, StoredFile, front_matter

REPO = "/api/{kinds}/{owner}/{name}"
BRANCH_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
COMMIT_NAME = re.compile(r"[0-9a-f]{40}")


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Response:
    role = role_of(request)
    if role is None:
        raise HubError(401, message="Invalid username or password.")
    name = "somebody" if role == "stranger" else "me"
    token = {"role": "read" if role == "read" else "write", "displayName": "test"}
    auth = {"type": "access_token", "accessToken": token}
    return Response({"type": "user", "id": "0", "name": name, "fullname": name, "orgs": [], "auth": auth})


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Response:
    try:
        front_matter(request.json()["content"])
    except HubError as error:
        return Response({"errors": [{"message": error.message}], "warnings": []}, 400)
    return Response({"errors": [], "warnings": []})


def requested_name(request: Request) -> tuple[str, str]:
    values = request.json()
    return values.get("type") or "model", f"{values.get('organization') or 'me'}/{values['name']}"


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Response:
    require_write(request, role_of(request), code="")
    kind, name = requested_name(request)
    values = request.json()
    url = f"{request.base_url}/{Repo(kind, name).url_path}"
    if (kind, name) in request.state.repos:
        return Response({"error": "You already created this repo", "url": url}, 409)
    is_private = values.get("visibility") == "private" or bool(values.get("private"))
    settings = {key: values[key] for key in ("sdk", "hardware") if key in values}
    request.state.create_repo(kind, name, private=is_private, settings=settings)
    return Response({"url": url, "name": name, "id": "0"})


@route("DELETE", "/api/repos/delete")
def delete_repo(request: Request) -> Response:
    kind, name = requested_name(request)
    repo_named(request, kind, name, write=True)
    del request.state.repos[kind, name]
    return Response({})


@route("POST", "/api/repos/move")
def move_repo(request: Request) -> Response:
    values = request.json()
    kind = values.get("type") or "model"
    repo = repo_named(request, kind, values["fromRepo"], write=True)
    del request.state.repos[kind, repo.name]
    repo.name = values["toRepo"]
    request.state.repos[kind, repo.name] = repo
    return Response({})


@route("PUT", REPO + "/settings")
def change_settings(request: Request) -> Response:
    repo = repo_of(request, write=True)
    values = request.json()
    repo.gated = values.get("gated", repo.gated)
    if "visibility" in values:
        repo.private = values["visibility"] == "private"
    return Response({})


@route("GET", REPO + "/auth-check")
def check_read(request: Request) -> Response:
    repo_of(request, content=True)
    return Response({})


@route("GET", REPO + "/auth-check/write")
def check_write(request: Request) -> Response:
    repo_of(request, write=True)
    return Response({})


def repo_values(request: Request, repo: Repo, commit: Commit) -> dict[str, Any]:
    card = request.state.card_data(commit)
    return {
        "_id": "0",
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.name.split("/")[0],
        "sha": commit.oid,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card.get("tags") or [],
        "pipeline_tag": card.get("pipeline_tag"),
        "library_name": card.get("library_name"),
        "cardData": card,
        "sdk": repo.settings.get("sdk"),
        "createdAt": next(iter(repo.commits.values())).date,
        "lastModified": commit.date,
        "siblings": [{"rfilename": path} for path in sorted(commit.files)],
    }


@route("GET", "/api/{kinds}")
def list_repos(request: Request) -> Response:
    kind = request.arguments["kinds"].removesuffix("s")
    if kind not in KINDS:
        raise HubError(404, message=f"there are no {request.arguments['kinds']}")
    is_owner = role_of(request) in ("write", "read")
    author, search = request.query.get("author"), request.query.get("search", "")
    found = [
        repo_values(request, repo, repo.commit_at("main"))
        for repo in request.state.repos.values()
        if repo.kind == kind and (is_owner or not repo.private) and search in repo.name
    ]
    return Response([values for values in found if author in (None, values["author"])])


@route("GET", REPO)
def info(request: Request) -> Response:
    repo = repo_of(request)
    return Response(repo_values(request, repo, repo.commit_at("main")))


@route("GET", REPO + "/revision/{revision}")
def info_at(request: Request) -> Response:
    repo = repo_of(request)
    return Response(repo_values(request, repo, repo.commit_at(request.arguments["revision"])))


def file_values(repo: Repo, path: str, file: StoredFile) -> dict[str, Any]:
    values = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    if file.sha256:
        values["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    if file.xet_hash and path not in repo.damaged:
        values["xetHash"] = file.xet_hash
    return values


def folder_values(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


def folders_of(paths: Any) -> set[str]:
    return {path[:index] for path in paths for index, letter in enumerate(path) if letter == "/"}


@route("GET", REPO + "/tree/{revision}")
def tree(request: Request) -> Response:
    return listing(request, "")


@route("GET", REPO + "/tree/{revision}/{path*}")
def subtree(request: Request) -> Response:
    return listing(request, request.arguments["path"].strip("/") + "/")


def listing(request: Request, prefix: str) -> Response:
    repo = repo_of(request)
    revision = request.arguments["revision"]
    below = {path: file for path, file in repo.commit_at(revision).files.items() if path.startswith(prefix)}
    if prefix and not below:
        raise HubError(404, "EntryNotFound", f"{prefix} does not exist on {revision}")
    is_deep = request.query.get("recursive", "").lower() in ("true", "1")

    def is_shown(path: str) -> bool:
        return path.startswith(prefix) and (is_deep or "/" not in path[len(prefix) :])

    folders = [folder_values(path) for path in sorted(folders_of(below)) if is_shown(path)]
    return Response(folders + [file_values(repo, path, file) for path, file in sorted(below.items()) if is_shown(path)])


@route("POST", REPO + "/paths-info/{revision}")
def paths_info(request: Request) -> Response:
    repo = repo_of(request)
    files = repo.commit_at(request.arguments["revision"]).files
    is_json = request.body.startswith(b"{")
    paths = request.json()["paths"] if is_json else parse_qs(request.body.decode()).get("paths", [])
    folders = folders_of(files)
    found = [file_values(repo, path, files[path]) for path in paths if path in files]
    return Response(found + [folder_values(path) for path in paths if path in folders])


@route("GET", REPO + "/commits/{revision}")
def commits(request: Request) -> Response:
    history = repo_of(request).history(request.arguments["revision"])
    authors = [{"user": "me"}]
    return Response(
        [
            {"id": commit.oid, "title": commit.title, "message": "", "date": commit.date, "authors": authors}
            for commit in history
        ]
    )


@route("GET", REPO + "/refs")
def refs(request: Request) -> Response:
    repo = repo_of(request)

    def below(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
            for ref, oid in repo.refs.items()
            if ref.startswith(prefix)
        ]

    pulls = [{**values, "name": values["ref"]} for values in below("refs/pr/")]
    shown = {"pullRequests": pulls} if request.query.get("include_prs") else {}
    return Response({"branches": below("refs/heads/"), "tags": below("refs/tags/"), "converts": [], **shown})


def add_ref(request: Request, ref: str, revision: str) -> Response:
    repo = repo_of(request, write=True)
    if ref in repo.refs:
        raise HubError(409, message=f"Reference already exists: {ref}")
    repo.refs[ref] = repo.commit_at(revision).oid
    return Response({})


def delete_ref(request: Request, ref: str) -> Response:
    repo = repo_of(request, write=True)
    if repo.refs.pop(ref, None) is None:
        raise HubError(404, "RevisionNotFound", f"{ref} does not exist")
    return Response({})


@route("POST", REPO + "/branch/{branch}")
def create_branch(request: Request) -> Response:
    name = request.arguments["branch"]
    if not BRANCH_NAME.fullmatch(name) or COMMIT_NAME.fullmatch(name) or name.startswith("refs/"):
        raise HubError(400, message=f"{name!r} can't be the name of a branch")
    start = request.json().get("startingPoint") or "main"
    return add_ref(request, f"refs/heads/{request.arguments['branch']}", start)


@route("DELETE", REPO + "/branch/{branch}")
def delete_branch(request: Request) -> Response:
    return delete_ref(request, f"refs/heads/{request.arguments['branch']}")


@route("POST", REPO + "/tag/{revision}")
def create_tag(request: Request) -> Response:
    return add_ref(request, f"refs/tags/{request.json()['tag']}", request.arguments["revision"])


@route("DELETE", REPO + "/tag/{tag}")
def delete_tag(request: Request) -> Response:
    return delete_ref(request, f"refs/tags/{request.arguments['tag']}")
