"""What `sam-variants convert` reads: one checkpoint of any layout, what it is, and whether it is what its name says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from sam_variants.checkpoint_layouts.detect_preset import detect_config, image_part
from sam_variants.checkpoint_layouts.layout_table import LAYOUTS, layout_of
from sam_variants.checkpoint_layouts.load_checkpoint import (
    OWN_MODEL_TYPE,
    build_model,
    config_beside,
    find_locally,
    foreign_config,
    own_config,
)
from sam_variants.checkpoint_layouts.read_checkpoint import (
    INDEX_NAMES,
    WEIGHT_SUFFIXES,
    WHOLE_NAMES,
    read_checkpoint,
    read_weights_folder,
    weights_state,
)
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.known_checkpoints import CHECKPOINTS, KnownCheckpoint
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.hub.checksums import evidence_for, read_checksums, sha256_of, verify, weights_files
from sam_variants.hub.quantized_weights import flat_state_dict, says_quantized
from sam_variants.hub_scripts.convert_processor import download_beside, processor_beside
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.quantization import quantized

OURS = "ours"
# What a configuration says beside its architecture.
BESIDE = ("_name_or_path", "architectures", "auto_map", "dtype", "quantization_config", "transformers_version")


@dataclass(frozen=True)
class SourceFile:
    """A weights file that was read.

    Attributes:
        path: where it lies.
        sha256: of its content.
        compared_with: what the checksum was found to equal; empty when there was nothing, or nothing was asked.
        published: the published file with this content, or None.
    """

    path: Path
    sha256: str
    compared_with: str
    published: KnownCheckpoint | None


@dataclass(frozen=True)
class Source:
    """A checkpoint that was read.

    Attributes:
        name: what it was called on the command line.
        path: the file or folder on this machine.
        folder: what belongs to the weights lies here; None for a file alone.
        files: its weights files.
        layout: name in `LAYOUTS`, or `OURS`.
        config_values: content of the config.json beside the weights; empty without one.
        stored: the tensors under the names of its layout, mapped from the files where their format allows.
        tensors: the same under our names.
        dropped: name in `stored` of a tensor that `tensors` leaves out → why nothing is lost by it.
        model: ours, with the tensors that will be written, which are `tensors` themselves where nothing becomes of
            them; its configuration says which dtype to compute in.
        processor: the one that belongs to the model.
        preset: name in `PRESETS` of exactly this architecture, or None.
        how: what told the architecture.
        dtype: what the weights are turned into; None leaves them as they are stored.
        state: what would change if somebody wrote the files, by `weights_state`.
        quantize: how the model's weights were quantised, by its name in `QUANTIZATIONS`; None for not at all.
    """

    name: str
    path: Path
    folder: Path | None
    files: list[SourceFile]
    layout: str
    config_values: dict[str, Any]
    stored: dict[str, Tensor]
    tensors: dict[str, Tensor]
    dropped: dict[str, str]
    model: SamVariantsModel
    processor: SamVariantsProcessor
    preset: str | None
    how: str
    dtype: torch.dtype | None
    state: dict[Path, tuple[int, int, int]]
    quantize: str | None = None

    @property
    def written(self) -> dict[str, Tensor]:
        """The tensors under our names as they will be written."""
        if self.quantize is not None:
            return flat_state_dict(self.model)[0]
        if self.dtype is None:
            return self.tensors
        return {
            name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in self.tensors.items()
        }

    @property
    def origin(self) -> KnownCheckpoint | None:
        """The published checkpoint whose weights these certainly are; None for what may be fine-tuned."""
        from_hub = (known for known in CHECKPOINTS.values() if known.hub_repo == self.name)
        return next((file.published for file in self.files if file.published), next(from_hub, None))

    @property
    def layout_name(self) -> str:
        """The layout, for people."""
        return "sam_variants" if self.layout == OURS else LAYOUTS[self.layout].table.name


def sources_in(checkpoint: str) -> list[str]:
    """The checkpoints that an argument stands for: itself, or the files of a folder that is none itself.

    A folder is a checkpoint when it holds a config.json, an index of shards, weights under the name that
    `save_pretrained` gives them, or only one weights file. Files under their published names come first.
    """
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        return [checkpoint]
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in WEIGHT_SUFFIXES)
    marks = ("config.json", *INDEX_NAMES, *WHOLE_NAMES)
    if len(files) < 2 or any((folder / name).is_file() for name in marks):
        return [checkpoint]
    published = {known.file_name for known in CHECKPOINTS.values()}
    return [str(path) for path in sorted(files, key=lambda path: path.name not in published)]


def read_source(
    name: str,
    preset: str | None = None,
    dtype: torch.dtype | None = None,
    check: bool = True,
    revision: str | None = None,
) -> Source:
    """Read a checkpoint, completely or not at all.

    Args:
        name: what `load_checkpoint` takes.
        preset: name in `PRESETS`; by default the configuration or the shapes tell.
        dtype: what the parameters are turned into; by default they stay as they are stored.
        check: refuse a file whose checksum is not what is known of it.
        revision: branch, tag or commit of a Hub repository.

    Raises:
        FileNotFoundError: when there is no such file.
        OSError: when a Hub repository cannot be read.
        ValueError: for a damaged, foreign or incomplete file, and for a part of a model.
    """
    given = None if preset is None else config_for(preset)
    config: PreTrainedConfig | None
    path, source = find_locally(name, revision)
    state = weights_state(path)
    files = [read_file(file, check) for file in (weights_files(path) if path.is_dir() else [path])]
    values = config_beside(path)
    if says_quantized(values):
        raise ValueError(f"the weights of {source} are quantised and stay so: convert those that they were made from")
    folder = download_beside(name, path, is_own(values)) if values else None
    stored = read_weights_folder(path) if path.is_dir() else read_checkpoint(path)
    if is_own(values):
        layout, tensors, dropped = OURS, stored, {}
        config = own_config(values, source) if given is None else given
    else:
        found = layout_of(stored, source)
        layout = next(key for key, row in LAYOUTS.items() if row is found)
        tensors, dropped = found.table.to_ours(stored), found.table.dropped(stored)
        config = foreign_config(values, source) if values and given is None else given
    how = "--preset" if given is not None else "config.json"
    if config is None:
        how, config = "the shapes", detect_config(shapes_of(tensors), source)
    model = build_model(config, tensors, source)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(f"{source} holds a {type(model).__name__} alone, not a whole model")
    store_as(model, tensors, dtype)
    return Source(
        name=name,
        path=path,
        folder=folder,
        files=files,
        layout=layout,
        config_values=values,
        stored=stored,
        tensors=tensors,
        dropped=dropped,
        model=model,
        processor=processor_beside(model, folder, layout == OURS),
        preset=preset_of(config),
        how=how,
        dtype=dtype,
        state=state,
    )


def is_own(values: Mapping[str, Any]) -> bool:
    """Whether this package wrote a config.json."""
    return str(values.get("model_type", "")).startswith(OWN_MODEL_TYPE)


def store_as(model: SamVariantsModel, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    """Let a model hold its weights as they are stored, or in another dtype, which it then computes in, too.

    Args:
        model: in the dtype to compute in, which its configuration keeps.
        tensors: our name → what is stored.
        dtype: the other one; None for what is stored.
    """
    if dtype is not None:
        torch.nn.Module.to(model, dtype)
        model.config.dtype = dtype
        return
    current = model.state_dict()
    others = {name: tensor for name, tensor in tensors.items() if tensor.dtype != current[name].dtype}
    model.load_state_dict(others, strict=False, assign=True)


def as_quantized(source: Source, name: str) -> Source:
    """The same checkpoint with int8 weights in linear layers; all other tensors are what they were, bit for bit.

    Args:
        source: as it was read.
        name: name in `QUANTIZATIONS`.

    Raises:
        ValueError: without torchao.
    """
    model = quantized(source.model, name)
    current, stored = model.state_dict(), source.model.state_dict()
    kept = {name: tensor for name, tensor in stored.items() if type(current[name]) is Tensor}
    model.load_state_dict(kept, strict=False, assign=True)
    return replace(source, model=model, quantize=name)


def read_file(path: Path, check: bool) -> SourceFile:
    """A weights file's checksum, compared with all that is known of it.

    Raises:
        ValueError: when it differs and `check` is on.
    """
    evidence = evidence_for(path, read_checksums(path.parent)) if check else {}
    try:
        compared_with = verify(path, evidence) if evidence else ""
    except ValueError as error:
        raise ValueError(f"{error} (--no-check converts it as it is)") from error
    sha256 = next(iter(evidence.values())) if evidence else sha256_of(path)
    published = next((known for known in CHECKPOINTS.values() if known.sha256 == sha256), None)
    return SourceFile(path, sha256, compared_with, published)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name → shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def preset_of(config: PreTrainedConfig) -> str | None:
    """The preset with exactly this architecture, or whose part for images it is; None when there is none."""
    wanted = architecture(config)
    for name in PRESETS:
        preset: Any = config_for(name)
        alternatives = [preset, image_part(preset)] if isinstance(preset, SamVariantsVideoConfig) else [preset]
        if any(architecture(alternative) == wanted for alternative in alternatives):
            return name
    return None


def architecture(value: Any) -> Any:
    """A configuration as plain values, without what it says beside its architecture."""
    if isinstance(value, PreTrainedConfig):
        value = value.to_dict()
    if isinstance(value, dict):
        return {name: architecture(item) for name, item in value.items() if name not in BESIDE}
    return [architecture(item) for item in value] if isinstance(value, list | tuple) else value


def parameters_by_part(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """How many parameters every part of a model has, and all of them under `total`."""
    parts = {"image_encoder": 0, "prompt_encoder": 0, "mask_decoder": 0, "memory": 0}
    for name, parameter in parameters:
        part = name.split(".")[0]
        parts[part if part in parts else "memory"] += parameter.numel()
    return parts | {"total": sum(parts.values())}
