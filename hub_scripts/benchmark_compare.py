"""Trackers side by side: each takes every frame in turn, so that whatever else the machine does slows down all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_variants.hub_scripts.benchmark_trackers import FrameTracker, random_frames

REST = "rest"


class Stopwatch:
    """Times calls of a tracker and, within them, the parts of its model.

    Args:
        tracker: whose model gets hooks, until `close`.
    """

    def __init__(self, tracker: FrameTracker) -> None:
        self.tracker = tracker
        self.device = next(tracker.model.parameters()).device
        self.seconds: list[float] = []
        self.parts: list[dict[str, float]] = []
        self._running: dict[str, float] | None = None
        self._begin = 0.0
        self._hooks = [
            hook
            for part, module_name in tracker.parts.items()
            for module in [tracker.model.get_submodule(module_name)]
            for hook in (
                module.register_forward_pre_hook(self._start),
                module.register_forward_hook(lambda *_, part=part: self._stop(part)),
            )
        ]

    def step(self, pixel_values: Tensor) -> Tensor:
        """The tracker's answer for the next frame."""
        self._running = dict.fromkeys(self.tracker.parts, 0.0)
        begin = self._now()
        logits = self.tracker.step(pixel_values)
        seconds = self._now() - begin
        self.seconds.append(seconds)
        self.parts.append(self._running | {REST: seconds - sum(self._running.values())})
        self._running = None
        return logits

    def medians(self, num_frames: int) -> tuple[float, dict[str, float]]:
        """Median seconds of the last frames, in all and by part."""
        parts = {part: float(np.median([p[part] for p in self.parts[-num_frames:]])) for part in self.parts[0]}
        return float(np.median(self.seconds[-num_frames:])), parts

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _start(self, *_: Any) -> None:
        if self._running is not None:
            self._begin = self._now()

    def _stop(self, part: str) -> None:
        if self._running is not None:
            self._running[part] += self._now() - self._begin


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; all by name of the tracker.

    Attributes:
        seconds: per frame.
        parts: the same by part of the model, with `REST`.
        differences: the largest difference of the logits from those of the first tracker, for those trackers that
            answer for as many objects at the same size.
        scale: standard deviation of the first tracker's logits on the last frame.
    """

    seconds: dict[str, float]
    parts: dict[str, dict[str, float]]
    differences: dict[str, float]
    scale: float


@torch.no_grad()
def compare(
    trackers: Mapping[str, FrameTracker], num_before: int, num_measured: int, advance: Callable[[float], None]
) -> Comparison:
    """Let trackers take the same frames in turn, with every frame beginning with another.

    Args:
        trackers: by name.
        num_before: frames that fill the memory.
        num_measured: frames behind them, which alone count.
        advance: told the progress after every frame, 1 in all.
    """
    names = list(trackers)
    device = str(next(trackers[names[0]].model.parameters()).device)
    streams = {side: random_frames(side, device) for side in {tracker.side for tracker in trackers.values()}}
    differences: dict[str, float] = {}
    with ExitStack() as stack:
        watches = {name: stack.enter_context(closing(Stopwatch(tracker))) for name, tracker in trackers.items()}
        for index in range(num_before + num_measured):
            frames = {side: next(stream) for side, stream in streams.items()}
            first = index % len(names)
            order = names[first:] + names[:first]
            answers = {name: watches[name].step(frames[trackers[name].side]) for name in order}
            reference = answers.pop(names[0])
            for name, answer in answers.items():
                if index >= num_before and answer.shape == reference.shape:
                    difference = float((answer - reference).abs().max())
                    differences[name] = max(differences.get(name, 0.0), difference)
            advance(1 / (num_before + num_measured))
    medians = {name: watch.medians(num_measured) for name, watch in watches.items()}
    return Comparison(
        seconds={name: seconds for name, (seconds, _) in medians.items()},
        parts={name: parts for name, (_, parts) in medians.items()},
        differences=differences,
        scale=float(reference.std()),
    )
