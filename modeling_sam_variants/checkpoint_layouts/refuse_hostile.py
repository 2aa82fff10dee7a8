"""What a checkpoint file must not be, judged before it is read: another kind of file, code, or a bomb."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

ZIP_START = b"PK\x03\x04"
MAX_JSON_BYTES = 20_000_000
# One storage under two names is stored once; beyond that, tensors cannot take more than their file.
MAX_INFLATION = 2
SMALL_FILE = 1_000_000
DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


def refuse_impostors(path: Path, head: bytes) -> None:
    """Raise for the usual things that get saved under a checkpoint's name, judged by the first bytes."""
    text = head.lstrip().lower()
    if not head:
        raise ValueError(f"the checkpoint {str(path)!r} is empty; download it again")
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{str(path)!r} is a Git LFS pointer, not the weights: run `git lfs pull` in its repository")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(
            f"{str(path)!r} is a web page, not a checkpoint: the download link gave a page; download again"
        )


def check_archive(path: Path, head: bytes) -> bool:
    """Whether a file is a zip archive as `torch.save` writes it, raising for every other archive.

    `torch.save` stores its entries as they are. A compressed entry, or entries that share bytes, can unfold into any
    amount of memory, and a TorchScript archive is a program.

    Args:
        path: the file.
        head: its first bytes.
    """
    try:
        if not zipfile.is_zipfile(path):
            if head.startswith(ZIP_START):
                raise ValueError("an archive without a directory")
            return False
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ValueError(f"{str(path)!r} is not a checkpoint or is truncated ({error})") from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise ValueError(f"{str(path)!r} is a TorchScript archive: it holds code and was not run")
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"{str(path)!r} holds compressed entries ({packed[0]}), which no checkpoint has; not read")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError(f"{str(path)!r} holds more than its own size, which no checkpoint does; not read")
    return True


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise for tensors that are no plain arrays of numbers, or that claim to be larger than what the file holds."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
            kind = f"{tensor.layout} {tensor.dtype} on {tensor.device}".replace("torch.", "")
            raise ValueError(f"{name} in {str(path)!r} is no plain array of numbers ({kind})")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{name} in {str(path)!r} is stored as {tensor.untyped_storage().nbytes()} bytes and claims to be "
                f"{tuple(tensor.shape)}; not read"
            )
    total, size = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if total > MAX_INFLATION * size + SMALL_FILE:
        raise ValueError(f"the tensors in {str(path)!r} claim {total} bytes, and the file has {size}; not read")
