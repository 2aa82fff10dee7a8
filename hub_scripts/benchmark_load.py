"""The benchmark `load`: how long first use takes, and what loading does to the memory, beside transformers."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers.utils import logging

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.benchmark_loading import CHECKPOINT, PIPELINE, PRETRAINED
from sam_variants.hub_scripts.benchmark_models import benchmark_model, transformers_encoder
from sam_variants.hub_scripts.benchmark_report import Advance
from sam_variants.hub_scripts.benchmark_settings import LoadSettings

COMMAND = "sam-variants"
PYTHON, TORCH, THEIRS, OURS, HELP = "python", "torch", "transformers", "sam_variants", f"{COMMAND} --help"
THEIR_IMPORT = "from transformers import AutoModel, AutoProcessor, SamModel"
# Says what the import of this package adds, because the difference of two processes' times is smaller than their noise.
OUR_IMPORT = f"""{THEIR_IMPORT}
import json, time
begin = time.perf_counter(), time.process_time()
import sam_variants
print(json.dumps([time.perf_counter() - begin[0], time.process_time() - begin[1]]))
"""
IMPORTS = {PYTHON: "pass", TORCH: "import torch", THEIRS: THEIR_IMPORT, OURS: OUR_IMPORT}
QUICK: dict[str, Any] = {"repeats": 1}


def measure_load(settings: LoadSettings, advance: Advance) -> dict[str, Any]:
    """Measure everything, each time in a process of its own, all in turn.

    Args:
        settings: what that is.
        advance: told the progress, 1 in all.

    Returns:
        `settings`; `starts`, `seconds` and `cpu_seconds` of whole processes by what they import or print, and of
        `added`, the import of this package behind that of transformers; `embedded` and `preset`, by loader what
        `benchmark_loading` measured. Ready for JSON.

    Raises:
        OSError: when a measurement fails, or the command is not installed.
    """
    if settings.quick:
        settings = replace(settings, **QUICK)
    with tempfile.TemporaryDirectory() as scratch:
        contenders = written_models(settings, Path(scratch))
        share = 1 / settings.repeats / (len(IMPORTS) + 1 + len(contenders))
        starts: list[dict[str, Any]] = []
        loads: list[dict[tuple[str, str], dict[str, Any]]] = []
        for _ in range(settings.repeats):
            starts.append(measured_starts(settings.threads, share, advance))
            loads.append({})
            for key, task in contenders.items():
                loads[-1][key] = json.loads(run_alone(task, settings.threads).splitlines()[-1])
                advance(share)
    found = {key: medians([load[key] for load in loads]) for key in contenders}
    report: dict[str, Any] = {"settings": asdict(settings)}
    report["starts"] = {name: medians([start[name] for start in starts]) for name in starts[0]}
    for (where, loader), result in found.items():
        report.setdefault(where, {})[loader] = result
    return report


def written_models(settings: LoadSettings, folder: Path) -> dict[tuple[str, str], list[str]]:
    """Write the preset's weights, in our layout and in transformers'.

    Args:
        settings: which preset.
        folder: for the files.

    Returns:
        By section of the report and name of the loader, the command that measures one load.
    """
    embedded = str(default_checkpoint())
    model = benchmark_model(settings.preset, None, "cpu")
    logging.disable_progress_bar()
    model.save_pretrained(folder / OURS)
    theirs = transformers_encoder(model) if settings.with_transformers else None
    found = {
        ("embedded", PRETRAINED): (PRETRAINED, embedded),
        ("embedded", PIPELINE): (PIPELINE, embedded),
        ("preset", PRETRAINED): (PRETRAINED, str(folder / OURS)),
        ("preset", CHECKPOINT): (CHECKPOINT, str(folder / OURS)),
    }
    if theirs is not None:
        theirs.save_pretrained(folder / THEIRS)  # type: ignore[operator]
        found["preset", THEIRS] = PRETRAINED, str(folder / THEIRS)
    module = ["-m", "sam_variants.hub_scripts.benchmark_loading"]
    return {key: [sys.executable, *module, *task] for key, task in found.items()}


def measured_starts(threads: int, share: float, advance: Advance) -> dict[str, dict[str, float]]:
    """Start every process once; `seconds` and `cpu_seconds` by name."""
    commands = {name: [sys.executable, "-c", code] for name, code in IMPORTS.items()}
    commands[HELP] = [installed_command(), "--help"]
    found = {}
    for name, command in commands.items():
        begin, cpu_begin = time.perf_counter(), children_seconds()
        answer = run_alone(command, threads)
        found[name] = {"seconds": time.perf_counter() - begin, "cpu_seconds": children_seconds() - cpu_begin}
        if name == OURS:
            seconds, cpu_seconds = json.loads(answer.splitlines()[-1])
            found["added"] = {"seconds": seconds, "cpu_seconds": cpu_seconds}
        advance(share)
    return found


def installed_command() -> str:
    """The command of this environment.

    Raises:
        OSError: when it is not installed.
    """
    found = shutil.which(COMMAND, path=str(Path(sys.executable).parent)) or shutil.which(COMMAND)
    if found is None:
        raise OSError(f"the command {COMMAND} is not installed beside {sys.executable}: pip install {COMMAND}")
    return found


def children_seconds() -> float:
    """Time of the processor that all processes started from this one have used; 0 where the system doesn't tell."""
    times = os.times()
    return times.children_user + times.children_system


def run_alone(command: Sequence[str], threads: int) -> str:
    """What a process prints.

    Raises:
        OSError: it failed, with what it said last.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        raise OSError(f"the process {' '.join(command[1:4])!r} failed: {last}")
    return done.stdout


def medians(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several results with the same keys the median of each number; None where a number is unknown."""
    columns = {name: [result[name] for result in results] for name in results[0]}
    return {name: None if None in values else statistics.median(values) for name, values in columns.items()}
