"""What encoders, decoders and whole models share as pretrained models."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from sam_variants.attention_interface import bind_attention
from sam_variants.hub.quantized_weights import (
    compact_saving,
    explain_missing_torchao,
    refuse_lone_part,
    refuse_quantized,
    trim_metadata,
)
from sam_variants.hub.saved_weights import settle_saved_weights
from sam_variants.hub.weights_checks import check_source, explain_load_error, refuse_misfit, refuse_other_files
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

# Six times SAM ViT-H.
MAX_PARAMETERS = 4_000_000_000


def other_parts(*own: str) -> list[str]:
    """Patterns of the parameters of a whole checkpoint that don't belong to the parts named."""
    return [rf"^{part}(\.|$)" for part in (*IMAGE_PARTS, *VIDEO_PARTS) if part not in own]


class PretrainedPart(PreTrainedModel):
    """Base of every model of this package: initialisation, attention interface, fusing."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _has_folded_norms = False
    _saved_variant: str | None = None

    def post_init(self) -> None:
        # Loading builds the model on the meta device first: what can't be real is refused before it takes memory.
        if (size := sum(parameter.numel() for parameter in self.parameters())) > MAX_PARAMETERS:
            raise ValueError(f"the configuration describes {size} parameters; at most {MAX_PARAMETERS} are allowed")
        bind_attention(self, self.config)
        super().post_init()
        # transformers adds the patterns of the parts, with which a whole model would ignore keys of its own.
        self._keys_to_ignore_on_load_unexpected = set(type(self)._keys_to_ignore_on_load_unexpected or [])

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

        Raises:
            ValueError: for a convolution that holds an adapter, and for weights that are not in memory (offloaded, or
                on the meta device); the model stays as it was.
        """
        folded = [
            (parent, name, child)
            for parent in self.modules()
            for name, child in parent.named_children()
            if isinstance(child, Conv2d_BN)
        ]
        for _, name, child in folded:
            if not isinstance(child.c, nn.Conv2d):
                raise ValueError(f"the convolution of {name!r} is a {type(child.c).__name__}: merge its adapter first")
            if child.c.weight.is_meta:
                raise ValueError(f"the weights of {name!r} are not in memory: fuse the model before it is offloaded")
        self.eval()
        for parent, name, child in folded:
            setattr(parent, name, child.fuse())
        for module in self.modules():
            if isinstance(module, PretrainedPart):
                module._has_folded_norms = True
        return self

    @property
    def _is_fused(self) -> bool:
        """Whether this model, or a part of it, was fused."""
        return any(getattr(module, "_has_folded_norms", False) for module in self.modules())

    def train(self, mode: bool = True) -> Self:
        if mode and self._is_fused:
            raise ValueError("the model is fused for inference; load it again to train it")
        if mode:
            refuse_quantized(self, "trained")
        return super().train(mode)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any = None, *args: Any, **kwargs: Any) -> Self:
        """Load as transformers does, but completely or not at all.

        Args:
            pretrained_model_name_or_path: folder or Hub repository; None with `config=` and `state_dict=`.
            *args, **kwargs: as for `PreTrainedModel.from_pretrained`. With `ignore_mismatched_sizes=True` weights that
                are missing or have another shape are initialised instead, and others left out.

        Returns:
            The model; with `output_loading_info=True` the model and that.

        Raises:
            OSError: when the repository can't be read, or a weights file in it is damaged.
            ValueError: when weights are missing, or not the model's, or have another shape than the configuration says;
                for weights that are no safetensors; for quantised weights without torchao.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        check_source(pretrained_model_name_or_path, kwargs)
        is_lenient = kwargs.pop("ignore_mismatched_sizes", False)
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        except Exception as error:
            explain_missing_torchao(error, pretrained_model_name_or_path)
            explain_load_error(error, pretrained_model_name_or_path, kwargs)
            raise
        model, info = loaded
        refuse_lone_part(info["unexpected_keys"], cls.__name__, pretrained_model_name_or_path)
        if not is_lenient:
            refuse_misfit(info, cls.__name__, pretrained_model_name_or_path)
        return loaded if wants_info else model

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Where transformers reads the files, which in a Hub repository are known only now."""
        if state_dict is None:
            refuse_other_files(checkpoint_files or [])
        trim_metadata(load_config.hf_quantizer)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save as transformers does, with the weights' checksums in `SHA256SUMS`.

        Raises:
            ValueError: for a fused model, and for one whose layers are wrapped by peft.
        """
        if self._is_fused:
            raise ValueError("the model is fused for inference and has no checkpoint; save it before calling fuse()")
        if hasattr(self, "peft_config") and not getattr(self, "_hf_peft_config_loaded", False):
            raise ValueError("the model's layers hold adapters: save_adapter writes them, merge_adapter merges them")
        given = signature(PreTrainedModel.save_pretrained).bind(self, save_directory, *args, **kwargs)
        given.apply_defaults()
        self._saved_variant = given.arguments["variant"]
        with compact_saving(self) as own:
            result = super().save_pretrained(save_directory, *args, **own | kwargs)
        if self.should_save_on_this_rank(given.arguments["is_main_process"]):
            self._settle(save_directory)
        return result

    def _settle(self, folder: str | os.PathLike) -> None:
        has_weights = not getattr(self, "_hf_peft_config_loaded", False)  # with adapters, they alone are saved
        settle_saved_weights(Path(folder), self._saved_variant, has_weights)

    def _upload_modified_files(self, working_dir: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Where transformers uploads what it saved: the checksums have to be there already."""
        self._settle(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)


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
