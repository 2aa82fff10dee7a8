"""Contenders that do the same work in turn, so that whatever else the machine does slows down all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_variants.hub_scripts.benchmark_report import Advance

# What a contender answers: the tensors that are compared with those of the reference.
Answer = Sequence[Tensor]


@torch.inference_mode()
def measure_in_turn(
    contenders: Mapping[str, Callable[[], Answer]],
    reference: str,
    repeats: int,
    device: str,
    advance: Advance,
) -> dict[str, dict[str, Any]]:
    """Let every contender work once to warm up, then in rounds, each beginning with another.

    Args:
        contenders: by name.
        reference: the one that others are compared with.
        repeats: rounds.
        device: where they work.
        advance: told the progress, 1 in all.

    Returns:
        By name: `seconds`, the median of the rounds; `warm_up_seconds`, how much longer the first call took;
        `difference`, the largest to the reference's first answer, with the standard deviation of that as 1 (0 for the
        reference itself).
    """
    names, share = list(contenders), 1 / len(contenders) / (repeats + 1)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    first: dict[str, float] = {}
    answers: dict[str, Answer] = {}
    for name in names:
        answers[name], first[name] = _timed(contenders[name], device)
        advance(share)
    differences = {name: relative_difference(answer, answers[reference]) for name, answer in answers.items()}
    del answers
    for repeat in range(repeats):
        start = repeat % len(names)
        for name in [*names[start:], *names[:start]]:
            seconds[name].append(_timed(contenders[name], device)[1])
            advance(share)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    return {
        name: {
            "seconds": medians[name],
            "warm_up_seconds": max(0.0, first[name] - medians[name]),
            "difference": differences[name],
        }
        for name in names
    }


def relative_difference(answer: Answer, expected: Answer) -> float:
    """The largest difference of any number, with the standard deviation of its tensor as 1."""
    pairs = zip(answer, expected, strict=True)
    return max(float((one.float() - other.float()).abs().max() / other.float().std()) for one, other in pairs)


def times_as_fast(results: Mapping[str, Mapping[str, Any]], ours: str, baseline: str) -> float | None:
    """How many times as fast a contender is as another; None where one of them is missing."""
    if ours not in results or baseline not in results:
        return None
    return results[baseline]["seconds"] / results[ours]["seconds"]


def _timed(work: Callable[[], Answer], device: str) -> tuple[Answer, float]:
    begin = time.perf_counter()
    answer = work()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return answer, time.perf_counter() - begin
