"""What all benchmarks share: their options' values, the run itself, and the report as JSON or tables."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

# Told by how much the progress goes on, 1 in all.
Advance = Callable[[float], None]

ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="COUNT", min=1, help="Processor threads.", show_default="all cores"),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, …")]
SkipTransformersOption = Annotated[bool, typer.Option("--skip-transformers", help="Measure ours alone.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def report_benchmark(
    name: str,
    settings: Any,
    measure: Callable[[Any, Advance], dict[str, Any]],
    tables: Callable[[dict[str, Any]], list[Table]],
    as_json: bool,
) -> None:
    """Run a benchmark and print what it found.

    Args:
        name: the benchmark's.
        settings: with `threads` and `device`.
        measure: from the settings and a function that is told the progress to the report.
        tables: the report for people.
        as_json: one JSON object instead.
    """
    console, begin = Console(stderr=True), time.perf_counter()
    with torch_threads(settings.threads), Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"benchmark {name}", total=1.0)
        report = measure(settings, lambda share: progress.advance(task, share))
    seconds = round(time.perf_counter() - begin, 1)
    report = {"benchmark": name, "seconds": seconds, **circumstances(settings.device), **report}
    if as_json:
        typer.echo(json.dumps(report))
        return
    out = Console()
    out.print(circumstances_line(report), markup=False)
    for table in tables(report):
        out.print(table)


def circumstances(device: str) -> dict[str, Any]:
    """What numbers depend on besides the settings: the day, the command, the machine, and versions."""
    import torch

    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["sam-variants", *arguments]),
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "accelerator": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        },
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def circumstances_line(report: dict[str, Any]) -> str:
    """The same in words, and how long it took."""
    return f"{machine_line(report)}; {report['seconds']:.0f} s in all"


def machine_line(report: dict[str, Any]) -> str:
    """Where and when a report was made."""
    machine, settings = report["machine"], report["settings"]
    parts = [
        report["date"],
        f"{machine['processor']}, {machine['cores']} cores, {machine['instructions']}",
        machine["accelerator"] or "",
        f"{settings['threads']} threads on {settings['device']}",
        ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
    ]
    return "; ".join(filter(None, parts))


def processor_name() -> str:
    """What the processor is called, as far as the system tells."""
    info = Path("/proc/cpuinfo")  # Linux, where platform.processor() is empty
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def read_counts(text: str, option: str) -> tuple[int, ...]:
    """Numbers with commas between, ascending and each once.

    Raises:
        typer.BadParameter: for anything but whole numbers from 1 on.
    """
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1:
        raise typer.BadParameter(f"{text!r} must be whole numbers from 1 on, with commas between", param_hint=option)
    return tuple(counts)


def checked_device(device: str) -> str:
    """The name of a device that can be used.

    Raises:
        typer.BadParameter: for another.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"{device!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """As many threads as that, for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
