"""What `save_pretrained` leaves in a folder: exactly the weights of that save, with their checksums."""

from __future__ import annotations

import re
from pathlib import Path

from sam_variants.hub.checksums import update_checksums
from sam_variants.hub.weights_checks import INDEX_FILE


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
