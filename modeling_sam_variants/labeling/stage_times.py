"""Where the time of a labeling run goes, added up over its threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from sam_variants.mask_generation.time_split import STAGES

# Reading and decoding files is done ahead of the model, writing behind it: together they may exceed the run's time, as
# may the stages of images that are worked on at once. Only waiting is time in which the model has nothing to do.
READ, OPEN, WAIT, WRITE = "read", "decode files", "wait for images", "write"


class StageTimes:
    """Seconds per stage; every thread may add."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys((READ, OPEN, WAIT, *STAGES, WRITE), 0.0)
        self._lock = threading.Lock()

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add to the stages that are named."""
        with self._lock:
            for name, value in seconds.items():
                self._seconds[name] += value

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside, also when it ends with an error."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add({name: perf_counter() - start})

    @property
    def seconds(self) -> dict[str, float]:
        """Stage → seconds until now."""
        with self._lock:
            return dict(self._seconds)
