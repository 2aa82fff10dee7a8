"""Read the tensors of a checkpoint file or folder, without ever running code that it holds."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sam_variants.checkpoint_layouts.refuse_hostile import (
    MAX_JSON_BYTES,
    check_archive,
    check_tensors,
    refuse_impostors,
)
from sam_variants.checkpoint_layouts.renames import shorten
from sam_variants.hub.weights_checks import check_weight_map

WRAPPERS = ("model", "state_dict", "model_state_dict")
MAX_WRAPPERS = 10
PREFIXES = ("module.", "model.", "_orig_mod.")
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE_NAMES = ("model.safetensors", "pytorch_model.bin")

# Plain data that training scripts put beside the weights: options and NumPy numbers. None of it can run anything.
NUMPY_SCALAR = np.float64(0).__reduce__()[0]
PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a file, unwrapped and without the prefixes of wrapper modules.

    Args:
        path: a `.safetensors` file, or one written by `torch.save` (`.pt`, `.pth`, `.bin`, `.ckpt`) that holds a state
            dict, alone or under `"model"`, `"state_dict"` or `"model_state_dict"` beside an optimizer's state. The
            content decides, not the suffix.

    Returns:
        Name → tensor on the CPU, memory-mapped from the file where its format allows.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is empty, truncated, no checkpoint, or holds code (which is not run).
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {str(path)!r}")
    with path.open("rb") as file:
        head = file.read(512)
    refuse_impostors(path, head)
    content: Any = read_safetensors(path) if looks_like_safetensors(head) else read_torch(path, head)
    tensors = unwrap(content, path)
    check_tensors(tensors, path)
    return strip_prefixes(tensors)


def read_weights_folder(folder: Path) -> dict[str, Tensor]:
    """Read a folder's weights: one file, or the shards that an index file names.

    Args:
        folder: holds `model.safetensors`, a sharded index, or exactly one other weights file.

    Raises:
        FileNotFoundError: when a shard is missing.
        ValueError: when there are no weights, several candidates, or a key of a shard is missing.
    """
    found = find_weights(folder)
    return read_shards(found) if found.name in INDEX_NAMES else read_checkpoint(found)


def find_weights(folder: Path) -> Path:
    """The file with a folder's weights, or the index of its shards.

    Raises:
        ValueError: when there are no weights, or several candidates.
    """
    for name in (*WHOLE_NAMES, *INDEX_NAMES):
        if (folder / name).is_file():
            return folder / name
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if len(files) == 1:
        return files[0]
    if not files:
        raise ValueError(f"the folder {str(folder)!r} holds no weights ({', '.join(WEIGHT_SUFFIXES)})")
    names = ", ".join(path.name for path in files)
    raise ValueError(f"the folder {str(folder)!r} holds {len(files)} weights files; give the path of one: {names}")


def weights_state(path: Path) -> dict[Path, tuple[int, int, int]]:
    """What changes when somebody writes the weights that a file or folder holds: of each file identity, size and time.

    Raises:
        ValueError: as `find_weights`.
    """
    found = find_weights(path) if path.is_dir() else path
    files = [found]
    if path.is_dir() and found.name in INDEX_NAMES:
        names = check_weight_map(read_json(found).get("weight_map"), found).values()
        files += [found.parent / name for name in sorted(set(names))]
    states = ((file, file.stat()) for file in files if file.is_file())
    return {file: (state.st_ino, state.st_size, state.st_mtime_ns) for file, state in states}


def read_shards(index_path: Path) -> dict[str, Tensor]:
    """Read every shard that a sharded checkpoint's index names, and check that each key is where it says."""
    weight_map = check_weight_map(read_json(index_path).get("weight_map"), index_path)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if not (index_path.parent / name).is_file():
            raise FileNotFoundError(f"{index_path.name} names the shard {name!r}, which is missing")
        shard = read_checkpoint(index_path.parent / name)
        expected = {key for key, shard_name in weight_map.items() if shard_name == name}
        if set(shard) != expected:
            raise ValueError(f"shard {name!r} does not hold what its index says: {shorten(set(shard) ^ expected)}")
        tensors.update(shard)
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: when the file is not JSON or not an object, or is larger or deeper than any that is meant.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{str(path)!r} has {path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are read")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, found {type(content).__name__}")
    return content


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: the header's length in 8 bytes, then its JSON."""
    return len(head) > 8 and head[8:9] == b"{"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, memory-mapped."""
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is a truncated or corrupt safetensors file ({error})") from error


def read_torch(path: Path, head: bytes) -> Any:
    """Read a file written by `torch.save`, refusing everything but tensors and plain data."""
    is_zip = check_archive(path, head)
    try:
        with torch.serialization.safe_globals(PLAIN_DATA), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a file is said once, by the error below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{str(path)!r} holds code and was not run: it asks for {wanted[1]}. If you trust it, save the state "
                "dict alone (`torch.save(model.state_dict(), …)`) and load that."
            ) from error
        raise ValueError(
            f"{str(path)!r} is no checkpoint that can be read without running code it may hold, and none was run"
        ) from error
    except Exception as error:  # a damaged file makes torch raise nearly anything
        reason = (str(error).splitlines() or [""])[0].split(". ")[0]
        if re.search("[A-Za-z]", reason) is None:  # a bare number or nothing
            reason = type(error).__name__
        raise ValueError(f"{str(path)!r} is not a checkpoint or is truncated ({reason})") from error


def unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in what a checkpoint file holds.

    Raises:
        ValueError: when there is none, or when it holds something other than tensors.
    """
    for _ in range(MAX_WRAPPERS):  # one that holds itself has no end
        if not isinstance(content, Mapping):
            break
        inner = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if len(inner) > 1:
            raise ValueError(f"{str(path)!r} holds several state dicts, under {inner}; save the one you want alone")
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__}, not a state dict")
    if not any(isinstance(value, Tensor) for value in content.values()):
        found = shorten(str(key) for key in content) or "nothing"
        raise ValueError(f"{str(path)!r} holds no state dict at the top or under {', '.join(WRAPPERS)}; found: {found}")
    others = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise ValueError(f"the state dict in {str(path)!r} holds entries that are no tensors: {shorten(others)}")
    return dict(content)


def strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off `module.`, `model.` and `_orig_mod.` for as long as every key has the same one."""
    while True:
        prefix = next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tensors)), None)
        if prefix is None:
            return tensors
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
