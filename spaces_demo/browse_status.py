"""What the page says about a labeled dataset as a whole, as HTML."""

from __future__ import annotations

from html import escape

from sam_variants.spaces_demo.browse_library import MOST_FAILURES, Library
from sam_variants.spaces_demo.page_parts import note


def status(library: Library, problem: str = "") -> str:
    """A line about the dataset, and below it what is not as it should be.

    Args:
        library: of the dataset.
        problem: what just went wrong.
    """
    parts = [note(_summary(library)), _unfinished(library), _failures(library)]
    if library.marks.broken:
        lines = ", ".join(map(str, library.marks.broken[:6]))
        parts.append(note(f"{library.marks.path.name} has lines that are no marks, left out here: {lines}", "warning"))
    if problem:
        parts.append(note(problem, "warning"))
    return "".join(parts)


def _summary(library: Library) -> str:
    snapshot = library.current
    settings = snapshot.dataset.identity["settings"]
    made = [str(settings[name]) for name in ("model", "mode") if settings.get(name)]
    images, masks = len(snapshot.columns), len(snapshot.columns.areas)
    marks = library.marks
    bad = [_counted(count, thing) for count, thing in ((marks.num_images, "image"), (marks.num_masks, "mask")) if count]
    marked = f"{' and '.join(bad)} marked bad" if bad else "nothing marked bad yet"
    return " · ".join([f"{_counted(images, 'image')}, {_counted(masks, 'mask')}", *made, marked])


def _unfinished(library: Library) -> str:
    dataset = library.current.dataset
    if dataset.is_finished:
        return ""
    done, total = library.run.parts_done, dataset.identity["num_parts"]
    return note(
        f"This run isn't finished: {done:,} of {total:,} parts are labeled to their end. Reload the page to see what "
        "came since.",
        "busy",
    )


def _failures(library: Library) -> str:
    """The images that couldn't be labeled, behind a line that opens."""
    failed = library.run.failed
    if not failed:
        return ""
    rows = "".join(
        f"<li><b>{escape(str(each['key']))}</b> {escape(str(each['error']))}</li>" for each in failed[:MOST_FAILURES]
    )
    more = len(failed) > MOST_FAILURES
    title = f"{MOST_FAILURES} and more images" if more else _counted(len(failed), "image")
    return f'<details class="failures"><summary>{title} could not be labeled</summary><ul>{rows}</ul></details>'


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
