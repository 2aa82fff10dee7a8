"""A checkpoint of any layout as a repository folder that is ready to be pushed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, save_torch_state_dict, snapshot_download

from sam_variants.checkpoint_layouts.load_checkpoint import (
    OWN_MODEL_TYPE,
    config_beside,
    find_locally,
    load_checkpoint,
)
from sam_variants.checkpoint_layouts.read_checkpoint import read_weights_folder
from sam_variants.configuration.known_checkpoints import CHECKPOINTS
from sam_variants.hub.card_keeping import read_card, said_by
from sam_variants.hub.checksums import CHECKSUMS_FILE, sha256_of, verify_files, write_checksums
from sam_variants.hub.remote_repo import explained, find_repo, read_remote
from sam_variants.hub.repo_files import CARD_FILE, FORBIDDEN_FOLDERS, KNOWN, WEIGHTS, matches
from sam_variants.hub.repo_folder import MAX_SHARD_SIZE, write_repo_folder
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for

PROCESSOR_FILE = "processor_config.json"
# Files that may be changed on the way to the Hub; the others are only linked to.
COPIED = ("*.json", "*.md", "*.py", CHECKSUMS_FILE)
PUBLISHED = {known.sha256: known for known in CHECKPOINTS.values()}
PUBLISHED_NAMES = {known.file_name for known in CHECKPOINTS.values()}
# What a card of the same weights in another layout says about them, as arguments of `model_card`.
INHERITED = ("license", "license_name", "license_link", "datasets")


@dataclass(frozen=True)
class Staged:
    """A checkpoint whose repository folder was written.

    Attributes:
        model: it, loaded: what is pushed can be loaded completely.
        card: its own card.
        known: what is known of its weights, as arguments of `model_card`.
    """

    model: SamVariantsModel
    card: ModelCard | None = None
    known: dict[str, Any] = field(default_factory=dict)


def stage(checkpoint: str, folder: Path, max_shard_size: str | None = None) -> Staged:
    """Write a checkpoint as a repository folder; one of ours stays as it is, foreign ones are converted.

    Args:
        checkpoint: whatever `load_checkpoint` reads.
        folder: does not exist yet.
        max_shard_size: largest size of one weights file; None keeps the files of one of ours.

    Raises:
        ValueError: when the checkpoint is damaged, incomplete, or a part of a model only.
        OSError: when it can't be read.
    """
    path, _ = find_locally(checkpoint)
    is_on_hub = not Path(checkpoint).expanduser().exists()
    ours = own_folder(path)
    if (ours is not None and (ours / CHECKSUMS_FILE).is_file()) or path.name in PUBLISHED_NAMES:
        verify_files(path if ours is None else ours)
    model = load_checkpoint(checkpoint)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(
            f"{checkpoint!r} holds a {type(model).__name__}, a part of a model; load it and call its push_to_hub"
        )
    if ours is None:
        write_repo_folder(model, folder, max_shard_size=max_shard_size or MAX_SHARD_SIZE)
        return Staged(model, None, origin(checkpoint, path, is_on_hub))
    if is_on_hub:
        with explained(checkpoint, "can't be read"):
            ours = Path(snapshot_download(checkpoint, allow_patterns=[*KNOWN, "*.py"]))
    link_folder(ours, folder)
    if max_shard_size is not None:
        cut_again(folder, max_shard_size)
    if not (folder / PROCESSOR_FILE).is_file():
        processor_for(model).save_pretrained(folder)
    if not (folder / CHECKSUMS_FILE).is_file():
        write_checksums(folder)
    card = folder / CARD_FILE
    found = read_card(card.read_bytes(), repr(str(ours / CARD_FILE))) if card.is_file() else None
    return Staged(model, found)


def own_folder(path: Path) -> Path | None:
    """The folder of a checkpoint that this package wrote; None for any other."""
    if not str(config_beside(path).get("model_type", "")).startswith(OWN_MODEL_TYPE):
        return None
    return path if path.is_dir() else path.parent


def link_folder(source: Path, folder: Path) -> None:
    """A second folder with the same files, where changes don't reach the first."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if not path.is_file() or FORBIDDEN_FOLDERS & set(name.parts[:-1]):
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if matches(name, COPIED):
            shutil.copyfile(path, target)
            continue
        try:
            target.symlink_to(path.resolve())
        except OSError:  # no links on this file system
            shutil.copyfile(path, target)


def cut_again(folder: Path, max_shard_size: str) -> None:
    """Write the weights in files of another size, value by value and type by type as they are."""
    tensors = {name: tensor.clone() for name, tensor in read_weights_folder(folder).items()}
    for path in list(folder.iterdir()):
        if matches(path.relative_to(folder), WEIGHTS):
            path.unlink()
    save_torch_state_dict(tensors, folder, max_shard_size=max_shard_size)
    write_checksums(folder)


def origin(checkpoint: str, path: Path, is_on_hub: bool) -> dict[str, Any]:
    """What is known of converted weights: where they come from, and their licence where somebody states it.

    A published file is known by its content alone: fine-tuned ones often keep its name.
    """
    if path.is_file():
        checksum = sha256_of(path)
        if (known := PUBLISHED.get(checksum)) is not None:
            return {"base_model": known.preset, "source": f"`{known.file_name}` (sha256 {checksum})"}
    if not is_on_hub:
        card = path / CARD_FILE if path.is_dir() else path.parent / CARD_FILE
        content = card.read_bytes() if card.is_file() and (path.is_dir() or config_beside(path)) else None
        return inherited(content, repr(str(card))) | {"source": f"`{path.name}`"}
    repo_id = "/".join(checkpoint.split("/")[:2])
    api = HfApi(library_name="sam-variants")
    content = read_remote(api, find_repo(api, repo_id), CARD_FILE)
    name = "/".join(checkpoint.split("/")[2:])
    source = f"`{name}` of `{repo_id}` on the Hub" if name else f"`{repo_id}` on the Hub"
    return inherited(content, f"{CARD_FILE} of {repo_id!r}") | {"base_model": repo_id, "source": source}


def inherited(content: bytes | None, where: str) -> dict[str, Any]:
    if content is None:
        return {}
    return {name: value for name, value in said_by(read_card(content, where)).items() if name in INHERITED}
