"""A labeler without a model for processes that die, which leaves notes for those who watch them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from labeling_runs import StandIn

from sam_variants.labeling.items import FailedImage, Item, LabeledImage

PATIENCE_SECONDS = 300.0


class DeadlyLabeler(StandIn):
    """A `StandIn` that meets images of which its process dies.

    Args:
        notes: a folder for a file per such image and try, with the number of the process.
        journals: of the run's output folder.
        victim: the image over which the process that comes first waits to be killed.
        poison: the image over which every process kills itself.
    """

    def __init__(self, notes: Path, journals: Path, victim: str, poison: str) -> None:
        super().__init__()
        self.notes, self.journals, self.victim, self.poison = notes, journals, victim, poison

    def __call__(self, items: Sequence[Item], pixels: Sequence[Any]) -> list[LabeledImage | FailedImage]:
        for item in items:
            if item.key in (self.victim, self.poison):
                self.meet(item.key)
        return super().__call__(items, pixels)

    def meet(self, key: str) -> None:
        """Die, or wait for that; but not before the batch in front of the image is recorded."""
        part = int(key[:4]) // 4
        wait_for(lambda: any(path.stat().st_size for path in self.journals.glob(f"{part:06d}-*")))
        tried = len(self.tries(key))
        note = self.notes / f"{key}.{tried}"
        note.with_suffix(".draft").write_text(str(os.getpid()))
        note.with_suffix(".draft").rename(note)
        if key == self.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        elif not tried:
            time.sleep(PATIENCE_SECONDS)

    def tries(self, key: str) -> list[int]:
        """The processes that met an image."""
        return [int(note.read_text()) for note in sorted(self.notes.glob(f"{key}.[0-9]*"))]


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a function gives something true.

    Raises:
        TimeoutError: it doesn't.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.05)
