"""What `sam-variants convert` writes: our repository, the authors' file, or transformers' folder; each read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import Tensor

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.mapped_tensors import parts_of
from sam_variants.checkpoint_layouts.read_checkpoint import read_checkpoint, read_weights_folder, weights_state
from sam_variants.checkpoint_layouts.renames import shorten
from sam_variants.checkpoint_layouts.write_checkpoint import (
    official_state_dict,
    published_as,
    transformers_layout,
    write_official,
    write_transformers,
)
from sam_variants.hub.card_checks import LICENCE_FIELDS
from sam_variants.hub.card_keeping import read_card, said_by
from sam_variants.hub.checksums import update_checksums
from sam_variants.hub.model_card import model_card
from sam_variants.hub.repo_files import CARD_FILE
from sam_variants.hub.repo_folder import write_repo_folder
from sam_variants.hub_scripts.convert_forms import Target, WriteOptions
from sam_variants.hub_scripts.convert_source import OURS, Source
from sam_variants.hub_scripts.export_remote_code import export_remote_code


def write_ours(source: Source, folder: Path, options: WriteOptions) -> None:
    """Write a complete repository: config, weights, processor, card, checksums, and the code if that is wanted."""
    config: Any = source.model.config
    dtype = config.dtype  # to compute in; saving makes it the stored one
    card = card_for(source, options)
    write_repo_folder(
        source.model, folder, processor=source.processor, card=card, max_shard_size=options.max_shard_size
    )
    config.dtype = dtype
    config.save_pretrained(folder)
    if options.with_code:
        export_remote_code(folder)


def card_for(source: Source, options: WriteOptions) -> ModelCard:
    """The card of a repository of ours stays; any other checkpoint gets one that says where it comes from.

    So do quantised weights: what the old card measured is not true of them.
    """
    path, origin = (source.folder or source.path) / CARD_FILE, source.origin
    own = read_card(path.read_bytes(), repr(str(path))) if source.layout == OURS and path.is_file() else None
    if own is not None and source.quantize is None:
        if options.licence is not None:
            for field in LICENCE_FIELDS:
                own.data.pop(field)
            own.data["license"] = options.licence
        return own
    said: dict[str, Any] = {
        "license": origin.licence.lower() if origin else None,
        "base_model": origin.hub_repo if origin else None,
        "source": f"{source.path.name} ({source.layout_name})",
    }
    if own is not None:
        said |= said_by(own)
    if options.licence is not None:
        said |= dict.fromkeys(LICENCE_FIELDS) | {"license": options.licence}
    if source.quantize is not None and said["base_model"] is not None:
        said["base_model_relation"] = "quantized"
    return model_card(source.model, with_code=options.with_code, **said)


def write_authors_file(source: Source, folder: Path, options: WriteOptions) -> None:
    """Write the file that the authors' own code loads, and its checksum."""
    path = folder / official_name(source)
    write_official(source.model, path)
    update_checksums(folder, [path.name])


def write_their_folder(source: Source, folder: Path, options: WriteOptions) -> None:
    """Write what transformers' own class loads, and the checksums of the weights."""
    write_transformers(source.model, source.processor, folder, options.max_shard_size)
    update_checksums(folder, [path.name for path in sorted(folder.glob("*.safetensors"))])


def official_name(source: Source) -> str:
    """The file's name: never a published one, because PyTorch does not write the same bytes again."""
    stem = source.preset or source.path.resolve().stem
    return stem + published_as(source.model.config).suffix


def read_official(source: Source, folder: Path) -> dict[str, Tensor]:
    table = LAYOUTS[published_as(source.model.config).official].table
    return table.to_ours(read_checkpoint(folder / official_name(source)))


def read_theirs(source: Source, folder: Path) -> dict[str, Tensor]:
    return LAYOUTS[transformers_layout(source.model.config)].table.to_ours(read_weights_folder(folder))


WRITERS: dict[Target, Callable[[Source, Path, WriteOptions], None]] = {
    Target.ours: write_ours,
    Target.official: write_authors_file,
    Target.transformers: write_their_folder,
}
READERS: dict[Target, Callable[[Source, Path], dict[str, Tensor]]] = {
    Target.ours: lambda source, folder: read_weights_folder(folder),
    Target.official: read_official,
    Target.transformers: read_theirs,
}
# What must be possible, asked before anything slow happens.
CHECKS: dict[Target, Callable[[Source], object]] = {
    Target.ours: lambda source: None,
    Target.official: lambda source: official_state_dict(source.model),
    Target.transformers: lambda source: transformers_layout(source.model.config),
}


def check_target(source: Source, target: Target) -> None:
    """Raise ValueError when an architecture cannot be written so."""
    CHECKS[target](source)


def write_target(source: Source, target: Target, folder: Path, options: WriteOptions) -> None:
    """Write a checkpoint into an empty folder, read it back, and compare every tensor with what the source stores.

    Raises:
        ValueError: when the architecture cannot be written so.
        OSError: when what was written is not what was read, or the source changed meanwhile.
    """
    WRITERS[target](source, folder, options)
    compare_tensors(source.written, lambda: READERS[target](source, folder))
    if weights_state(source.path) != source.state:
        raise OSError(f"{source.name!r} changed while it was converted")


def compare_tensors(expected: Mapping[str, Tensor], read: Callable[[], Mapping[str, Tensor]]) -> None:
    """Raise OSError unless all tensors are equal bit for bit.

    Args:
        expected: by name.
        read: gives the others, mapped anew each time, so that only a part of them is in memory at once.
    """
    differing = expected.keys() ^ read().keys()
    if differing:
        raise OSError(f"these tensors were not written as they are: {shorten(differing)}")
    wrong: list[str] = []
    for names in parts_of({name: tensor.nbytes for name, tensor in expected.items()}):
        found = {name: tensor for name, tensor in read().items() if name in names}
        wrong += [name for name in names if not same_bits(expected[name], found[name])]
        del found  # the mapping ends before the next one begins
    if wrong:
        raise OSError(f"{len(wrong)} tensors were not written as they are: {shorten(wrong)}")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bytes; NaN too, which is not equal to itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bytes_of = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*bytes_of)
