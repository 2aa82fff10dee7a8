"""Weights that torchao quantised: where transformers needs help to load and to save them.

Nothing here imports torchao, so that whoever has no quantised weights doesn't need it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, initialization

INSTALL = "pip install 'sam-variants[quantize]'"
# In the metadata of safetensors: the list of all tensors, and what torchao calls one that it left alone.
TENSOR_NAMES = "tensor_names"
PLAIN = "Tensor"
# What a quantised weight consists of, as `layer._weight_qdata` and `layer._weight_scale`.
COMPONENT = "._weight_"

AnyModel = TypeVar("AnyModel", bound=PreTrainedModel)


class MissingTorchaoError(ValueError, ImportError):
    """Quantised weights are asked for where torchao is not installed."""


def is_quantized(model: Any) -> bool:
    """Whether a whole model has quantised weights."""
    return getattr(model, "hf_quantizer", None) is not None


def says_quantized(values: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json belongs to quantised weights."""
    return bool(values.get("quantization_config"))


def refuse_quantized(model: Any, done: str) -> None:
    """Raise for a quantised model, with which something can't be done.

    Args:
        model: any.
        done: what can't be done, such as "trained".

    Raises:
        ValueError: naming it and the way out.
    """
    if is_quantized(model):
        raise ValueError(
            f"the model's weights are quantised and can't be {done}: load the checkpoint that they were made from, "
            "without quantize= or quantization_config="
        )


def refuse_lone_part(unexpected: Iterable[str], model: str, source: Any) -> None:
    """Raise where a part is taken alone out of a checkpoint that has the weights of this part quantised.

    Args:
        unexpected: keys that the part has no place for.
        model: name of the part's class.
        source: the checkpoint.

    Raises:
        ValueError: with the way to get the part.
    """
    if any(COMPONENT in key for key in unexpected):
        raise ValueError(
            f"{str(source)!r} has quantised weights, of which a {model} can't be loaded alone: load the whole model "
            "with AutoModel.from_pretrained and take the part from it, such as model.image_encoder"
        )


def explain_missing_torchao(error: Exception, source: Any) -> None:
    """Raise one error that says what to install when that is what an error is about; else do nothing.

    Raises:
        MissingTorchaoError: which is a `ValueError` and an `ImportError`.
    """
    if isinstance(error, ImportError) and "torchao" in str(error):
        what = "these weights are" if source is None else f"the weights of {str(source)!r} are"
        raise MissingTorchaoError(
            f"{what} quantised by torchao, which is not installed here or too old: {INSTALL}"
        ) from error


def quantized_only(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a safetensors file, without torchao's entries for tensors that are not quantised.

    transformers reads all entries again for every quantised weight, and fails at names without a dot, which some of
    our parameters have; nobody needs the entries of plain tensors. Metadata that is not torchao's stays as it is.

    Raises:
        ValueError: for damaged metadata.
    """
    if TENSOR_NAMES not in metadata:
        return dict(metadata)
    try:
        names = [name for name in json.loads(metadata[TENSOR_NAMES]) if json.loads(metadata[name])["_type"] != PLAIN]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"torchao's metadata in the weights is damaged ({error!r})") from error
    return {TENSOR_NAMES: json.dumps(names), **{name: metadata[name] for name in names}}


def trim_metadata(quantizer: Any) -> None:
    """Let transformers' loader see the metadata of the quantised weights alone; None for a model without such."""
    if getattr(quantizer, "metadata", None):
        quantizer.metadata = quantized_only(quantizer.metadata)


def flat_state_dict(model: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors and the metadata of a quantised model as its file has them: quantised weights in their components."""
    tensors, metadata = type(model.hf_quantizer).get_state_dict_and_metadata(model.hf_quantizer, model)
    return tensors, quantized_only(metadata)


@contextmanager
def compact_saving(model: Any) -> Iterator[dict[str, Any]]:
    """While transformers saves a model, leave out the metadata of tensors that are not quantised.

    Yields:
        Arguments for `save_pretrained`.
    """
    if not is_quantized(model):
        yield {}
        return
    model.hf_quantizer.get_state_dict_and_metadata = flat_state_dict
    try:
        # transformers can't undo how it read quantised weights, and there is nothing to undo: names are the file's.
        yield {"save_original_format": False}
    finally:
        del model.hf_quantizer.get_state_dict_and_metadata


def rebuilt(model: AnyModel, config: PreTrainedConfig, weights: Mapping[str, Tensor]) -> AnyModel:
    """A model of the same class with other sizes or other weights, which stay quantised where they are.

    Args:
        model: the class, and how it is quantised.
        config: of the new model.
        weights: name → tensor, of a state dict of this class.
    """
    if not is_quantized(model):
        dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
        return type(model).from_pretrained(None, config=config, state_dict=dict(weights), dtype=dtype)
    # transformers loads quantised weights from files only.
    with initialization.no_init_weights():
        found: Any = type(model)(config).eval()
    found.load_state_dict(weights, assign=True)
    found.requires_grad_(False)
    found.hf_quantizer, found.is_quantized = model.hf_quantizer, True
    return found
