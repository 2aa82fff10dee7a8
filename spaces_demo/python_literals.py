"""Values and calls as Python source code, laid out as black lays it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LINE = 88
STEP = 4


class Source(str):
    """Source code, where other text is a value."""


def literal(value: Any, used: int = 0, indent: int = 0, tail: int = 0) -> str:
    """Source code of text, numbers, None, `Source`, and sequences (as lists) and dicts of these.

    Args:
        value: what the code gives.
        used: columns that are taken on the line where it begins.
        indent: of that line.
        tail: columns that something behind it takes.
    """
    flat = _flat(value)
    is_dict = isinstance(value, Mapping)
    if used + len(flat) + tail <= LINE or isinstance(value, str) or not (is_dict or isinstance(value, Sequence)):
        return flat
    members = [(f"{_flat(key)}: ", each) for key, each in value.items()] if is_dict else [("", each) for each in value]
    opening, closing = "{}" if is_dict else "[]"
    return f"{opening}\n{_rows(members, indent + STEP)}{' ' * indent}{closing}"


def assignment(name: str, value: Any, indent: int = 0) -> str:
    """Source code that gives a value a name."""
    start = f"{' ' * indent}{name} = "
    return start + literal(value, len(start), indent)


def call(start: str, values: Sequence[Any] = (), named: Mapping[str, Any] | None = None, indent: int = 0) -> str:
    """Source code of a call.

    Args:
        start: what stands before the opening bracket.
        values: arguments by position.
        named: arguments by name.
        indent: of the line.
    """
    members = [("", value) for value in values] + [(f"{name}=", value) for name, value in (named or {}).items()]
    start = " " * indent + start
    flat = ", ".join(name + _flat(value) for name, value in members)
    if len(start) + len(flat) + 2 <= LINE:
        return f"{start}({flat})"
    is_short = indent + STEP + len(flat) <= LINE
    body = f"{' ' * (indent + STEP)}{flat}\n" if is_short else _rows(members, indent + STEP)
    return f"{start}(\n{body}{' ' * indent})"


def _rows(members: Sequence[tuple[str, Any]], indent: int) -> str:
    space = " " * indent
    return "".join(f"{space}{name}{literal(value, indent + len(name), indent, tail=1)},\n" for name, value in members)


def _flat(value: Any) -> str:
    if isinstance(value, Source):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_flat(key)}: {_flat(each)}' for key, each in value.items())}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_flat, value))}]"
    return repr(value)


def _quoted(text: str) -> str:
    """Text in double quotes unless single ones need fewer escapes; what could end it or can't be seen is escaped."""
    quoted = repr(text)
    if quoted[0] == '"' or text.count('"') > text.count("'"):
        return quoted
    inside = quoted[1:-1].replace("\\'", "'").replace('"', '\\"')
    return f'"{inside}"'
