"""Which of the published checkpoints lie on this machine, whole; nothing is asked of a network."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from transformers import CONFIG_MAPPING

from sam_variants.checkpoint_layouts.load_checkpoint import OWN_MODEL_TYPE
from sam_variants.checkpoint_layouts.read_checkpoint import INDEX_NAMES, WHOLE_NAMES, read_json
from sam_variants.configuration.known_checkpoints import KnownCheckpoint
from sam_variants.hub_scripts.convert_source import preset_of

HEADER_LENGTH = 8
LARGEST_HEADER = 100_000_000
# What a model stores beside its parameters.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "positional_encoding_gaussian_matrix")


@dataclass(frozen=True)
class Place:
    """Where a checkpoint lies.

    Attributes:
        kind: "Hub cache", "torch hub cache" or "folder".
        path: the file or folder.
        load: what `load_checkpoint` and `--model` take for it.
    """

    kind: str
    path: str
    load: str


def places_of(known: KnownCheckpoint, folders: list[Path]) -> list[Place]:
    """Every place on this machine where a published checkpoint lies whole.

    Args:
        known: which one.
        folders: where to look for its file, and for a folder of its architecture that this package wrote; they may be
            one themselves.
    """
    return [*in_hub_cache(known), *in_torch_hub(known), *in_folders(known, folders)]


def in_hub_cache(known: KnownCheckpoint) -> Iterator[Place]:
    """The snapshots of its repository that hold weights with their configuration, or the file."""
    repo = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=known.hub_repo, repo_type="model")
    main = repo / "refs" / "main"
    current = main.read_text("utf-8").strip() if main.is_file() else ""
    for snapshot in sorted((repo / "snapshots").glob("*")):
        has_folder = (snapshot / "config.json").is_file() and has_whole_weights(snapshot)
        file = snapshot / known.file_name
        if has_folder:
            yield Place("Hub cache", str(snapshot), known.hub_repo if snapshot.name == current else str(snapshot))
        elif is_whole_file(file, known):
            name = f"{known.hub_repo}/{known.file_name}"
            yield Place("Hub cache", str(file), name if snapshot.name == current else str(file))


def in_torch_hub(known: KnownCheckpoint) -> Iterator[Place]:
    """The file where `torch.hub.load_state_dict_from_url` keeps it."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / known.file_name
    if is_whole_file(file, known):
        yield Place("torch hub cache", str(file), str(file))


def in_folders(known: KnownCheckpoint, folders: list[Path]) -> Iterator[Place]:
    """The file in given folders, folders of ours among them, and those below that are named after the preset."""
    for folder in folders:
        if is_whole_file(folder / known.file_name, known):
            yield Place("folder", str(folder / known.file_name), str(folder / known.file_name))
        for own in (folder, folder / known.preset):
            if has_own_config(own, known.preset) and has_whole_weights(own):
                yield Place("folder", str(own), str(own))


def is_whole_file(file: Path, known: KnownCheckpoint) -> bool:
    """Whether a file exists and is as long as the published one; an interrupted download is shorter."""
    return file.is_file() and file.stat().st_size == known.size


def has_own_config(folder: Path, preset: str) -> bool:
    """Whether a folder's config.json is of this package and of a preset's architecture."""
    try:
        values = read_json(folder / "config.json")
        kind = str(values.get("model_type", ""))
        return kind.startswith(OWN_MODEL_TYPE) and preset_of(CONFIG_MAPPING[kind].from_dict(values)) == preset
    except (OSError, ValueError, KeyError, TypeError):
        return False


def has_whole_weights(folder: Path) -> bool:
    """Whether a folder holds all weights that its index names, or one whole weights file."""
    for name in INDEX_NAMES:
        if (folder / name).is_file():
            try:
                shards = set(read_json(folder / name)["weight_map"].values())
            except (ValueError, KeyError, AttributeError):
                return False
            return bool(shards) and all(is_complete(folder / shard) for shard in shards)
    return any(is_complete(folder / name) for name in WHOLE_NAMES)


def is_complete(file: Path) -> bool:
    """Whether a weights file is there and, for safetensors, as long as its header says."""
    if file.suffix != ".safetensors" or not file.is_file():
        return file.is_file() and file.stat().st_size > 0
    return safetensors_parameters(file) is not None


def safetensors_parameters(file: Path) -> int | None:
    """How many parameters a file of ours holds, told by its header; None when it is truncated or no safetensors."""
    with file.open("rb") as content:
        start = content.read(HEADER_LENGTH)
        length = struct.unpack("<Q", start)[0] if len(start) == HEADER_LENGTH else LARGEST_HEADER + 1
        if length > LARGEST_HEADER:
            return None
        try:
            header = json.loads(content.read(length))
            header.pop("__metadata__", None)
            end = max(entry["data_offsets"][1] for entry in header.values())
            shapes = [entry["shape"] for name, entry in header.items() if not name.endswith(BUFFERS)]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
    if file.stat().st_size != HEADER_LENGTH + length + end:
        return None
    return sum(math.prod(shape) for shape in shapes)
