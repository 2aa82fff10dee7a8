"""`sam-variants label-plan`: what labeling millions of images takes, on machines that may vanish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sam_variants.labeling.spot_simulation import Journal, Sharing, SpotOutcome, SpotPlan, simulate

HOUR, MINUTE, DAY = 3600.0, 60.0, 86400.0
# A shard and its entry in progress/; then README.md, label.json, source.jsonl.gz, manifest.json, instances.json and
# contact_sheet.jpg.
FILES_PER_SHARD, OTHER_FILES = 2, 6
STAY = "machines stay"
JOURNALS: dict[str, Journal] = {"journal shared": "shared", "journal lost": "machine"}
ROWS = (
    *("time", "machine hours", "cost", "vanished", "images again"),
    *(f"of the time: {name}" for name in ("labeling", "labeling again", "starting", "waiting")),
)


class Engine(StrEnum):
    """Who takes which part."""

    ray = "ray"
    nodes = "nodes"


SHARING: dict[Engine, Sharing] = {Engine.ray: "any", Engine.nodes: "own"}


def label_plan(
    images: Annotated[float, typer.Option("--images", metavar="N", help="Images to label, such as 1e8.")],
    seconds_per_image: Annotated[
        float,
        typer.Option(
            "--seconds-per-image",
            metavar="S",
            help="Of one machine with all its cores or its GPU: 1 by the images/s that label reports.",
        ),
    ],
    machines: Annotated[int, typer.Option("--machines", metavar="N", help="Machines at the same time.")] = 1,
    price_per_hour: Annotated[float, typer.Option("--price-per-hour", help="Of one machine, in any currency.")] = 0.0,
    steady_price_per_hour: Annotated[
        float | None,
        typer.Option(
            "--steady-price-per-hour", help="Of one that doesn't vanish.", show_default="that of --price-per-hour"
        ),
    ] = None,
    vanish_after_hours: Annotated[
        float | None,
        typer.Option(
            "--vanish-after-hours", metavar="H", help="Mean life of a machine.", show_default="they don't vanish"
        ),
    ] = None,
    return_after_minutes: Annotated[
        float, typer.Option("--return-after-minutes", metavar="M", help="Mean time until another stands in.")
    ] = 10.0,
    startup_seconds: Annotated[
        float,
        typer.Option("--startup-seconds", metavar="S", help="From when a machine is paid to its first image."),
    ] = 120.0,
    engine: Annotated[
        Engine,
        typer.Option(
            "--engine", help="ray: any machine takes the next free part; nodes: each has its own (torchrun, SLURM)."
        ),
    ] = Engine.ray,
    rows_per_shard: Annotated[
        int, typer.Option("--rows-per-shard", metavar="N", help="Images in one file of the dataset.")
    ] = 1000,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Images that are journaled together.")
    ] = 1,
    bytes_per_image: Annotated[
        float, typer.Option("--bytes-per-image", metavar="B", help="Of an image file; 0 for --images reference.")
    ] = 200_000.0,
    bytes_per_label: Annotated[
        float, typer.Option("--bytes-per-label", metavar="B", help="Of the masks of one image.")
    ] = 10_000.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the lives of machines.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the tables.")] = False,
) -> None:
    """Plan the labeling of millions of images: time, cost, machines that vanish.

    The run is simulated event by event: machines start, label part after part, vanish and come back, with lives and
    absences drawn from exponential distributions. Where they vanish, three runs are compared: on machines that stay; on
    those that vanish with the output folder, and so the journal, on storage that outlives them; and with a journal
    that is lost with its machine, so that a shard is begun anew.

    \b
    sam-variants label-plan --images 1e6 --seconds-per-image 0.5
    sam-variants label-plan --images 1e8 --seconds-per-image 0.02 --machines 100 --price-per-hour 0.4 \\
        --steady-price-per-hour 1.2 --vanish-after-hours 4 --rows-per-shard 10000

    The formulas behind it, with N images of s seconds, M machines that start in S, live V and are missing R on average,
    batches of b and shards of r images (the simulation adds chance, waiting at the end, and machines that vanish while
    they start):

    \b
    machines stay              time = S + N s / M
    journal shared             time = N s (V + R) / (M (V - S - b s / 2)): each life loses its start and half a batch
    journal lost               the same with V (exp(T / V) - 1) for the T = r s of each shard: it is begun exp(T / V)
                               times. A run that would begin its pieces more than a thousand times doesn't end.
    cost                       hours that machines are there, labeling or not, times the price of one
    files                      two per shard and a handful; output = N (bytes per image + bytes per label)
    """
    check_numbers(
        {
            "--images": (images, 1.0),
            "--bytes-per-image": (bytes_per_image, 0.0),
            "--bytes-per-label": (bytes_per_label, 0.0),
            "--price-per-hour": (price_per_hour, 0.0),
            "--steady-price-per-hour": (steady_price_per_hour or 0.0, 0.0),
        }
    )
    if images != int(images):
        raise ValueError(f"--images must be a whole number, not {images!r}")
    plan = SpotPlan(
        images=int(images),
        seconds_per_image=seconds_per_image,
        machines=machines,
        rows_per_shard=rows_per_shard,
        batch_size=batch_size,
        startup_seconds=startup_seconds,
        vanish_after_seconds=None if vanish_after_hours is None else vanish_after_hours * HOUR,
        return_after_seconds=return_after_minutes * MINUTE,
        sharing=SHARING[engine],
    )
    prices = {STAY: price_per_hour if steady_price_per_hour is None else steady_price_per_hour}
    report: dict[str, Any] = {
        "plan": asdict(plan),
        "seed": seed,
        "output": output_report(plan, bytes_per_image, bytes_per_label),
        "runs": {
            name: run_report(plan, simulate(each, seed), prices.get(name, price_per_hour))
            for name, each in plans(plan).items()
        },
    }
    if as_json:
        typer.echo(json.dumps(report))
        return
    console = Console(markup=False, emoji=False)
    console.print(runs_table(report))
    console.print(output_table(report["output"]))


def check_numbers(given: Mapping[str, tuple[float, float]]) -> None:
    """Refuse options that are below their least value, infinite or no number."""
    for option, (value, least) in given.items():
        if not least <= value < float("inf"):
            raise ValueError(f"{option} must be at least {least:g} and finite, not {value:g}")


def plans(plan: SpotPlan) -> dict[str, SpotPlan]:
    """The runs to compare, by name."""
    steady = {STAY: replace(plan, vanish_after_seconds=None)}
    if plan.vanish_after_seconds is None:
        return steady
    return steady | {name: replace(plan, journal=journal) for name, journal in JOURNALS.items()}


def run_report(plan: SpotPlan, outcome: SpotOutcome | None, price_per_hour: float) -> dict[str, Any]:
    """What a simulated run took; all None where it would not end."""
    if outcome is None:
        names = ("wall_hours", "machine_hours", "cost", "vanished", "images_again", "shares")
        return dict.fromkeys(names) | {"price_per_hour": price_per_hour}
    parts = {name: getattr(outcome, f"{name}_seconds") for name in ("useful", "lost", "startup", "idle")}
    return {
        "wall_hours": outcome.wall_seconds / HOUR,
        "machine_hours": outcome.paid_seconds / HOUR,
        "cost": outcome.paid_seconds / HOUR * price_per_hour,
        "vanished": outcome.vanished,
        "images_again": outcome.lost_seconds / plan.seconds_per_image,
        "shares": {name: seconds / outcome.paid_seconds for name, seconds in parts.items()},
        "price_per_hour": price_per_hour,
    }


def output_report(plan: SpotPlan, bytes_per_image: float, bytes_per_label: float) -> dict[str, Any]:
    """Files and bytes, and bytes per second while all machines work."""
    row = bytes_per_image + bytes_per_label
    images_per_second = plan.machines / plan.seconds_per_image
    return {
        "shards": plan.num_parts,
        "files": FILES_PER_SHARD * plan.num_parts + OTHER_FILES,
        "bytes": plan.images * row,
        "shard_bytes": min(plan.rows_per_shard, plan.images) * row,
        "images_per_second": images_per_second,
        "written_bytes_per_second": images_per_second * row,
    }


def runs_table(report: dict[str, Any]) -> Table:
    """A column per simulated run."""
    # Here, because it imports PyTorch, for which --help should not wait.
    from sam_variants.hub_scripts.benchmark_tables import new_table

    plan, runs = report["plan"], report["runs"]
    table = new_table(
        f"{plan['images']:,} images on {plan['machines']:,} machine{'s' * (plan['machines'] != 1)}",
        "",
        *runs,
        caption="of the time: what the paid hours went for",
    )
    columns = [run_cells(run) for run in runs.values()]
    for row, name in enumerate(ROWS):
        table.add_row(name, *(cells[row] for cells in columns))
    return table


def run_cells(run: dict[str, Any]) -> list[str]:
    """What the table shows of a run, in the order of `ROWS`."""
    from sam_variants.hub_scripts.benchmark_tables import MISSING

    if run["wall_hours"] is None:
        return ["would not end", *[MISSING] * (len(ROWS) - 1)]
    return [
        duration(run["wall_hours"] * HOUR),
        f"{run['machine_hours']:,.1f}",
        f"{run['cost']:,.2f}" if run["price_per_hour"] else MISSING,
        f"{run['vanished']:,}",
        f"{run['images_again']:,.0f}",
        *(f"{100 * share:.1f} %" for share in run["shares"].values()),
    ]


def output_table(output: dict[str, Any]) -> Table:
    """Shards, files, bytes."""
    from sam_variants.hub_scripts.benchmark_tables import new_table

    table = new_table("the dataset", "", "")
    table.add_row("shards", f"{output['shards']:,}")
    table.add_row("files", f"{output['files']:,}")
    table.add_row("size", amount(output["bytes"]))
    table.add_row("a shard", amount(output["shard_bytes"]))
    table.add_row("images of all machines", f"{output['images_per_second']:,.1f} per second")
    table.add_row("written by all machines", f"{amount(output['written_bytes_per_second'])} per second")
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def amount(num_bytes: float) -> str:
    """Bytes in decimal units, as storage is sold."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:.0f} B"
