"""How far a labeling run is, how fast it goes, and where the time went."""

from __future__ import annotations

import math
import threading
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sam_variants.labeling.stage_times import StageTimes
from sam_variants.labeling.write_behind import BatchDone

# Where nobody watches, as in a log, a line now and then is enough.
SECONDS_PER_LINE = 60.0
# Name, seconds, up to how many seconds it is used, how it is written.
UNITS = (("s", 1, 120, ".0f"), ("min", 60, 7200, ".0f"), ("h", 3600, 172_800, ".1f"), ("days", 86_400, math.inf, ".1f"))


class RunProgress:
    """Counts what is recorded, and shows it: a bar in a terminal, else a line each minute.

    Args:
        console: where to.
        total: images in all, as far as this process sees to them; None where only reading tells.
        done: of these, recorded by earlier runs.
        times: of the run.
    """

    def __init__(
        self, console: Console | None = None, total: int | None = None, done: int = 0, times: StageTimes | None = None
    ) -> None:
        self.times = times or StageTimes()
        self._console = console or Console(quiet=True)
        self._total, self._earlier = total, done
        self._images = self._masks = self._errors = 0
        self._start = self._last_line = monotonic()
        self._seconds: float | None = None
        self._lock = threading.Lock()
        columns = (TextColumn("images"), BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> RunProgress:
        self._start = self._last_line = monotonic()
        self._bar.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._seconds = monotonic() - self._start
        self._bar.stop()

    def expect(self, total: int | None, done: int) -> None:
        """Say how many images there are, and how many of them earlier runs did."""
        with self._lock:
            self._total, self._earlier = total, done
            self._bar.update(self._task, total=total, completed=done, description=self.line())

    def add(self, batch: BatchDone) -> None:
        """Count a batch; any thread may."""
        with self._lock:
            if batch.is_resumed:
                self._earlier += batch.images
            else:
                self._images += batch.images
                self._masks += batch.masks
                self._errors += batch.errors
            line = self.line()
            self._bar.update(self._task, completed=self._earlier + self._images, description=line)
            if not self._console.is_terminal and monotonic() - self._last_line >= SECONDS_PER_LINE:
                self._last_line = monotonic()
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def line(self) -> str:
        """How far it is: "1,200 of 5,000 images, 3.2 images/s, 410 masks/s, 2 failed, 20 min left"."""
        done, seconds = self._earlier + self._images, max(monotonic() - self._start, 1e-9)
        rate = self._images / seconds
        told = [f"{done:,} images" if self._total is None else f"{done:,} of {self._total:,} images"]
        told += [f"{rate:.3g} images/s, {self._masks / seconds:.3g} masks/s"] if self._images else []
        told += [f"{self._errors:,} failed"] if self._errors else []
        if self._total is not None and rate > 0:
            told.append(f"{duration((self._total - done) / rate)} left")
        return ", ".join(told)

    def report(self) -> dict[str, Any]:
        """What this process did, ready for JSON; `resumed` are the images that earlier runs had done."""
        seconds = monotonic() - self._start if self._seconds is None else self._seconds
        return {
            "images": self._images,
            "masks": self._masks,
            "errors": self._errors,
            "resumed": self._earlier,
            "seconds": round(seconds, 3),
            "images_per_second": round(self._images / max(seconds, 1e-9), 4),
            "masks_per_second": round(self._masks / max(seconds, 1e-9), 4),
            "time_split": {name: round(value, 3) for name, value in self.times.seconds.items()},
        }


def duration(seconds: float) -> str:
    """A length of time as people say it: "40 s", "12 min", "3.5 h", "2.1 days"."""
    for unit, length, most, form in UNITS:
        if seconds < most:
            return f"{seconds / length:{form}} {unit}"
    raise ValueError(f"seconds must be a number, got {seconds!r}")


def count_of(number: int, name: str) -> str:
    """A number with what it counts: "1 image", "2,000 images"."""
    return f"{number:,} {name}{'s' * (number != 1)}"
