"""Strict, reversible tables between another project's parameter names and ours.

A table is a list of rows. In a row's patterns `{}` stands for one piece of the dotted path and a final `*` for the
rest of it; the captured texts are written into the other side's pattern in the same order. Every key must match exactly
one row and every row must be used, so nothing is renamed by accident and nothing is lost; the same rows read from right
to left write the foreign layout again, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

MAX_LISTED = 10


@dataclass(frozen=True)
class Row:
    """One rename.

    Args:
        theirs: pattern of the foreign name.
        ours: pattern of our name, with as many placeholders as `theirs`.
        copies: further foreign names for the same tensor. A file holds any of them (equal, checked); all are written.
        optional: why a checkpoint may lack the row; empty for a row that must be used.
    """

    theirs: str
    ours: str
    copies: tuple[str, ...] = ()
    optional: str = ""


@dataclass(frozen=True)
class Drop:
    """A foreign key that is left behind on reading.

    Args:
        theirs: pattern of the foreign name.
        reason: why nothing is lost by dropping it.
    """

    theirs: str
    reason: str


@dataclass(frozen=True)
class Omit:
    """One of our keys that a foreign layout has no place for, left out on writing.

    Args:
        ours: pattern of our name.
        reason: what the layout is for, so that it needs no such key.
    """

    ours: str
    reason: str


@dataclass(frozen=True)
class LinearStack:
    """An MLP named `proj_in`, `layers.0`, …, `proj_out` there and `layers.0`, `layers.1`, … here.

    Args:
        theirs: pattern of the module, without a final `*`.
        ours: pattern of our module.
    """

    theirs: str
    ours: str

    def rows(self, depth: int) -> list[Row]:
        """The plain rows of an MLP with `depth` linear layers."""
        if depth < 2:
            raise ValueError(f"{self.theirs} needs at least 2 linear layers to have proj_in and proj_out, got {depth}")
        names = ["proj_in", *(f"layers.{index}" for index in range(depth - 2)), "proj_out"]
        return [Row(f"{self.theirs}.{name}.*", f"{self.ours}.layers.{i}.*") for i, name in enumerate(names)]


@dataclass(frozen=True)
class Stack:
    """Several of our tensors that lie along the first dimension of one foreign tensor.

    Args:
        theirs: the foreign name, without placeholders.
        ours: our names in order, each for one row of the foreign tensor.
    """

    theirs: str
    ours: tuple[str, ...]


AnyRow = Row | Drop | Omit | LinearStack | Stack
PlainRow = Row | Drop | Omit | Stack


@cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern with `{}` and a final `*`."""
    if "*" in pattern[:-1] or (pattern.endswith("*") and not pattern.endswith(".*")):
        raise ValueError(f"pattern {pattern!r}: '*' stands for the rest of a name and must come last, behind a dot")
    body, tail = (pattern[:-1], "(.+)") if pattern.endswith("*") else (pattern, "")
    return re.compile(r"([^.]+)".join(re.escape(piece) for piece in body.split("{}")) + tail)


def fill_pattern(pattern: str, captured: Sequence[str]) -> str:
    """Write captured texts into a pattern's placeholders, in order."""
    pieces = re.split(r"\{\}|\*$", pattern)
    return "".join(text for pair in zip(pieces, [*captured, ""], strict=True) for text in pair)


def shorten(names: Iterable[str]) -> str:
    """Up to ten names for an error message, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return ", ".join(listed[:MAX_LISTED]) + more


class RenameTable:
    """A foreign layout's rows, read in either direction.

    Args:
        name: the layout's name, for messages.
        rows: the rows; their order has no meaning.

    Raises:
        ValueError: when the two sides of a row have different numbers of placeholders.
    """

    def __init__(self, name: str, rows: Sequence[AnyRow]) -> None:
        self.name = name
        self.rows = tuple(rows)
        for row in self.rows:
            if not isinstance(row, Row):
                continue
            counts = {compile_pattern(side).groups for side in (row.theirs, row.ours, *row.copies)}
            if len(counts) != 1:
                raise ValueError(f"table {name}: the sides of {row} have different numbers of placeholders")

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a foreign state dict.

        Args:
            tensors: foreign name → tensor.

        Returns:
            Our name → the same tensor (a view of it where the table unstacks).

        Raises:
            ValueError: for an unknown key, a row without a key, two copies that differ, or an ambiguous table.
        """
        renamed: dict[str, Tensor] = {}
        remaining, used = dict(tensors), set()
        for row in self.rows:
            if isinstance(row, Stack) and row.theirs in remaining:
                used.add(row)
                renamed.update(self._unstack(row, remaining.pop(row.theirs)))
        rows = [row for row in self._plain_rows(remaining, "theirs") if not isinstance(row, Omit)]
        for key, (row, captured) in self._match(remaining, rows, "theirs").items():
            used.add(row)
            if isinstance(row, Drop):
                continue
            name = fill_pattern(row.ours, captured)
            if name in renamed and not torch.equal(renamed[name], remaining[key]):
                raise ValueError(f"{self.name} layout: {key} must equal its copies {row.theirs}, {row.copies}")
            renamed[name] = remaining[key]
        self._check_used(rows, used, "theirs")
        return renamed

    def dropped(self, keys: Iterable[str]) -> dict[str, str]:
        """The foreign keys that `to_ours` leaves behind, each with the reason why nothing is lost."""
        drops = [(compile_pattern(row.theirs), row.reason) for row in self.rows if isinstance(row, Drop)]
        return {key: reason for key in keys for pattern, reason in drops if pattern.fullmatch(key)}

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename our state dict to the foreign layout; the inverse of `to_ours` but for dropped and omitted keys.

        Args:
            tensors: our name → tensor.

        Returns:
            Foreign name → tensor; copies are the same tensor under every name.

        Raises:
            ValueError: for a key that the layout cannot hold, a row without a key, or an ambiguous table.
        """
        renamed: dict[str, Tensor] = {}
        remaining, used = dict(tensors), set()
        for row in self.rows:
            if isinstance(row, Stack) and all(name in remaining for name in row.ours):
                used.add(row)
                renamed[row.theirs] = torch.cat([remaining.pop(name) for name in row.ours])
        rows = [row for row in self._plain_rows(remaining, "ours") if not isinstance(row, Drop)]
        for key, (row, captured) in self._match(remaining, rows, "ours").items():
            used.add(row)
            if isinstance(row, Omit):
                continue
            for pattern in (row.theirs, *row.copies):
                renamed[fill_pattern(pattern, captured)] = remaining[key]
        self._check_used(rows, used, "ours")
        return renamed

    def _unstack(self, row: Stack, tensor: Tensor) -> dict[str, Tensor]:
        if tensor.ndim == 0 or tensor.shape[0] != len(row.ours):
            raise ValueError(
                f"{self.name} layout: {row.theirs} has shape {tuple(tensor.shape)}, expected {len(row.ours)} rows"
            )
        return dict(zip(row.ours, tensor.split(1), strict=True))

    def _plain_rows(self, keys: Iterable[str], side: str) -> list[PlainRow]:
        """The rows with every `LinearStack` written out for the depth that the keys show."""
        rows: list[PlainRow] = []
        layers_with_own_name = 2 if side == "theirs" else 0  # proj_in and proj_out
        for row in self.rows:
            if not isinstance(row, LinearStack):
                rows.append(row)
                continue
            layer = compile_pattern(getattr(row, side) + ".layers.{}.*")
            found = [match.groups()[-2] for match in map(layer.fullmatch, keys) if match]
            indices = [int(index) for index in found if index.isdecimal()]
            rows.extend(row.rows(max(indices) + 1 + layers_with_own_name if indices else 2))
        return rows

    def _match(self, keys: Iterable[str], rows: Sequence[PlainRow], side: str) -> dict[str, tuple]:
        """Each key's only row and what its placeholders captured."""
        sides = [
            (compile_pattern(pattern), row)
            for row in rows
            if not isinstance(row, Stack)
            for pattern in (getattr(row, side), *(row.copies if side == "theirs" and isinstance(row, Row) else ()))
        ]
        matched: dict[str, tuple] = {}
        unknown = []
        for key in keys:
            hits = [(row, match.groups()) for pattern, row in sides if (match := pattern.fullmatch(key))]
            if len(hits) > 1:
                raise ValueError(f"table {self.name}: {key} matches {len(hits)} rows: {[row for row, _ in hits]}")
            if hits:
                matched[key] = hits[0]
            else:
                unknown.append(key)
        if unknown:
            raise ValueError(f"{len(unknown)} keys do not belong to the {self.name} layout: {shorten(unknown)}")
        return matched

    def _check_used(self, rows: Iterable[PlainRow], used: set, side: str) -> None:
        missing: list[str] = []
        for row in rows:
            if row in used or isinstance(row, Drop | Omit) or (isinstance(row, Row) and row.optional):
                continue
            missing.extend([getattr(row, side)] if isinstance(row, Row) or side == "theirs" else row.ours)
        if missing:
            raise ValueError(f"keys of the {self.name} layout are missing: {shorten(missing)}")
