"""What encoders, decoders and whole models share as pretrained models."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from sam_variants.attention_interface import bind_attention
from sam_variants.layers.layer_norm_2d import LayerNorm2d
from sam_variants.layers.position_embedding_random import PositionEmbeddingRandom
from sam_variants.layers.tiny_vit_attention import TinyAttention, attention_bias_indexes
from sam_variants.layers.tiny_vit_convolutions import Conv2d_BN

# What whole checkpoints consist of, by the beginnings of their parameter names.
IMAGE_PARTS = ("image_encoder", "prompt_encoder", "mask_decoder", "no_mem_embed")
VIDEO_PARTS = (
    "memory_attention",
    "memory_encoder",
    "maskmem_tpos_enc",
    "mask_downsample",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
)


def other_parts(*own: str) -> list[str]:
    """Patterns of the parameters of a whole checkpoint that don't belong to the parts named."""
    return [rf"^{part}(\.|$)" for part in (*IMAGE_PARTS, *VIDEO_PARTS) if part not in own]


class PretrainedPart(PreTrainedModel):
    """Base of every model of this package: initialisation, attention interface, fusing."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _is_fused = False

    def post_init(self) -> None:
        bind_attention(self, self.config)
        super().post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the official code does: torch's defaults, and what a class below says of its own tensors.

        Non-persistent buffers are filled here too, because a model that is loaded comes from the meta device.
        """
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.LayerNorm | LayerNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)  # type: ignore[arg-type]
            init.ones_(module.running_var)  # type: ignore[arg-type]
            init.zeros_(module.num_batches_tracked)  # type: ignore[arg-type]
        elif isinstance(module, PositionEmbeddingRandom):
            init.normal_(module.positional_encoding_gaussian_matrix, std=module.scale)
        elif isinstance(module, TinyAttention):
            init.zeros_(module.attention_biases)
            init.copy_(module.attention_bias_idxs, attention_bias_indexes(module.resolution))
        elif isinstance(module, Conv2d_BN) and module.bn_weight_init != 1:
            init.constant_(module.bn.weight, module.bn_weight_init)

    @torch.no_grad()
    def fuse(self) -> Self:
        """Fold every batch norm into its convolution, for inference; outputs stay within 1e-4.

        A fused model can be neither trained nor saved: its parameters are no longer the checkpoint's.

        Returns:
            The model itself, in eval mode.
        """
        self.eval()
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Conv2d_BN):
                    setattr(parent, name, child.fuse())
            if isinstance(parent, PretrainedPart):
                parent._is_fused = True
        return self

    def train(self, mode: bool = True) -> Self:
        if mode and self._is_fused:
            raise ValueError("the model is fused for inference; load it again to train it")
        return super().train(mode)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        if self._is_fused:
            raise ValueError("the model is fused for inference and has no checkpoint; save it before calling fuse()")
        return super().save_pretrained(save_directory, *args, **kwargs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Inference with a model that its owner may be training: afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield model
    finally:
        for module in training:
            module.training = True
