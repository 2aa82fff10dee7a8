"""What is wrong with weights that transformers could not load, or loaded only in part."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from sam_variants.hub.hub_errors import known_reason

SHOWN = 5
SAFETENSORS = ".safetensors"
WHOLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_NAME = re.compile(r"[^/\\:\0]+\.(safetensors|pt|pth|bin|ckpt)")
MAX_SHARDS = 10_000


class WeightsMisfitError(ValueError, RuntimeError):
    """Weights that do not fit their configuration; also the kind of error that transformers raises for it."""


def refuse_misfit(info: Mapping[str, Any], model: str, source: Any) -> None:
    """Raise unless all of a model's weights were in the checkpoint, with the right shapes.

    Args:
        info: the loading info of transformers' `from_pretrained`.
        model: name of the model's class.
        source: where the weights come from, for the message; None for a state dict.

    Raises:
        WeightsMisfitError: which is a `ValueError`, naming keys and shapes.
    """
    missing = sorted(info["missing_keys"])
    mismatched = [
        f"{key} is {tuple(found)} instead of {tuple(wanted)}" for key, found, wanted in sorted(info["mismatched_keys"])
    ]
    told = []
    if missing:
        told.append(f"{len(missing)} missing: {shortened(missing)}")
    if mismatched:
        told.append(f"{len(mismatched)} mismatched: {shortened(mismatched)}")
    if told:
        where = "the state dict" if source is None else repr(str(source))
        raise WeightsMisfitError(
            f"the weights in {where} do not fit a {model} with this configuration; keys {'; '.join(told)}. Is it "
            "another model, or an incomplete file? To initialise these at random, for training, pass "
            "ignore_mismatched_sizes=True"
        )


def shortened(names: Collection[str]) -> str:
    """The first few of many names."""
    shown = list(names)[:SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def explain_load_error(error: Exception, source: Any, options: Mapping[str, Any]) -> None:
    """Raise one error that names the damaged weights file or the repository that can't be read; else do nothing.

    Args:
        error: what loading raised.
        source: folder or Hub repository that was loaded.
        options: keyword arguments of `from_pretrained`.

    Raises:
        OSError: naming the file or repository, and what to do.
        ValueError: for a file that would have to run code to be read.
    """
    if source is None:
        return
    if isinstance(error, OSError) and str(source) not in str(error) and (reason := known_reason(error)):
        raise OSError(f"the Hub repository {str(source)!r} cannot be read: {reason}") from error
    folder = local_folder(source, options)
    if folder is None:
        return
    if isinstance(error, pickle.UnpicklingError):
        names = ", ".join(repr(str(path)) for path in sorted(folder.glob("*.bin"))) or repr(str(source))
        raise ValueError(f"{names} holds code and was not run; weights come as safetensors") from error
    for path in sorted(folder.glob(f"*{SAFETENSORS}")):
        if (problem := damage(path)) is not None:
            remedy = "copy or save it again" if Path(source).is_dir() else "download it again (force_download=True)"
            raise OSError(f"{str(path)!r} {problem}; {remedy}") from error


def check_index(source: Any, options: Mapping[str, Any]) -> None:
    """Raise when the index of a sharded checkpoint in a local folder names anything but shards in that folder.

    The client does this itself for a Hub repository.

    Args:
        source: folder or Hub repository that is going to be loaded.
        options: keyword arguments of `from_pretrained`.
    """
    if source is None or not Path(source).is_dir():
        return
    folder, variant = Path(source) / (options.get("subfolder") or ""), options.get("variant")
    index = folder / (INDEX_FILE if variant is None else INDEX_FILE.replace(".json", f".{variant}.json"))
    whole = folder / (WHOLE_FILE if variant is None else WHOLE_FILE.replace(SAFETENSORS, f".{variant}{SAFETENSORS}"))
    if whole.is_file() or not index.is_file():
        return
    try:
        content = json.loads(index.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(index)!r} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict):
        raise ValueError(f"{str(index)!r} has no 'metadata', as the index of a sharded checkpoint has")
    check_weight_map(content.get("weight_map"), index)


def check_weight_map(weight_map: Any, index_path: Path) -> dict[str, str]:
    """The shard of every key as a sharded checkpoint's index says; shards lie beside the index.

    Raises:
        ValueError: for anything but names of weights files.
    """
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{str(index_path)!r} has no 'weight_map', so its shards are unknown")
    for name in weight_map.values():
        if not isinstance(name, str) or SHARD_NAME.fullmatch(name) is None:
            raise ValueError(
                f"{str(index_path)!r} names the shard {str(name)[:80]!r}; shards lie beside the index, under the name "
                "of a weights file"
            )
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise ValueError(f"{str(index_path)!r} names more than {MAX_SHARDS} shards")
    return weight_map


def local_folder(source: Any, options: Mapping[str, Any]) -> Path | None:
    """The folder on this machine with the files of a folder or Hub repository; None when there is none."""
    subfolder = options.get("subfolder") or ""
    if Path(source).is_dir():
        return Path(source) / subfolder
    name = f"{subfolder}/config.json" if subfolder else "config.json"
    try:
        found = try_to_load_from_cache(
            str(source), name, cache_dir=options.get("cache_dir"), revision=options.get("revision")
        )
    except ValueError:  # no name of a repository
        return None
    return Path(found).parent if isinstance(found, str) else None


def damage(path: Path) -> str | None:
    """What keeps a safetensors file from being read; None when nothing does."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size == 0:
        return "is empty"
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except Exception as error:  # safetensors' own kind, and whatever its header makes Python raise
        return f"is a truncated or corrupt safetensors file ({error})"
    return None
