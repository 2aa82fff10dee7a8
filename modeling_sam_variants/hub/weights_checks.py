"""What is wrong with weights that transformers could not load, or loaded only in part."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

from sam_variants.hub.hub_errors import hub_reason, known_reason

SHOWN = 5
SAFETENSORS = ".safetensors"
WHOLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
TORCH_INDEX_FILE = "pytorch_model.bin.index.json"
LOAD_OTHERS = "sam_variants.load_checkpoint({name!r}) reads other files"
SHARD_NAME = re.compile(r"[^/\\:\0]+\.(safetensors|pt|pth|bin|ckpt)")
MAX_SHARDS = 10_000


class WeightsMisfitError(ValueError, RuntimeError):
    """Weights that do not fit their configuration; also the kind of error that transformers raises for it."""


def refuse_misfit(info: Mapping[str, Any], model: str, source: Any) -> None:
    """Raise unless the checkpoint held exactly a model's weights, with the right shapes.

    Args:
        info: the loading info of transformers' `from_pretrained`.
        model: name of the model's class.
        source: where the weights come from, for the message; None for a state dict.

    Raises:
        WeightsMisfitError: which is a `ValueError`, naming keys and shapes.
    """
    problems = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": [
            f"{key} is {tuple(found)} instead of {tuple(wanted)}"
            for key, found, wanted in sorted(info["mismatched_keys"])
        ],
    }
    told = [f"{len(names)} {problem}: {shortened(names)}" for problem, names in problems.items() if names]
    if told:
        where = "the state dict" if source is None else repr(str(source))
        raise WeightsMisfitError(
            f"the weights in {where} do not fit a {model} with this configuration; keys {'; '.join(told)}. Is it "
            "another model, or an incomplete file? To initialise what is missing or mismatched at random, for "
            "training, and leave out what is unexpected, pass ignore_mismatched_sizes=True"
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
        ValueError: for weights that are no safetensors.
    """
    if source is None:
        return
    if isinstance(error, OSError) and str(source) not in str(error) and (reason := known_reason(error)):
        raise OSError(f"the Hub repository {str(source)!r} cannot be read: {reason}") from error
    folder = local_folder(source, options)
    if folder is None:
        return
    refuse_torch_files(source, folder, options)
    whole, index = weights_names(options)
    is_local = Path(source).is_dir()
    if not is_local and not (folder / whole).exists() and not (folder / index).exists():
        explain_missing_weights(error, source, options)
    for path in files_of_load(folder, options):
        if (problem := damage(path)) is not None:
            remedy = "copy or save it again" if is_local else "download it again (force_download=True)"
            raise OSError(f"{str(path)!r} {problem}; {remedy}") from error


def explain_missing_weights(error: Exception, source: Any, options: Mapping[str, Any]) -> None:
    """Ask the Hub why a repository's weights did not come, because transformers takes every refusal for a missing file.

    Raises:
        OSError: with the Hub's reason; nothing is raised for weights that come by now, and without a network.
    """
    if options.get("local_files_only") or is_offline_mode():
        return
    for name in weights_names(options):
        url = hf_hub_url(
            str(source), name, subfolder=options.get("subfolder") or None, revision=options.get("revision")
        )
        try:
            get_hf_file_metadata(url, token=options.get("token"))
        except EntryNotFoundError:
            continue
        except Exception as refusal:  # of any kind: the client lets errors of its HTTP library through
            raise OSError(
                f"{name} of the Hub repository {str(source)!r} cannot be read: {hub_reason(refusal)}"
            ) from error
        return
    raise OSError(f"the Hub repository {str(source)!r} has no {weights_names(options)[0]}") from error


def check_source(source: Any, options: Mapping[str, Any]) -> None:
    """Raise before a load for weights that are no safetensors, and for an index of shards that lie elsewhere.

    In a Hub repository the client looks at the index itself.

    Args:
        source: folder, file or Hub repository that is going to be loaded.
        options: keyword arguments of `from_pretrained`.

    Raises:
        ValueError: naming the file.
    """
    if source is None:
        return
    if options.get("use_safetensors") is False:
        raise ValueError(f"from_pretrained reads safetensors only; {LOAD_OTHERS.format(name=str(source))}")
    if Path(source).is_file():
        refuse_other_files([str(source)])
    if not Path(source).is_dir():
        return
    folder = Path(source) / (options.get("subfolder") or "")
    refuse_torch_files(source, folder, options)
    whole, index = (folder / name for name in weights_names(options))
    if whole.is_file() or not index.is_file():
        return
    try:
        content = json.loads(index.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(index)!r} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict):
        raise ValueError(f"{str(index)!r} has no 'metadata', as the index of a sharded checkpoint has")
    refuse_other_files(check_weight_map(content.get("weight_map"), index).values())


def refuse_torch_files(source: Any, folder: Path, options: Mapping[str, Any]) -> None:
    """Raise for a folder that has weights of PyTorch's format alone: transformers would read them unchecked."""
    if any((folder / name).exists() for name in weights_names(options)):
        return
    found = [name for name in with_variant(TORCH_FILE, TORCH_INDEX_FILE, options) if (folder / name).exists()]
    if found:
        raise ValueError(
            f"{str(source)!r} has its weights in {found[0]}, and from_pretrained reads safetensors only; "
            f"{LOAD_OTHERS.format(name=str(source))}"
        )


def refuse_other_files(paths: Iterable[str]) -> None:
    """Raise for a weights file that is no safetensors."""
    if other := next((path for path in paths if not path.endswith(SAFETENSORS)), None):
        raise ValueError(f"{other!r} is no {SAFETENSORS} file, and from_pretrained reads nothing else")


def weights_names(options: Mapping[str, Any]) -> tuple[str, str]:
    """What the whole file and the index of the shards are called in a load with these options."""
    return with_variant(WHOLE_FILE, INDEX_FILE, options)


def with_variant(whole: str, index: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """The names of a whole file and an index, as transformers puts a `variant=` into them."""
    if (variant := options.get("variant")) is None:
        return whole, index
    stem, suffix = whole.rsplit(".", 1)
    return f"{stem}.{variant}.{suffix}", index.replace(".json", f".{variant}.json")


def files_of_load(folder: Path, options: Mapping[str, Any]) -> list[Path]:
    """The safetensors files that a load from a folder reads; none where its index can't be read."""
    whole, index = (folder / name for name in weights_names(options))
    if whole.exists() or not index.is_file():
        return [whole] if whole.exists() else []
    try:
        weight_map = check_weight_map(json.loads(index.read_text("utf-8")).get("weight_map"), index)
    except (ValueError, RecursionError, AttributeError):
        return []
    return [folder / name for name in sorted(set(weight_map.values()))]


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
