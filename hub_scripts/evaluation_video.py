"""How well a model follows objects from one click each: J and F on held-out clips, or on anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from sam_variants.hub_scripts.evaluation_data import Source
from sam_variants.hub_scripts.evaluation_defaults import MIN_AREA
from sam_variants.hub_scripts.synthetic_clips import Clip
from sam_variants.hub_scripts.tracking_protocol import SessionTracker, TrackScores, held_out_clips, measure_tracker
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for

CLIP_SIZE = 320
"""Side of a held-out frame in pixels."""


@dataclass(frozen=True)
class ClipOptions:
    """Which clips and objects are asked for.

    Attributes:
        clips, frames, difficulty: of the held-out clips.
        min_area: smaller objects (as a share of the first frame) are not asked for; None: `MIN_AREA`.
        max_clips: of every set; None for all.
    """

    clips: int = 24
    frames: int = 24
    difficulty: float = 1.0
    min_area: float | None = None
    max_clips: int | None = None


@dataclass(frozen=True)
class ClipSet:
    """Clips that are measured together.

    Attributes:
        title: for people.
        clips: gives them anew, each with the frames whose masks are known, T bool (None for all).
        num_clips: how many; None where it isn't known before.
    """

    title: str
    clips: Callable[[], Iterable[tuple[Clip, np.ndarray | None]]]
    num_clips: int | None


def held_out_set(options: ClipOptions) -> dict[str, ClipSet]:
    """The held-out clips."""
    count = min(options.clips, options.max_clips or options.clips)

    def clips() -> Iterator[tuple[Clip, np.ndarray | None]]:
        drawn = held_out_clips(count, options.frames, CLIP_SIZE, difficulty=options.difficulty)
        return ((clip, None) for clip in drawn)

    return {"held_out_clips": ClipSet("Held-out clips", clips, count)}


def own_clips(source: Source, options: ClipOptions) -> dict[str, ClipSet]:
    """Anybody's clips, whole; what was found there is told on the standard error.

    Raises:
        ValueError, OSError: see `open_clips`; or the source was asked for as a stream. While the clips are drawn: one
            without objects in its first frame, or without any in a later one.
        ImportError: datasets is missing.
    """
    from sam_variants.training.clip_datasets import open_clips

    if source.streaming:
        raise ValueError("--streaming is for images: clips are read by number")
    dataset = open_clips(source.data, split=source.split, columns=source.columns, frames=None)
    Console(stderr=True).print(dataset.report(), soft_wrap=True, markup=False, highlight=False)
    count = min(len(dataset), options.max_clips or len(dataset))

    def clips() -> Iterator[tuple[Clip, np.ndarray | None]]:
        for row in range(count):
            clip = dataset.whole(row)
            known = np.asarray(clip.annotated)
            if not known[0] or known.sum() < 2:
                raise ValueError(
                    f"clip {clip.name} has masks for {known.sum()} of its {len(known)} frames; the first and another "
                    "one are needed"
                )
            masks = np.ascontiguousarray(clip.masks.swapaxes(0, 1))
            yield Clip(clip.frames, masks, clip.object_ids), known

    return {source.name: ClipSet(source.name, clips, count)}


def measure_clips(
    model: SamVariantsModel, checkpoint: str, sets: dict[str, ClipSet], options: ClipOptions
) -> dict[str, dict[str, Any]]:
    """`TrackScores.summary` of a model's sessions for each set.

    Raises:
        ValueError: the model is for images only, or no object can be clicked in any clip.
    """
    if not hasattr(model, "start_session"):
        raise ValueError(
            f"model={checkpoint!r} holds a {type(model).__name__}, which is for images; give a checkpoint that can "
            "track, or leave video out of --measure"
        )
    tracker = SessionTracker(model, processor_for(model))
    results = {}
    for name, found in sets.items():
        scores = TrackScores()
        shown = track(found.clips(), found.title, found.num_clips, console=Console(stderr=True), transient=True)
        for clip, known in shown:
            measure_tracker(tracker, clip, scores, MIN_AREA if options.min_area is None else options.min_area, known)
        if not scores.ious:
            raise ValueError(f"{name} has no object of the wanted size in the first frame of any clip")
        results[name] = scores.summary()
    return results
