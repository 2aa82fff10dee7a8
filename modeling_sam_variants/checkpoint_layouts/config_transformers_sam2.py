"""The configuration of transformers' `Sam2Model`, to and from ours.

What transformers fixes in code instead of in its configuration is required on the way there and set on the way back.
"""

from __future__ import annotations

from typing import Any

from transformers import Sam2Config

from sam_variants.checkpoint_layouts.layout_transformers_sam import mlp_ratio_for, square_side
from sam_variants.checkpoint_layouts.layout_transformers_sam2 import NUM_POINT_EMBEDDINGS
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.presets import SAM2_MASK_DECODER, SAM2_MASK_GENERATION, SAM2_PROMPT_ENCODER

FEATURE_LEVELS = 3  # what the decoder takes: two finer maps and the embedding
FINEST_STRIDE = 4
STRIDE = 16
TWO_WAY_DEPTH = 2  # theirs gives the blocks' MLP as many layers as there are blocks

STABILITY_FIELDS = (
    "dynamic_multimask_via_stability",
    "dynamic_multimask_stability_delta",
    "dynamic_multimask_stability_thresh",
)


def require(required: dict[str, tuple[Any, Any]], model: str) -> None:
    """Raise for the first field whose value is not the one that it must have."""
    for name, (value, expected) in required.items():
        if (list(value) if isinstance(value, tuple) else value) != expected:
            raise ValueError(f"transformers' {model} needs {name}={expected!r}, this configuration has {value!r}")


def growth(values: list[int]) -> float:
    """The factor from the first stage to the second."""
    return values[1] / values[0] if len(values) > 1 else 2.0


def grown(first: int, factor: float, stages: int) -> list[int]:
    """The width (or the number of heads) of every stage."""
    values = [first]
    while len(values) < stages:
        values.append(int(values[-1] * factor))
    return values


def feature_sizes(image_size: int) -> list[list[int]]:
    """Height and width of the maps that the decoder takes, finest first."""
    sides = [image_size // (FINEST_STRIDE << level) for level in range(FEATURE_LEVELS)]
    return [[side, side] for side in sides]


def vision_from(vision: Any, image_size: int, model: str) -> dict[str, Any]:
    """Fields of our `HieraConfig`."""
    backbone = vision.backbone_config
    widths, heads = list(backbone.embed_dim_per_stage), list(backbone.num_attention_heads_per_stage)
    stages = len(backbone.blocks_per_stage)
    required = {
        "patch_kernel_size": (backbone.patch_kernel_size, [7, 7]),
        "patch_stride": (backbone.patch_stride, [4, 4]),
        "patch_padding": (backbone.patch_padding, [3, 3]),
        "embed_dim_per_stage": (widths, grown(backbone.hidden_size, growth(widths), stages)),
        "num_attention_heads_per_stage": (heads, grown(heads[0], growth(heads), stages)),
        "backbone_channel_list": (list(vision.backbone_channel_list), widths[::-1]),
        "backbone_feature_sizes": ([list(size) for size in vision.backbone_feature_sizes], feature_sizes(image_size)),
        "num_feature_levels": (vision.num_feature_levels, FEATURE_LEVELS),
        "fpn_kernel_size": (vision.fpn_kernel_size, 1),
        "fpn_stride": (vision.fpn_stride, 1),
        "fpn_padding": (vision.fpn_padding, 0),
    }
    require({f"vision_config.{name}": pair for name, pair in required.items()}, model)
    return {
        "model_type": "sam_variants_hiera",
        "image_size": image_size,
        "in_chans": backbone.num_channels,
        "out_chans": vision.fpn_hidden_size,
        "embed_dim": backbone.hidden_size,
        "num_heads": heads[0],
        "stages": list(backbone.blocks_per_stage),
        "dim_mul": growth(widths),
        "head_mul": growth(heads),
        "q_pool": backbone.num_query_pool_stages,
        "q_stride": list(backbone.query_stride),
        "mlp_ratio": mlp_ratio_for(int(backbone.hidden_size * backbone.mlp_ratio), backbone.hidden_size),
        "window_pos_embed_bkg_spatial_size": list(backbone.window_positional_embedding_background_size),
        "window_spec": list(backbone.window_size_per_stage),
        "global_att_blocks": list(backbone.global_attention_blocks),
        "fpn_top_down_levels": list(vision.fpn_top_down_levels),
        "scalp": stages - FEATURE_LEVELS,
        "hidden_act": backbone.hidden_act,
        "layer_norm_eps": backbone.layer_norm_eps,
    }


def image_parts_from(config: Any, model: str) -> dict[str, Any]:
    """Encoder, prompts and decoder of ours, from a `Sam2Config` or a `Sam2VideoConfig`."""
    prompts, decoder = config.prompt_encoder_config, config.mask_decoder_config
    image_size = square_side(prompts.image_size, "prompt_encoder_config.image_size")
    required = {
        "prompt_encoder_config.patch_size": (square_side(prompts.patch_size, "patch_size"), STRIDE),
        "prompt_encoder_config.num_point_embeddings": (prompts.num_point_embeddings, NUM_POINT_EMBEDDINGS),
        "mask_decoder_config.num_hidden_layers": (decoder.num_hidden_layers, TWO_WAY_DEPTH),
    }
    require(required, model)
    width = config.vision_config.fpn_hidden_size
    return {
        "vision_config": vision_from(config.vision_config, image_size, model),
        "prompt_encoder_config": {
            **SAM2_PROMPT_ENCODER,
            "embed_dim": prompts.hidden_size,
            "mask_in_chans": prompts.mask_input_channels,
            "hidden_act": prompts.hidden_act,
            "layer_norm_eps": prompts.layer_norm_eps,
        },
        "mask_decoder_config": {
            **SAM2_MASK_DECODER,
            "high_resolution_channels": [width, width],
            "transformer_dim": decoder.hidden_size,
            "transformer_depth": decoder.num_hidden_layers,
            "transformer_num_heads": decoder.num_attention_heads,
            "transformer_mlp_dim": decoder.mlp_dim,
            "attention_downsample_rate": decoder.attention_downsample_rate,
            "num_multimask_outputs": decoder.num_multimask_outputs,
            "iou_head_depth": decoder.iou_head_depth,
            "iou_head_hidden_dim": decoder.iou_head_hidden_dim,
            **{name: getattr(decoder, name) for name in STABILITY_FIELDS},
        },
        "mask_generation": dict(SAM2_MASK_GENERATION),
    }


def config_from_transformers_sam2(values: dict[str, Any]) -> SamVariantsConfig:
    """Our configuration of a `Sam2Model`.

    Args:
        values: the content of its config.json; missing fields have transformers' defaults.

    Returns:
        A configuration for images, whose model computes what the `Sam2Model` computes for points and boxes, with or
        without a mask. (For a mask alone theirs adds two not-a-point tokens; ours adds none, like the official code.)

    Raises:
        ValueError: for sizes that contradict each other or that this architecture does not have.
    """
    return SamVariantsConfig(**image_parts_from(Sam2Config.from_dict(values), "Sam2Model"), use_no_mem_embed=True)


def vision_to(vision: Any, image_size: int) -> dict[str, Any]:
    """Fields of their `Sam2VisionConfig`."""
    stages = len(vision.stages)
    widths = grown(vision.embed_dim, vision.dim_mul, stages)
    levels = range(stages) if vision.fpn_top_down_levels is None else vision.fpn_top_down_levels
    return {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": vision.embed_dim,
            "num_attention_heads": vision.num_heads,
            "num_channels": vision.in_chans,
            "image_size": [image_size, image_size],
            "query_stride": list(vision.q_stride),
            "window_positional_embedding_background_size": list(vision.window_pos_embed_bkg_spatial_size),
            "num_query_pool_stages": vision.q_pool,
            "blocks_per_stage": list(vision.stages),
            "embed_dim_per_stage": widths,
            "num_attention_heads_per_stage": grown(vision.num_heads, vision.head_mul, stages),
            "window_size_per_stage": list(vision.window_spec),
            "global_attention_blocks": list(vision.global_att_blocks),
            "mlp_ratio": float(vision.mlp_ratio),
            "hidden_act": vision.hidden_act,
            "layer_norm_eps": vision.layer_norm_eps,
        },
        "backbone_channel_list": widths[::-1],
        "backbone_feature_sizes": feature_sizes(image_size),
        "fpn_hidden_size": vision.out_chans,
        "fpn_top_down_levels": list(levels),
        "num_feature_levels": FEATURE_LEVELS,
    }


def image_parts_to(config: SamVariantsConfig, model: str) -> dict[str, Any]:
    """Their sub-configurations of encoder, prompts and decoder, once it is certain that they have such a model."""
    vision: Any = config.vision_config
    prompts: Any = config.prompt_encoder_config
    decoder: Any = config.mask_decoder_config
    require({"vision_config.model_type": (vision.model_type, "sam_variants_hiera")}, model)
    decoder_switches = {name: value for name, value in SAM2_MASK_DECODER.items() if name not in STABILITY_FIELDS} | {
        "high_resolution_channels": [vision.out_chans, vision.out_chans],
        "transformer_depth": TWO_WAY_DEPTH,
        "hidden_act": "gelu",
        "transformer_act": "relu",
        "layer_norm_eps": 1e-5,
    }
    required: dict[str, tuple[Any, Any]] = {
        "use_no_mem_embed": (config.use_no_mem_embed, True),
        "vision_config.fpn_interp_model": (vision.fpn_interp_model, "nearest"),
        "vision_config.fuse_type": (vision.fuse_type, "sum"),
        "vision_config.scalp": (vision.scalp, len(vision.stages) - FEATURE_LEVELS),
        **{
            f"prompt_encoder_config.{name}": (getattr(prompts, name), value)
            for name, value in SAM2_PROMPT_ENCODER.items()
        },
        **{f"mask_decoder_config.{name}": (getattr(decoder, name), value) for name, value in decoder_switches.items()},
    }
    require(required, model)
    image_size: Any = config.image_size
    return {
        "vision_config": vision_to(vision, image_size),
        "prompt_encoder_config": {
            "hidden_size": prompts.embed_dim,
            "image_size": image_size,
            "patch_size": STRIDE,
            "mask_input_channels": prompts.mask_in_chans,
            "num_point_embeddings": NUM_POINT_EMBEDDINGS,
            "hidden_act": prompts.hidden_act,
            "layer_norm_eps": prompts.layer_norm_eps,
        },
        "mask_decoder_config": {
            "hidden_size": decoder.transformer_dim,
            "mlp_dim": decoder.transformer_mlp_dim,
            "num_hidden_layers": decoder.transformer_depth,
            "num_attention_heads": decoder.transformer_num_heads,
            "attention_downsample_rate": decoder.attention_downsample_rate,
            "num_multimask_outputs": decoder.num_multimask_outputs,
            "iou_head_depth": decoder.iou_head_depth,
            "iou_head_hidden_dim": decoder.iou_head_hidden_dim,
            **{name: getattr(decoder, name) for name in STABILITY_FIELDS},
        },
    }


def config_to_transformers_sam2(config: SamVariantsConfig) -> Sam2Config:
    """The configuration of the `Sam2Model` that computes what ours computes for images.

    Args:
        config: a configuration with a Hiera; of a model for video its part for images is taken.

    Raises:
        ValueError: when the architecture has no `Sam2Model`: another encoder, or other switches than SAM 2's.
    """
    return Sam2Config(**image_parts_to(config, "Sam2Model"))
