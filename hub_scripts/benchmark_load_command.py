"""`sam-variants benchmark load`: what somebody waits for who uses this package for the first time."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sam_variants.hub_scripts.benchmark_report import (
    JsonOption,
    SkipTransformersOption,
    ThreadsOption,
    report_benchmark,
)
from sam_variants.hub_scripts.benchmark_settings import LoadSettings


def load(
    preset: Annotated[
        str, typer.Option("--preset", metavar="PRESET", help="The model of real size; its weights are random.")
    ] = LoadSettings.preset,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="COUNT", min=1, help="Processes for each number; the median counts.")
    ] = LoadSettings.repeats,
    threads: ThreadsOption = None,
    skip_transformers: SkipTransformersOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="A minute: every process once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure imports and loading: time and memory, beside transformers' model of the same size.

    Every number is from processes of their own, run in turn. Files are in the system's cache, as they are for everybody
    but the very first.

    \b
    sam-variants benchmark load --quick
    sam-variants benchmark load --preset sam-vit-large --repeats 3 --json
    """
    # Here, because they import PyTorch, for which --help should not wait.
    from sam_variants.hub_scripts.benchmark_load import measure_load
    from sam_variants.hub_scripts.benchmark_load_tables import load_tables

    settings = LoadSettings(
        preset=preset,
        repeats=repeats,
        with_transformers=not skip_transformers,
        threads=threads or os.cpu_count() or 1,
        quick=quick,
    )
    report_benchmark("load", settings, measure_load, load_tables, as_json)
