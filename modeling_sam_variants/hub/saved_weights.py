"""What `save_pretrained` leaves in a folder: exactly the weights of that save, with their checksums."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from sam_variants.hub.checksums import sha256_of, update_checksums, weights_files
from sam_variants.hub.weights_checks import INDEX_FILE

SAVED_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
DIGITS = 16


def is_saved_weights(name: str) -> bool:
    """Whether `save_pretrained` writes a file of this name: the weights, a shard of them, or their index."""
    return name == INDEX_FILE or SAVED_WEIGHTS.fullmatch(name) is not None


def saved_checksums(checksums: Mapping[str, str]) -> dict[str, str]:
    """Of file name → sha256 what belongs to a checkpoint; everything where nothing has a name of `save_pretrained`."""
    return {name: found for name, found in checksums.items() if is_saved_weights(name)} or dict(checksums)


def checkpoint_checksums(path: Path) -> dict[str, str]:
    """File name → sha256 of a checkpoint's weights: of a file, or of those of a folder."""
    if path.is_file():
        return {path.name: sha256_of(path)}
    names = saved_checksums({file.name: "" for file in weights_files(path)})
    return {name: sha256_of(path / name) for name in names}


def weights_digest(checksums: Mapping[str, str]) -> str:
    """A few digits that tell weights apart, whatever their files are called."""
    return hashlib.sha256("\n".join(sorted(checksums.values())).encode()).hexdigest()[:DIGITS]


def settle_saved_weights(folder: Path, variant: str | None = None, has_weights: bool = True) -> None:
    """Remove weights of an earlier save that would be loaded instead of those just written, and write the checksums.

    transformers removes old shards itself, but not an old whole file, which it would then prefer to the new shards.

    Args:
        folder: where a model was just saved.
        variant: as given to `save_pretrained`.
        has_weights: whether the save wrote weights of a model; adapters alone are none.
    """
    if not folder.is_dir():
        return
    if not has_weights:
        update_checksums(folder, [])
        return
    stem = "model" if variant is None else f"model.{variant}"
    pattern = re.compile(rf"{re.escape(stem)}-\d{{5}}-of-\d{{5}}\.safetensors")
    whole = f"{stem}.safetensors"
    index = INDEX_FILE if variant is None else INDEX_FILE.replace(".json", f".{variant}.json")
    shards = [path.name for path in folder.iterdir() if pattern.fullmatch(path.name)]
    (folder / (whole if shards else index)).unlink(missing_ok=True)
    names = shards or [whole]
    update_checksums(folder, [name for name in names if (folder / name).is_file()])
