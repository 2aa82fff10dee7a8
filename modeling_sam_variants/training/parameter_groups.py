"""Optimiser groups: layer-wise learning-rate decay through the image encoder, weight decay on matrices only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from sam_variants.encoders.encoder_base import ImageEncoderBase

# What multiplies its input by a matrix. All other parameters are tables and vectors, which weight decay only shrinks.
MATRIX_OWNERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
# By the encoder's model_type: what lies before all blocks, the blocks, and what follows them.
DEPTHS = {
    "sam_variants_vit": (r"patch_embed\.|pos_embed$", r"blocks\.(\d+)\.", r"neck\."),
    "sam_variants_hiera": (r"trunk\.(patch_embed\.|pos_embed)", r"trunk\.blocks\.(\d+)\.", r"neck\."),
}
UNMATCHED = "(?!)"


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Sort what is trained into groups for a `torch.optim` optimiser.

    The learning rate falls by the factor `layer_decay` with every block from the neck of the image encoder down to its
    patch embedding, as in BEiT (Bao et al., 2021) and SAM 2: block i of n gets layer_decay^(n−i), what lies before the
    blocks layer_decay^(n+1). TinyViT has a rule of its own, `set_layer_lr_decay`, which is called: there the last block
    has the full rate, and the patch embedding that of the first block. All else is trained at the full rate.

    Weights of linear layers and convolutions are decayed. Biases, norms, embeddings, position tables, single learned
    tokens and what an encoder's `no_weight_decay_keywords` names are not.

    Args:
        model: a model of this package, or its image encoder alone; as it is, with adapters, or wrapped for several
            processes. Frozen parameters are left out.
        learning_rate: of what follows the image encoder.
        weight_decay: of matrices.
        layer_decay: above 0, at most 1; 1 for one learning rate everywhere.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `layer`, how many times the rate was decayed (0 for all without
        layer-wise decay). Every trained parameter is in exactly one; their order is the same in every run.

    Raises:
        ValueError: for a number out of its range, nothing to train, layer-wise decay without an image encoder, and a
            parameter of an image encoder whose depth is not known.
    """
    _check_numbers(learning_rate, weight_decay, layer_decay)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("the model has nothing to train: no parameter has requires_grad=True")
    plain = set(_not_decayed(model))
    layers = _layers(model, layer_decay) if layer_decay < 1 else {}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for parameter in trained:
        key = layers.get(id(parameter), 0), id(parameter) in plain
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": groups[layer, is_plain],
            "lr": learning_rate * layer_decay**layer,
            "weight_decay": 0.0 if is_plain else weight_decay,
            "layer": layer,
        }
        for layer, is_plain in sorted(groups)
    ]


def _check_numbers(learning_rate: float, weight_decay: float, layer_decay: float) -> None:
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"learning_rate={learning_rate} must be above 0, for example 1e-4")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight_decay={weight_decay} must be 0 or more, for example 0.05")
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay} must be above 0 and at most 1 (no decay), for example 0.8")


def _not_decayed(model: nn.Module) -> Iterator[int]:
    """The identities of the parameters without weight decay."""
    for module in model.modules():
        is_matrix = isinstance(module, MATRIX_OWNERS)
        for parameter in module.parameters(recurse=False):
            if not is_matrix or parameter.ndim < 2:
                yield id(parameter)
        if isinstance(module, ImageEncoderBase) and hasattr(module, "no_weight_decay_keywords"):
            keywords: set[str] = module.no_weight_decay_keywords()  # type: ignore[operator]
            for name, parameter in module.named_parameters():
                if any(keyword in name for keyword in keywords):
                    yield id(parameter)


def _layers(model: nn.Module, layer_decay: float) -> dict[int, int]:
    """How many times the rate is decayed, by the identity of every parameter of an image encoder."""
    # Found by their class, encoders are the same within adapters and within wrappers for several processes.
    encoders: list[Any] = [module for module in model.modules() if isinstance(module, ImageEncoderBase)]
    if not encoders:
        raise ValueError(
            f"layer_decay={layer_decay} needs an image encoder of this package, and {type(model).__name__} has none: "
            "leave it out"
        )
    found: dict[int, int] = {}
    for encoder in encoders:
        parameters = dict(encoder.named_parameters())
        if hasattr(encoder, "set_layer_lr_decay"):
            encoder.set_layer_lr_decay(layer_decay)
            depths = {name: _depth_from_scale(parameter, layer_decay) for name, parameter in parameters.items()}
        else:
            depths = _depths_from_names(parameters, *DEPTHS.get(encoder.config.model_type, [UNMATCHED] * 3))
        for name, parameter in parameters.items():
            if (depth := depths[name]) is None:
                raise ValueError(
                    f"layer_decay={layer_decay} needs the depth of {name!r} in {type(encoder).__name__}, and nothing "
                    "states it: neither its set_layer_lr_decay nor a row of DEPTHS"
                )
            found[id(parameter)] = depth
    return found


def _depth_from_scale(parameter: nn.Parameter, layer_decay: float) -> int | None:
    """How many times the rate was decayed to become what `set_layer_lr_decay` wrote; None where it wrote nothing."""
    scale = getattr(parameter, "lr_scale", None)
    return None if scale is None else round(math.log(scale, layer_decay))


def _depths_from_names(names: Iterable[str], before: str, block: str, behind: str) -> dict[str, int | None]:
    """The same by what an encoder's parameters are called; None for those that no pattern matches."""
    blocks = {name: int(found[1]) for name in names if (found := re.match(block, name))}
    num_blocks = 1 + max(blocks.values(), default=-1)
    depths: dict[str, int | None] = {name: num_blocks - index for name, index in blocks.items()}
    for name in names:
        if name not in blocks:
            depths[name] = num_blocks + 1 if re.match(before, name) else 0 if re.match(behind, name) else None
    return depths
