"""What the workers of a run on Ray tell, and what they are told."""

from __future__ import annotations

from typing import Any


def tally_class() -> type:
    """The class of the actor that workers report to.

    It is made in a function so that Ray sends it as it is: the process it lives in need not import this package, which
    takes seconds and hundreds of megabytes.
    """

    class Tally:
        """Counts what is recorded, and how often work on a part was begun since it last got on.

        Args:
            max_deaths: of workers over the same place of a part, before it is given up.
        """

        def __init__(self, max_deaths: int) -> None:
            self._max_deaths = max_deaths
            self._begun: dict[int, int] = {}
            self._known: set[int] = set()
            self._counts: dict[tuple[int, bool], list[int]] = {}
            self._seconds: dict[str, float] = {}
            self._is_stopping = False

        def begin(self, part: int) -> tuple[bool, int, bool]:
            """Whether to begin with a part, how many workers died over it at the place where it is, and whether it may
            be read: not if that is what they die of.
            """
            deaths = self._begun.get(part, 0)
            if self._is_stopping:
                return False, 0, False
            self._begun[part] = deaths + 1
            return deaths < self._max_deaths, deaths, deaths <= self._max_deaths

        def add(self, batch: tuple[int, int, int, int, bool], seconds: dict[str, float]) -> None:
            """A batch is recorded: the fields of `BatchDone`; seconds by stage since the worker's last."""
            part, *numbers, is_resumed = batch
            self._begun[part] = self._begun.get(part, 0) if is_resumed else 1
            # What a worker had recorded before it died was counted then.
            if not is_resumed or part not in self._known:
                sums = self._counts.setdefault((part, is_resumed), [0, 0, 0])
                sums[:] = (have + more for have, more in zip(sums, numbers, strict=True))
            self._known.add(part)
            for name, value in seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + value

        def end(self, part: int) -> None:
            """A worker is done with a part, or gives it up, or stops."""
            self._begun.pop(part, None)

        def take(self) -> tuple[list[tuple[Any, ...]], dict[str, float]]:
            """What was added since the last time: the fields of a `BatchDone` per part, and seconds by stage."""
            batches = [(part, *sums, is_resumed) for (part, is_resumed), sums in self._counts.items()]
            seconds, self._counts, self._seconds = self._seconds, {}, {}
            return batches, seconds

        def stop(self) -> None:
            """Nothing more is to be begun, and what has been is to end."""
            self._is_stopping = True

        def is_stopping(self) -> bool:
            return self._is_stopping

        def num_active(self) -> int:
            """Parts that were begun and not ended."""
            return len(self._begun)

    return Tally
