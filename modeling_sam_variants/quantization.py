"""int8 weights through torchao: which layers, how they are made, and models that keep them."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any, TypeVar

from transformers import PreTrainedModel, TorchAoConfig
from transformers.utils import is_torchao_available

from sam_variants.hub.quantized_weights import INSTALL, MissingTorchaoError, refuse_quantized

# Name → torchao's class.
QUANTIZATIONS = {
    # Weights are int8 with a scale for each output channel, and multiplied in the precision of the activations.
    "int8": "Int8WeightOnlyConfig",
    # Activations are rounded to int8 on the fly, too, with a scale for each token, and the products are integers.
    "int8-dynamic": "Int8DynamicActivationInt8WeightConfig",
}
# Parts that keep their precision. The mask decoder answers prompts with folded weights, which int8 would forbid: half
# the speed and three times the error, for 4 % of the weights of SAM ViT-B, though 39 % of MobileSAM's. The heads of
# object pointers see one token each, and all later frames lean on what they say. Convolutions, norms and tables are
# never quantised: torchao takes linear layers only.
LEFT_ALONE = ("prompt_encoder", "mask_decoder", "obj_ptr_proj", "obj_ptr_tpos_proj")

AnyModel = TypeVar("AnyModel", bound=PreTrainedModel)


def quantization_for(name: str = "int8") -> Any:
    """What `from_pretrained(…, quantization_config=…)` takes to load a model of this package with int8 weights.

    Linear layers of the image encoder and of the memory are quantised; see `LEFT_ALONE` for what is not.

    Args:
        name: "int8" (weights alone) or "int8-dynamic" (activations on the fly, too).

    Returns:
        transformers' `TorchAoConfig`.

    Raises:
        ValueError: for an unknown name, and without torchao.
    """
    check_name(name)
    config_class = getattr(import_module("torchao.quantization"), QUANTIZATIONS[name])
    # Else torchao would set options of torch.compile for the whole process.
    return TorchAoConfig(config_class(set_inductor_config=False), modules_to_not_convert=list(LEFT_ALONE))


def check_name(name: str) -> None:
    """Raise ValueError for an unknown way to quantise, and without torchao."""
    if name not in QUANTIZATIONS:
        raise ValueError(f"quantize={name!r} is unknown; choose one of {', '.join(QUANTIZATIONS)}")
    if not is_torchao_available():
        raise MissingTorchaoError(f"quantize={name!r} needs torchao, which is not installed here or too old: {INSTALL}")


def quantized(model: AnyModel, name: str) -> AnyModel:
    """A model with int8 weights in the place of another one's.

    Args:
        model: as it was loaded; what is not quantised is shared with it.
        name: as for `quantization_for`.

    Returns:
        The other model, in evaluation mode.

    Raises:
        ValueError: as `quantization_for`, and for a model that is quantised already.
    """
    refuse_quantized(model, "quantised again")
    config: Any = copy.deepcopy(model.config)
    found = type(model).from_pretrained(
        None,
        config=config,
        state_dict=model.state_dict(),
        dtype=model.dtype if config.dtype is None else config.dtype,
        quantization_config=quantization_for(name),
    )
    found.name_or_path = model.name_or_path
    return found.eval()
