"""What lies in an adapter's folder, peft's configuration and weights: written alone, read without running any code."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sam_variants.hub.hub_errors import hub_reason
from sam_variants.modeling_sam_variants import SamVariantsModel

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
ADAPTER_NAME = "default"


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Leave out that peft asks transformers for an attribute by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def write_adapter(adapted: PeftModel, folder: Path, base_name: str | None) -> int:
    """Write an adapter's two files. peft's own `save_pretrained` would ask the Hub about the base, and write a card.

    Args:
        adapted: the model with the adapter.
        folder: made if needed.
        base_name: what the configuration calls the base.

    Returns:
        The number of parameters written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = copy.copy(adapted.peft_config[ADAPTER_NAME])
    config.base_model_name_or_path = base_name
    config.inference_mode = True
    kind = type(adapted.get_base_model())
    mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    config.save_pretrained(str(folder), auto_mapping_dict=mapping)
    return sum(tensor.numel() for tensor in tensors.values())


def adapter_folder(source: str | Path, revision: str | None = None, token: bool | str | None = None) -> Path:
    """The folder with an adapter's files, downloaded when it is a repository on the Hub.

    Raises:
        ValueError: for a revision of a folder.
        OSError: when there is no such folder or repository, or a file is missing.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for repositories on the Hub, and {str(source)!r} is a folder")
    else:
        try:
            folder = Path(
                snapshot_download(str(source), revision=revision, token=token, allow_patterns=list(ADAPTER_FILES))
            )
        except HFValidationError as error:
            raise FileNotFoundError(f"there is no folder {str(source)!r} with an adapter") from error
        except Exception as error:  # which HTTP library raises what depends on the version of huggingface_hub
            reason = hub_reason(error)
            raise OSError(f"there is no folder {str(source)!r}, and from the Hub it can't be had: {reason}") from error
    if missing := [name for name in ADAPTER_FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{str(source)!r} holds no adapter: {' and '.join(missing)} missing")
    return folder


def read_adapter_config(folder: Path) -> LoraConfig:
    """The configuration of a LoRA adapter.

    Raises:
        ValueError: when it is none.
    """
    path = folder / ADAPTER_CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = values["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is no configuration of an adapter: {error}") from error
    # peft imports the module that megatron_core names.
    if kind != "LORA" or values.get("megatron_config"):
        raise ValueError(f"{str(path)!r} describes an adapter of the kind {kind!r}; only plain LORA can be loaded")
    try:
        return LoraConfig.from_pretrained(str(folder))  # type: ignore[return-value]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is no configuration of an adapter: {error}") from error


def adapter_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's tensors by name.

    Raises:
        ValueError: for a damaged file.
    """
    path = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error


def refuse_other_base(model: SamVariantsModel, config: LoraConfig, folder: Path, source: str) -> None:
    """Compare an adapter's tensors with those that a new one for this model has, before the model is changed.

    Args:
        model: the base, left as it is.
        config: of the adapter.
        folder: with the adapter's files.
        source: what messages call the adapter.

    Raises:
        ValueError: when they differ, or the weights are damaged.
    """
    given = adapter_shapes(folder)
    if reason := _misfit(model, config, given):
        base = config.base_model_name_or_path
        told = f" (its base is {base!r})" if base else ""
        raise ValueError(f"the adapter {source!r} was made for another model{told}: {reason}")


def _misfit(model: SamVariantsModel, config: LoraConfig, given: dict[str, tuple[int, ...]]) -> str:
    """Why tensors are not those of an adapter for a model; empty when they are."""
    own = copy.deepcopy(config)
    own.base_model_name_or_path = None
    try:
        with torch.device("meta"), quiet_peft():
            blank: Any = get_peft_model(type(model)(copy.deepcopy(model.config)), own)  # type: ignore[arg-type]
    except ValueError:  # peft's, whose message lists all patterns
        return f"it adapts layers that a {type(model).__name__} with this configuration lacks"
    expected = get_peft_model_state_dict(blank, save_embedding_layers=False)
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    wrong = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
    if not wrong:
        return ""
    there, here = (_shape_text(shapes.get(wrong[0])) for shapes in (given, wanted))
    name = wrong[0].removeprefix("base_model.model.")
    return f"{len(wrong)} of {len(wanted)} tensors differ, such as {name}, which is {there} there and {here} here"


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a number"
