"""An output folder that is written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sam_variants.checkpoint_layouts.read_checkpoint import WEIGHT_SUFFIXES
from sam_variants.hub.checksums import CHECKSUMS_FILE

# What of an older output would be taken for a part of the new one.
OURS_TO_REPLACE = (*WEIGHT_SUFFIXES, ".index.json", ".py", "config.json", CHECKSUMS_FILE)
# How PyTorch and safetensors say that a file could not be written; neither raises an OSError.
FAILED_WRITE = re.compile(r"inline_container|PytorchStreamWriter|I/O error|No space left|File too large|os error")


def check_folder(out: Path, force: bool, source: Path) -> None:
    """Raise unless a folder can take an output.

    Args:
        out: the folder.
        force: it may hold an older output.
        source: what is converted, which must not be written over.

    Raises:
        ValueError: when it is a file, when it holds something, or when it holds the source.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {str(out)!r} is a file; give a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise ValueError(f"--out {str(out)!r} is not empty; give a new folder, or --force to write over what it holds")
    inside = source.resolve() if source.is_dir() else source.resolve().parent
    if inside == out.resolve():
        raise ValueError(f"--out {str(out)!r} holds the checkpoint that is converted; give another folder")


@contextmanager
def whole_folder(out: Path, force: bool, num_bytes: int) -> Iterator[Path]:
    """A folder to write into, whose files become those of `out` when nothing went wrong, and are removed otherwise.

    Args:
        out: a new or empty folder, or with `force` one whose older output is replaced; its other files stay.
        force: as in `check_folder`.
        num_bytes: about how much will be written.

    Raises:
        OSError: when it cannot be written, naming the reason; nothing is left behind.
    """
    draft: Path | None = None
    try:
        folder = out.resolve()  # has a name and a parent, which "." has not, and is no link
        # A folder that exists may be on a file system of its own.
        beside = folder if folder.is_dir() else folder.parent
        beside.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(beside).free
        if free < num_bytes:
            raise OSError(errno.ENOSPC, f"{num_bytes:,} bytes are needed, {free:,} are free")
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=beside))
        yield draft
        set_usual_modes(draft)
        put_in_place(draft, folder, force)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not isinstance(error, OSError) and not FAILED_WRITE.search(str(error)):
            raise
        raise OSError(f"--out {str(out)!r} can't be written, nothing was left there: {reason_of(error)}") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def reason_of(error: Exception) -> str:
    """Why a file could not be written, by the system's own error where a library hides it behind one of its own."""
    hidden: BaseException | None = error
    while hidden is not None and not isinstance(hidden, OSError):
        hidden = hidden.__context__
    if hidden is None:
        return f"the disk may be full ({str(error).splitlines()[0]})"
    return (hidden.strerror or str(hidden) or type(hidden).__name__).splitlines()[0]


def set_usual_modes(folder: Path) -> None:
    """Let others read what temporary folders and safetensors keep to their owner, as far as the umask lets them."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def put_in_place(draft: Path, out: Path, force: bool) -> None:
    """Move a finished folder to its name; an older output goes only once the new one is complete in its place.

    Args:
        draft: beside `out`, or in it where it exists.
        out: where to.
        force: replace an older output.
    """
    if not out.is_dir():
        draft.replace(out)
        return
    others = [path for path in out.iterdir() if path != draft]
    if others and not force:
        raise OSError(errno.ENOTEMPTY, "something else was written there meanwhile")
    new = sorted(path.name for path in draft.iterdir())
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out))
    moves = [
        (path, old / path.name)
        for path in others
        if path.is_file() and (path.name in new or path.name.endswith(OURS_TO_REPLACE))
    ]
    moves += [(draft / name, out / name) for name in new]
    try:
        for before, after in moves:
            before.replace(after)
    except BaseException:  # somebody's Ctrl-C, too
        for before, after in reversed(moves):
            if not os.path.lexists(before):
                after.replace(before)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def folder_sizes(folder: Path) -> list[dict[str, str | int]]:
    """Name and size in bytes of every file in a folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [{"file": str(path.relative_to(folder)), "bytes": path.stat().st_size} for path in files]
