"""The local Hub's pull requests: opened, listed, shown and merged."""

from __future__ import annotations

from typing import Any

from local_hub_access import repo_of
from local_hub_api import REPO
from local_hub_http import Request, Response, route
from local_hub_repos import DATE, HubError, Repo

DISCUSSION = REPO + "/discussions/{number}"


def pull_values(repo: Repo, number: int) -> dict[str, Any]:
    return {
        "num": number,
        "isPullRequest": True,
        "author": {"name": "me"},
        "createdAt": DATE.format(0),
        "repo": {"name": repo.name, "type": repo.kind},
        "events": [],
        "filesWithConflicts": [],
        "changes": {"base": "refs/heads/main"},
        **repo.pulls[number],
    }


def number_of(request: Request, repo: Repo) -> int:
    number = int(request.arguments["number"])
    if number not in repo.pulls:
        raise HubError(404, message=f"there is no discussion {number}")
    return number


@route("GET", REPO + "/discussions")
def list_pulls(request: Request) -> Response:
    repo = repo_of(request)
    found = [pull_values(repo, number) for number in repo.pulls] if request.query.get("p", "0") == "0" else []
    return Response({"discussions": found, "count": len(repo.pulls), "start": 0})


@route("POST", REPO + "/discussions")
def open_pull(request: Request) -> Response:
    repo = repo_of(request)
    values = request.json()
    if not values.get("pullRequest"):
        raise HubError(400, message="this Hub knows pull requests, no other discussions")
    return Response({"num": repo.open_pull(values["title"], repo.commit_at("main").oid)})


@route("GET", DISCUSSION)
def show_pull(request: Request) -> Response:
    repo = repo_of(request)
    return Response(pull_values(repo, number_of(request, repo)))


@route("POST", DISCUSSION + "/merge")
def merge_pull(request: Request) -> Response:
    """Put the files of a pull request on top of main."""
    repo = repo_of(request, write=True)
    number = number_of(request, repo)
    files = repo.commit_at(f"refs/pr/{number}").files
    title = f"{repo.pulls[number]['title']} (#{number})"
    repo.add_commit("refs/heads/main", title, files, repo.commit_at("main").oid)
    repo.pulls[number]["status"] = "merged"
    return Response({})
