"""The options --point, --box and --mask: read, and checked before anything slow happens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image, UnidentifiedImageError

from sam_variants.frame_prompts import read_frame_prompts
from sam_variants.mask_codecs import encode_mask
from sam_variants.results import Masks

POINT_FORM = "x,y or x,y,label, where label is 1 on the object and 0 off it, for example --point 320,240"
BOX_FORM = "x1,y1,x2,y2 with x1 < x2 and y1 < y2, for example --box 172,18,410,308"
VIDEO_POINT_FORM = "frame,id,x,y or frame,id,x,y,label, for example --point 0,1,320,240"
VIDEO_BOX_FORM = "frame,id,x1,y1,x2,y2 with x1 < x2 and y1 < y2, for example --box 0,1,172,18,410,308"
VIDEO_MASK_FORM = "frame,id,file, for example --mask 0,1,mask.png"


@dataclass
class ObjectPrompt:
    """What is said of one object on one frame of a video.

    Attributes:
        points: (x, y) in pixels.
        labels: one per point, 1 on the object, 0 off it.
        box: (x1, y1, x2, y2).
        mask: H×W bool.
    """

    points: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: list[float] | None = None
    mask: np.ndarray | None = None

    def arguments(self) -> dict[str, Any]:
        """For `VideoSession.add_object`."""
        points = {"points": self.points, "labels": self.labels} if self.points else {}
        return {**points, "boxes": self.box, "mask": self.mask}

    def for_json(self) -> dict[str, Any]:
        """The same for JSON, as --prompts takes it."""
        points = {"points": self.points, "labels": self.labels} if self.points else {}
        boxes = {} if self.box is None else {"boxes": self.box}
        return {**points, **boxes, **({} if self.mask is None else {"mask": encode_mask(self.mask)})}


VideoPrompts = dict[int, dict[int, ObjectPrompt]]
"""Frame index → object id → prompt; both in ascending order."""


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


def read_video_prompts(
    points: Sequence[str], boxes: Sequence[str], masks: Sequence[str], file: Path | None = None
) -> VideoPrompts:
    """The prompts of a video from --point, --box, --mask and --prompts, joined per frame and object.

    Raises:
        typer.BadParameter: showing the right form; for prompts that exclude each other, and for none at all.
        ValueError: for a file that can't be read.
    """
    found: VideoPrompts = {} if file is None else _read_prompt_file(file)
    for text in points:
        frame, object_id, x, y, *label = read_numbers("--point", text, (4, 5), VIDEO_POINT_FORM)
        if label and label[0] not in (0, 1):
            raise typer.BadParameter(f"{text!r}: label must be 1 or 0", param_hint="--point")
        prompt = _prompt_of(found, "--point", text, frame, object_id, VIDEO_POINT_FORM)
        prompt.points.append([x, y])
        prompt.labels.append(int(label[0]) if label else 1)
    for text in boxes:
        frame, object_id, *box = read_numbers("--box", text, (6,), VIDEO_BOX_FORM)
        if box[2] <= box[0] or box[3] <= box[1]:
            raise typer.BadParameter(f"{text!r} is not {VIDEO_BOX_FORM}", param_hint="--box")
        prompt = _prompt_of(found, "--box", text, frame, object_id, VIDEO_BOX_FORM)
        if prompt.box is not None:
            raise typer.BadParameter(f"{text!r}: this object has a box on this frame already", param_hint="--box")
        prompt.box = box
    for text in masks:
        *numbers, name = text.split(",", 2)  # a file name may hold commas
        frame, object_id = read_numbers("--mask", ",".join(numbers), (2,), VIDEO_MASK_FORM)
        prompt = _prompt_of(found, "--mask", text, frame, object_id, VIDEO_MASK_FORM)
        if prompt.mask is not None:
            raise typer.BadParameter(f"{text!r}: this object has a mask on this frame already", param_hint="--mask")
        prompt.mask = read_mask(Path(name))
    return _checked_video_prompts(found)


def read_mask(file: Path) -> np.ndarray:
    """A picture as H×W bool: what is neither 0 nor transparent belongs to the mask.

    Raises:
        ValueError: when there is no such picture.
    """
    if not file.is_file():
        raise ValueError(f"there is no mask file {str(file)!r}")
    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("LA") if picture.mode in ("LA", "RGBA", "PA") else picture)
            has_alpha = picture.mode in ("LA", "RGBA", "PA")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the mask file {str(file)!r} can't be read: {error}") from error
    if pixels.ndim == 2:
        return pixels != 0
    return (pixels != 0).all(axis=2) if has_alpha else (pixels != 0).any(axis=2)


def check_inside_video(prompts: VideoPrompts, width: int, height: int, start: int, stop: int | None) -> None:
    """Raise ValueError for a prompt outside the frames, or on a frame that is not tracked (`stop` None: unknown)."""
    for frame, by_object in prompts.items():
        if frame < start or (stop is not None and frame >= stop):
            tracked = f"{start} and those behind it" if stop is None else f"{start} to {stop - 1}"
            raise ValueError(f"there are prompts for frame {frame}, but the frames that are tracked are {tracked}")
        for object_id, prompt in by_object.items():
            check_inside(prompt.points, [] if prompt.box is None else [prompt.box], width, height)
            if prompt.mask is not None and prompt.mask.shape != (height, width):
                raise ValueError(
                    f"the mask of object {object_id} on frame {frame} is of width {prompt.mask.shape[1]}, height "
                    f"{prompt.mask.shape[0]}, the video of width {width}, height {height}"
                )


def _prompt_of(found: VideoPrompts, option: str, text: str, frame: float, object_id: float, form: str) -> ObjectPrompt:
    if min(frame, object_id) < 0 or not (frame.is_integer() and object_id.is_integer()):
        raise typer.BadParameter(f"{text!r}: frame and id must be whole numbers, as in {form}", param_hint=option)
    return found.setdefault(int(frame), {}).setdefault(int(object_id), ObjectPrompt())


def _read_prompt_file(file: Path) -> VideoPrompts:
    """Frame → object → points, labels, boxes, mask (a file beside this one, or COCO RLE)."""
    if not file.is_file():
        raise ValueError(f"there is no prompts file {str(file)!r}")
    try:
        frames = read_frame_prompts(json.loads(file.read_text(encoding="utf-8")))
        return {
            frame: {object_id: _read_object(given, file.parent) for object_id, given in by_object.items()}
            for frame, by_object in frames.items()
        }
    except (ValueError, TypeError) as error:
        raise ValueError(f"--prompts {str(file)!r}: {error}") from error


def _read_object(given: dict[str, Any], folder: Path) -> ObjectPrompt:
    points = np.asarray(given.get("points") or np.empty((0, 2)), float)
    if points.shape[-1] != 2 or points.ndim > 2 or not np.isfinite(points).all():
        raise ValueError(f"points={given['points']} must be (x, y), or a list of them")
    points = points.reshape(-1, 2)
    labels = np.asarray([1] * len(points) if given.get("labels") is None else given["labels"]).reshape(-1)
    if len(labels) != len(points) or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels={given.get('labels')} must be 1 or 0 for each of {len(points)} points")
    box, mask = given.get("boxes"), given.get("mask")
    if box is not None:
        box = np.asarray(box, float).reshape(-1)
        if box.shape != (4,) or not (box[2:] > box[:2]).all() or not np.isfinite(box).all():
            raise ValueError(f"boxes={given['boxes']} must be one box (x1, y1, x2, y2) with x1 < x2 and y1 < y2")
    if mask is not None:
        mask = Masks.from_rle([mask]).data[0].numpy() if isinstance(mask, dict) else read_mask(folder / mask)
    return ObjectPrompt(points.tolist(), labels.astype(int).tolist(), None if box is None else box.tolist(), mask)


def _checked_video_prompts(found: VideoPrompts) -> VideoPrompts:
    if not found:
        raise typer.BadParameter(
            "give --point, --box, --mask or --prompts, for example --point 0,1,320,240 (frame, object, x, y)",
            param_hint="the prompts",
        )
    for frame, by_object in found.items():
        for object_id, prompt in by_object.items():
            if prompt.mask is not None and (prompt.points or prompt.box is not None):
                raise typer.BadParameter(
                    f"object {object_id} has a mask on frame {frame}, which is taken as it is, and can't have points "
                    "or a box there too",
                    param_hint="--mask",
                )
    return {frame: dict(sorted(found[frame].items())) for frame in sorted(found)}
