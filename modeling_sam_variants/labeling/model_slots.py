"""One model, used by several threads: how many at once, and by one alone when memory is short."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class ModelSlots:
    """Who may use the model at once, and with how many threads of the CPU.

    Args:
        number: how many calls.
        threads: that each computes with; None where it isn't the CPU that computes.
    """

    def __init__(self, number: int, threads: int | None) -> None:
        self.number, self._threads = number, threads
        self._free = threading.Semaphore(number)
        self._collecting = threading.Lock()
        self._seen = threading.local()

    def use_share(self) -> None:
        """Let the current thread compute on its share of the CPU's threads only."""
        if self.number > 1 and self._threads is not None and not hasattr(self._seen, "has_share"):
            torch.set_num_threads(self._threads)
            self._seen.has_share = True

    @contextmanager
    def one(self) -> Iterator[None]:
        """Use the model beside others."""
        with self._free:
            yield

    @contextmanager
    def all(self) -> Iterator[None]:
        """Wait until everyone else is done, and let nobody begin."""
        with self._collecting:
            for _ in range(self.number):
                self._free.acquire()
            try:
                yield
            finally:
                self._free.release(self.number)
