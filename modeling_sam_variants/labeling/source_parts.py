"""How rows with numbers are divided into parts."""

from __future__ import annotations

from collections.abc import Sequence

from sam_variants.labeling.items import Part


def numbered_parts(num_rows: int, rows_per_shard: int) -> Sequence[Part]:
    """Consecutive runs of `rows_per_shard` rows; the last may be shorter."""
    starts = range(0, num_rows, rows_per_shard)
    return [
        Part(
            index, f"rows {start} to {min(start + rows_per_shard, num_rows) - 1}", min(rows_per_shard, num_rows - start)
        )
        for index, start in enumerate(starts)
    ]


def part_rows(parts: Sequence[Part], rows_per_shard: int, part: int, start: int) -> range:
    """The numbers of the rows of a part from row `start` of it on.

    Raises:
        IndexError: there is no such part.
    """
    if not 0 <= part < len(parts):
        raise IndexError(f"there is no part {part}: the source has {len(parts)}")
    first = part * rows_per_shard
    return range(first + start, first + (parts[part].num_rows or 0))
