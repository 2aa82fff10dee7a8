"""The peak of a process's memory while something runs."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

import torch

from sam_variants.hub_scripts.benchmark_memory import resident_bytes

SAMPLING_SECONDS = 0.005
MEMORY_FACTS = Path("/proc/meminfo")
# What stays for the rest of the system.
USABLE_SHARE = 0.9


class PeakMemory:
    """How far memory rises above what it is at the beginning; a context manager.

    On a GPU that is what PyTorch allocates there, else what is resident of this process: looked at many times a second,
    and by the system's own mark where that went up meanwhile.

    Args:
        device: where the work is done.

    Attributes:
        peak_bytes: at the end, above the beginning; None where the system doesn't tell.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.peak_bytes: int | None = None
        self._highest = 0
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._begin: int | None = torch.cuda.memory_allocated(self.device)
        else:
            self._begin, self._mark = resident_bytes(), highest_resident_bytes()
            if self._begin is not None:
                self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begin is None:
            return
        if self.device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device) - self._begin
            return
        self._is_over.set()
        self._watcher.join()
        mark = highest_resident_bytes()
        highest = max(self._highest, mark) if mark > self._mark else self._highest
        self.peak_bytes = max(0, highest - self._begin)

    def _watch(self) -> None:
        while True:
            self._highest = max(self._highest, resident_bytes() or 0)
            if self._is_over.wait(SAMPLING_SECONDS):
                return


def highest_resident_bytes() -> int:
    """The most of this process that was ever in RAM; 0 where the system doesn't tell."""
    if sys.platform != "linux":
        return 0
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def limit_memory() -> None:
    """Let this process run out of memory before the machine does; on Linux only."""
    if sys.platform != "linux" or not MEMORY_FACTS.exists():
        return
    import resource

    facts = dict(line.split(":", 1) for line in MEMORY_FACTS.read_text().splitlines())
    available = 1024 * int(facts["MemAvailable"].split()[0])
    _, hardest = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(USABLE_SHARE * available), hardest))
