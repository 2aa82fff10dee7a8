"""The models of the benchmarks `encode` and `decode`: presets with random weights, or the embedded checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Sam2Model, SamModel
from transformers.utils import logging

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.benchmark_report import Advance
from sam_variants.hub_scripts.benchmark_settings import EMBEDDED, ModelSettings
from sam_variants.hub_scripts.benchmark_their_models import transformers_twin
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel

# Where transformers has the whole model, by image encoder: the layout and the class.
THEIR_MODELS: dict[str, tuple[str, Any]] = {
    "sam_variants_vit": ("transformers-sam", SamModel),
    "sam_variants_hiera": ("transformers-sam2", Sam2Model),
}
# Tables of vectors, which are not scaled down by the number of inputs as matrices are.
TABLES = ("embed", "_embeddings", "_token", "_tokens", "gaussian_matrix", "attention_biases", "rel_pos", "tpos_enc")
TABLE_SPREAD = 0.2


AnySettings = TypeVar("AnySettings", bound=ModelSettings)


def measure_models(
    settings: AnySettings, measure: Callable[[str, AnySettings, Advance], dict[str, Any]], advance: Advance
) -> dict[str, Any]:
    """Measure one model after the other.

    Args:
        settings: what is measured.
        measure: called with a model's name, the settings, and what is told the progress with it.
        advance: told the progress, 1 in all.

    Returns:
        `settings`, and `models`: by name what `measure` gives. Ready for JSON.
    """
    share = 1 / len(settings.models)
    models = {name: measure(name, settings, lambda part: advance(part * share)) for name in settings.models}
    return {"settings": asdict(settings), "models": models}


def known_models() -> list[str]:
    """Names of all models that can be measured."""
    return [*PRESETS, EMBEDDED]


def check_models(names: tuple[str, ...]) -> None:
    """Refuse a name that is no model.

    Raises:
        ValueError: naming those that are.
    """
    unknown = [name for name in names if name not in known_models()]
    if unknown or not names:
        named = unknown[0] if unknown else ""
        raise ValueError(f"models={','.join(names)!r}: {named!r} is none of {', '.join(known_models())}")


def benchmark_model(name: str, image_size: int | None, device: str) -> SamVariantsModel:
    """A model in evaluation mode, in float32 and not fused.

    Args:
        name: a preset, whose weights are random and never zero, or `EMBEDDED`.
        image_size: another input size for a preset; the embedded checkpoint keeps its own.
        device: where it goes.

    Raises:
        ValueError: for a size that doesn't fit the preset.
    """
    if name == EMBEDDED:
        logging.disable_progress_bar()
        model: Any = load_checkpoint(default_checkpoint())
    else:
        config = sized_config(name, image_size)
        kind = SamVariantsVideoModel if isinstance(config, SamVariantsVideoConfig) else SamVariantsModel
        model = randomised(kind(config).float())
    nn.Module.to(model, device)
    return model.eval()


def sized_config(preset: str, image_size: int | None) -> Any:
    """The configuration of a preset whose parameters are made for another input size, if one is given.

    Raises:
        ValueError: for a size that the stride doesn't divide.
    """
    config: Any = config_for(preset)
    if image_size is None:
        return config
    stride = config.vision_config.stride
    if image_size < stride or image_size % stride:
        raise ValueError(f"image_size={image_size} must be a multiple of {stride} pixels")
    values = config.to_dict()
    values["vision_config"]["image_size"] = image_size
    if "memory_attention_config" in values:
        values["memory_attention_config"]["feat_sizes"] = [image_size // stride] * 2
    return type(config)(**values | {"image_size": image_size})


@torch.no_grad()
def randomised(model: SamVariantsModel, seed: int = 0) -> SamVariantsModel:
    """Give a model weights of which every one matters, at scales at which activations stay as large as they are."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            tensor.copy_(_random_values(name, tensor, generator))
    return model


def _random_values(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith("running_var"):
        return 1 + 0.3 * noise.abs()
    if any(part in name.split(".")[-1] or part in name.split(".")[-2:][0] for part in TABLES) and tensor.ndim > 1:
        return noise if name.endswith("gaussian_matrix") else TABLE_SPREAD * noise
    if tensor.ndim < 2:
        return 0.1 * noise + float(name.endswith("weight"))
    return noise * max(tensor[0].numel(), 16) ** -0.5


def transformers_encoder(model: SamVariantsModel) -> nn.Module | None:
    """transformers' whole model with the weights of one of ours; None for an image encoder that it has not."""
    kind = model.config.vision_config.model_type  # type: ignore[union-attr]
    if kind not in THEIR_MODELS:
        return None
    layout, their_class = THEIR_MODELS[kind]
    config_to: Any = LAYOUTS[layout].config_to
    theirs = their_class(config_to(model.config)).float()
    theirs.load_state_dict(export_state_dict(model, layout))
    return theirs.to(model.device).eval()


def transformers_decoder(model: SamVariantsModel) -> nn.Module:
    """transformers' model whose prompt encoder and decoder have the weights of ours."""
    theirs = transformers_encoder(model)
    if theirs is None:
        theirs = nn.Module.to(transformers_twin(model), model.device)
    return theirs
