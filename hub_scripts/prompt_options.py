"""The options --point and --box: read, and checked before anything slow happens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import typer

POINT_FORM = "x,y or x,y,label, where label is 1 on the object and 0 off it, for example --point 320,240"
BOX_FORM = "x1,y1,x2,y2 with x1 < x2 and y1 < y2, for example --box 172,18,410,308"


def read_numbers(option: str, text: str, lengths: Sequence[int], form: str) -> list[float]:
    """The finite numbers of an option's value.

    Raises:
        typer.BadParameter: showing the right form.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in lengths or not all(math.isfinite(number) for number in numbers):
        raise typer.BadParameter(f"{text!r} is not {form}", param_hint=option)
    return numbers


def read_points(texts: Sequence[str]) -> tuple[list[list[float]], list[int]]:
    """The points of --point, each (x, y), and their labels."""
    points, labels = [], []
    for text in texts:
        x, y, *label = read_numbers("--point", text, (2, 3), POINT_FORM)
        if label and label[0] not in (0, 1):
            raise typer.BadParameter(f"{text!r} is not {POINT_FORM}", param_hint="--point")
        points.append([x, y])
        labels.append(int(label[0]) if label else 1)
    return points, labels


def read_boxes(texts: Sequence[str]) -> list[list[float]]:
    """The boxes of --box, each (x1, y1, x2, y2) with an inside."""
    boxes = [read_numbers("--box", text, (4,), BOX_FORM) for text in texts]
    for text, (x1, y1, x2, y2) in zip(texts, boxes, strict=True):
        if x2 <= x1 or y2 <= y1:
            raise typer.BadParameter(f"{text!r} is not {BOX_FORM}", param_hint="--box")
    return boxes


def check_prompts(points: Sequence[Sequence[float]], boxes: Sequence[Sequence[float]]) -> None:
    """Raise typer.BadParameter for no prompts, or points beside several boxes."""
    if not points and not boxes:
        raise typer.BadParameter("give --point or --box, for example --point 320,240", param_hint="the prompts")
    if points and len(boxes) > 1:
        raise typer.BadParameter(
            f"{len(boxes)} boxes are {len(boxes)} objects, and points can't be told apart between them; "
            "segment one box at a time with its points",
            param_hint="--point",
        )


def check_inside(points: Sequence[Sequence[float]], boxes: Sequence[Sequence[float]], width: int, height: int) -> None:
    """Raise ValueError for a prompt that lies outside the image."""
    for option, prompts in (("--point", points), ("--box", boxes)):
        for prompt in prompts:
            if min(prompt) < 0 or max(prompt[0::2]) > width or max(prompt[1::2]) > height:
                shown = ",".join(f"{number:g}" for number in prompt)
                raise ValueError(f"{option} {shown} lies outside the image of width {width}, height {height}")
