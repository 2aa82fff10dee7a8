"""What is worth keeping for a while: a bounded cache, for all threads, that makes each thing once."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass
class Making:
    """A value that is being made, and how many threads are after it."""

    lock: Lock = field(default_factory=Lock)
    num_threads: int = 0


class BoundedCache(Generic[Value]):
    """The most recently used values, as many as fit.

    Args:
        capacity: bound of all values together. A value that alone is larger is returned and not kept.
        size_of: what a value counts, in the unit of `capacity`; it must not change.
    """

    def __init__(self, capacity: int, size_of: Callable[[Value], int]) -> None:
        self.capacity, self.size_of = capacity, size_of
        self.used = 0
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._begin()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key; where it is missing, one thread makes it and the others wait for that.

        Whatever `make` raises is raised, and nothing is kept: those who wait try for themselves.
        """
        if self._process != os.getpid():  # forked, as ZeroGPU does: whoever held a lock is not here
            self._begin()
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            making = self._making.setdefault(key, Making())
            making.num_threads += 1
        try:
            with making.lock:
                with self._lock:
                    if key in self._values:
                        self._values.move_to_end(key)
                        return self._values[key]
                value = make()
                self._keep(key, value)
                return value
        finally:
            with self._lock:
                making.num_threads -= 1
                if not making.num_threads:
                    del self._making[key]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self.used = 0

    def _begin(self) -> None:
        self._making: dict[Hashable, Making] = {}
        self._lock = Lock()
        self._process = os.getpid()

    def _keep(self, key: Hashable, value: Value) -> None:
        size = self.size_of(value)
        if size > self.capacity:
            return
        with self._lock:
            self._values[key] = value
            self.used += size
            while self.used > self.capacity:
                _, oldest = self._values.popitem(last=False)
                self.used -= self.size_of(oldest)
