"""The layouts of transformers' `Sam2VideoModel` and of `Sam2Model`, its part for images: their parameter names."""

from __future__ import annotations

from sam_variants.checkpoint_layouts.layout_official_sam2 import SAM2_0
from sam_variants.checkpoint_layouts.layout_transformers_sam import TWO_WAY_ATTENTIONS
from sam_variants.checkpoint_layouts.renames import AnyRow, LinearStack, Omit, RenameTable, Row, Stack
from sam_variants.pretrained_part import VIDEO_PARTS

NUM_POINT_EMBEDDINGS = 4
MASK_DOWNSAMPLING_STEPS = 4


def under(theirs: str, ours: str, names: dict[str, str]) -> list[AnyRow]:
    """Rows for modules `names` (their name → ours) below a prefix on either side."""
    return [Row(f"{theirs}.{their_name}.*", f"{ours}.{our_name}.*") for their_name, our_name in names.items()]


ATTENTION_PROJECTIONS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "out_proj"}


def attention(name: str) -> list[AnyRow]:
    """Rows for an attention layer that has the same name on both sides."""
    return under(name, name, ATTENTION_PROJECTIONS)


VISION_ENCODER: list[AnyRow] = [
    Row("vision_encoder.backbone.pos_embed", "image_encoder.trunk.pos_embed"),
    Row("vision_encoder.backbone.pos_embed_window", "image_encoder.trunk.pos_embed_window"),
    Row("vision_encoder.backbone.patch_embed.projection.*", "image_encoder.trunk.patch_embed.proj.*"),
    *under(
        "vision_encoder.backbone.blocks.{}",
        "image_encoder.trunk.blocks.{}",
        {"layer_norm1": "norm1", "attn.qkv": "attn.qkv", "attn.proj": "attn.proj", "layer_norm2": "norm2"},
    ),
    LinearStack("vision_encoder.backbone.blocks.{}.mlp", "image_encoder.trunk.blocks.{}.mlp"),
    Row(
        "vision_encoder.backbone.blocks.{}.proj.*",
        "image_encoder.trunk.blocks.{}.proj.*",
        optional="absent where no stage is wider than the one before",
    ),
    Row("vision_encoder.neck.convs.{}.*", "image_encoder.neck.convs.{}.conv.*"),
    Row("no_memory_embedding", "no_mem_embed"),
]

PROMPT_ENCODER: list[AnyRow] = [
    Row(
        "shared_image_embedding.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        copies=("prompt_encoder.shared_embedding.positional_embedding",),
    ),
    Stack(
        "prompt_encoder.point_embed.weight",
        tuple(f"prompt_encoder.point_embeddings.{index}.weight" for index in range(NUM_POINT_EMBEDDINGS)),
    ),
    Row("prompt_encoder.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
    Row("prompt_encoder.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
    *under(
        "prompt_encoder.mask_embed",
        "prompt_encoder.mask_downscaling",
        {"conv1": "0", "layer_norm1": "1", "conv2": "3", "layer_norm2": "4", "conv3": "6"},
    ),
]

MASK_DECODER: list[AnyRow] = [
    *(
        Row(f"mask_decoder.{name}.weight", f"mask_decoder.{name}.weight")
        for name in ("iou_token", "mask_tokens", "obj_score_token")
    ),
    *(row for name in TWO_WAY_ATTENTIONS for row in attention(f"mask_decoder.transformer.layers.{{}}.{name}")),
    *under(
        "mask_decoder.transformer.layers.{}",
        "mask_decoder.transformer.layers.{}",
        {f"layer_norm{index}": f"norm{index}" for index in (1, 2, 3, 4)},
    ),
    LinearStack("mask_decoder.transformer.layers.{}.mlp", "mask_decoder.transformer.layers.{}.mlp"),
    *attention("mask_decoder.transformer.final_attn_token_to_image"),
    *under(
        "mask_decoder",
        "mask_decoder",
        {
            "transformer.layer_norm_final_attn": "transformer.norm_final_attn",
            "upscale_conv1": "output_upscaling.0",
            "upscale_layer_norm": "output_upscaling.1",
            "upscale_conv2": "output_upscaling.3",
            "conv_s0": "conv_s0",
            "conv_s1": "conv_s1",
        },
    ),
    LinearStack("mask_decoder.output_hypernetworks_mlps.{}", "mask_decoder.output_hypernetworks_mlps.{}"),
    LinearStack("mask_decoder.iou_prediction_head", "mask_decoder.iou_prediction_head"),
    LinearStack("mask_decoder.pred_obj_score_head", "mask_decoder.pred_obj_score_head"),
]

MEMORY_ATTENTION: list[AnyRow] = [
    *attention("memory_attention.layers.{}.self_attn"),
    *attention("memory_attention.layers.{}.cross_attn_image"),
    *under(
        "memory_attention.layers.{}",
        "memory_attention.layers.{}",
        {
            "linear1": "linear1",
            "linear2": "linear2",
            "layer_norm1": "norm1",
            "layer_norm2": "norm2",
            "layer_norm3": "norm3",
        },
    ),
    Row("memory_attention.layer_norm.*", "memory_attention.norm.*"),
]

# Ours is a plain sequence of convolution, layer norm and activation, theirs has a module for each step of it.
MASK_DOWNSAMPLER: list[AnyRow] = [
    *(
        Row(
            f"memory_encoder.mask_downsampler.layers.{step}.{name}.*",
            f"memory_encoder.mask_downsampler.encoder.{3 * step + place}.*",
        )
        for step in range(MASK_DOWNSAMPLING_STEPS)
        for place, name in enumerate(("conv", "layer_norm"))
    ),
    Row(
        "memory_encoder.mask_downsampler.final_conv.*",
        f"memory_encoder.mask_downsampler.encoder.{3 * MASK_DOWNSAMPLING_STEPS}.*",
    ),
]

MEMORY_ENCODER: list[AnyRow] = [
    *MASK_DOWNSAMPLER,
    Row("memory_encoder.feature_projection.*", "memory_encoder.pix_feat_proj.*"),
    Row("memory_encoder.projection.*", "memory_encoder.out_proj.*"),
    Row("memory_encoder.memory_fuser.layers.{}.scale", "memory_encoder.fuser.layers.{}.gamma"),
    *under(
        "memory_encoder.memory_fuser.layers.{}",
        "memory_encoder.fuser.layers.{}",
        {
            "depthwise_conv": "dwconv",
            "layer_norm": "norm",
            "pointwise_conv1": "pwconv1",
            "pointwise_conv2": "pwconv2",
        },
    ),
]

TRACKING: list[AnyRow] = [
    Row("memory_temporal_positional_encoding", "maskmem_tpos_enc"),
    Row("no_memory_positional_encoding", "no_mem_pos_enc"),
    Row("no_object_pointer", "no_obj_ptr"),
    Row("occlusion_spatial_embedding_parameter", "no_obj_embed_spatial", optional=SAM2_0),
    LinearStack("object_pointer_proj", "obj_ptr_proj"),
    Row("temporal_positional_encoding_projection_layer.*", "obj_ptr_tpos_proj.*", optional=SAM2_0),
    Row("mask_downsample.*", "mask_downsample.*"),
]

IMAGE_ROWS = [*VISION_ENCODER, *PROMPT_ENCODER, *MASK_DECODER]

TRANSFORMERS_SAM2_VIDEO = RenameTable(
    "transformers Sam2VideoModel", [*IMAGE_ROWS, *MEMORY_ATTENTION, *MEMORY_ENCODER, *TRACKING]
)

TRANSFORMERS_SAM2 = RenameTable(
    "transformers Sam2Model",
    [
        *IMAGE_ROWS,
        *(
            Omit(pattern, "Sam2Model is for images and has no memory")
            for part in VIDEO_PARTS
            for pattern in (part, f"{part}.*")
        ),
    ],
)
