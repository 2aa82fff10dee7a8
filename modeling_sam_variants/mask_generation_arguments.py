"""What the mask-generation pipeline can be told, under the official names and under transformers'."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.time_split import TimeSplit
from sam_variants.result_keys import RESULT_KEYS

OFFICIAL_NAMES = tuple(each.name for each in fields(MaskGenerationOptions))
# transformers' name → the official options that it sets.
OTHER_NAMES = {
    "points_per_crop": ("points_per_side",),
    "crops_n_layers": ("crop_n_layers",),
    "crops_nms_thresh": ("box_nms_thresh", "crop_nms_thresh"),
}
SWITCHES = {option: key for key, option in RESULT_KEYS.items() if option is not None}
FURTHER_NAMES = ("max_hole_area", "max_sprinkle_area", *SWITCHES, "timeout", "max_memory", "times", "progress")
# Of these two the one that is given takes the place of the other.
GRIDS = ("points_per_side", "point_grids")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """One call's arguments, checked.

    Attributes:
        options: of mask generation.
        max_hole_area, max_sprinkle_area: cells of the decoder's logits; 0 for no change.
        optional_keys: the keys of transformers' result that were asked for.
        max_memory: bytes above the weights, or None.
        times: where the seconds per stage are added, or None.
        progress: called with (points done, points in all) of each image, or None.
    """

    options: MaskGenerationOptions
    max_hole_area: float = 0.0
    max_sprinkle_area: float = 0.0
    optional_keys: tuple[str, ...] = ()
    max_memory: int | None = None
    times: TimeSplit | None = None
    progress: Progress | None = None


def read_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Bring arguments to their official names.

    Args:
        given: what was passed, under official names, transformers' or our own.

    Returns:
        Value by official (or our own) name.

    Raises:
        TypeError: for an unknown name, and for two names of one option.
    """
    known = (*OFFICIAL_NAMES, *OTHER_NAMES, *FURTHER_NAMES)
    if unknown := sorted(set(given) - set(known)):
        raise TypeError(
            f"the pipeline has no arguments {unknown}; a call takes batch_size, num_workers and {', '.join(known)}"
        )
    named = {name: value for name, value in given.items() if name not in OTHER_NAMES}
    for other, official in OTHER_NAMES.items():
        if other not in given:
            continue
        if twice := [name for name in official if name in given]:
            raise TypeError(f"{other} and {' and '.join(twice)} say the same; give one of them")
        named |= dict.fromkeys(official, given[other])
    return named


def with_one_grid(named: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of which a grid given in either form puts the other form out of force, also an earlier call's."""
    given = [name for name in GRIDS if named.get(name) is not None]
    if len(given) != 1:
        return dict(named)
    (other,) = set(GRIDS) - set(given)
    return {**named, other: None}


def model_defaults(config: SamVariantsConfig) -> dict[str, Any]:
    """The options that suit a model, by official names.

    Raises:
        ValueError: the configuration's `mask_generation` names something else.
    """
    own = config.mask_generation or {}
    if unknown := sorted(set(own) - set(OFFICIAL_NAMES)):
        raise ValueError(f"the model's config.mask_generation has {unknown}; it may hold {', '.join(OFFICIAL_NAMES)}")
    return {"mask_threshold": config.mask_threshold, **own}


def read_settings(named: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """Check arguments and put them together.

    Args:
        named: value by official (or our own) name.
        defaults: what holds where nothing else is given.

    Raises:
        ValueError: for a value that can't be, naming the argument.
        TypeError: for something else than a `TimeSplit` or a function.
    """
    has_grid = any(name in named for name in GRIDS)
    given = {name: value for name, value in defaults.items() if not (has_grid and name in GRIDS)} | dict(named)
    official = {name: given[name] for name in OFFICIAL_NAMES if name in given}
    if "points_per_batch" in official and official["points_per_batch"] is None:
        # transformers' word for all points at once.
        whole = MaskGenerationOptions(**official | {"points_per_batch": 1})
        official["points_per_batch"] = max(len(grid) for grid in whole.layer_point_grids())
    for option in SWITCHES:
        if not isinstance(given.get(option, False), bool):
            raise ValueError(f"{option} must be True or False, got {given[option]!r}")
    times, progress = given.get("times"), given.get("progress")
    if not isinstance(times, TimeSplit | None):
        raise TypeError(f"times must be a TimeSplit, got {times!r}")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of (points done, points in all), got {progress!r}")
    return Settings(
        options=MaskGenerationOptions(**official),
        max_hole_area=_area("max_hole_area", given.get("max_hole_area")),
        max_sprinkle_area=_area("max_sprinkle_area", given.get("max_sprinkle_area")),
        optional_keys=tuple(key for option, key in SWITCHES.items() if given.get(option, False)),
        max_memory=read_bytes("max_memory", given.get("max_memory")),
        times=times,
        progress=progress,
    )


def read_bytes(name: str, value: Any) -> int | None:
    """A number of bytes, given as such or as text with a unit; None for no limit.

    Raises:
        ValueError: for anything else.
    """
    if value is None:
        return None
    number, unit = value, ""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]*)\s*", value)):
        number, unit = float(match[1]), match[2].upper()
    if not _is_number(number) or unit not in UNITS:
        raise ValueError(f'{name} must be a number of bytes, or text such as "1.5GB" or "800 MiB", got {value!r}')
    size = int(float(number) * UNITS[unit])
    if size < 1:
        raise ValueError(f"{name} must be at least one byte, got {value!r}")
    return size


def _area(name: str, value: Any) -> float:
    """transformers' None is no change."""
    if value is None:
        return 0.0
    if not _is_number(value) or value < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_count(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless a number is whole and large enough, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < least):
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_timeout(value: Any) -> None:
    """Raise ValueError unless a timeout is None or seconds above 0."""
    if value is not None and (not _is_number(value) or value <= 0):
        raise ValueError(f"timeout must be a number of seconds above 0, or None to wait for ever, got {value!r}")
