"""Small pieces of HTML that the page is put together from; whatever comes from a visitor is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# A dashed selection around a dot. Drawn here, so that no file is asked for.
MARK = (
    '<svg viewBox="0 0 32 32" width="40" height="40" aria-hidden="true" focusable="false">'
    '<rect width="32" height="32" rx="9" fill="#4f46e5"/>'
    '<path d="M8.5 18C7.5 12.5 11 8 16 8s8.5 3.5 8 8.5S19.5 24 15 24s-6-2.5-6.5-6z" fill="#fff" fill-opacity=".24" '
    'stroke="#fff" stroke-width="1.9" stroke-dasharray="3.4 2.3" stroke-linecap="round"/>'
    '<circle cx="16" cy="16" r="2.5" fill="#fff"/></svg>'
)

Fact = tuple[str, str]


def note(text: str, kind: str = "quiet") -> str:
    """One paragraph.

    Args:
        text: plain text.
        kind: "quiet", "good", "busy" or "warning".
    """
    return f'<p class="note note-{escape(kind)}" role="status">{escape(text)}</p>'


def facts(rows: Sequence[Fact]) -> str:
    """Names and values under each other, both plain text."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f'<dl class="facts">{lines}</dl>'


def card(title: str, *parts: str) -> str:
    """A titled box around pieces of HTML."""
    return f'<section class="card"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def heading(title: str) -> str:
    """A small heading over a group of controls."""
    return f'<h2 class="heading">{escape(title)}</h2>'


def empty(title: str, text: str) -> str:
    """What stands where there is nothing yet."""
    return f'<section class="card card-empty"><h2>{escape(title)}</h2><p>{escape(text)}</p></section>'


def progress_bar(fraction: float, text: str) -> str:
    """A bar with what is being done below it."""
    percent = round(100 * min(max(fraction, 0.0), 1.0))
    return (
        f'<div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        f'aria-label="{escape(text)}"><span style="width:{percent}%"></span></div>'
        f'<p class="note note-busy">{escape(text)}</p>'
    )


def split_bar(parts: Sequence[tuple[str, float]]) -> str:
    """Where seconds went: one bar whose parts are as long as they took, and a legend."""
    total = sum(seconds for _, seconds in parts) or 1.0
    shares = "".join(
        f'<span class="split-{index}" style="width:{100 * seconds / total:.1f}%"></span>'
        for index, (_, seconds) in enumerate(parts)
    )
    legend = "".join(
        f'<li><i class="split-{index}"></i>{escape(name)} <b>{seconds_text(seconds)}</b></li>'
        for index, (name, seconds) in enumerate(parts)
    )
    return f'<div class="split" aria-hidden="true">{shares}</div><ul class="legend">{legend}</ul>'


def seconds_text(seconds: float) -> str:
    """Seconds as a person reads them: milliseconds below one."""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def pixels_text(area: int, size: tuple[int, int]) -> str:
    """An area in pixels and as a share of (height, width)."""
    return f"{area:,} px ({100 * area / (size[0] * size[1]):.1f}\u00a0%)"
