"""Who may do what on the local Hub, answered as the real one does."""

from __future__ import annotations

from local_hub_http import Request
from local_hub_repos import HubError, Repo


def role_of(request: Request) -> str | None:
    """What the request's token may do: "write", "read", "stranger"; None without one.

    Raises:
        HubError: 401 for a token that nobody has.
    """
    tokens = request.state.tokens
    if not tokens:
        return "write"
    if request.token and request.token not in tokens:
        raise HubError(401, message="Invalid credentials in Authorization header")
    return tokens.get(request.token or "")


def repo_named(request: Request, kind: str, name: str, *, write: bool = False, content: bool = False) -> Repo:
    """The repository, if the request may see it, change it (`write`) and read its files (`content`).

    Raises:
        HubError: 401 without a token, 403 or 404 with the wrong one; nobody is told that a private repository exists.
    """
    role = role_of(request)
    is_owner = role in ("write", "read")
    repo = request.state.repos.get((kind, name))
    if repo is None or (repo.private and not is_owner):
        raise HubError(404 if request.token else 401, "RepoNotFound", "Repository not found")
    if content and repo.gated and not (is_owner and request.state.tokens):
        message = f"Access to {kind} {name} is restricted. You must be authenticated and have access to it."
        raise HubError(403 if request.token else 401, "GatedRepo", message)
    if write:
        require_write(request, role)
    return repo


def require_write(request: Request, role: str | None, code: str = "RepoNotFound") -> None:
    """Raise unless the role may change things; `code` is that of the answer to a request without a token."""
    if role == "write":
        return
    if request.token is None:
        raise HubError(401, code, "Invalid username or password.")
    raise HubError(403, message="you must use a write token of the owner to change this")


def repo_of(request: Request, *, write: bool = False, content: bool = False) -> Repo:
    """The repository that the path names by {kinds}, {owner} and {name}."""
    words = request.arguments
    kind = words.get("kinds", "models").removesuffix("s")
    return repo_named(request, kind, f"{words['owner']}/{words['name']}", write=write, content=content)
