"""Prompts for a whole video as one mapping, checked before the first frame is read."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

PROMPT_NAMES = ("points", "labels", "boxes", "mask")
EXAMPLE_PROMPTS = '{0: {1: {"points": [[320, 240]]}}}'


def read_frame_prompts(prompts: Any) -> dict[int, dict[int, dict[str, Any]]]:
    """Prompts of a video with whole numbers for keys, in the order given.

    Args:
        prompts: frame index → object id → prompts by the names of `add_object` (points, labels, boxes, mask). The
            keys may be strings of digits, as JSON has them.

    Returns:
        The same with ints for keys.

    Raises:
        ValueError: no prompts, or a frame, object or prompt that can't be.
        TypeError: for what is no such mapping.
    """
    frames = {
        frame: _numbered(by_object, "object id", f"prompts of frame {frame}")
        for frame, by_object in _numbered(prompts, "frame", "prompts").items()
    }
    for frame, by_object in frames.items():
        for object_id, given in by_object.items():
            _check_names(given, f"prompts of object {object_id} on frame {frame}")
    return frames


def _numbered(by_number: Any, name: str, where: str) -> dict[int, Any]:
    if not isinstance(by_number, Mapping):
        raise TypeError(
            f"{where} must map every {name} to its prompts, as in {EXAMPLE_PROMPTS}; got {type(by_number).__name__}"
        )
    if not by_number:
        raise ValueError(f"{where} are empty; give frame, object and prompts, as in {EXAMPLE_PROMPTS}")
    numbered: dict[int, Any] = {}
    for key, value in by_number.items():
        number = _whole_number(key, name, where)
        if number in numbered:
            raise ValueError(f"{where} hold {name} {number} twice")
        numbered[number] = value
    return numbered


def _whole_number(key: Any, name: str, where: str) -> int:
    if isinstance(key, str) and key.isdecimal():
        return int(key)
    if isinstance(key, Integral) and not isinstance(key, bool) and int(key) >= 0:
        return int(key)
    raise ValueError(f"{where}: {name} {key!r} must be a whole number, 0 or more, as in {EXAMPLE_PROMPTS}")


def _check_names(given: Any, where: str) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{where} must be a dict, as in {EXAMPLE_PROMPTS}; got {type(given).__name__}")
    unknown = sorted(str(name) for name in given if name not in PROMPT_NAMES)
    if unknown:
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; prompts are {', '.join(PROMPT_NAMES)}")
    if all(given.get(name) is None for name in ("points", "boxes", "mask")):
        raise ValueError(f"{where} are empty: give points, boxes or a mask, as in {EXAMPLE_PROMPTS}")
