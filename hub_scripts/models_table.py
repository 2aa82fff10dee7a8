"""The rows of `sam-variants models`, and how a person is told."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Column, Table

from sam_variants.checkpoint_layouts.read_checkpoint import read_json
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.known_checkpoints import KnownCheckpoint
from sam_variants.configuration.presets import config_for
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.convert_report import size
from sam_variants.hub_scripts.models_here import places_of, safetensors_parameters

ENCODERS = {"sam_variants_vit": "ViT", "sam_variants_tiny_vit": "TinyViT", "sam_variants_hiera": "Hiera"}
EMBEDDED_LICENCE = "Apache-2.0"
WEIGHTS = "model.safetensors"


def embedded_row(name: str, video: bool) -> dict[str, Any]:
    """A checkpoint that comes with the package."""
    path = default_checkpoint(video=video)
    values = read_json(path / "config.json")
    return {
        "name": name,
        "num_parameters": safetensors_parameters(path / WEIGHTS),
        "encoder": ENCODERS[values["vision_config"]["model_type"]],
        "for": "images and video" if values["model_type"] == SamVariantsVideoConfig.model_type else "images",
        "licence": EMBEDDED_LICENCE,
        "file_name": WEIGHTS,
        "bytes": (path / WEIGHTS).stat().st_size,
        "sha256": None,
        "url": None,
        "hub_repo": None,
        "here": [{"kind": "this package", "path": str(path), "load": str(path)}],
    }


def row_of(known: KnownCheckpoint, folders: list[Path]) -> dict[str, Any]:
    """A published checkpoint."""
    config: Any = config_for(known.preset)
    return {
        "name": known.preset,
        "num_parameters": known.num_parameters,
        "encoder": ENCODERS[config.vision_config.model_type],
        "for": "images and video" if isinstance(config, SamVariantsVideoConfig) else "images",
        "licence": known.licence,
        "file_name": known.file_name,
        "bytes": known.size,
        "sha256": known.sha256,
        "url": known.url,
        "hub_repo": known.hub_repo,
        "here": [asdict(place) for place in places_of(known, folders)],
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Tell a person what there is, where it comes from, and how one is loaded."""
    table = Table(
        Column("name", no_wrap=True),
        Column("params", justify="right", no_wrap=True),
        Column("size", justify="right", no_wrap=True),
        Column("encoder", no_wrap=True),
        Column("video", no_wrap=True),
        Column("licence", no_wrap=True),
        "here",
        box=None,
        pad_edge=False,
    )
    for row in rows:
        places = ", ".join(place["kind"] for place in row["here"]) or "no"
        number = f"{row['num_parameters'] / 1e6:.1f} M"
        video = "yes" if "video" in row["for"] else ""
        table.add_row(row["name"], number, size(row["bytes"]), row["encoder"], video, row["licence"], places)
    Console(markup=False, emoji=False).print(table)
    for row in rows:
        for place in row["here"]:
            typer.echo(f"{row['name']}: {place['load']}")
        if not row["here"]:
            typer.echo(f"{row['name']}: not here; {row['hub_repo']} on the Hub, {row['url']}")
    found = [place["load"] for row in rows for place in row["here"]]
    name = found[-1] if found else rows[0]["hub_repo"]
    typer.echo(f"Load one with sam_variants.load_checkpoint({name!r}), or give it to a command: --model {name}")
