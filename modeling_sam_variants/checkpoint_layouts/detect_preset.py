"""Find a checkpoint's configuration from its parameter names and shapes; file names are never looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers.utils import logging

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.presets import PRESETS, config_for

logger = logging.get_logger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
NEEDED_VIT_FIELDS = ("image_size", "num_heads", "window_size")
SAM_STRIDE = 16
SAM_WIDTH = 256


def detect_config(shapes: Shapes, source: str) -> SamVariantsConfig:
    """The configuration of a state dict: the preset it fits, else one built from the shapes alone.

    Args:
        shapes: our parameter name → shape.
        source: where the weights come from, for messages.

    Returns:
        The preset's configuration, or (with a warning, because shapes do not show everything) one with the found sizes.

    Raises:
        ValueError: when the shapes leave a size open that no preset settles, naming what was found.
    """
    found = found_values(shapes, source)
    for preset in PRESETS:
        config = config_for(preset)
        if fits(found, config):
            return config
    return config_from_found(found, source)


def fits(found: dict[str, dict[str, Any]], config: SamVariantsConfig) -> bool:
    """Whether everything that the shapes show is what the configuration says."""
    return all(
        same_value(value, getattr(getattr(config, part), name, None))
        for part, values in found.items()
        for name, value in values.items()
    )


def same_value(found: Any, expected: Any) -> bool:
    """Equality in which None inside a found list (a value that shapes do not show) fits everything."""
    if not isinstance(found, list):
        return found == expected
    pairs = zip(found, expected, strict=False)
    return len(found) == len(expected) and all(one in (None, other) for one, other in pairs)


def config_from_found(found: dict[str, dict[str, Any]], source: str) -> SamVariantsConfig:
    """Build a configuration from found sizes alone; what shapes do not show keeps its default."""
    vision = {
        name: [1 if item is None else item for item in value] if isinstance(value, list) else value
        for name, value in found["vision_config"].items()
    }
    advice = f"found {found}; pass preset= with one of {', '.join(PRESETS)} or with a SamVariantsConfig"
    is_vit = vision["model_type"] == "sam_variants_vit"
    hidden = [name for name in NEEDED_VIT_FIELDS if is_vit and name not in vision]
    if found["mask_decoder_config"]["transformer_dim"] != SAM_WIDTH:
        hidden.append("the decoder's number of heads")
    if hidden:
        raise ValueError(f"{source} fits no preset, and shapes do not show {', '.join(hidden)}: {advice}")
    config = SamVariantsConfig(
        vision_config=vision,
        prompt_encoder_config=found["prompt_encoder_config"],
        mask_decoder_config=found["mask_decoder_config"],
    )
    if not is_vit and config.vision_config.stride != SAM_STRIDE:
        raise ValueError(f"{source} fits no preset, and shapes do not show TinyViT's strides: {advice}")
    logger.warning(
        f"{source} fits no preset: its configuration was built from the shapes ({found}), and what shapes do not show "
        "(activations, the decoder's number of heads, TinyViT's input size) is assumed to be SAM's. Pass preset= with "
        "a SamVariantsConfig if that is wrong."
    )
    return config


def found_values(shapes: Shapes, source: str) -> dict[str, dict[str, Any]]:
    """What the shapes show, as fields of the three configurations."""
    try:
        is_vit = "image_encoder.blocks.0.norm1.weight" in shapes
        vision = found_vit(shapes) if is_vit else found_tiny_vit(shapes)
        return {
            "vision_config": vision,
            "prompt_encoder_config": found_prompt_encoder(shapes),
            "mask_decoder_config": found_mask_decoder(shapes),
        }
    except KeyError as error:
        raise ValueError(f"{source} lacks the key {error}, without which its sizes are unknown") from error
    except (ValueError, IndexError) as error:
        raise ValueError(f"{source} has parameters of other dimensions than SAM's, so its sizes are unknown") from error


def count(shapes: Shapes, pattern: str) -> int:
    """How many consecutive indices from 0 a name with `{}` has."""
    index = 0
    while pattern.format(index) in shapes:
        index += 1
    return index


def found_vit(shapes: Shapes) -> dict[str, Any]:
    """The sizes of an `ImageEncoderViT`."""
    block = "image_encoder.blocks.{}."
    embed_dim, in_chans, patch_size, _ = shapes["image_encoder.patch_embed.proj.weight"]
    depth = count(shapes, block + "norm1.weight")
    found: dict[str, Any] = {
        "model_type": "sam_variants_vit",
        "in_chans": in_chans,
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depth": depth,
        "mlp_ratio": shapes[block.format(0) + "mlp.lin1.weight"][0] / embed_dim,
        "qkv_bias": block.format(0) + "attn.qkv.bias" in shapes,
        "use_abs_pos": "image_encoder.pos_embed" in shapes,
        "use_rel_pos": block.format(0) + "attn.rel_pos_h" in shapes,
        "out_chans": shapes["image_encoder.neck.0.weight"][0],
    }
    if found["use_abs_pos"]:
        found["image_size"] = shapes["image_encoder.pos_embed"][1] * patch_size
    if found["use_rel_pos"]:
        lengths, head_dims = zip(
            *(shapes[block.format(index) + "attn.rel_pos_h"] for index in range(depth)), strict=True
        )
        found["num_heads"] = embed_dim // head_dims[0]
        found.update(found_windows([(length + 1) // 2 for length in lengths], found))
    return found


def found_windows(sides: list[int], found: dict[str, Any]) -> dict[str, Any]:
    """Window size and global blocks, from the side of the square that each block's relative positions span."""
    if "image_size" not in found:
        return {}
    grid = found["image_size"] // found["patch_size"]
    windows = {side for side in sides if side != grid}
    if len(windows) > 1:
        return {}
    global_blocks = [index for index, side in enumerate(sides) if side == grid] if windows else []
    return {"window_size": windows.pop() if windows else 0, "global_attn_indexes": global_blocks}


def found_tiny_vit(shapes: Shapes) -> dict[str, Any]:
    """The sizes of a `TinyViT`; stage 0 has neither heads nor windows, the strides do not show."""
    stage = "image_encoder.layers.{}."
    stem, in_chans = (
        shapes["image_encoder.patch_embed.seq.2.c.weight"],
        shapes["image_encoder.patch_embed.seq.0.c.weight"],
    )
    num_stages = 1 + count(shapes, stage + "downsample.conv3.c.weight")
    stages = [stage.format(index) for index in range(num_stages)]
    biases = [shapes[name + "blocks.0.attn.attention_biases"] for name in stages[1:]]
    first, last = stages[0], stages[-1]
    embed_dims = [stem[0], *(shapes[name + "downsample.conv3.c.weight"][0] for name in stages[:-1])]
    depths = [count(shapes, first + "blocks.{}.conv1.c.weight")]
    depths += [count(shapes, name + "blocks.{}.attn.qkv.weight") for name in stages[1:]]
    return {
        "model_type": "sam_variants_tiny_vit",
        "in_chans": in_chans[1],
        "out_chans": shapes["image_encoder.neck.0.weight"][0],
        "num_classes": shapes.get("image_encoder.head.weight", (0,))[0],
        "embed_dims": embed_dims,
        "depths": depths,
        "num_heads": [None, *(heads for heads, _ in biases)],
        "window_sizes": [None, *(math.isqrt(offsets) for _, offsets in biases)],
        "mlp_ratio": shapes[last + "blocks.0.mlp.fc1.weight"][0] / embed_dims[-1],
        "mbconv_expand_ratio": shapes[first + "blocks.0.conv1.c.weight"][0] / embed_dims[0],
        "local_conv_size": shapes[last + "blocks.0.local_conv.c.weight"][-1],
    }


def found_prompt_encoder(shapes: Shapes) -> dict[str, Any]:
    """The sizes of a `PromptEncoder`."""
    return {
        "embed_dim": shapes["prompt_encoder.no_mask_embed.weight"][1],
        "mask_in_chans": shapes["prompt_encoder.mask_downscaling.3.weight"][0],
    }


def found_mask_decoder(shapes: Shapes) -> dict[str, Any]:
    """The sizes of a `MaskDecoder`."""
    layer = "mask_decoder.transformer.layers.{}."
    mask_tokens, transformer_dim = shapes["mask_decoder.mask_tokens.weight"]
    inner_dim = shapes["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"][0]
    return {
        "transformer_dim": transformer_dim,
        "num_multimask_outputs": mask_tokens - 1,
        "transformer_depth": count(shapes, layer + "norm1.weight"),
        "transformer_mlp_dim": shapes[layer.format(0) + "mlp.lin1.weight"][0],
        "attention_downsample_rate": transformer_dim // inner_dim,
        "iou_head_depth": count(shapes, "mask_decoder.iou_prediction_head.layers.{}.weight"),
        "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
    }
