"""Memory of a tracker on the way through a long video, measured in a process of its own.

`python -m sam_variants.hub_scripts.benchmark_memory '{"tracker": "ours", "frames": [20, 100, 500]}'` tracks one object
with the small random model and prints a line of JSON at each of these frames.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sam_variants.hub_scripts.benchmark_trackers import (
    FrameTracker,
    OurTracker,
    TheirTracker,
    random_frames,
    random_model,
    small_config,
    transformers_model,
)

TRACKERS: dict[str, Callable[[Any, int], FrameTracker]] = {
    "ours": OurTracker,
    "transformers": lambda model, num_objects: TheirTracker(transformers_model(model), num_objects),
}
PROCESS_SIZES = Path("/proc/self/statm")


def held_bytes(root: Any, *outside: Any) -> int:
    """Bytes of all tensors and arrays that can be reached from an object, each storage once.

    Args:
        root: such as a session.
        outside: what doesn't count, with all that hangs on it; modules never count.
    """
    sizes: dict[int, int] = {}
    seen = {id(thing) for thing in outside}
    queue = [root]
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, (nn.Module, type, str, bytes)) or callable(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, np.ndarray):
            sizes[thing.ctypes.data] = thing.nbytes
        elif isinstance(thing, Mapping):
            queue.extend(thing.values())
        elif isinstance(thing, (Sequence, set)):
            queue.extend(thing)
        else:
            queue.extend(getattr(thing, "__dict__", {}).values())
    return sum(sizes.values())


def resident_bytes() -> int | None:
    """Memory of this process in RAM; None where the system doesn't tell."""
    if not PROCESS_SIZES.exists():
        return None
    return int(PROCESS_SIZES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@torch.no_grad()
def memory_on_the_way(
    name: str, frames: Sequence[int], num_objects: int = 1, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Track with the small random model.

    Args:
        name: key of `TRACKERS`.
        frames: after how many frames to look, ascending.
        num_objects: how many are tracked.
        device: where.

    Yields:
        At each of them `frame`, `held_bytes` (of the session) and `resident_bytes` (of the process, or None).
    """
    model = random_model(small_config(), device)
    tracker = TRACKERS[name](model, num_objects)
    stream = random_frames(tracker.side, device)
    for number, pixel_values in enumerate(islice(stream, frames[-1]), start=1):
        tracker.step(pixel_values)
        if number in frames:
            gc.collect()
            held = held_bytes(tracker.session, tracker.model, getattr(tracker.session, "processor", None))
            yield {"frame": number, "held_bytes": held, "resident_bytes": resident_bytes()}


def measure_memory(
    name: str, frames: Sequence[int], num_objects: int, device: str, threads: int
) -> Iterator[dict[str, Any]]:
    """`memory_on_the_way` in a process of its own, so that one tracker's leftovers are not another's.

    Raises:
        ValueError: the process failed, with what it said last.
    """
    task = {"tracker": name, "frames": list(frames), "objects": num_objects, "device": device, "threads": threads}
    command = [sys.executable, "-m", "sam_variants.hub_scripts.benchmark_memory", json.dumps(task)]
    with tempfile.TemporaryFile("w+") as complaints:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as process:
            for line in process.stdout or []:
                yield json.loads(line)
        if process.returncode:
            complaints.seek(0)
            last = complaints.read().strip().splitlines()[-1:]
            raise ValueError(f"the process that measures the memory of {name} failed: {' '.join(last)}")


def main(arguments: Sequence[str]) -> None:
    """Measure what the argument says."""
    task = json.loads(arguments[0])
    torch.set_num_threads(task.get("threads", 1))
    lines = memory_on_the_way(task["tracker"], task["frames"], task.get("objects", 1), task.get("device", "cpu"))
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
