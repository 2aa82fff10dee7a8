"""Checksums of weights files: written beside them, and compared with all there is to compare with."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import logging

from sam_variants.configuration.known_checkpoints import CHECKPOINTS

CHECKSUMS_FILE = "SHA256SUMS"
SAFETENSORS = ".safetensors"
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SHA256 = re.compile(r"[0-9a-f]{64}")
# As `sha256sum` writes it: the asterisk stands for a file that was read as binary.
LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
MAX_LINKS = 10

logger = logging.get_logger(__name__)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> Path:
    """Write `SHA256SUMS` for all safetensors files of a folder; `sha256sum --check SHA256SUMS` reads it.

    Args:
        folder: holds the weights.

    Returns:
        The path of the file.

    Raises:
        ValueError: when the folder holds no safetensors file.
    """
    names = [path.name for path in weights_files(folder) if path.suffix == SAFETENSORS]
    if not names:
        raise ValueError(f"the folder {str(folder)!r} holds no {SAFETENSORS} file whose checksum could be written")
    return store(folder, {name: sha256_of(folder / name) for name in names})


def update_checksums(folder: Path, names: Iterable[str]) -> None:
    """Bring `SHA256SUMS` up to date after these files of a folder were written.

    Lines of other files stay as they are: their files may have changed since, and that is for a check to find. Lines of
    files that are gone go too, as do lines that can't be read, with a warning, and with the last line the file.

    Args:
        folder: holds the weights.
        names: the files that were just written.
    """
    before = read_checksums(folder, strict=False)
    kept = {name: checksum for name, checksum in before.items() if (folder / name).is_file()}
    found = kept | {name: sha256_of(folder / name) for name in names}
    if found:
        store(folder, found)
    else:
        (folder / CHECKSUMS_FILE).unlink(missing_ok=True)


def store(folder: Path, checksums: dict[str, str]) -> Path:
    """Write the lines to a file of their own and then put it in place, so that it is never half written."""
    path, draft = folder / CHECKSUMS_FILE, folder / f".{CHECKSUMS_FILE}.{os.getpid()}"
    draft.write_text("".join(f"{checksums[name]}  {name}\n" for name in sorted(checksums)), "utf-8", newline="\n")
    draft.replace(path)
    return path


def read_checksums(folder: Path, strict: bool = True) -> dict[str, str]:
    """File name → sha256 as `SHA256SUMS` in a folder states; empty without one.

    Args:
        folder: holds the file.
        strict: False leaves out, with a warning, what raises otherwise.

    Raises:
        ValueError: for a line that is none of `sha256sum`, and two different checksums of one file.
    """
    path = folder / CHECKSUMS_FILE
    found: dict[str, str] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        parts = LINE.fullmatch(line)
        if parts is None:
            problem = f"{str(path)!r}, line {number}: expected a sha256 and a file name, found {line[:80]!r}"
        else:
            checksum, name = parts[1].lower(), parts[2].removeprefix("./")
            if found.setdefault(name, checksum) == checksum:
                continue
            problem = f"{str(path)!r} states two checksums of {name!r}"
        if strict:
            raise ValueError(problem)
        logger.warning(f"{problem}; the line is left out")
    return found


def verify_files(path: Path) -> dict[str, str]:
    """Compare the sha256 of weights files with all that is known about them.

    That is `SHA256SUMS` beside them; for a file in the Hub's cache, what the Hub said; for a published checkpoint under
    its own name, what `CHECKPOINTS` holds.

    Args:
        path: a weights file, or a folder: all its safetensors files, else its other weights files.

    Returns:
        File name → what it was compared with.

    Raises:
        FileNotFoundError: when there is no such file or folder, or no file that `SHA256SUMS` names.
        ValueError: naming the file and both checksums when they differ; when a file has nothing to compare with; when
            the folder holds no weights.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r} to verify")
    files = weights_files(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"the folder {str(path)!r} holds no weights to verify")
    stated = read_checksums(files[0].parent)
    if path.is_dir():
        refuse_missing(path, stated)
    return {file.name: verify(file, evidence_for(file, stated)) for file in files}


def refuse_missing(folder: Path, stated: dict[str, str]) -> None:
    """Raise when a weights file that `SHA256SUMS` names is missing; the Hub's cache may hold a part of a repository."""
    if folder.parent.name == "snapshots":
        return
    for name in stated:
        if name.endswith((SAFETENSORS, *TORCH_SUFFIXES)) and not (folder / name).is_file():
            raise FileNotFoundError(f"{str(folder / CHECKSUMS_FILE)!r} names {name!r}, which is missing")


def evidence_for(file: Path, stated: dict[str, str]) -> dict[str, str]:
    """Source → the sha256 that it states of a file."""
    found = {CHECKSUMS_FILE: stated[file.name]} if file.name in stated else {}
    if (cached := hub_sha256(file)) is not None:
        found["the Hub"] = cached
    published = next((known for known in CHECKPOINTS.values() if known.file_name == file.name), None)
    if published is not None:
        found[f"the published {published.file_name}"] = published.sha256
    return found


def verify(file: Path, evidence: dict[str, str]) -> str:
    """Compare one file with the evidence, and say what that was."""
    if not evidence:
        raise ValueError(
            f"there is nothing to compare {str(file)!r} with: no line in {CHECKSUMS_FILE} beside it, no checksum from "
            "the Hub, and it is no published file"
        )
    found = sha256_of(file)
    for source, expected in evidence.items():
        if found != expected:
            raise ValueError(
                f"{str(file)!r} is damaged or was changed: its sha256 is {found}, but {source} states {expected}; "
                "download it again"
            )
    return " and ".join(evidence)


def hub_sha256(file: Path) -> str | None:
    """What the Hub said a file's sha256 is, for one in its cache: the name of the blob that the snapshot links to.

    The Hub names large files by their sha256, also those that it stores with Xet. Where the file system has no symbolic
    links, the cache does not keep it.
    """
    for _ in range(MAX_LINKS):
        if file.parent.name == "blobs" and SHA256.fullmatch(file.name):
            return file.name
        if not file.is_symlink():
            return None
        file = Path(os.path.normpath(file.parent / file.readlink()))
    return None


def weights_files(folder: Path) -> list[Path]:
    """The weights files of a folder, sorted: its safetensors files, else those of other suffixes."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [path for path in files if path.suffix == SAFETENSORS] or [
        path for path in files if path.suffix in TORCH_SUFFIXES
    ]
