"""A complete repository folder of a model."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from sam_variants.hub.card_keeping import is_untouched, read_card
from sam_variants.hub.checksums import CHECKSUMS_FILE, write_checksums
from sam_variants.hub.model_card import model_card
from sam_variants.hub.repo_files import CARD_FILE
from sam_variants.hub.saved_weights import is_saved_weights
from sam_variants.processing.processor_for import fitting_processor

MAX_SHARD_SIZE = "50GB"


def write_repo_folder(
    model: Any,
    folder: Path,
    *,
    processor: Any = None,
    card: ModelCard | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> list[Path]:
    """Write all that a model's repository needs: config, weights, processor, card and checksums.

    Everything is written beside the folder first, so that whatever goes wrong until it is complete leaves the folder as
    it was. A new folder then appears whole. Into one that exists the files are moved one by one, the checksums last:
    what is cut off there is found by them. Weights of an earlier save that are no longer part of the checkpoint are
    removed; other files of the folder stay.

    Args:
        model: a `SamVariantsModel`.
        folder: new, or one that gets these files.
        processor: the model's processor; None makes the one that belongs to it.
        card: None keeps a README.md that somebody wrote, else writes a card from the configuration alone.
        max_shard_size: largest size of one weights file, as a number of bytes or such as "5GB".

    Returns:
        The files written, sorted.

    Raises:
        ValueError: for a fused model, and a processor of another input size.
        OSError: when the folder can't be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, where a folder is to be written")
    processor = fitting_processor(model, processor)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as drafts:
        draft = Path(drafts) / "repository"
        model.save_pretrained(draft, max_shard_size=max_shard_size)
        processor.save_pretrained(draft)
        if not (draft / CHECKSUMS_FILE).is_file():
            write_checksums(draft)
        if card is not None or not has_own_card(folder):
            (card or model_card(model)).save(draft / CARD_FILE)
        names = sorted(path.relative_to(draft) for path in draft.rglob("*") if path.is_file())
        put_in_place(draft, folder, names)
    return [folder / name for name in names]


def has_own_card(folder: Path) -> bool:
    """Whether a folder has a card that somebody wrote, or changed."""
    path = folder / CARD_FILE
    return path.is_file() and not is_untouched(read_card(path.read_bytes(), repr(str(path))))


def put_in_place(draft: Path, folder: Path, names: list[Path]) -> None:
    """Move a complete draft to its folder: as a whole where there is none, else file by file, the checksums last.

    Args:
        draft: on the same file system.
        folder: where its files go.
        names: the draft's files, relative to it.
    """
    if not folder.exists():
        draft.rename(folder)
        return
    new, checksums = set(names), Path(CHECKSUMS_FILE)
    for name in [name for name in names if name != checksums]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft / name, folder / name)
    for path in folder.iterdir():
        name = path.relative_to(folder)
        if path.is_file() and name not in new and is_saved_weights(name.name):
            path.unlink()
    os.replace(draft / checksums, folder / checksums)
