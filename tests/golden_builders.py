"""Which class of this package stands for which class of the official implementations, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from golden_hiera import (
    build_hiera,
    build_image_encoder,
    build_wide_fpn_neck,
    run_image_encoder,
    run_position_embedding,
)
from golden_memory import build_memory_attention, build_memory_attention_layer, build_memory_encoder
from golden_sam2_functions import run_sam2_function
from golden_sam2_images import (
    build_sam2,
    build_sam2_mask_decoder,
    run_fill_holes,
    run_predict,
    run_predict_batch,
    run_set_image,
    run_skip_convolutions,
)
from golden_whole_models import run_predictor, run_sam_forward
from torch import Tensor, nn

from sam_variants.configuration.configuration_mask_decoder import MaskDecoderConfig
from sam_variants.configuration.configuration_prompt_encoder import PromptEncoderConfig
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_tiny_vit import TinyViTConfig
from sam_variants.configuration.configuration_vit import ImageEncoderViTConfig
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.decoders.prompt_encoder import PromptEncoder
from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.encoders.encoder_vit import ImageEncoderViT
from sam_variants.encoders.fpn_neck import FpnNeck
from sam_variants.layers.attention import Attention
from sam_variants.layers.cx_block import CXBlock
from sam_variants.layers.drop_path import DropPath
from sam_variants.layers.fuser import Fuser
from sam_variants.layers.layer_norm_2d import LayerNorm2d
from sam_variants.layers.mask_down_sampler import MaskDownSampler
from sam_variants.layers.mlp import MLP, MLPBlock
from sam_variants.layers.multi_scale_attention import MultiScaleAttention
from sam_variants.layers.multi_scale_block import MultiScaleBlock
from sam_variants.layers.patch_embed import PatchEmbed
from sam_variants.layers.pooling import do_pool
from sam_variants.layers.position_embedding_random import PositionEmbeddingRandom
from sam_variants.layers.position_embedding_sine import PositionEmbeddingSine
from sam_variants.layers.re_attention import REAttention
from sam_variants.layers.rope_attention import RoPEAttention
from sam_variants.layers.sam2_two_way_transformer import SAM2TwoWayAttentionBlock, SAM2TwoWayTransformer
from sam_variants.layers.tiny_vit_attention import BasicLayer, TinyAttention, TinyMLP, TinyViTBlock
from sam_variants.layers.tiny_vit_convolutions import Conv2d_BN, ConvLayer, MBConv, PatchMerging, TinyPatchEmbed
from sam_variants.layers.two_way_transformer import TwoWayAttentionBlock, TwoWayTransformer
from sam_variants.layers.vit_block import Block
from sam_variants.modeling_sam_variants import SamVariantsModel

SAM = "segment_anything.modeling"
SAM2 = "sam2.modeling"
TINY = ("mobile_sam.modeling.tiny_vit_sam", "ultralytics.models.sam.modules.tiny_encoder")
UL = "ultralytics.models.sam.modules"


def tiny_mlp(**arguments: Any) -> nn.Module:
    """One of the two published forms names the activation `activation`."""
    return TinyMLP(**{"act_layer" if name == "activation" else name: value for name, value in arguments.items()})


def sam2_mlp(**arguments: Any) -> nn.Module:
    """SAM 2 spells two arguments out."""
    short = {"activation": "act", "sigmoid_output": "sigmoid"}
    return MLP(**{short.get(name, name): value for name, value in arguments.items()})


class SAM2PositionEmbeddingRandom(PositionEmbeddingRandom):
    """One case calls a private method by its official name."""

    _pe_encoding = PositionEmbeddingRandom._encode


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    f"{SAM}.image_encoder.Attention": REAttention,
    f"{SAM}.image_encoder.Block": Block,
    f"{SAM}.transformer.TwoWayAttentionBlock": TwoWayAttentionBlock,
    f"{SAM}.transformer.TwoWayTransformer": TwoWayTransformer,
    f"{UL}.transformer.Attention": Attention,
    f"{UL}.transformer.TwoWayAttentionBlock": TwoWayAttentionBlock,
    f"{UL}.transformer.TwoWayTransformer": TwoWayTransformer,
    f"{UL}.blocks.Block": Block,
    f"{UL}.blocks.CXBlock": CXBlock,
    f"{UL}.blocks.DropPath": DropPath,
    f"{UL}.blocks.Fuser": Fuser,
    f"{UL}.blocks.MaskDownSampler": MaskDownSampler,
    f"{UL}.blocks.MultiScaleAttention": MultiScaleAttention,
    f"{UL}.blocks.MultiScaleBlock": MultiScaleBlock,
    f"{UL}.blocks.PatchEmbed": PatchEmbed,
    f"{UL}.blocks.PositionEmbeddingRandom": PositionEmbeddingRandom,
    f"{UL}.blocks.PositionEmbeddingSine": PositionEmbeddingSine,
    f"{UL}.blocks.REAttention": REAttention,
    f"{UL}.blocks.RoPEAttention": RoPEAttention,
    f"{UL}.blocks.SAM2TwoWayAttentionBlock": SAM2TwoWayAttentionBlock,
    f"{UL}.blocks.SAM2TwoWayTransformer": SAM2TwoWayTransformer,
    f"{UL}.encoders.FpnNeck": build_wide_fpn_neck,
    "ultralytics.nn.modules.transformer.LayerNorm2d": lambda num_channels: LayerNorm2d(num_channels),
    "ultralytics.nn.modules.transformer.MLP": MLP,
    "ultralytics.nn.modules.transformer.MLPBlock": MLPBlock,
    f"{SAM2}.backbones.hieradet.MultiScaleAttention": MultiScaleAttention,
    f"{SAM2}.backbones.hieradet.MultiScaleBlock": MultiScaleBlock,
    f"{SAM2}.backbones.image_encoder.FpnNeck": FpnNeck,
    f"{SAM2}.backbones.utils.PatchEmbed": partial(PatchEmbed, (7, 7), (4, 4), (3, 3)),
    f"{SAM2}.memory_encoder.CXBlock": CXBlock,
    f"{SAM2}.memory_encoder.Fuser": Fuser,
    f"{SAM2}.memory_encoder.MaskDownSampler": MaskDownSampler,
    f"{SAM2}.position_encoding.PositionEmbeddingRandom": SAM2PositionEmbeddingRandom,
    f"{SAM2}.position_encoding.PositionEmbeddingSine": PositionEmbeddingSine,
    f"{SAM2}.sam.transformer.RoPEAttention": RoPEAttention,
    f"{SAM2}.sam.transformer.TwoWayTransformer": SAM2TwoWayTransformer,
    f"{SAM2}.sam2_utils.MLP": sam2_mlp,
    "torch.nn.LayerNorm": nn.LayerNorm,
    "torch.nn.MaxPool2d": nn.MaxPool2d,
}
for package, mlp_name in zip(TINY, ("Mlp", "MLP"), strict=True):
    BUILDERS |= {
        f"{package}.Attention": TinyAttention,
        f"{package}.BasicLayer": BasicLayer,
        f"{package}.Conv2d_BN": Conv2d_BN,
        f"{package}.ConvLayer": ConvLayer,
        f"{package}.MBConv": MBConv,
        f"{package}.{mlp_name}": tiny_mlp,
        f"{package}.PatchEmbed": TinyPatchEmbed,
        f"{package}.PatchMerging": PatchMerging,
        f"{package}.TinyViTBlock": TinyViTBlock,
    }


def vit_config(spec: dict[str, Any]) -> ImageEncoderViTConfig:
    """SAM's ViT. For other image sizes the reference data has absolute positions resized with "nearest"."""
    taken = ("embed_dim", "depth", "num_heads", "out_chans", "patch_size", "use_rel_pos", "window_size")
    return ImageEncoderViTConfig(
        image_size=spec["img_size"],
        global_attn_indexes=spec["global_attn_indexes"],
        mlp_ratio=spec.get("mlp_ratio", 4.0),
        pos_embed_interpolation="nearest",
        **{name: spec[name] for name in taken},
    )


def tiny_vit_config(spec: dict[str, Any]) -> TinyViTConfig:
    """TinyViT. Only the published widths have stride 1 before the last stage, so the tiny ones state it."""
    taken = ("in_chans", "num_classes", "embed_dims", "depths", "num_heads", "window_sizes", "mlp_ratio", "drop_rate")
    more = ("drop_path_rate", "mbconv_expand_ratio", "local_conv_size", "layer_lr_decay")
    return TinyViTConfig(
        image_size=spec["img_size"],
        out_chans=spec.get("neck_chans", 256),
        strides=[2, 2, 1],
        output_hidden_states=True,
        **{name: spec[name] for name in (*taken, *more)},
    )


def prompt_encoder_config(spec: dict[str, Any]) -> PromptEncoderConfig:
    """The configuration holds a square; `SizedPromptEncoder` knows the reference's real size."""
    return PromptEncoderConfig(
        embed_dim=spec["embed_dim"],
        image_embedding_size=spec["image_embedding_size"]["_tuple_"][1],
        input_image_size=spec["input_image_size"]["_tuple_"][1],
        mask_in_chans=spec["mask_in_chans"],
    )


def mask_decoder_config(spec: dict[str, Any]) -> MaskDecoderConfig:
    transformer = spec["transformer"]
    return MaskDecoderConfig(
        transformer_dim=spec["transformer_dim"],
        num_multimask_outputs=spec.get("num_multimask_outputs", 3),
        transformer_depth=transformer["depth"],
        transformer_num_heads=transformer["num_heads"],
        transformer_mlp_dim=transformer["mlp_dim"],
        iou_head_depth=spec.get("iou_head_depth", 3),
        iou_head_hidden_dim=spec["iou_head_hidden_dim"],
    )


class SizedPromptEncoder(PromptEncoder):
    """`PromptEncoder` whose size is given once, as in the official constructor, instead of with every call."""

    size: tuple[int, int]

    def forward(self, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        return super().forward(*arguments, **named, image_embedding_size=self.size)

    def get_dense_pe(self, image_embedding_size: tuple[int, int] | None = None) -> Tensor:
        return super().get_dense_pe(self.size)


def build_prompt_encoder(spec: dict[str, Any]) -> nn.Module:
    encoder = SizedPromptEncoder(prompt_encoder_config(spec))
    encoder.size = tuple(spec["image_embedding_size"]["_tuple_"])
    return encoder


def build_sam(spec: dict[str, Any]) -> nn.Module:
    vision = spec["image_encoder"]
    is_vit = reference_class(vision) == f"{SAM}.image_encoder.ImageEncoderViT"
    config = SamVariantsConfig(
        vision_config=vit_config(vision) if is_vit else tiny_vit_config(vision),
        prompt_encoder_config=prompt_encoder_config(spec["prompt_encoder"]),
        mask_decoder_config=mask_decoder_config(spec["mask_decoder"]),
    )
    return SamVariantsModel(config)


# Built from a configuration that is made of the reference's arguments.
WHOLE_MODELS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    f"{SAM}.image_encoder.ImageEncoderViT": lambda spec: ImageEncoderViT(vit_config(spec)),
    f"{UL}.encoders.ImageEncoderViT": lambda spec: ImageEncoderViT(vit_config(spec)),
    "ref_patched.TinyViTAnySize": lambda spec: TinyViT(tiny_vit_config(spec)),
    f"{SAM}.prompt_encoder.PromptEncoder": build_prompt_encoder,
    f"{UL}.encoders.PromptEncoder": build_prompt_encoder,
    f"{SAM}.mask_decoder.MaskDecoder": lambda spec: MaskDecoder(mask_decoder_config(spec)),
    f"{UL}.decoders.MaskDecoder": lambda spec: MaskDecoder(mask_decoder_config(spec)),
    f"{SAM2}.backbones.hieradet.Hiera": build_hiera,
    f"{SAM2}.backbones.image_encoder.ImageEncoder": build_image_encoder,
    f"{UL}.encoders.Hiera": build_hiera,
    f"{UL}.encoders.ImageEncoder": build_image_encoder,
    f"{SAM2}.sam.prompt_encoder.PromptEncoder": build_prompt_encoder,
    f"{SAM2}.memory_attention.MemoryAttention": build_memory_attention,
    f"{SAM2}.memory_attention.MemoryAttentionLayer": build_memory_attention_layer,
    f"{SAM2}.memory_encoder.MemoryEncoder": build_memory_encoder,
    f"{UL}.memory_attention.MemoryAttention": build_memory_attention,
    f"{UL}.memory_attention.MemoryAttentionLayer": build_memory_attention_layer,
    f"{UL}.encoders.MemoryEncoder": build_memory_encoder,
    f"{SAM2}.sam.mask_decoder.MaskDecoder": build_sam2_mask_decoder,
    f"{UL}.decoders.SAM2MaskDecoder": build_sam2_mask_decoder,
    f"{SAM2}.sam2_base.SAM2Base": build_sam2,
    f"{SAM}.sam.Sam": build_sam,
    "mobile_sam.modeling.sam.Sam": build_sam,
}


def reference_class(spec: dict[str, Any] | None) -> str | None:
    """The official class that a specification builds; None for a function."""
    return None if spec is None else spec["_class_"]


def build(spec: dict[str, Any]) -> nn.Module:
    """Our module for a specification."""
    name = reference_class(spec)
    if name in WHOLE_MODELS:
        return WHOLE_MODELS[name](spec)
    return BUILDERS[name](**{key: value_of(value) for key, value in spec.items() if key != "_class_"})


def value_of(value: Any) -> Any:
    """An argument of a specification: a number, a tuple, a class, a partial or another module."""
    if isinstance(value, dict):
        arguments = {key: value_of(item) for key, item in value.items() if not key.startswith("_")}
        if "_tuple_" in value:
            return tuple(value_of(item) for item in value["_tuple_"])
        if "_type_" in value:
            return class_named(value["_type_"])
        if "_partial_" in value:
            return partial(class_named(value["_partial_"]), **arguments)
        return build(value) if "_class_" in value else arguments
    return [value_of(item) for item in value] if isinstance(value, list) else value


def class_named(name: str) -> Callable[..., nn.Module]:
    """A class of torch.nn, or ours for an official one."""
    module, _, short_name = name.rpartition(".")
    return getattr(nn, short_name) if module == "torch.nn" else BUILDERS[name]


def run_fuse(module: nn.Module, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`Conv2d_BN.fuse`: the same result from one convolution."""
    convolution = module.fuse()
    return {"y": convolution(inputs["x"]), "weight": convolution.weight, "bias": convolution.bias}


def run_do_pool(module: None, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`do_pool` with a pooling, without, and with a norm behind it."""
    x, pool = inputs["x"], nn.MaxPool2d(2, 2)
    norm = nn.LayerNorm(x.shape[-1], elementwise_affine=False)
    return {"y": do_pool(x, pool), "none": do_pool(x, None), "normed": do_pool(x, pool, norm)}


def run_drop_path(module: nn.Module, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`DropPath` in train mode, with the reference's seed."""
    drop_path = DropPath(module.drop_prob, scale_by_keep=case["name"].endswith("True")).train()
    torch.manual_seed(123)
    return {"y": drop_path(inputs["x"])}


# By the case's call, or by golden and call where the call says nothing.
RUNNERS: dict[str | tuple[str, str], Callable[..., dict[str, Tensor]]] = {
    "Conv2d_BN.fuse": run_fuse,
    "Sam.forward": run_sam_forward,
    "SamPredictor.predict": run_predictor,
    "predict": run_predict,
    "predict_batch": run_predict_batch,
    "set_image": run_set_image,
    ("sam2_fill_holes", "see note"): run_fill_holes,
    ("sam2_functions", "see note"): run_sam2_function,
    ("sam2_mask_decoder", "see note"): run_skip_convolutions,
    ("sam2_hiera", "see note"): run_position_embedding,
    ("ul_do_pool", "see note"): run_do_pool,
    ("ul_drop_path", "see note"): run_drop_path,
    ("ul_image_encoder", "forward"): run_image_encoder,
}
