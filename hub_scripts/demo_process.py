"""The Space in a process of its own, and how much memory that takes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

MODULE = "sam_variants.spaces_demo.app"
LOCALHOST = "127.0.0.1"
READY_SECONDS = 120.0
POLL_SECONDS = 0.05
END_SECONDS = 10.0


@dataclass(frozen=True)
class RunningDemo:
    """A Space that answers.

    Attributes:
        url: of its page, with a slash at the end.
        pid: of its process.
        ready_seconds: from the start of the process to the first answer.
    """

    url: str
    pid: int
    ready_seconds: float

    def peak_bytes(self) -> int | None:
        """The most that was ever resident of the process; None where the system doesn't tell."""
        return _status_bytes(self.pid, "VmHWM")


@contextmanager
def running_demo(threads: int | None = None) -> Iterator[RunningDemo]:
    """Start the Space on a free port of this machine, and end it afterwards.

    Args:
        threads: of PyTorch; all cores by default.

    Raises:
        ValueError: it ended or did not answer, with what it said last.
    """
    port = free_port()
    url = f"http://{LOCALHOST}:{port}/"
    environment = {
        **os.environ,
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": LOCALHOST,
        "GRADIO_ANALYTICS_ENABLED": "False",
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
    }
    with tempfile.TemporaryDirectory(prefix="sam_variants_benchmark_") as folder, tempfile.TemporaryFile("w+") as said:
        environment["GRADIO_TEMP_DIR"] = folder
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE], env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            if not _answers(process, url, begin + READY_SECONDS):
                said.seek(0)
                last = " ".join(said.read().strip().splitlines()[-3:])
                raise ValueError(f"the demo did not answer: {last}")
            yield RunningDemo(url, process.pid, time.perf_counter() - begin)
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def _answers(process: subprocess.Popen[bytes], url: str, deadline: float) -> bool:
    with httpx.Client(trust_env=False) as client:
        while process.poll() is None and time.perf_counter() < deadline:
            try:
                if client.get(url).is_success:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(POLL_SECONDS)
    return False


def _status_bytes(pid: int, name: str) -> int | None:
    path = Path(f"/proc/{pid}/status")
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE) if path.exists() else None
    return 1024 * int(found[1]) if found else None
