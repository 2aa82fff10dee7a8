"""What a Hub's refusal means, in one plain sentence part."""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

LOG_IN = "`hf auth login`"
NO_NETWORK = "there is no network (or HF_HUB_OFFLINE is set), and it was not downloaded before"
OFFLINE = "HF_HUB_OFFLINE is set, and it was not downloaded before"

# The order counts: a gated repository is also one that was not found.
REASONS: dict[type[Exception], str] = {
    LocalTokenNotFoundError: f"it needs {LOG_IN}, or a token in HF_TOKEN",
    GatedRepoError: f"it is gated; ask for access on its page and log in with {LOG_IN}",
    RepositoryNotFoundError: f"it does not exist, or it is private and needs {LOG_IN}",
    RevisionNotFoundError: "it has no such revision (branch, tag or commit)",
}
STATUS_REASONS = {
    400: "the Hub could not understand the request",
    401: f"the Hub does not know who you are; log in with {LOG_IN}",
    403: f"the Hub does not let you do that; log in with {LOG_IN} and a token that has the right to",
    404: "the Hub has nothing there",
    409: "another change was made at the same time; try again",
    412: "the repository was changed meanwhile; try again",
    413: "a file is larger than the Hub takes",
    429: "the Hub asks to slow down; try again in some minutes",
}
SERVER_FAULT = "the Hub has a fault of its own (status {status}); try again later"
UNREACHABLE = "the Hub at {endpoint} can't be reached; check the network (and HF_ENDPOINT, HTTPS_PROXY)"
TOO_SLOW = "the Hub at {endpoint} does not answer in time; try again, or raise HF_HUB_DOWNLOAD_TIMEOUT"
# By the beginnings of their names: which HTTP library raises them depends on the version of huggingface_hub.
CONNECTION_REASONS = {
    "OfflineModeIsEnabled": OFFLINE,
    "Timeout": TOO_SLOW,
    "ReadTimeout": TOO_SLOW,
    "ConnectTimeout": TOO_SLOW,
    "WriteTimeout": TOO_SLOW,
    "Connect": UNREACHABLE,
    "Proxy": UNREACHABLE,
    "ReadError": "the connection to {endpoint} broke off; try again",
    "WriteError": "the connection to {endpoint} broke off; try again",
    "RemoteProtocolError": "the connection to {endpoint} broke off; try again",
}


def hub_reason(error: BaseException) -> str:
    """Why the Hub did not do something, as a part of a sentence that also says what to do.

    Args:
        error: what `huggingface_hub` (or transformers, on top of it) raised.

    Returns:
        For example "it does not exist, or it is private and needs `hf auth login`"; the first line of the error's own
        message for one that is not known.
    """
    return known_reason(error) or first_line(error)


def known_reason(error: BaseException) -> str | None:
    """The same, or None for an error that is not known."""
    chain = list(causes(error))
    for link in chain:
        for kind, reason in REASONS.items():
            if isinstance(link, kind):
                return reason
        if isinstance(link, EntryNotFoundError) and not isinstance(link, LocalEntryNotFoundError):
            return "it has no such file"
        if (status := status_of(link)) is not None:
            return status_reason(link, status)
    for link in reversed(chain):
        name = type(link).__name__
        if reason := next((text for start, text in CONNECTION_REASONS.items() if name.startswith(start)), ""):
            return reason.format(endpoint=constants.ENDPOINT)
    if any(isinstance(link, LocalEntryNotFoundError | OfflineModeIsEnabled) for link in chain):
        return NO_NETWORK
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the answer that an error stands for."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def status_reason(error: BaseException, status: int) -> str:
    """What a status means, with the Hub's own words where it gave some."""
    reason = SERVER_FAULT.format(status=status) if status >= 500 else STATUS_REASONS.get(status)
    told = " ".join(str(getattr(error, "server_message", None) or "").split())
    if reason is None:
        return f"the Hub answered with status {status}{f': {told}' if told else ''}"
    return f"{reason} (the Hub says: {told[:200]})" if told else reason


def first_line(error: BaseException) -> str:
    """The beginning of an error's message, its kind when it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
