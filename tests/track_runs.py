"""A small clip, its prompts, and `sam-variants track` called in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from sam_variants.hub_scripts import cli

HEIGHT, WIDTH = 50, 66
NUM_FRAMES = 8
FPS = 10
# A click, a box on a later frame, and a correction of the first object behind it.
OPTIONS = ("--point", "0,1,20,20", "--box", "2,5,10,10,40,40", "--point", "5,1,50,30,0")
PROMPTS = {
    0: {1: {"points": [[20, 20]], "labels": [1]}},
    2: {5: {"boxes": [10, 10, 40, 40]}},
    5: {1: {"points": [[50, 30]], "labels": [0]}},
}


def moving(num_frames: int) -> list[np.ndarray]:
    patches = np.random.default_rng(0).integers(0, 255, (HEIGHT // 10, WIDTH // 11, 3), dtype=np.uint8)
    picture = patches.repeat(10, axis=0).repeat(11, axis=1)
    return [np.roll(picture, index, axis=1) for index in range(num_frames)]


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["track", *map(str, arguments)], prog_name="sam-variants")


def report_of(*arguments: Any) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def assert_one_line(result: Any, exit_code: int, *words: str) -> None:
    assert result.exit_code == exit_code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("sam-variants")
    for word in words:
        assert word in line


def lines_of(out: Path, stem: str = "clip") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{stem}_masks.jsonl").read_text().splitlines()]
