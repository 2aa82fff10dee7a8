"""The configuration of transformers' `Sam2VideoModel`, to and from ours.

How a session deals with corrections and holes and in which dtype it remembers is no part of theirs: it keeps our
defaults, so that weights track alike whatever file they came in.
"""

from __future__ import annotations

from typing import Any

from transformers import Sam2VideoConfig

from sam_variants.checkpoint_layouts.config_transformers_sam2 import (
    STRIDE,
    image_parts_from,
    image_parts_to,
    require,
)
from sam_variants.checkpoint_layouts.layout_transformers_sam import square_side
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig

MODEL = "Sam2VideoModel"
CROSS_ATTENTION_WIDTH = 64  # of a memory, written out in their cross-attention
MASK_STRIDE = 2

# Their memory attention adds position encodings in these places and nowhere else.
POSITION_SWITCHES = {
    "pos_enc_at_input": True,
    "pos_enc_at_attn": False,
    "pos_enc_at_cross_attn_keys": True,
    "pos_enc_at_cross_attn_queries": False,
}
# Fields of the video configurations with one meaning: theirs → ours.
VIDEO_FIELDS = {
    "num_maskmem": "num_maskmem",
    "max_cond_frame_num": "max_cond_frames_in_attn",
    "max_object_pointers_in_encoder": "max_obj_ptrs_in_encoder",
    "sigmoid_scale_for_mem_enc": "sigmoid_scale_for_mem_enc",
    "sigmoid_bias_for_mem_enc": "sigmoid_bias_for_mem_enc",
    "multimask_output_for_tracking": "multimask_output_for_tracking",
    "multimask_min_pt_num": "multimask_min_pt_num",
    "multimask_max_pt_num": "multimask_max_pt_num",
    "enable_occlusion_spatial_embedding": "no_obj_embed_spatial",
}
MEMORY_ATTENTION_FIELDS = {
    "memory_attention_hidden_size": "d_model",
    "memory_attention_num_layers": "num_layers",
    "memory_attention_feed_forward_hidden_size": "dim_feedforward",
    "memory_attention_num_attention_heads": "num_heads",
    "memory_attention_dropout": "dropout",
    "memory_attention_feed_forward_hidden_act": "activation",
}
MEMORY_ENCODER_FIELDS = {
    "memory_encoder_hidden_size": "in_dim",
    "memory_encoder_output_channels": "out_dim",
    "mask_downsampler_kernel_size": "mask_downsampler_kernel_size",
    "mask_downsampler_stride": "mask_downsampler_stride",
    "mask_downsampler_padding": "mask_downsampler_padding",
    "mask_downsampler_total_stride": "mask_downsampler_total_stride",
    "mask_downsampler_hidden_act": "hidden_act",
    "memory_fuser_num_layers": "fuser_num_layers",
    "memory_fuser_kernel_size": "fuser_kernel_size",
    "memory_fuser_padding": "fuser_padding",
    "memory_fuser_layer_scale_init_value": "layer_scale_init_value",
}
POINTER_POSITION_FIELDS = ("add_tpos_enc_to_obj_ptrs", "proj_tpos_enc_in_obj_ptrs", "use_signed_tpos_enc_to_obj_ptrs")


def with_rope_parameters(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a config.json in which the base of the rotary embedding is where it is today.

    The published ones still have it in a field of its own, about which transformers warns.
    """
    rest = dict(values)
    theta = rest.pop("memory_attention_rope_theta", None)
    if theta is None or rest.get("rope_parameters"):
        return rest
    return {**rest, "rope_parameters": {"rope_type": "axial", "rope_theta": float(theta)}}


def config_from_transformers_sam2_video(values: dict[str, Any]) -> SamVariantsVideoConfig:
    """Our configuration of a `Sam2VideoModel`; as `config_from_transformers_sam2`, with the memory."""
    config = Sam2VideoConfig.from_dict(with_rope_parameters(values))
    rope: Any = config.rope_parameters
    width = config.memory_encoder_hidden_size
    image_parts = image_parts_from(config, MODEL)
    image_size = image_parts["vision_config"]["image_size"]
    require(
        {
            "image_size": (square_side(config.image_size, "image_size"), image_size),
            "multimask_output_in_sam": (config.multimask_output_in_sam, True),
            "memory_attention_downsample_rate": (config.memory_attention_downsample_rate, 1),
            "memory_attention_rope_dropout": (config.memory_attention_rope_dropout, config.memory_attention_dropout),
            "memory_encoder_output_channels": (config.memory_encoder_output_channels, CROSS_ATTENTION_WIDTH),
            "mask_downsampler_stride": (config.mask_downsampler_stride, MASK_STRIDE),
            "mask_downsampler_total_stride": (config.mask_downsampler_total_stride, STRIDE),
            "mask_downsampler_embed_dim": (config.mask_downsampler_embed_dim, width),
            "memory_fuser_embed_dim": (config.memory_fuser_embed_dim, width),
            "memory_fuser_intermediate_dim": (config.memory_fuser_intermediate_dim, 4 * width),
            "memory_fuser_hidden_act": (config.memory_fuser_hidden_act, "gelu"),
        },
        MODEL,
    )
    pointer_positions: dict[str, Any] = dict.fromkeys(
        POINTER_POSITION_FIELDS, config.enable_temporal_pos_encoding_for_object_pointers
    )
    return SamVariantsVideoConfig(
        **image_parts,
        memory_attention_config={
            **{ours: getattr(config, theirs) for theirs, ours in MEMORY_ATTENTION_FIELDS.items()},
            **POSITION_SWITCHES,
            "kv_in_dim": config.memory_encoder_output_channels,
            "rope_theta": rope["rope_theta"],
            "feat_sizes": list(config.memory_attention_rope_feat_sizes or ()),
        },
        memory_encoder_config={ours: getattr(config, theirs) for theirs, ours in MEMORY_ENCODER_FIELDS.items()},
        **{ours: getattr(config, theirs) for theirs, ours in VIDEO_FIELDS.items()},
        **pointer_positions,
    )


def config_to_transformers_sam2_video(config: SamVariantsVideoConfig) -> Sam2VideoConfig:
    """The configuration of the `Sam2VideoModel` that computes what ours computes; inverse of the reading direction.

    Raises:
        ValueError: when the architecture has no `Sam2VideoModel`.
    """
    require({"model_type": (config.model_type, SamVariantsVideoConfig.model_type)}, MODEL)
    attention: Any = config.memory_attention_config
    encoder: Any = config.memory_encoder_config
    image_size: Any = config.image_size
    has_times = config.add_tpos_enc_to_obj_ptrs
    require(
        {
            "binarize_mask_from_pts_for_mem_enc": (config.binarize_mask_from_pts_for_mem_enc, True),
            "memory_temporal_stride_for_eval": (config.memory_temporal_stride_for_eval, 1),
            **{name: (getattr(config, name), has_times) for name in POINTER_POSITION_FIELDS},
            **{
                f"memory_attention_config.{name}": (getattr(attention, name), value)
                for name, value in {**POSITION_SWITCHES, "layer_norm_eps": 1e-5}.items()
            },
            "memory_encoder_config.out_dim": (encoder.out_dim, CROSS_ATTENTION_WIDTH),
            "memory_encoder_config.num_pos_feats": (encoder.position_channels, encoder.out_dim),
            "memory_encoder_config.mask_downsampler_stride": (encoder.mask_downsampler_stride, MASK_STRIDE),
            "memory_encoder_config.mask_downsampler_total_stride": (
                encoder.mask_downsampler_total_stride,
                STRIDE,
            ),
        },
        MODEL,
    )
    return Sam2VideoConfig(
        **image_parts_to(config, MODEL),
        image_size=image_size,
        **{theirs: getattr(attention, ours) for theirs, ours in MEMORY_ATTENTION_FIELDS.items()},
        **{theirs: getattr(encoder, ours) for theirs, ours in MEMORY_ENCODER_FIELDS.items()},
        **{theirs: getattr(config, ours) for theirs, ours in VIDEO_FIELDS.items()},
        enable_temporal_pos_encoding_for_object_pointers=has_times,
        memory_attention_rope_dropout=attention.dropout,
        memory_attention_rope_feat_sizes=list(attention.feat_sizes),
        rope_parameters={"rope_type": "axial", "rope_theta": float(attention.rope_theta)},
        mask_downsampler_embed_dim=encoder.in_dim,
        memory_fuser_embed_dim=encoder.in_dim,
        memory_fuser_intermediate_dim=4 * encoder.in_dim,
    )
