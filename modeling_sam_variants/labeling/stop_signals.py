"""Ctrl+C and a polite end of the process: once, and what is in flight is finished; twice, and it ends at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from rich.console import Console

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A process that ends by a signal has this plus the signal's number as its exit code.
EXIT_BASE = 128


class StopSignals:
    """Turns signals into an event while the context lasts. What is recorded is safe even when the process ends at once.

    Attributes:
        event: set by the first signal.
        received: its number, or None.
    """

    def __init__(self, console: Console) -> None:
        self.event = threading.Event()
        self.received: int | None = None
        self._console = console
        self._earlier: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """Of a process that was stopped."""
        return EXIT_BASE + (self.received or 0)

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._stop) for number in SIGNALS}
        return self

    def __exit__(self, *exc_info: Any) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._console.show_cursor(True)
            os._exit(EXIT_BASE + number)
        self.received = number
        self.event.set()
        # A handler may interrupt the thread while it holds the console's lock: another thread can wait for it.
        threading.Thread(target=self._tell, daemon=True).start()

    def _tell(self) -> None:
        self._console.print("stopping when what is in flight is done; once more stops at once", highlight=False)
