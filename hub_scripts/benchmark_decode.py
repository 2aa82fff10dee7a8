"""The benchmark `decode`: masks for prompts on an image that was encoded, beside transformers and our plain form."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sam_variants.hub_scripts.benchmark_interleaved import Answer, measure_in_turn, times_as_fast
from sam_variants.hub_scripts.benchmark_models import (
    benchmark_model,
    measure_models,
    transformers_decoder,
)
from sam_variants.hub_scripts.benchmark_report import Advance
from sam_variants.hub_scripts.benchmark_settings import DecodeSettings

OURS, PLAIN, THEIRS = "ours", "ours, plain form", "transformers"
POINT, BOX = "point", "box"
QUICK: dict[str, Any] = {"image_size": 256, "prompts": (1, 4), "repeats": 2}


def measure_decode(settings: DecodeSettings, advance: Advance) -> dict[str, Any]:
    """Measure all decoders.

    Args:
        settings: what that is.
        advance: told the progress, 1 in all.

    Returns:
        `settings`, and `models`: by name what `measure_decoder` gives. Ready for JSON.

    Raises:
        ValueError: for a size that doesn't fit a model.
    """
    if settings.quick:
        settings = replace(settings, **QUICK)
    return measure_models(settings, measure_decoder, advance)


def measure_decoder(name: str, settings: DecodeSettings, advance: Advance) -> dict[str, Any]:
    """Compare the decoders on one embedding, prompts of one kind at a time.

    Returns:
        `image_size`; `rows`: for each number of prompts and kind `prompts`, `kind`, `contenders` (see
        `measure_in_turn`) and `times_as_fast` by baseline.
    """
    model: Any = benchmark_model(name, settings.image_size, settings.device)
    theirs: Any = transformers_decoder(model) if settings.with_transformers else None
    embeddings = random_embeddings(model, settings.device)
    cases = [(count, kind) for count in settings.prompts for kind in (POINT, BOX)]
    rows = []
    for count, kind in cases:
        prompts = random_prompts(kind, count, model.config.image_size, settings.device)
        contenders = decoders(model, theirs, embeddings, prompts)
        reference = THEIRS if THEIRS in contenders else PLAIN
        found = measure_in_turn(
            contenders, reference, settings.repeats, settings.device, lambda part: advance(part / len(cases))
        )
        speeds = {baseline: times_as_fast(found, OURS, baseline) for baseline in (PLAIN, THEIRS) if baseline in found}
        rows.append({"prompts": count, "kind": kind, "contenders": found, "times_as_fast": speeds})
    side = model.config.image_size
    del model, theirs
    gc.collect()
    return {"image_size": side, "rows": rows}


def random_embeddings(model: Any, device: str) -> Tensor | list[Tensor]:
    """What `get_image_embeddings` could have returned for one image, finer maps included; its values cost no time."""
    config = model.config
    side, width = config.image_size // config.vision_config.stride, config.vision_config.out_chans
    shapes = [(1, width, side, side)]
    if config.mask_decoder_config.high_resolution_channels is not None:
        shapes = [(1, width // 8, 4 * side, 4 * side), (1, width // 4, 2 * side, 2 * side), *shapes]
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    return maps if len(maps) > 1 else maps[0]


def random_prompts(kind: str, count: int, side: int, device: str) -> dict[str, Tensor]:
    """One point or one box for each of so many objects, in the model's arguments."""
    generator = torch.Generator().manual_seed(count)
    corners = side * torch.rand(1, count, 2, 2, generator=generator).to(device)
    if kind == POINT:
        labels = torch.ones(1, count, 1, dtype=torch.long, device=device)
        return {"input_points": corners[:, :, :1], "input_labels": labels}
    return {"input_boxes": torch.cat([corners.amin(dim=2), corners.amax(dim=2) + 1], dim=-1)}


def decoders(model: Any, theirs: Any, embeddings: Any, prompts: dict[str, Tensor]) -> dict[str, Callable[[], Answer]]:
    """What takes part, by name: each gives the masks' logits and their scores."""
    ask = partial(_ask, embeddings=embeddings, prompts=prompts)

    def plainly() -> Answer:
        with plain_decoder(model):
            return ask(model)

    forms: dict[str, Callable[[], Answer]] = {OURS: lambda: ask(model), PLAIN: plainly}
    if theirs is not None:
        forms[THEIRS] = lambda: ask(theirs)
    return forms


def _ask(model: Any, embeddings: Any, prompts: dict[str, Tensor]) -> Answer:
    outputs = model(image_embeddings=embeddings, multimask_output=True, **prompts)
    return [outputs.pred_masks, outputs.iou_scores]


@contextmanager
def plain_decoder(model: Any) -> Iterator[None]:
    """Let a mask decoder work for a while as the published code does."""
    decoder = model.mask_decoder
    decoder.is_foldable = lambda num_tokens: False
    try:
        yield
    finally:
        del decoder.is_foldable
