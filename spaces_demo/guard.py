"""The door of the running Space: what gradio would do for anybody and this page has no use for is refused here.

Left alone, gradio fetches any public address that is given as a file, without a bound on its size; it passes such
addresses on to browsers; it reads request bodies of any length into memory; it takes a thousand files per upload; and
its MCP server, whose calls come from this machine, uploads any file of this machine whose path is given as a file.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gradio import mcp
from gradio.processing_utils import save_base64_to_cache
from gradio.utils import get_upload_folder, is_in_or_equal
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.own_files import inlined
from sam_variants.spaces_demo.request_limits import GuardError, HeldBodies, UploadBudget, in_time

API = "/gradio_api/"
UPLOAD, MCP = f"{API}upload", f"{API}mcp"
# What the page, gradio's clients and MCP clients ask for; gradio has three times as much.
ROUTES = re.compile(
    r"/|/config/?|/monitoring/summary|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/pwa_icon(/\d+)?"
    r"|/(assets|static|svelte)/.*"
    r"|/gradio_api/(info|app_id|user|login_check|startup-events|openapi\.json|theme\.css|queue/status)/?"
    r"|/gradio_api/(upload|upload_progress|queue/join|queue/data|cancel|reset|heartbeat/[\w-]+)/?"
    r"|/gradio_api/(call|run)/.*|/gradio_api/file=(?!.*://).*|/gradio_api/mcp(/.*)?"
)
ADDRESS = re.compile(r"data:|[\w+.-]{1,16}://", re.IGNORECASE)
MULTIPART_BYTES = 64 * 1024  # around the file in an upload
UPLOAD_ADVICE = "Upload the file itself (gradio_client.handle_file with a file of yours); addresses are not fetched."
MCP_ADVICE = (
    "Give a file as a data: address (data:image/jpeg;base64,...), or as the address that uploading it here returned; "
    "other addresses are not fetched."
)
FORGED = "A file must be one that was uploaded here. " + UPLOAD_ADVICE

logger = logging.getLogger(__name__)


class Guard:
    """ASGI middleware that refuses, in plain words, what is described above.

    Args:
        app: what requests are passed on to.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._uploads = UploadBudget(limits.UPLOAD_BYTES, limits.SESSION_SECONDS, limits.MIN_FREE_BYTES)
        self._bodies = HeldBodies(limits.JSON_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        try:
            if not ROUTES.fullmatch(path):
                raise GuardError(HTTPStatus.NOT_FOUND, "There is nothing here.")
            if scope["method"] != "POST":
                await self.app(scope, receive, send)
            elif path.rstrip("/") == UPLOAD:
                self._uploads.check(_upload_size(scope))
                await self.app(scope, self._uploads.counted(receive), send)
            else:
                await self._pass_json(path.startswith(MCP), scope, receive, send)
        except GuardError as refused:
            await _answer(refused)(scope, receive, send)

    async def _pass_json(self, is_mcp: bool, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a JSON body as far as is allowed, look at it, and pass it on."""
        most = limits.MAX_MCP_BYTES if is_mcp else limits.MAX_JSON_BYTES
        with self._bodies.body() as add:
            body = await _read(receive, add, most)
            value = _parsed(body)
            if is_mcp:
                problem, body = for_mcp(value, body, scope["app"].get_blocks().upload_file_set)
                if problem is not None:
                    await _mcp_error(value, problem)(scope, receive, send)
                    return
            else:
                check_files(value)
            headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding")]
            scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
            await self.app(scope, _replayed(body, receive), send)


def launch_options() -> dict[str, Any]:
    """Arguments of `Blocks.launch`: the limits, the guard, the MCP server, and nothing that this page does not use.

    They are new each time: gradio writes into them. Its MCP server is told where the cache is, of which it knows only
    where it was when it was imported.
    """
    mcp.DEFAULT_TEMP_DIR = get_upload_folder()
    return {
        **limits.LAUNCH,
        "app_kwargs": {"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None},
        "mcp_server": True,
        "run_history": False,
        "enable_monitoring": None,  # only what the API page shows: how long calls took
        "ssr_mode": False,
    }


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All JSON objects in a JSON value.

    Raises:
        GuardError: for one that is nested too deep.
    """
    stack = [(value, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > limits.MAX_JSON_DEPTH:
            raise GuardError(HTTPStatus.BAD_REQUEST, f"This JSON is nested deeper than {limits.MAX_JSON_DEPTH} levels.")
        if isinstance(node, dict):
            yield node
            stack += [(child, depth + 1) for child in node.values()]
        elif isinstance(node, list):
            stack += [(child, depth + 1) for child in node]


def check_files(value: Any) -> None:
    """Look at what gradio would take for files: each must be an upload.

    Raises:
        GuardError: for addresses, other paths, and what is no file of gradio's.
    """
    folder = get_upload_folder()
    for node in nodes(value):
        if "path" not in node or "meta" not in node:
            continue
        path = node["path"]
        if not isinstance(path, str) or not isinstance(node["meta"], dict) or "\0" in path:
            raise GuardError(HTTPStatus.BAD_REQUEST, FORGED)
        if "://" in path:
            raise GuardError(HTTPStatus.BAD_REQUEST, UPLOAD_ADVICE)
        if not is_in_or_equal(path, folder) or not Path(path).is_file():
            raise GuardError(HTTPStatus.BAD_REQUEST, FORGED)


def for_mcp(value: Any, body: bytes, kept: set[str]) -> tuple[str | None, bytes]:
    """What is wrong with an MCP request, or None; and the body with uploaded files put in their addresses' place.

    Only data: addresses are left: gradio reads everything else that it takes for a file from this machine. It writes
    them into files, of which it would not think again: they are put to those that are deleted when they are old.
    """
    if any("path" in node and "meta" in node for node in nodes(value)):
        return MCP_ADVICE, body
    params = value.get("params") if isinstance(value, dict) else None
    arguments = params.get("arguments") if isinstance(params, dict) else None
    if not isinstance(arguments, dict):
        return None, body
    for name, given in arguments.items():
        if not isinstance(given, str) or not ADDRESS.match(given):
            continue
        try:
            arguments[name] = given if given.startswith("data:") else inlined(given)
            kept.add(save_base64_to_cache(arguments[name], mcp.DEFAULT_TEMP_DIR))
        except (ValueError, IndexError, OSError):
            return MCP_ADVICE, body
    return None, json.dumps(value).encode()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError) as error:
        raise GuardError(HTTPStatus.BAD_REQUEST, "This is no JSON that can be read.") from error


async def _read(receive: Receive, add: Callable[[bytes], bytearray], most: int) -> bytes:
    body, is_more = bytearray(), True
    while is_more:
        message = await in_time(receive)
        body = add(message.get("body", b""))
        is_more = message.get("more_body", False)
        if len(body) > most:
            raise _too_long(most)
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body that was read, and after it what else the client says."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


def _upload_size(scope: Scope) -> int:
    """The length that an upload states."""
    most = limits.MAX_UPLOAD_BYTES + MULTIPART_BYTES
    stated = dict(scope["headers"]).get(b"content-length", b"")
    if not stated.isdigit():
        raise GuardError(HTTPStatus.LENGTH_REQUIRED, "An upload must state its length.")
    if int(stated) > most:
        raise GuardError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"This upload is too large: {limits.MAX_UPLOAD_BYTES // limits.MEBIBYTE} MB are the most.",
        )
    return int(stated)


def _too_long(most: int) -> GuardError:
    return GuardError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"This request is longer than {most:,} bytes.")


def _answer(refused: GuardError) -> Response:
    logger.info("refused: %s", refused.text)
    return PlainTextResponse(refused.text, status_code=refused.status)


def _mcp_error(value: Any, text: str) -> Response:
    """A JSON-RPC error, which MCP clients show."""
    invalid_params = -32602
    number = value.get("id") if isinstance(value, dict) else None
    return JSONResponse({"jsonrpc": "2.0", "id": number, "error": {"code": invalid_params, "message": text}})
