"""Files of the Space on this machine: in a folder of their own, deleted when they are old, all of them at the end.

Gradio deletes what it has written down. That leaves uploads that broke off, empty folders, and everything, once its
list changed while it went through it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sam_variants.spaces_demo import limits

CACHE_VARIABLE = "GRADIO_TEMP_DIR"
PREFIX = "sam_variants_space_"

logger = logging.getLogger(__name__)


@contextmanager
def own_cache(*others: Callable[[], object]) -> Iterator[Path]:
    """Let gradio keep its files in a new folder, in which only young ones stay; it is deleted at the end.

    Args:
        others: called as often as files are looked through.
    """
    before = os.environ.get(CACHE_VARIABLE)
    if before:
        Path(before).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=before or None))
    os.environ[CACHE_VARIABLE] = str(folder)
    is_over = threading.Event()

    def keep_house() -> None:
        while not is_over.wait(limits.CACHE_CHECK_SECONDS):
            for each in (lambda: delete_old(folder, limits.SESSION_SECONDS), *others):
                try:
                    each()
                except Exception:  # there is a next time
                    logger.exception("not everything could be deleted")

    threading.Thread(target=keep_house, daemon=True).start()
    try:
        yield folder
    finally:
        is_over.set()
        if before is None:
            del os.environ[CACHE_VARIABLE]
        else:
            os.environ[CACHE_VARIABLE] = before
        shutil.rmtree(folder, ignore_errors=True)


def delete_old(folder: Path, seconds: float) -> None:
    """Delete files below a folder that were not changed for so long, and folders that are empty for so long."""
    oldest = time.time() - seconds
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        try:
            if path.lstat().st_ctime >= oldest:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
        except OSError:  # gone meanwhile, or not empty
            continue
