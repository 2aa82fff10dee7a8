"""What the names and shapes of a state dict show of its configuration, part by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Found = dict[str, Any]


def found_values(shapes: Shapes, source: str) -> Found:
    """What the shapes show, as fields of the configuration; a dict for each of its parts.

    Args:
        shapes: our parameter name → shape.
        source: where they come from, for messages.

    Raises:
        ValueError: when a parameter is missing without which a size is unknown, or has other dimensions than expected.
    """
    try:
        found_vision = next((read for key, read in ENCODERS.items() if key in shapes), found_tiny_vit)
        found: Found = {
            "vision_config": found_vision(shapes),
            "prompt_encoder_config": found_prompt_encoder(shapes),
            "mask_decoder_config": found_mask_decoder(shapes),
        }
        if found_vision is found_hiera:
            found["use_no_mem_embed"] = "no_mem_embed" in shapes
        return {**found, **found_memory(shapes)} if "maskmem_tpos_enc" in shapes else found
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


def found_vit(shapes: Shapes) -> Found:
    """The sizes of an `ImageEncoderViT`."""
    block = "image_encoder.blocks.{}."
    embed_dim, in_chans, patch_size, _ = shapes["image_encoder.patch_embed.proj.weight"]
    depth = count(shapes, block + "norm1.weight")
    found: Found = {
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


def found_windows(sides: list[int], found: Found) -> Found:
    """Window size and global blocks, from the side of the square that each block's relative positions span."""
    if "image_size" not in found:
        return {}
    grid = found["image_size"] // found["patch_size"]
    windows = {side for side in sides if side != grid}
    if len(windows) > 1:
        return {}
    global_blocks = [index for index, side in enumerate(sides) if side == grid] if windows else []
    return {"window_size": windows.pop() if windows else 0, "global_attn_indexes": global_blocks}


def found_tiny_vit(shapes: Shapes) -> Found:
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


def found_hiera(shapes: Shapes) -> Found:
    """The sizes of Hiera and its neck; heads, windows behind the first and global blocks do not show."""
    block = "image_encoder.trunk.blocks.{}."
    embed_dim, in_chans, *_ = shapes["image_encoder.trunk.patch_embed.proj.weight"]
    depth = count(shapes, block + "norm1.weight")
    widths = [(width, len(list(blocks))) for width, blocks in groupby(block_widths(shapes, block, depth))]
    return {
        "model_type": "sam_variants_hiera",
        "in_chans": in_chans,
        "out_chans": shapes["image_encoder.neck.convs.0.conv.weight"][0],
        "embed_dim": embed_dim,
        "stages": [blocks for _, blocks in widths],
        "dim_mul": widths[1][0] / embed_dim,
        "mlp_ratio": shapes[block.format(0) + "mlp.layers.0.weight"][0] / embed_dim,
        "window_pos_embed_bkg_spatial_size": list(shapes["image_encoder.trunk.pos_embed"][2:]),
        "window_spec": [shapes["image_encoder.trunk.pos_embed_window"][2]] + [None] * (len(widths) - 1),
    }


def block_widths(shapes: Shapes, block: str, depth: int) -> list[int]:
    """The width that every block gives."""
    return [shapes[block.format(index) + "norm2.weight"][0] for index in range(depth)]


ENCODERS: dict[str, Callable[[Shapes], Found]] = {
    "image_encoder.blocks.0.norm1.weight": found_vit,
    "image_encoder.trunk.pos_embed_window": found_hiera,
}


def found_prompt_encoder(shapes: Shapes) -> Found:
    """The sizes of a `PromptEncoder`."""
    return {
        "embed_dim": shapes["prompt_encoder.no_mask_embed.weight"][1],
        "mask_in_chans": shapes["prompt_encoder.mask_downscaling.3.weight"][0],
    }


def found_mask_decoder(shapes: Shapes) -> Found:
    """The sizes of a `MaskDecoder`, and which of SAM 2's additions have parameters."""
    layer = "mask_decoder.transformer.layers.{}."
    mask_tokens, transformer_dim = shapes["mask_decoder.mask_tokens.weight"]
    inner_dim = shapes["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"][0]
    is_sam2 = layer.format(0) + "mlp.layers.0.weight" in shapes
    skips = [f"mask_decoder.{name}.weight" for name in ("conv_s0", "conv_s1")]
    return {
        "transformer_dim": transformer_dim,
        "num_multimask_outputs": mask_tokens - 1,
        "transformer_depth": count(shapes, layer + "norm1.weight"),
        "transformer_mlp_dim": shapes[layer.format(0) + ("mlp.layers.0.weight" if is_sam2 else "mlp.lin1.weight")][0],
        "attention_downsample_rate": transformer_dim // inner_dim,
        "iou_head_depth": count(shapes, "mask_decoder.iou_prediction_head.layers.{}.weight"),
        "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
        "sam2_transformer": is_sam2,
        "high_resolution_channels": [shapes[name][1] for name in skips] if skips[0] in shapes else None,
        "pred_obj_scores": "mask_decoder.obj_score_token.weight" in shapes,
        "pred_obj_scores_mlp": "mask_decoder.pred_obj_score_head.layers.0.weight" in shapes,
    }


def found_memory(shapes: Shapes) -> Found:
    """The sizes of SAM 2's memory, and whether it is 2.0's or 2.1's."""
    layer = "memory_attention.layers.{}."
    has_times = "obj_ptr_tpos_proj.weight" in shapes
    return {
        "model_type": "sam_variants_video",
        "num_maskmem": shapes["maskmem_tpos_enc"][0],
        "no_obj_embed_spatial": "no_obj_embed_spatial" in shapes,
        "add_tpos_enc_to_obj_ptrs": has_times,
        "proj_tpos_enc_in_obj_ptrs": has_times,
        "use_signed_tpos_enc_to_obj_ptrs": has_times,
        "memory_attention_config": {
            "d_model": shapes["memory_attention.norm.weight"][0],
            "num_layers": count(shapes, layer + "norm1.weight"),
            "dim_feedforward": shapes[layer.format(0) + "linear1.weight"][0],
            "kv_in_dim": shapes[layer.format(0) + "cross_attn_image.k_proj.weight"][1],
        },
        "memory_encoder_config": found_memory_encoder(shapes),
    }


def found_memory_encoder(shapes: Shapes) -> Found:
    """The sizes of a `MemoryEncoder`; convolutions are taken to keep or to divide the size exactly."""
    convolution = "memory_encoder.mask_downsampler.encoder.{}.weight"
    in_dim = shapes["memory_encoder.pix_feat_proj.weight"][0]
    channels, _, kernel, _ = shapes[convolution.format(0)]
    stride, steps = math.isqrt(channels), 0
    while convolution.format(3 * steps + 1) in shapes:  # convolution, layer norm, activation
        steps += 1
    fuser_kernel = shapes["memory_encoder.fuser.layers.0.dwconv.weight"][-1]
    found = {
        "in_dim": in_dim,
        "out_dim": shapes.get("memory_encoder.out_proj.weight", (in_dim,))[0],
        "mask_downsampler_kernel_size": kernel,
        "mask_downsampler_stride": stride,
        "mask_downsampler_padding": (kernel - stride + 1) // 2,
        "mask_downsampler_total_stride": stride**steps,
        "fuser_num_layers": count(shapes, "memory_encoder.fuser.layers.{}.dwconv.weight"),
        "fuser_kernel_size": fuser_kernel,
        "fuser_padding": fuser_kernel // 2,
    }
    return found if "memory_encoder.fuser.layers.0.gamma" in shapes else {**found, "layer_scale_init_value": 0.0}
