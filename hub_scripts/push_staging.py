"""A checkpoint of any layout as a repository folder that is ready to be pushed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, save_torch_state_dict, snapshot_download

from sam_variants.checkpoint_layouts.load_checkpoint import (
    config_beside,
    find_locally,
    load_checkpoint,
)
from sam_variants.checkpoint_layouts.read_checkpoint import read_weights_folder
from sam_variants.configuration.known_checkpoints import CHECKPOINTS
from sam_variants.hub.card_keeping import read_card, said_by
from sam_variants.hub.checksums import CHECKSUMS_FILE, read_checksums, sha256_of, verify_files, write_checksums
from sam_variants.hub.quantized_weights import says_quantized
from sam_variants.hub.remote_repo import explained, find_repo, read_remote
from sam_variants.hub.repo_files import (
    CARD_FILE,
    CONFIG_FILE,
    DOOR,
    FORBIDDEN_FOLDERS,
    KNOWN,
    OWN_MODEL_TYPE,
    has_code,
    matches,
    picture_names,
)
from sam_variants.hub.repo_folder import MAX_SHARD_SIZE, write_repo_folder
from sam_variants.hub.saved_weights import checkpoint_checksums, is_saved_weights, saved_checksums
from sam_variants.hub.weights_checks import WHOLE_FILE
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for

PROCESSOR_FILE = "processor_config.json"
# Fields of configurations that name code.
CODE_FIELDS = ("auto_map", "custom_pipelines")
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
        weights: file name → sha256 of its weights as they were found.
        dropped: what was left out, in words: references to code that is not pushed.
    """

    model: SamVariantsModel
    card: ModelCard | None = None
    known: dict[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


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
    is_on_hub = not Path(checkpoint).expanduser().exists()
    if is_on_hub and checkpoint.count("/") == 2 and checkpoint.endswith(f"/{WHOLE_FILE}"):
        # What such a file is, the other files of its repository tell.
        checkpoint = checkpoint.removesuffix(f"/{WHOLE_FILE}")
    path, _ = find_locally(checkpoint)
    ours = own_folder(path)
    if (ours is not None and (ours / CHECKSUMS_FILE).is_file()) or path.name in PUBLISHED_NAMES:
        verify_files(path if ours is None else ours)
    if max_shard_size is not None and ours is not None:
        refuse_cutting(ours, checkpoint)
    model = load_checkpoint(checkpoint)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(
            f"{checkpoint!r} holds a {type(model).__name__}, a part of a model; load it and call its push_to_hub"
        )
    if ours is None:
        write_repo_folder(model, folder, max_shard_size=max_shard_size or MAX_SHARD_SIZE)
        return Staged(model, None, origin(checkpoint, path, is_on_hub), checkpoint_checksums(path))
    if is_on_hub:
        ours = download_all(checkpoint)
    link_folder(ours, folder)
    dropped = drop_foreign_code(folder)
    if not (folder / CHECKSUMS_FILE).is_file():
        write_checksums(folder)
    weights = saved_checksums(read_checksums(folder))
    if max_shard_size is not None:
        cut_again(folder, max_shard_size)
    if not (folder / PROCESSOR_FILE).is_file():
        processor_for(model).save_pretrained(folder)
    card = folder / CARD_FILE
    found = read_card(card.read_bytes(), repr(str(ours / CARD_FILE))) if card.is_file() else None
    return Staged(model, found, weights=weights, dropped=dropped)


def download_all(repo_id: str, revision: str | None = None) -> Path:
    """What belongs to a checkpoint of this package on the Hub, with the pictures that its card shows."""
    with explained(repo_id, "can't be read"):
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[*KNOWN, "*.py"]))
        if pictures := picture_names(folder / CARD_FILE):
            snapshot_download(repo_id, revision=revision, allow_patterns=sorted(pictures))
    return folder


def drop_foreign_code(folder: Path) -> list[str]:
    """Take out of the configurations what names other code than the generated code that lies in the folder.

    Whoever loads the repository with `trust_remote_code=True` would run it.

    Returns:
        What was taken out, such as "auto_map of config.json".
    """
    dropped = []
    for name in (CONFIG_FILE, PROCESSOR_FILE, "preprocessor_config.json"):
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        foreign = [
            (part, key)
            for part in objects_in(values)
            for key in CODE_FIELDS
            if key in part and not (has_code(folder) and all(map(is_of_door, references(part[key]))))
        ]
        for part, key in foreign:
            del part[key]
            dropped.append(f"{key} of {name}")
        if foreign:
            path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return list(dict.fromkeys(dropped))


def objects_in(values: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON value, those inside others too."""
    if isinstance(values, dict):
        yield values
    if isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from objects_in(value)


def references(value: Any) -> Iterator[str]:
    """The classes that a field of `CODE_FIELDS` names."""
    for found in value.values() if isinstance(value, dict) else [value]:
        reference = found.get("impl") if isinstance(found, dict) else found
        for name in reference if isinstance(reference, list) else [reference]:
            if name is not None:
                yield str(name)


def is_of_door(reference: str) -> bool:
    return reference.startswith(f"{DOOR}.")


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


def refuse_cutting(folder: Path, checkpoint: str) -> None:
    """Raise ValueError for quantised weights, whose files say more than their tensors."""
    if says_quantized(config_beside(folder)):
        raise ValueError(
            f"--max-shard-size can't be applied to the quantised weights of {checkpoint!r}: sam-variants convert "
            "--quantize writes them in files of any size"
        )


def cut_again(folder: Path, max_shard_size: str) -> None:
    """Write the weights in files of another size, value by value and type by type as they are."""
    tensors = {name: tensor.clone() for name, tensor in read_weights_folder(folder).items()}
    for path in list(folder.iterdir()):
        if is_saved_weights(path.name):
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
