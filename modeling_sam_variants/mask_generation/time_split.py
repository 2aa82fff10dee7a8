"""Where the time of mask generation goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

ENCODE, DECODE, POST_PROCESSING = STAGES = ("encode", "decode", "post-processing")


@dataclass
class TimeSplit:
    """Seconds per stage, added up over everything it is handed to.

    Attributes:
        seconds: stage → seconds; all of `STAGES` from the start.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage, also when it ends with an error.

        Raises:
            ValueError: no such stage.
        """
        if name not in self.seconds:
            raise ValueError(f"stage {name!r} is none of {list(self.seconds)}")
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += perf_counter() - start

    def summary(self) -> str:
        """Return one line: "encode 0.5 s, decode 3.1 s, post-processing 0.2 s"."""
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
