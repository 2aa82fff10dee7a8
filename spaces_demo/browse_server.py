"""What answers for the pictures of a labeled dataset; everything else goes on to the Space's guard."""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus
from threading import Semaphore
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sam_variants.spaces_demo import browse_pictures, limits
from sam_variants.spaces_demo.browse_addresses import PICTURE, read_masks
from sam_variants.spaces_demo.browse_finding import MaskFilter
from sam_variants.spaces_demo.browse_library import Library, Snapshot
from sam_variants.spaces_demo.caches import BoundedCache
from sam_variants.spaces_demo.guard import launch_options

KEPT_BYTES = 64 * limits.MEBIBYTE
# Each holds one image with its masks while it is drawn.
AT_ONCE = 4
GONE = "There is no such picture now. Reload the page."
UNREADABLE = "This picture can't be read"
# A picture never changes under its address.
KEEP = {"cache-control": "private, max-age=86400, immutable"}

logger = logging.getLogger(__name__)


def browse_options(library: Library) -> dict[str, Any]:
    """Arguments of `Blocks.launch`: those of the Space, with pictures and without a server for agents."""
    options = launch_options()
    middleware = [Middleware(Pictures, library=library), *options["app_kwargs"]["middleware"]]
    return options | {"app_kwargs": options["app_kwargs"] | {"middleware": middleware}, "mcp_server": False}


class Pictures:
    """ASGI middleware that answers for pictures.

    Args:
        app: what other requests are passed on to.
        library: whose pictures.
    """

    def __init__(self, app: ASGIApp, library: Library) -> None:
        self.app, self.library = app, library
        self._kept: BoundedCache[bytes] = BoundedCache(KEPT_BYTES, len)
        self._places = Semaphore(AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = PICTURE.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        snapshot, row = self.library.snapshot(found["stamp"]), int(found["row"])
        try:
            masks = read_masks(scope["query_string"].decode("latin-1"))
        except ValueError:
            snapshot = None
        if snapshot is None or row >= len(snapshot.columns):
            await PlainTextResponse(GONE, status_code=HTTPStatus.NOT_FOUND)(scope, receive, send)
            return
        answer = await run_in_threadpool(self._answer, snapshot, row, masks)
        await answer(scope, receive, send)

    def _answer(self, snapshot: Snapshot, row: int, masks: MaskFilter | None) -> Response:
        try:
            content = self._kept.get((snapshot.stamp, row, masks), partial(self._drawn, snapshot, row, masks))
        except Exception as error:  # decoders of broken files raise anything
            logger.info("%s: %s", snapshot.columns.keys[row], error)
            content = browse_pictures.unreadable(snapshot.size(row), UNREADABLE)
            return Response(content, media_type=browse_pictures.SVG, headers={"cache-control": "no-store"})
        return Response(content, media_type=browse_pictures.JPEG, headers=KEEP)

    def _drawn(self, snapshot: Snapshot, row: int, masks: MaskFilter | None) -> bytes:
        with self._places:
            record = snapshot.dataset[row]
            opened, size = browse_pictures.open_stored(record["image"]), snapshot.size(row)
            if masks is None:
                return browse_pictures.large(opened, size)
            shown = snapshot.shown(row, masks)
            return browse_pictures.tile(
                opened, size, [record["objects"][index] for index in shown], [index + 1 for index in shown]
            )
