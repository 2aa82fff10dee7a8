"""Tensors that are mapped from a file, copied into memory of their own without the file being there a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

# A part of a file that is copied at once: at least so many bytes, and at least one of so many equal parts.
SMALLEST_PART = 8_000_000
MOST_PARTS = 10


def own_memory(tensors: dict[str, Tensor], map_again: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of tensors, so that nothing that happens to the file changes them.

    A page that was read from a mapping counts as this process's memory until the mapping ends. So a large file is
    mapped anew for each part of it, and no more than a tenth of it is in memory twice.

    Args:
        tensors: by name; used up where they are in memory already.
        map_again: gives the same tensors from a new mapping.
    """
    if not any(is_mapped(tensor) for tensor in tensors.values()):
        return {name: tensors.pop(name).clone() for name in list(tensors)}
    copies: dict[str, Tensor] = {}
    for names in parts_of({name: tensor.nbytes for name, tensor in tensors.items()}):
        copies |= copies_of(names, map_again())
    return copies


def copies_of(names: list[str], mapped: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of some of the tensors of a mapping, which nobody holds any longer when this returns."""
    return {name: mapped[name].clone() for name in names}


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor on the CPU lies in memory that is not PyTorch's own, as that of a file is."""
    return not tensor.untyped_storage().resizable()


def parts_of(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names in their order, in parts to be copied at once.

    Args:
        sizes: bytes by name.
    """
    limit = max(SMALLEST_PART, sum(sizes.values()) // MOST_PARTS)
    part: list[str] = []
    held = 0
    for name, size in sizes.items():
        if part and held + size > limit:
            yield part
            part, held = [], 0
        part.append(name)
        held += size
    if part:
        yield part
