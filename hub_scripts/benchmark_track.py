"""The benchmark `track`: our video session beside transformers', measured in one run with the same random weights."""

from __future__ import annotations

import gc
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Any

from torch import nn

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.benchmark_compare import Comparison, compare
from sam_variants.hub_scripts.benchmark_memory import TRACKERS, measure_memory
from sam_variants.hub_scripts.benchmark_report import Advance
from sam_variants.hub_scripts.benchmark_settings import TrackSettings
from sam_variants.hub_scripts.benchmark_trackers import (
    DisturbedTracker,
    FrameTracker,
    OurTracker,
    TheirTracker,
    at_size,
    preset_config,
    random_model,
    small_config,
    transformers_model,
)
from sam_variants.hub_scripts.model_options import load_model

OURS, THEIRS, ONE_BY_ONE, ONE_OBJECT, DISTURBED, HALF_SIZE = (
    "ours",
    "transformers",
    "one by one",
    "one object",
    "disturbed",
    "half size",
)
QUICK: dict[str, Any] = {"small_frames": 10, "memory_frames": (20, 100), "clips": 0}
CLIP_FRAMES, CLIP_SIZE = 24, 320


def measure_track(settings: TrackSettings, advance: Advance) -> dict[str, Any]:
    """Measure everything.

    Args:
        settings: what that is.
        advance: told the progress, 1 in all.

    Returns:
        `settings`, `small`, `preset`, `memory` and `half_size_j`; ready for JSON.

    Raises:
        ValueError, OSError: for a preset, size or checkpoint that can't be used.
    """
    settings = shortened(settings)
    config = preset_config(settings.preset, settings.image_size)
    checkpoint, reason = checkpoint_for_j(settings)
    model = random_model(small_config(), settings.device)
    small = [
        measure_small(model, settings, objects, _share(advance, 0.2 / len(settings.objects)))
        for objects in settings.objects
    ]
    names = [name for name in TRACKERS if name == OURS or settings.with_transformers]
    memory = {name: watch_memory(name, settings, _share(advance, 0.2 / len(names))) for name in names}
    model = random_model(config, settings.device)
    real = [
        measure_preset(model, settings, objects, _share(advance, 0.6 / len(settings.preset_objects)))
        for objects in settings.preset_objects
    ]
    small_size, size = small_config().image_size, config.image_size
    del model
    gc.collect()
    return {
        "settings": asdict(settings) | {"image_size": size},
        "small": {"image_size": small_size, "rows": small},
        "preset": {"image_size": size, "rows": real},
        "memory": memory,
        "half_size_j": {"skipped": reason} if checkpoint is None else measure_half_size_j(checkpoint, settings),
    }


def shortened(settings: TrackSettings) -> TrackSettings:
    """The same with what `quick` changes."""
    if not settings.quick:
        return settings
    own: Any = preset_config(settings.preset).image_size
    return replace(settings, **QUICK, image_size=settings.image_size or own // 2)


def _share(advance: Advance, share: float) -> Advance:
    return lambda progress: advance(share * progress)


def measure_small(model: Any, settings: TrackSettings, num_objects: int, advance: Advance) -> dict[str, Any]:
    """A row for the model with tiny dimensions: objects together and one by one, one object, and transformers'."""
    trackers: dict[str, FrameTracker] = {OURS: OurTracker(model, num_objects)}
    if num_objects == 1:
        trackers[DISTURBED] = DisturbedTracker(OurTracker(model, 1))
    else:
        trackers[ONE_BY_ONE] = OurTracker(model, num_objects, objects_per_pass=1)
        trackers[ONE_OBJECT] = OurTracker(model, 1)
    if settings.with_transformers:
        trackers[THEIRS] = TheirTracker(transformers_model(model), num_objects)
    num_before = model.config.max_obj_ptrs_in_encoder
    return comparison_row(compare(trackers, num_before, settings.small_frames, advance), num_objects)


def measure_preset(model: Any, settings: TrackSettings, num_objects: int, advance: Advance) -> dict[str, Any]:
    """A row for the model of real size: at its size, at half of it, and transformers'."""
    trackers: dict[str, FrameTracker] = {OURS: OurTracker(model, num_objects)}
    if num_objects > 1:
        trackers[ONE_OBJECT] = OurTracker(model, 1)
    if settings.with_transformers:
        trackers[THEIRS] = TheirTracker(transformers_model(model), num_objects)
    if not settings.quick:
        half = preset_config(settings.preset, model.config.image_size // 2)
        trackers[HALF_SIZE] = OurTracker(at_size(model, half), num_objects)
    return comparison_row(compare(trackers, model.config.num_maskmem, settings.frames, advance), num_objects)


def comparison_row(compared: Comparison, num_objects: int) -> dict[str, Any]:
    """What is reported about one number of objects: the comparison and what follows from it.

    Returns:
        `objects`, `seconds`, `parts`, `differences`, `logits_std`; `times_as_fast` (ours, against each of the others
        that do the same), `half_size_times_as_fast`; `limit_seconds` (one encoder pass and as many times the rest as
        there are objects, from one object's time), as far as they were measured.
    """
    seconds = compared.seconds
    row: dict[str, Any] = {
        "objects": num_objects,
        "seconds": seconds,
        "parts": compared.parts,
        "differences": compared.differences,
        "logits_std": compared.scale,
        "times_as_fast": {name: seconds[name] / seconds[OURS] for name in (THEIRS, ONE_BY_ONE) if name in seconds},
    }
    if HALF_SIZE in seconds:
        row["half_size_times_as_fast"] = seconds[OURS] / seconds[HALF_SIZE]
    if ONE_OBJECT in seconds:
        encoder = compared.parts[ONE_OBJECT]["encoder"]
        row["limit_seconds"] = encoder + num_objects * (seconds[ONE_OBJECT] - encoder)
    return row


def watch_memory(name: str, settings: TrackSettings, advance: Advance) -> list[dict[str, Any]]:
    """What a tracker holds after some numbers of frames, see `memory_on_the_way`."""
    lines: list[dict[str, Any]] = []
    for line in measure_memory(name, settings.memory_frames, 1, settings.device, settings.threads):
        advance((line["frame"] - (lines[-1]["frame"] if lines else 0)) / settings.memory_frames[-1])
        lines.append(line)
    return lines


def checkpoint_for_j(settings: TrackSettings) -> tuple[str | None, str]:
    """The checkpoint whose J is measured; or None, and why."""
    if not settings.clips:
        return None, "not asked for"
    if find_spec("skimage") is None:
        return None, "synthetic clips need scikit-image: pip install 'sam-variants[train]'"
    return settings.model or str(default_checkpoint(video=True)), ""


def measure_half_size_j(checkpoint: str, settings: TrackSettings) -> dict[str, Any]:
    """J of a trained tracker on held-out clips at its own and at half its input size.

    Raises:
        ValueError, OSError: for a checkpoint that can't be read or can't track.
    """
    # Needs scikit-image, which the rest of the benchmark does without.
    from sam_variants.hub_scripts.tracking_protocol import SessionTracker, held_out_clips, measure_trackers

    own: Any = load_model(checkpoint)[0].config.image_size
    trackers = {}
    for side in (own, own // 2):
        model, processor = load_model(checkpoint, side)
        nn.Module.to(model, settings.device)
        if not hasattr(model, "start_session"):
            raise ValueError(f"model={checkpoint!r} holds a {type(model).__name__}, which is for images")
        trackers[str(side)] = SessionTracker(model, processor)
    results = measure_trackers(held_out_clips(settings.clips, CLIP_FRAMES, CLIP_SIZE), trackers)
    name = settings.model or "the embedded checkpoint"
    return {"checkpoint": name, "image_sizes": [own, own // 2], "results": results}
