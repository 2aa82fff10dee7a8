"""`load_checkpoint`: one call from any checkpoint of the family to a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel

from sam_variants.checkpoint_layouts.detect_preset import detect_config
from sam_variants.checkpoint_layouts.layout_table import LAYOUTS, layout_of, layout_of_model_type
from sam_variants.checkpoint_layouts.mapped_tensors import own_memory
from sam_variants.checkpoint_layouts.read_checkpoint import (
    WEIGHT_SUFFIXES,
    WHOLE_NAMES,
    read_checkpoint,
    read_json,
    read_weights_folder,
    weights_state,
)
from sam_variants.checkpoint_layouts.renames import shorten
from sam_variants.configuration.configuration_base import VERSION_FIELD, check_values, upgrade_hint
from sam_variants.configuration.presets import config_for
from sam_variants.hub.checksums import CHECKSUMS_FILE, verify_files
from sam_variants.hub.hub_errors import hub_reason
from sam_variants.hub.quantized_weights import refuse_quantized, says_quantized
from sam_variants.quantization import check_name, quantized

OWN_MODEL_TYPE = "sam_variants"
REPO_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", CHECKSUMS_FILE)


def load_checkpoint(
    path_or_repo: str | PathLike[str],
    preset: str | PreTrainedConfig | None = None,
    *,
    verify: bool = False,
    revision: str | None = None,
    quantize: str | None = None,
) -> PreTrainedModel:
    """Load weights of any layout of the family as one of our models, completely or not at all.

    Args:
        path_or_repo: a file (`.pt`, `.pth`, `.safetensors`: SAM, MobileSAM, SAM 2 or 2.1, also fine-tuned ones, wrapped
            or with prefixes; transformers' names), a folder (transformers' `SamModel`, `Sam2Model` or `Sam2VideoModel`,
            or ours), a Hub repository (`"facebook/sam2.1-hiera-tiny"`), or a file in one (`"owner/name/file.pth"`).
        preset: name in `PRESETS`, or a configuration, of the architecture. By default it comes from config.json beside
            the weights, else from their names and shapes.
        verify: first compare the sha256 of the weights with `SHA256SUMS` beside them, with what the Hub said when they
            were downloaded, and with the published one of an official file; refuse what has none of these.
        revision: branch, tag or commit of a Hub repository.
        quantize: "int8" or "int8-dynamic" for int8 weights through torchao, see `quantization_for`; None leaves them as
            they are, quantised or not.

    Returns:
        The model in evaluation mode, on the CPU, in the dtype of the weights: a `SamVariantsVideoModel` for SAM 2 and
        2.1, a `SamVariantsModel` for SAM, MobileSAM and a `Sam2Model` (which has no memory). Its `name_or_path` is
        what it was loaded from.

    Raises:
        FileNotFoundError: when a file, or a shard, does not exist.
        OSError: when a Hub repository cannot be read, or somebody writes the weights while they are loaded.
        ValueError: when the content is no checkpoint, holds code, does not fit the configuration key by key, or is not
            what its checksum says; for the revision of something that is no Hub repository; for weights that are
            quantised already where `preset` or `quantize` is given, and for quantised ones without torchao.
    """
    if quantize is not None:
        check_name(quantize)
    config = config_for(preset) if isinstance(preset, str) else preset
    if config is not None and not isinstance(config, PreTrainedConfig):
        raise TypeError(f"preset must be a preset's name or a configuration, got {type(preset).__name__}")
    path, source = find_locally(path_or_repo, revision)
    if verify:
        verify_files(path)
    values = config_beside(path)
    is_ours = str(values.get("model_type", "")).startswith(OWN_MODEL_TYPE)
    if is_ours and says_quantized(values):
        if config is not None or quantize is not None:
            given = "preset=" if quantize is None else f"quantize={quantize!r}"
            raise ValueError(
                f"the weights of {source} are quantised already, as its config.json says: leave out {given}"
            )
        return load_quantized(path, str(path_or_repo))
    if values and config is None:
        config = own_config(values, source) if is_ours else foreign_config(values, source)

    # A large file is mapped part by part: of one that is written meanwhile, parts would be old and others new.
    before = weights_state(path)

    def refuse_changes() -> None:
        if weights_state(path) != before:
            raise OSError(
                f"{source} changed while it was read, and nothing was loaded; load it again when it is written"
            )

    def own_tensors() -> dict[str, Tensor]:
        refuse_changes()
        tensors = read_weights_folder(path) if path.is_dir() else read_checkpoint(path)
        return tensors if is_ours else layout_of(tensors, source).table.to_ours(tensors)

    try:
        tensors = own_tensors()
    except FileNotFoundError as error:  # of a repository, the path is one in the cache
        raise FileNotFoundError(f"{source} is incomplete: {error}") from error
    if config is None:
        config = detect_config({name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
    model = build_model(config, tensors, source, own_tensors)
    refuse_changes()
    if quantize is not None:
        model = quantized(model, quantize)
    model.name_or_path = str(path_or_repo)
    return model


def load_quantized(path: Path, name: str) -> PreTrainedModel:
    """The model of a folder of ours whose weights are quantised, or of the weights file in one."""
    model: PreTrainedModel = AutoModel.from_pretrained(path if path.is_dir() else path.parent).eval()
    model.name_or_path = name
    return model


def config_beside(path: Path) -> dict[str, Any]:
    """The content of the config.json that belongs to a weights folder or file; empty without one."""
    belongs = path.is_dir() or path.name in WHOLE_NAMES
    config_path = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(config_path) if belongs and config_path.is_file() else {}


def own_config(values: dict[str, Any], source: str) -> PreTrainedConfig:
    """The configuration of a config.json that this package wrote."""
    check_values(values, f"config.json of {source}")
    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"config.json of {source} has model_type={model_type!r}, which is unknown here"
            f"{upgrade_hint(values.get(VERSION_FIELD))}"
        )
    return CONFIG_MAPPING[model_type].from_dict(values)


def foreign_config(values: dict[str, Any], source: str) -> PreTrainedConfig | None:
    """Our configuration from a foreign config.json; None when it is left to the shapes."""
    layout = layout_of_model_type(values.get("model_type"), f"config.json of {source}")
    return None if layout.config_from is None else layout.config_from(values)


def export_state_dict(model: PreTrainedModel, layout: str) -> dict[str, Tensor]:
    """A model's weights under the names of a foreign layout.

    Args:
        model: a model whose architecture the layout holds. `"transformers-sam2"` is for images: of a
            `SamVariantsVideoModel` it holds that part and leaves the memory out, as `Sam2Model` itself does.
        layout: name in `LAYOUTS`.

    Returns:
        Foreign name → tensor, sharing memory with the model.

    Raises:
        ValueError: for an unknown layout, one that cannot hold this model's keys, and a quantised model.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    refuse_quantized(model, "written in another layout")
    return LAYOUTS[layout].table.to_theirs(model.state_dict())


def build_model(
    config: PreTrainedConfig,
    tensors: dict[str, Tensor],
    source: str,
    read_again: Callable[[], Mapping[str, Tensor]] | None = None,
) -> PreTrainedModel:
    """A model with exactly these weights.

    Args:
        config: its configuration.
        tensors: our name → tensor, for every parameter and persistent buffer.
        source: where they come from, for messages.
        read_again: gives the same tensors anew for copies, so that a large file is never in memory twice; those given
            are then used up. By default the model holds the given tensors themselves, mapped from a file or not, which
            is for models that don't outlive a conversion.

    Raises:
        ValueError: when a key is missing, unexpected or of another shape, listing them.
    """
    with torch.device("meta"):
        blank = AutoModel.from_config(config)
    expected = {name: tuple(tensor.shape) for name, tensor in blank.state_dict().items()}
    check_fit(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
    floating = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    stored = floating.pop() if len(floating) == 1 else torch.float32
    dtype = stored if config.dtype is None else config.dtype
    # Copies, because the tensors may be mapped from the file, and a later save over it would change the model.
    held = tensors if read_again is None else own_memory(tensors, read_again)
    return type(blank).from_pretrained(None, config=config, state_dict=dict(held), dtype=dtype).eval()


def check_fit(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise unless both have the same names with the same shapes."""
    shapes = [
        f"{name} is {found[name]} instead of {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    problems = {
        "missing": [f"{name} {expected[name]}" for name in expected.keys() - found.keys()],
        "unexpected": [f"{name} {found[name]}" for name in found.keys() - expected.keys()],
        "of another shape": shapes,
    }
    told = [f"{len(names)} {problem}: {shorten(names)}" for problem, names in problems.items() if names]
    if told:
        raise ValueError(f"{source} does not fit the configuration, nothing was loaded; keys {'; '.join(told)}")


def find_locally(path_or_repo: str | PathLike[str], revision: str | None = None) -> tuple[Path, str]:
    """The file or folder on this machine, downloaded when it is a Hub repository, and what to call it in messages."""
    name = str(path_or_repo)
    path = Path(path_or_repo).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for Hub repositories, and {name!r} is on this machine")
        return path, repr(name)
    parts = name.split("/")
    in_repo = len(parts) > 2 and name.endswith(WEIGHT_SUFFIXES)
    is_repo_name = len(parts) == 2 and not name.endswith(WEIGHT_SUFFIXES)
    if not (in_repo or is_repo_name) or not re.fullmatch(r"[\w.-]+", parts[0]) or parts[0] in (".", ".."):
        raise FileNotFoundError(f"there is no checkpoint file or folder {name!r}")
    try:
        if in_repo:
            return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:]), revision=revision)), repr(name)
        return download_repo(name, revision), repr(name)
    except Exception as error:  # the client lets errors of its HTTP library through, which are of no common kind
        if isinstance(error, ValueError) and not isinstance(error, OSError | HFValidationError):
            raise
        at = "" if revision is None else f" at revision {revision!r}"
        reason = hub_reason(error)
        raise OSError(f"{name!r} is no local path, and the Hub repository{at} cannot be read: {reason}") from error


def download_repo(repo: str, revision: str | None = None) -> Path:
    """Download a repository's config and weights: safetensors where it has them, else its only other weights file."""
    folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(REPO_FILES)))
    if any(folder.glob("*.safetensors")):
        return folder
    cached = [path.name for path in folder.glob("*") if path.suffix in WEIGHT_SUFFIXES]
    try:
        files = [name for name in list_repo_files(repo, revision=revision) if name.endswith(WEIGHT_SUFFIXES)]
    except Exception:  # of any kind, see above; without the Hub, what was downloaded before will do
        if len(cached) != 1:
            raise
        files = cached
    if len(files) != 1:
        choices = ", ".join(f"{repo}/{name}" for name in files) or "none"
        raise ValueError(f"the Hub repository {repo!r} must hold one weights file; name one of those it has: {choices}")
    path = Path(hf_hub_download(repo, files[0], revision=revision))
    return path.parent if (path.parent / "config.json").is_file() else path
