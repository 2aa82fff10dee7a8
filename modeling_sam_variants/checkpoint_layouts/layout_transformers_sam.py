"""The layout of transformers' `SamModel` (model_type `sam`): its names and its configuration."""

from __future__ import annotations

from typing import Any

from transformers import SamConfig

from sam_variants.checkpoint_layouts.renames import LinearStack, RenameTable, Row
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig

TWO_WAY_ATTENTIONS = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")

TRANSFORMERS_SAM = RenameTable(
    "transformers SamModel",
    [
        Row("vision_encoder.pos_embed", "image_encoder.pos_embed", optional="absent with use_abs_pos=False"),
        Row("vision_encoder.patch_embed.projection.*", "image_encoder.patch_embed.proj.*"),
        Row("vision_encoder.layers.{}.layer_norm1.*", "image_encoder.blocks.{}.norm1.*"),
        Row("vision_encoder.layers.{}.layer_norm2.*", "image_encoder.blocks.{}.norm2.*"),
        Row("vision_encoder.layers.{}.attn.qkv.*", "image_encoder.blocks.{}.attn.qkv.*"),
        Row("vision_encoder.layers.{}.attn.proj.*", "image_encoder.blocks.{}.attn.proj.*"),
        *(
            Row(
                f"vision_encoder.layers.{{}}.attn.{name}",
                f"image_encoder.blocks.{{}}.attn.{name}",
                optional="absent with use_rel_pos=False",
            )
            for name in ("rel_pos_h", "rel_pos_w")
        ),
        Row("vision_encoder.layers.{}.mlp.lin1.*", "image_encoder.blocks.{}.mlp.lin1.*"),
        Row("vision_encoder.layers.{}.mlp.lin2.*", "image_encoder.blocks.{}.mlp.lin2.*"),
        Row("vision_encoder.neck.conv1.*", "image_encoder.neck.0.*"),
        Row("vision_encoder.neck.layer_norm1.*", "image_encoder.neck.1.*"),
        Row("vision_encoder.neck.conv2.*", "image_encoder.neck.2.*"),
        Row("vision_encoder.neck.layer_norm2.*", "image_encoder.neck.3.*"),
        Row(
            "shared_image_embedding.positional_embedding",
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
            copies=("prompt_encoder.shared_embedding.positional_embedding",),
        ),
        Row("prompt_encoder.point_embed.{}.weight", "prompt_encoder.point_embeddings.{}.weight"),
        Row("prompt_encoder.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
        Row("prompt_encoder.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
        Row("prompt_encoder.mask_embed.conv1.*", "prompt_encoder.mask_downscaling.0.*"),
        Row("prompt_encoder.mask_embed.layer_norm1.*", "prompt_encoder.mask_downscaling.1.*"),
        Row("prompt_encoder.mask_embed.conv2.*", "prompt_encoder.mask_downscaling.3.*"),
        Row("prompt_encoder.mask_embed.layer_norm2.*", "prompt_encoder.mask_downscaling.4.*"),
        Row("prompt_encoder.mask_embed.conv3.*", "prompt_encoder.mask_downscaling.6.*"),
        Row("mask_decoder.iou_token.weight", "mask_decoder.iou_token.weight"),
        Row("mask_decoder.mask_tokens.weight", "mask_decoder.mask_tokens.weight"),
        *(
            Row(f"mask_decoder.transformer.layers.{{}}.{name}.*", f"mask_decoder.transformer.layers.{{}}.{name}.*")
            for name in (*TWO_WAY_ATTENTIONS, "mlp")
        ),
        *(
            Row(
                f"mask_decoder.transformer.layers.{{}}.layer_norm{index}.*",
                f"mask_decoder.transformer.layers.{{}}.norm{index}.*",
            )
            for index in (1, 2, 3, 4)
        ),
        Row(
            "mask_decoder.transformer.final_attn_token_to_image.*",
            "mask_decoder.transformer.final_attn_token_to_image.*",
        ),
        Row("mask_decoder.transformer.layer_norm_final_attn.*", "mask_decoder.transformer.norm_final_attn.*"),
        Row("mask_decoder.upscale_conv1.*", "mask_decoder.output_upscaling.0.*"),
        Row("mask_decoder.upscale_layer_norm.*", "mask_decoder.output_upscaling.1.*"),
        Row("mask_decoder.upscale_conv2.*", "mask_decoder.output_upscaling.3.*"),
        LinearStack("mask_decoder.output_hypernetworks_mlps.{}", "mask_decoder.output_hypernetworks_mlps.{}"),
        LinearStack("mask_decoder.iou_prediction_head", "mask_decoder.iou_prediction_head"),
    ],
)


def mlp_ratio_for(hidden_dim: int, dim: int) -> float:
    """The ratio whose product with `dim`, rounded down, is exactly `hidden_dim`."""
    ratio = hidden_dim / dim
    return ratio if int(dim * ratio) == hidden_dim else (hidden_dim + 0.5) / dim


def square_side(value: int | list[int] | tuple[int, ...], name: str) -> int:
    """One side of a size that may be given as a pair."""
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise ValueError(f"{name}={value} is not square; only square sizes can be read")
    return int(sides.pop())


def config_from_transformers_sam(values: dict[str, Any]) -> SamVariantsConfig:
    """Our configuration of a `SamModel`, whatever its sizes.

    Args:
        values: the content of its config.json; missing fields have transformers' defaults.

    Returns:
        A configuration whose model computes what the `SamModel` computes.

    Raises:
        ValueError: for sizes that contradict each other or that this architecture does not have.
    """
    config = SamConfig.from_dict(values)
    vision, prompts, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    image_size = square_side(vision.image_size, "vision_config.image_size")
    patch_size = square_side(vision.patch_size, "vision_config.patch_size")
    required = {
        "prompt_encoder_config.image_size": (prompts.image_size, image_size),
        "prompt_encoder_config.image_embedding_size": (prompts.image_embedding_size, image_size // patch_size),
        "prompt_encoder_config.num_point_embeddings": (prompts.num_point_embeddings, 4),
        "vision_config.num_pos_feats": (vision.num_pos_feats, prompts.hidden_size // 2),
    }
    for name, (value, expected) in required.items():
        if value != expected:
            raise ValueError(f"{name}={value} in the SamModel's config.json, but the other fields need {expected}")
    return SamVariantsConfig(
        vision_config={
            "model_type": "sam_variants_vit",
            "image_size": image_size,
            "patch_size": patch_size,
            "in_chans": vision.num_channels,
            "out_chans": vision.output_channels,
            "embed_dim": vision.hidden_size,
            "depth": vision.num_hidden_layers,
            "num_heads": vision.num_attention_heads,
            "mlp_ratio": mlp_ratio_for(vision.mlp_dim, vision.hidden_size),
            "qkv_bias": vision.qkv_bias,
            "use_abs_pos": vision.use_abs_pos,
            "use_rel_pos": vision.use_rel_pos,
            "window_size": vision.window_size,
            "global_attn_indexes": list(vision.global_attn_indexes),
            "hidden_act": vision.hidden_act,
            "layer_norm_eps": vision.layer_norm_eps,
        },
        prompt_encoder_config={
            "embed_dim": prompts.hidden_size,
            "mask_in_chans": prompts.mask_input_channels,
            "hidden_act": prompts.hidden_act,
            "layer_norm_eps": prompts.layer_norm_eps,
        },
        mask_decoder_config={
            "transformer_dim": decoder.hidden_size,
            "num_multimask_outputs": decoder.num_multimask_outputs,
            "transformer_depth": decoder.num_hidden_layers,
            "transformer_num_heads": decoder.num_attention_heads,
            "transformer_mlp_dim": decoder.mlp_dim,
            "attention_downsample_rate": decoder.attention_downsample_rate,
            "iou_head_depth": decoder.iou_head_depth,
            "iou_head_hidden_dim": decoder.iou_head_hidden_dim,
            "transformer_act": decoder.hidden_act,
            "layer_norm_eps": decoder.layer_norm_eps,
        },
    )


def config_to_transformers_sam(config: SamVariantsConfig) -> SamConfig:
    """The configuration of the `SamModel` that computes what ours computes; inverse of the above.

    Raises:
        ValueError: when the architecture has no `SamModel`: another image encoder, skip connections, another upscaling
            activation, or an input size other than the one the encoder's positions were made for.
    """
    vision, prompts, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    required = {
        "vision_config.model_type": (vision.model_type, "sam_variants_vit"),
        "image_size": (config.image_size, vision.image_size),
        "mask_decoder_config.high_resolution_channels": (decoder.high_resolution_channels, None),
        "mask_decoder_config.hidden_act": (decoder.hidden_act, "gelu"),
    }
    for name, (value, expected) in required.items():
        if value != expected:
            raise ValueError(f"transformers' SamModel needs {name}={expected!r}, this configuration has {value!r}")
    return SamConfig(
        vision_config={
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "num_channels": vision.in_chans,
            "output_channels": vision.out_chans,
            "hidden_size": vision.embed_dim,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.num_heads,
            "mlp_ratio": float(vision.mlp_ratio),
            "mlp_dim": int(vision.embed_dim * vision.mlp_ratio),
            "qkv_bias": vision.qkv_bias,
            "use_abs_pos": vision.use_abs_pos,
            "use_rel_pos": vision.use_rel_pos,
            "window_size": vision.window_size,
            "global_attn_indexes": list(vision.global_attn_indexes),
            "num_pos_feats": prompts.embed_dim // 2,
            "hidden_act": vision.hidden_act,
            "layer_norm_eps": vision.layer_norm_eps,
        },
        **prompts_and_decoder_to_transformers(config),
    )


def prompts_and_decoder_to_transformers(config: SamVariantsConfig) -> dict[str, Any]:
    """What a `SamConfig` says of prompt encoder and mask decoder, whatever the image encoder."""
    parts: Any = config
    prompts, decoder = parts.prompt_encoder_config, parts.mask_decoder_config
    return {
        "prompt_encoder_config": {
            "hidden_size": prompts.embed_dim,
            "image_size": config.image_size,
            "patch_size": parts.vision_config.stride,
            "mask_input_channels": prompts.mask_in_chans,
            "hidden_act": prompts.hidden_act,
            "layer_norm_eps": prompts.layer_norm_eps,
        },
        "mask_decoder_config": {
            "hidden_size": decoder.transformer_dim,
            "hidden_act": decoder.transformer_act,
            "mlp_dim": decoder.transformer_mlp_dim,
            "num_hidden_layers": decoder.transformer_depth,
            "num_attention_heads": decoder.transformer_num_heads,
            "attention_downsample_rate": decoder.attention_downsample_rate,
            "num_multimask_outputs": decoder.num_multimask_outputs,
            "iou_head_depth": decoder.iou_head_depth,
            "iou_head_hidden_dim": decoder.iou_head_hidden_dim,
            "layer_norm_eps": decoder.layer_norm_eps,
        },
    }
