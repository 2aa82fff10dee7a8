"""What the page of `sam-variants browse` answers: each method is an event's, and returns what changes."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sam_variants.spaces_demo.browse_filters import DEFAULTS, Filters, to_query
from sam_variants.spaces_demo.browse_finding import Query
from sam_variants.spaces_demo.browse_gallery import gallery_props
from sam_variants.spaces_demo.browse_library import Library, View
from sam_variants.spaces_demo.browse_marks import Mark
from sam_variants.spaces_demo.browse_status import status
from sam_variants.spaces_demo.browse_view import image_facts, image_title, image_updates, mark_button
from sam_variants.spaces_demo.photos import cache_file

GOOD_KEYS = "good_keys.txt"
Changes = dict[Component, Any]


@dataclass(frozen=True)
class Parts:
    """The parts of the page that change or are asked.

    Attributes:
        view: a `View`; None until the page has loaded.
        line: about the dataset as a whole.
        filters: the bar.
        tiles: the gallery.
        back, previous, following, mark: buttons of the open image.
        title, picture, table, about: of the open image.
    """

    view: gr.State
    line: gr.HTML
    filters: Filters
    tiles: gr.HTML
    back: gr.Button
    title: gr.HTML
    picture: gr.HTML
    table: gr.HTML
    previous: gr.Button
    following: gr.Button
    mark: gr.Button
    about: gr.HTML

    def changing(self) -> list[Component]:
        """Those that answers change."""
        places = [self.view, self.line, self.tiles, self.title, self.picture, self.table]
        return [*places, self.previous, self.following, self.mark, self.about]


class Answers:
    """The answers about one dataset.

    Args:
        library: of the dataset.
        parts: of the page.
    """

    def __init__(self, library: Library, parts: Parts) -> None:
        self.library, self.parts = library, parts

    def look(self, view: View | None, *values: Any) -> Changes:
        """What the bar asks for; for a page that was just loaded, of the dataset as it is by now."""
        problem = self._refreshed() if view is None else ""
        try:
            query = to_query(*values)
        except ValueError as error:
            return {self.parts.line: status(self.library, str(error))}
        return self._gallery(view if view is not None and view.query == query else self.library.look(query), problem)

    def _refreshed(self) -> str:
        """Take in what the dataset has got since the last page was loaded; what went wrong, or nothing."""
        try:
            self.library.refresh()
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def reset(self) -> Changes:
        """The bar as it was at the beginning."""
        return self._gallery(self.library.look(Query())) | dict(zip(self.parts.filters.parts, DEFAULTS, strict=True))

    def turn(self, view: View | None, event: gr.EventData) -> Changes:
        """Another page."""
        view, page = self._of(view), number_of(event, "page")
        return self._gallery(view if page is None else view.turned(page))

    def open(self, view: View | None, event: gr.EventData) -> Changes:
        """An image of the gallery, large."""
        view = self._of(view)
        return self._image(view.opened(view.place_of(key_of(event))))

    def step(self, by: int, view: View | None) -> Changes:
        """The image before or behind the open one."""
        view = self._of(view)
        place = (view.place or 0) + by
        return self._image(view.opened(place if 0 <= place < len(view.rows) else view.place))

    def back(self, view: View | None) -> Changes:
        """The gallery, with the page that the open image is on."""
        return self._gallery(self._of(view).opened(None))

    def mark_tile(self, view: View | None, event: gr.EventData) -> Changes:
        """Mark an image of the gallery, or take it back."""
        view, key = self._of(view), key_of(event)
        problem = (
            "" if key not in view.snapshot.row_of else self._put(Mark(key, None, bool(getattr(event, "bad", True))))
        )
        return self._marked(view, problem)

    def mark_image(self, view: View | None) -> Changes:
        """Mark the open image, or take it back."""
        view = self._of(view)
        key = view.key
        if key is None:
            return self._marked(view)
        return self._marked(view, self._put(Mark(key, None, not self.library.marks.is_bad(key))))

    def mark_mask(self, view: View | None, event: gr.EventData) -> Changes:
        """Mark a mask of the open image, or take it back."""
        view = self._of(view)
        key, number = view.key, number_of(event, "id")
        if key is None or number is None or not 1 <= number <= view.num_masks:
            return self._marked(view)
        problem = self._put(Mark(key, number, bool(getattr(event, "bad", True))))
        bad = self.library.marks.bad_masks(key)
        return self._marked(view, problem) | {self.parts.picture: gr.HTML(off=bad), self.parts.table: gr.HTML(bad=bad)}

    def _of(self, view: View | None) -> View:
        return self.library.look(Query()) if view is None else view

    def _put(self, mark: Mark) -> str:
        """Keep a mark; what went wrong, or nothing."""
        try:
            self.library.marks.put(mark)
        except OSError as error:
            return f"The mark is not kept: {error}"
        return ""

    def _marked(self, view: View, problem: str = "") -> Changes:
        """What a mark changes, in the gallery and around the open image."""
        marks = self.library.marks
        return {
            self.parts.line: status(self.library, problem),
            self.parts.tiles: gr.HTML(**gallery_props(view, marks)),
            self.parts.mark: mark_button(view, marks),
            self.parts.about: image_facts(view, marks),
        }

    def _gallery(self, view: View, problem: str = "") -> Changes:
        return self._marked(view, problem) | {self.parts.view: view}

    def _image(self, view: View) -> Changes:
        if view.place is None:
            return self._gallery(view)
        try:
            picture, table = image_updates(view, self.library.marks)
        except OSError as error:
            return self._gallery(view.opened(None), str(error))
        return self._marked(view) | {
            self.parts.view: view,
            self.parts.title: image_title(view),
            self.parts.picture: picture,
            self.parts.table: table,
            self.parts.previous: gr.Button(interactive=view.place > 0),
            self.parts.following: gr.Button(interactive=view.place + 1 < len(view.rows)),
        }


def good_keys(library: Library, view: View | None) -> Path:
    """A file with the keys of the images that were found and are not marked, one in a line.

    Raises:
        gr.Error: for a key that is no line.
    """
    view = library.look(Query()) if view is None else view
    keys = [view.snapshot.columns.keys[row] for row in view.rows.tolist()]
    good = [key for key in keys if not library.marks.is_bad(key)]
    if broken := [key for key in good if len(key.splitlines()) != 1]:
        raise gr.Error(f"The key {broken[0]!r} is no line of text: read the marks from the dataset's folder.")
    path = cache_file(uuid.uuid4().hex, GOOD_KEYS)
    path.write_text("".join(f"{key}\n" for key in good), encoding="utf-8")
    return path


def picked(event: gr.EventData) -> list[Any]:
    """Show the mask that was clicked, and its row."""
    chosen = number_of(event, "id")
    return [gr.HTML(highlight=chosen), gr.HTML(picked=chosen)]


def number_of(event: gr.EventData, name: str) -> int | None:
    """A whole number that an event brings; None for anything else."""
    number = getattr(event, name, None)
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def key_of(event: gr.EventData) -> str:
    """The key that an event brings."""
    return str(getattr(event, "key", ""))
