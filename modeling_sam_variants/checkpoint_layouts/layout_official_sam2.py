"""The official layout of SAM 2 and 2.1, and the same parameters under our names.

Ours differ from the official ones in two prefixes: `sam_prompt_encoder` and `sam_mask_decoder` lose their `sam_`.
Facts: facebookresearch/sam2, whose loader is strict.
"""

from __future__ import annotations

from sam_variants.checkpoint_layouts.layout_official import PROMPTS_AND_DECODER, same
from sam_variants.checkpoint_layouts.renames import RenameTable, Row

SAM2_0 = "absent from SAM 2.0"
IMAGES_ONLY = "absent from a model for images alone"

HIERA = [
    *same(
        "image_encoder.trunk.pos_embed",
        "image_encoder.trunk.pos_embed_window",
        "image_encoder.trunk.patch_embed.proj.*",
    ),
    *same(
        *(f"image_encoder.trunk.blocks.{{}}.{name}.*" for name in ("norm1", "attn.qkv", "attn.proj", "norm2")),
        "image_encoder.trunk.blocks.{}.mlp.layers.{}.*",
    ),
    *same("image_encoder.trunk.blocks.{}.proj.*", optional="absent where no stage is wider than the one before"),
    *same("image_encoder.neck.convs.{}.conv.*"),
]

SAM2_PROMPTS_AND_DECODER = [
    *PROMPTS_AND_DECODER,
    *same(
        "mask_decoder.conv_s0.*",
        "mask_decoder.conv_s1.*",
        "mask_decoder.obj_score_token.weight",
        "mask_decoder.pred_obj_score_head.*",
    ),
]

MEMORY_NAMES = (
    "memory_attention.layers.{}.self_attn.*",
    "memory_attention.layers.{}.cross_attn_image.*",
    *(f"memory_attention.layers.{{}}.{name}.*" for name in ("linear1", "linear2", "norm1", "norm2", "norm3")),
    "memory_attention.norm.*",
    "memory_encoder.mask_downsampler.encoder.{}.*",
    "memory_encoder.pix_feat_proj.*",
    "memory_encoder.fuser.layers.{}.*",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "obj_ptr_proj.layers.{}.*",
    "mask_downsample.*",
)
NARROW_MEMORY = same("memory_encoder.out_proj.*", optional="absent where memories are as wide as the image embedding")
SAM2_1_ADDITIONS = same("no_obj_embed_spatial", "obj_ptr_tpos_proj.*", optional=SAM2_0)

OFFICIAL_SAM2 = RenameTable(
    "official SAM 2",
    [
        *HIERA,
        *(Row(f"sam_{row.theirs}", row.ours) for row in SAM2_PROMPTS_AND_DECODER),
        *same(*MEMORY_NAMES, "no_mem_embed"),
        *NARROW_MEMORY,
        *SAM2_1_ADDITIONS,
    ],
)

# Files without a config.json beside them: a saved state dict of ours, for images alone or with the memory.
OUR_SAM2 = RenameTable(
    "SAM 2 with this package's names",
    [
        *HIERA,
        *SAM2_PROMPTS_AND_DECODER,
        *same(*MEMORY_NAMES, "no_mem_embed", optional=IMAGES_ONLY),
        *NARROW_MEMORY,
        *SAM2_1_ADDITIONS,
    ],
)
