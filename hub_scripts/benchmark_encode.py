"""The benchmark `encode`: our image encoders beside the published form and transformers', with the same weights."""

from __future__ import annotations

import copy
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.hub_scripts.benchmark_interleaved import Answer, measure_in_turn, times_as_fast
from sam_variants.hub_scripts.benchmark_models import (
    benchmark_model,
    measure_models,
    transformers_encoder,
)
from sam_variants.hub_scripts.benchmark_official_form import OfficialTinyViT
from sam_variants.hub_scripts.benchmark_report import Advance
from sam_variants.hub_scripts.benchmark_settings import EncodeSettings
from sam_variants.quantization import quantized

OURS, BFLOAT16, COMPILED = "ours", "ours, bfloat16", "ours, compiled"
OFFICIAL, THEIRS = "official form", "transformers"
BASELINES = (OFFICIAL, THEIRS)
QUICK: dict[str, Any] = {"image_size": 256, "repeats": 2}


def measure_encode(settings: EncodeSettings, advance: Advance) -> dict[str, Any]:
    """Measure all encoders.

    Args:
        settings: what that is.
        advance: told the progress, 1 in all.

    Returns:
        `settings`, and `models`: by name what `measure_encoder` gives. Ready for JSON.

    Raises:
        ValueError: for a size that doesn't fit a model.
    """
    if settings.quick:
        settings = replace(settings, **QUICK)
    return measure_models(settings, measure_encoder, advance)


def measure_encoder(name: str, settings: EncodeSettings, advance: Advance) -> dict[str, Any]:
    """Compare all forms of one encoder on one image.

    Returns:
        `image_size`; `reference`, what the others are compared with; `contenders`, see `measure_in_turn`;
        `times_as_fast`: by form of ours and by baseline.
    """
    model: Any = benchmark_model(name, settings.image_size, settings.device)
    side = model.config.image_size
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(1, 3, side, side, generator=generator).to(settings.device)
    contenders = encoder_forms(model, pixel_values, settings)
    reference = next((baseline for baseline in BASELINES if baseline in contenders), OURS)
    with nothing_compiled():
        found = measure_in_turn(contenders, reference, settings.repeats, settings.device, advance)
    del contenders, model
    gc.collect()
    ours = [form for form in found if form not in BASELINES]
    return {
        "image_size": side,
        "reference": reference,
        "contenders": found,
        "times_as_fast": {
            form: {baseline: times_as_fast(found, form, baseline) for baseline in BASELINES if baseline in found}
            for form in ours
        },
    }


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Let torch.compile begin afresh: nothing left by an earlier run, no sizes that another model had before."""
    torch.compiler.reset()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder),
    ):
        yield


def encoder_forms(model: Any, pixel_values: Tensor, settings: EncodeSettings) -> dict[str, Callable[[], Answer]]:
    """What takes part, by name: each gives the image embedding alone."""
    forms: dict[str, Callable[[], Answer]] = {}
    if isinstance(model.image_encoder, TinyViT):
        official = OfficialTinyViT(model.image_encoder)
        forms[OFFICIAL] = lambda: [official(pixel_values)]
    theirs: Any = transformers_encoder(model) if settings.with_transformers else None
    if theirs is not None:
        forms[THEIRS] = lambda: [their_embedding(theirs.vision_encoder(pixel_values))]
    fused = copy.deepcopy(model.image_encoder).fuse()
    ours: dict[str, Any] = {OURS: fused}
    if settings.compiled:
        ours[COMPILED] = torch.compile(fused)
    for name in settings.quantize:
        ours[f"{OURS}, {name}"] = quantized(copy.deepcopy(model.image_encoder), name).fuse()
    ours[BFLOAT16] = nn.Module.to(copy.deepcopy(fused), torch.bfloat16)
    return forms | {form: partial(our_embedding, encoder, pixel_values) for form, encoder in ours.items()}


def our_embedding(encoder: Any, pixel_values: Tensor) -> Answer:
    """The image embedding alone, from pixels in the encoder's precision."""
    return [encoder(pixel_values.to(encoder.dtype)).last_hidden_state]


def their_embedding(encoded: Any) -> Tensor:
    """The image embedding in what transformers' encoders give: SAM 2's is the last of its maps."""
    maps = getattr(encoded, "fpn_hidden_states", None)
    return encoded.last_hidden_state if maps is None else maps[-1]
