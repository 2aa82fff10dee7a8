"""The page of `sam-variants browse`: a gallery of a labeled dataset, and each image large, to look at and to mark."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.browse_answers import Answers, Parts, good_keys, picked
from sam_variants.spaces_demo.browse_filters import filter_bar
from sam_variants.spaces_demo.browse_finding import Query
from sam_variants.spaces_demo.browse_gallery import gallery, gallery_props
from sam_variants.spaces_demo.browse_library import Library
from sam_variants.spaces_demo.browse_marks import FILE_NAME
from sam_variants.spaces_demo.browse_server import browse_options
from sam_variants.spaces_demo.browse_status import status
from sam_variants.spaces_demo.browse_view import MARK
from sam_variants.spaces_demo.canvas import canvas
from sam_variants.spaces_demo.downloads import download_button
from sam_variants.spaces_demo.mask_table import mask_table
from sam_variants.spaces_demo.page_parts import MARK as LOGO
from sam_variants.spaces_demo.serving import serve_page
from sam_variants.spaces_demo.theme import LOOK

HERE = Path(__file__).parent
KEYS = (
    '<footer class="colophon keys"><p><kbd>←</kbd> <kbd>→</kbd> turn pages and images, <kbd>Enter</kbd> opens one, '
    "<kbd>Esc</kbd> goes back, <kbd>B</kbd> marks an image bad, <kbd>M</kbd> the mask that is lit. "
    "Marks are kept in <code>{file}</code> in the dataset's folder.</p></footer>"
)
# In the browser alone: the pointer doesn't wait for a server.
LIGHT = "(row) => [{ __type__: 'update', props: { highlight: row.id } }]"
# Without waiting for a place: all of it takes less than a blink, and one visitor's comes in order.
SOON: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def serve(library: Library, announce: Callable[[str], Any], **where: Any) -> None:
    """Show a dataset until the process is interrupted or told to end.

    Args:
        library: of the dataset.
        announce: called with the page's address when it is ready.
        where: `server_name` and `server_port`; by default as gradio finds them in the environment.
    """
    serve_page(lambda: build(library), lambda: browse_options(library) | look(), announce, **where)


def look() -> dict[str, Any]:
    """The look of the page, as arguments of `Blocks.launch`: the Space's."""
    css = LOOK["css"] + (HERE / "browse.css").read_text(encoding="utf-8")
    head = '<meta name="description" content="Look at a labeled dataset."><meta name="robots" content="noindex">'
    return LOOK | {"css": css, "head": head, "footer_links": []}


def build(library: Library) -> gr.Blocks:
    """The page of a dataset, with its queue."""
    name = library.folder.name
    with gr.Blocks(
        title=f"{name} · labeled dataset",
        analytics_enabled=False,
        delete_cache=(limits.CACHE_CHECK_SECONDS, limits.SESSION_SECONDS),
    ) as page:
        parts = _add_parts(library)
        _connect(page, parts, Answers(library, parts))
    return page.queue(max_size=limits.MAX_WAITING, default_concurrency_limit=1, api_open=False)


def _add_parts(library: Library) -> Parts:
    tiles_now = gallery_props(library.look(Query()), library.marks) | {"has_arrived": False}
    if not library.current.dataset.is_finished:
        # When a page is loaded there may be more images, whose tiles have other addresses.
        tiles_now |= {"tiles": [], "num_pages": 1, "count": "", "empty": "Loading…", "soon": []}
    # Gradio would take a `View` to pieces here: each visitor gets one when the page is there.
    view = gr.State(None, time_to_live=limits.SESSION_SECONDS)
    header = f'<header class="brand">{LOGO}<div><h1>{escape(library.folder.name)}</h1></div></header>'
    gr.HTML(header, container=False)
    line = gr.HTML(status(library), elem_id="status", container=False)
    with gr.Column(elem_id="gallery-view"):
        filters = filter_bar()
        tiles = gallery(elem_id="gallery", **tiles_now)
        download_button("Download keys of good images", partial(good_keys, library), [view], elem_classes=["narrow"])
    # The gallery's script shows the one or the other, so that nothing waits and the canvas stays what it is.
    with gr.Column(elem_id="image-view"):
        image = _add_image()
    gr.HTML(KEYS.format(file=FILE_NAME), container=False)
    return Parts(view, line, filters, tiles, **image)


def _add_image() -> dict[str, Any]:
    """The parts around one image, as `Parts` calls them."""
    with gr.Row(elem_id="image-top"):
        back = gr.Button("← All images", elem_id="image-back", size="md", scale=0, min_width=132)
        title = gr.HTML("", elem_id="image-title", container=False)
    with gr.Row(elem_classes=["workspace"]):
        with gr.Column(scale=7, min_width=320, elem_classes=["stage"]):
            picture = canvas("Masks of the image", elem_id="image-canvas", mode="pick")
            table = mask_table(elem_id="image-table", markable=True)
        with gr.Column(scale=3, min_width=280, elem_classes=["side"]):
            with gr.Row(elem_classes=["actions"]):
                previous = gr.Button("← Previous", elem_id="image-previous", size="md", min_width=100)
                following = gr.Button("Next →", elem_id="image-next", size="md", min_width=100)
            mark = gr.Button(MARK, elem_id="image-mark", size="md")
            about = gr.HTML("", elem_id="image-facts", container=False)
    return {
        "back": back,
        "title": title,
        "picture": picture,
        "table": table,
        "previous": previous,
        "following": following,
        "mark": mark,
        "about": about,
    }


def _connect(page: gr.Blocks, parts: Parts, answers: Answers) -> None:
    """Events."""
    view, every = parts.view, parts.changing()
    # A text that is pasted with the mouse is no input to gradio.
    asked = [
        part.change if isinstance(part, gr.Textbox) else part.input  # type: ignore[attr-defined]
        for part in parts.filters.parts
    ]
    # One event, so that what was asked for when the page was loaded can't come behind what the bar says since.
    gr.on([page.load, *asked], answers.look, [view, *parts.filters.parts], every, trigger_mode="always_last", **SOON)
    parts.filters.reset.click(answers.reset, None, [*every, *parts.filters.parts], **SOON)
    parts.tiles.turn(answers.turn, [view], every, **SOON)
    parts.tiles.open(answers.open, [view], every, **SOON)
    parts.tiles.mark(answers.mark_tile, [view], every, trigger_mode="multiple", **SOON)
    parts.back.click(answers.back, [view], every, **SOON)
    parts.previous.click(partial(answers.step, -1), [view], every, **SOON)
    parts.following.click(partial(answers.step, 1), [view], every, **SOON)
    parts.mark.click(answers.mark_image, [view], every, **SOON)
    parts.table.mark(answers.mark_mask, [view], every, trigger_mode="multiple", **SOON)
    parts.table.row(None, [parts.table], [parts.picture], js=LIGHT, trigger_mode="always_last", **SOON)
    parts.picture.pick(picked, None, [parts.picture, parts.table], trigger_mode="always_last", **SOON)
