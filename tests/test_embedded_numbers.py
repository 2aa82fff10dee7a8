"""The numbers that README and card state of the embedded checkpoint are those of a report on exactly its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sam_variants.default_checkpoint import default_checkpoint

ROOT = Path(__file__).resolve().parent.parent
REPORT = Path(__file__).with_name("evaluation_reports") / "embedded.json"
CARD, README = "modeling_sam_variants/weights/README.md", "README.md"
MEASURES = ("click", "best_of_3", "three_clicks", "box")
SETS = {
    "held-out scenes": "held_out",
    "photo of 24 coins": "coins",
    "ten objects in four photos": "photo_objects",
    "photo of a cell": "cell",
}
METHODS = {
    "embedded checkpoint": "model",
    "embedded checkpoint, the baselines' scenes": "model_on_baseline_scenes",
    "flood fill": "flood_fill",
    "GrabCut": "grabcut",
}
SIZES = {"below 1 % of the image": "small", "1 to 10 %": "medium", "above 10 %": "large"}


def report() -> dict[str, Any]:
    return json.loads(REPORT.read_text(encoding="utf-8"))


def table_below(page: str, head: str) -> list[list[str]]:
    """The rows of the table whose first cell begins with `head`."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"| {head}"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def stated(summary: dict[str, Any]) -> list[str]:
    numbers = [f"{100 * summary[name]:.1f}" if name in summary else "–" for name in MEASURES]
    return [*numbers, str(summary["objects"])]


def test_the_report_is_of_these_weights() -> None:
    digest = hashlib.sha256((default_checkpoint() / "model.safetensors").read_bytes()).hexdigest()
    assert report()["model"]["sha256"] == {"model.safetensors": digest}


@pytest.mark.parametrize("page", [README, CARD])
def test_the_table_is_the_report(page: str) -> None:
    results, section, seen = report()["results"], "", set()
    for name, *cells in table_below(page, "mean IoU in % | 1 click | best of 3"):
        if name.startswith("**"):
            section = SETS[name.strip("*")]
            continue
        assert cells == stated(results[section][METHODS[name]]["all"]), (section, name)
        seen.add((section, METHODS[name]))
    assert seen == {(section, method) for section, found in results.items() for method in found}


def test_the_table_by_size_is_the_report() -> None:
    found = report()["results"]["held_out"]["model"]
    rows = table_below(CARD, "held-out scenes, by size of the object")
    assert [cells for _, *cells in rows] == [stated(found[SIZES[name]]) for name, *_ in rows]
