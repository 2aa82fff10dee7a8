"""Find a checkpoint's configuration from its parameter names and shapes; file names are never looked at."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import logging

from sam_variants.checkpoint_layouts.found_sizes import Found, Shapes, found_values
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.presets import (
    PRESETS,
    SAM2_MASK_DECODER,
    SAM2_MASK_GENERATION,
    SAM2_PROMPT_ENCODER,
    config_for,
)

logger = logging.get_logger(__name__)

NEEDED_VIT_FIELDS = ("image_size", "num_heads", "window_size")
HIDDEN_HIERA_FIELDS = ("num_heads", "window_spec", "global_att_blocks")
SAM_STRIDE = 16
SAM_WIDTH = 256


def detect_config(shapes: Shapes, source: str) -> SamVariantsConfig:
    """The configuration of a state dict: the preset it fits, else one built from the shapes alone.

    Args:
        shapes: our parameter name → shape.
        source: where the weights come from, for messages.

    Returns:
        The preset's configuration (its part for images, when the weights have no memory), or (with a warning, because
        shapes do not show everything) one with the found sizes.

    Raises:
        ValueError: when the shapes leave a size open that no preset settles, naming what was found.
    """
    found = found_values(shapes, source)
    has_memory = "memory_encoder_config" in found
    for preset in PRESETS:
        config = config_for(preset)
        if isinstance(config, SamVariantsVideoConfig) and not has_memory:
            config = image_part(config)
        if fits(found, config):
            return config
    return config_from_found(found, source)


def image_part(config: SamVariantsVideoConfig) -> SamVariantsConfig:
    """The configuration of a video model's part for images."""
    names = ("vision_config", "prompt_encoder_config", "mask_decoder_config", "use_no_mem_embed", "mask_generation")
    return SamVariantsConfig(**{name: getattr(config, name) for name in names})


def fits(found: Found, config: PreTrainedConfig | None) -> bool:
    """Whether everything that the shapes show is what the configuration says; None says nothing."""
    return all(
        fits(value, getattr(config, name, None))
        if isinstance(value, dict)
        else same_value(value, getattr(config, name, None))
        for name, value in found.items()
    )


def same_value(found: Any, expected: Any) -> bool:
    """Equality in which None inside a found list (a value that shapes do not show) fits everything."""
    if not isinstance(found, list):
        return found == expected
    if not isinstance(expected, list | tuple):
        return False
    pairs = zip(found, expected, strict=False)
    return len(found) == len(expected) and all(one in (None, other) for one, other in pairs)


def config_from_found(found: Found, source: str) -> SamVariantsConfig:
    """Build a configuration from found sizes alone; what shapes do not show keeps its default."""
    advice = f"found {found}; pass preset= with one of {', '.join(PRESETS)} or with a SamVariantsConfig"
    vision = dict(found["vision_config"])
    model_type = vision["model_type"]
    hidden: list[str] = []
    if model_type == "sam_variants_vit":
        hidden += [name for name in NEEDED_VIT_FIELDS if name not in vision]
    elif model_type == "sam_variants_hiera":
        preset_vision = preset_with(found["vision_config"])
        hidden += [] if preset_vision else HIDDEN_HIERA_FIELDS
        vision.update({name: getattr(preset_vision, name, None) for name in HIDDEN_HIERA_FIELDS})
    if found["mask_decoder_config"]["transformer_dim"] != SAM_WIDTH:
        hidden.append("the decoder's number of heads")
    if hidden:
        raise ValueError(f"{source} fits no preset, and shapes do not show {', '.join(hidden)}: {advice}")
    config = compose(found, {name: without_gaps(value) for name, value in vision.items()})
    if config.vision_config.stride != SAM_STRIDE and model_type == "sam_variants_tiny_vit":
        raise ValueError(f"{source} fits no preset, and shapes do not show TinyViT's strides: {advice}")
    logger.warning(
        f"{source} fits no preset: its configuration was built from the shapes ({found}), and what shapes do not show "
        "(activations, numbers of attention heads, the input size of TinyViT and Hiera) is assumed to be that of the "
        "published models. Pass preset= with a SamVariantsConfig if that is wrong."
    )
    return config


def compose(found: Found, vision: Found) -> SamVariantsConfig:
    """The configuration with what was found; SAM 2's switches that have no parameters come with its transformer."""
    is_sam2 = found["mask_decoder_config"]["sam2_transformer"]
    values = {
        **found,
        "vision_config": vision,
        "prompt_encoder_config": {**(SAM2_PROMPT_ENCODER if is_sam2 else {}), **found["prompt_encoder_config"]},
        "mask_decoder_config": {**(SAM2_MASK_DECODER if is_sam2 else {}), **found["mask_decoder_config"]},
        "mask_generation": dict(SAM2_MASK_GENERATION) if is_sam2 else None,
    }
    is_video = values.pop("model_type", None) == SamVariantsVideoConfig.model_type
    return SamVariantsVideoConfig(**values) if is_video else SamVariantsConfig(**values)


def preset_with(vision: Found) -> PreTrainedConfig | None:
    """The image encoder's configuration of the first preset that has such an encoder."""
    configs: list[Any] = [config_for(preset).vision_config for preset in PRESETS]
    return next((config for config in configs if fits(vision, config)), None)


def without_gaps(value: Any) -> Any:
    """A found list with 1 for the values that shapes do not show (and that have no effect)."""
    return [1 if item is None else item for item in value] if isinstance(value, list) else value
