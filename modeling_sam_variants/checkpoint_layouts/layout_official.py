"""The official layouts of SAM and MobileSAM: our own names, so every row is an identity.

The rows still say which keys such a file may hold. Facts: facebookresearch/segment-anything and
ChaoningZhang/MobileSAM, whose loaders are strict.
"""

from __future__ import annotations

from sam_variants.checkpoint_layouts.renames import Drop, RenameTable, Row


def same(*patterns: str, optional: str = "") -> list[Row]:
    """Rows for names that are ours already."""
    return [Row(pattern, pattern, optional=optional) for pattern in patterns]


PROMPTS_AND_DECODER = same(
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.point_embeddings.{}.weight",
    "prompt_encoder.not_a_point_embed.weight",
    "prompt_encoder.no_mask_embed.weight",
    "prompt_encoder.mask_downscaling.{}.*",
    "mask_decoder.iou_token.weight",
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.transformer.layers.{}.*",
    "mask_decoder.transformer.final_attn_token_to_image.*",
    "mask_decoder.transformer.norm_final_attn.*",
    "mask_decoder.output_upscaling.{}.*",
    "mask_decoder.output_hypernetworks_mlps.{}.layers.{}.*",
    "mask_decoder.iou_prediction_head.layers.{}.*",
)

OFFICIAL_SAM = RenameTable(
    "official SAM",
    [
        *same("image_encoder.pos_embed", optional="absent with use_abs_pos=False"),
        *same("image_encoder.patch_embed.proj.*"),
        *same("image_encoder.blocks.{}.norm1.*", "image_encoder.blocks.{}.norm2.*"),
        *same("image_encoder.blocks.{}.attn.qkv.*", "image_encoder.blocks.{}.attn.proj.*"),
        *same(
            "image_encoder.blocks.{}.attn.rel_pos_h",
            "image_encoder.blocks.{}.attn.rel_pos_w",
            optional="absent with use_rel_pos=False",
        ),
        *same("image_encoder.blocks.{}.mlp.lin1.*", "image_encoder.blocks.{}.mlp.lin2.*"),
        *same("image_encoder.neck.{}.*"),
        *PROMPTS_AND_DECODER,
    ],
)

OFFICIAL_MOBILE_SAM = RenameTable(
    "official MobileSAM",
    [
        *same("image_encoder.patch_embed.seq.{}.*"),
        *same(
            "image_encoder.layers.{}.blocks.{}.conv1.*",
            "image_encoder.layers.{}.blocks.{}.conv2.*",
            "image_encoder.layers.{}.blocks.{}.conv3.*",
            "image_encoder.layers.{}.downsample.{}.*",
        ),
        *same(
            "image_encoder.layers.{}.blocks.{}.attn.attention_biases",
            "image_encoder.layers.{}.blocks.{}.attn.norm.*",
            "image_encoder.layers.{}.blocks.{}.attn.qkv.*",
            "image_encoder.layers.{}.blocks.{}.attn.proj.*",
            "image_encoder.layers.{}.blocks.{}.local_conv.*",
            "image_encoder.layers.{}.blocks.{}.mlp.{}.*",
        ),
        *same("image_encoder.norm_head.*", "image_encoder.head.*", optional="absent with num_classes=0"),
        *same("image_encoder.neck.{}.*"),
        *PROMPTS_AND_DECODER,
        Drop(
            "image_encoder.layers.{}.blocks.{}.attn.attention_bias_idxs",
            "a table computed from the window size, saved by versions that registered it as persistent",
        ),
        Drop(
            "image_encoder.layers.{}.blocks.{}.attn.ab",
            "attention_biases gathered by attention_bias_idxs: a cache, computed again after loading",
        ),
    ],
)
