"""Models from the Hub: looked at before they are downloaded, with progress, and errors that say what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import tqdm

from sam_variants.hub.hub_errors import causes, first_line, known_reason, status_of
from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.background import end_of_patience

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
PLAIN_NAME = re.compile(r"[\w./-]+")  # files are downloaded by patterns: no name may be one
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
SERVER_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.@+~-]+){2,}|[A-Za-z]:\\[^\s'\"]+")
PATIENCE_SECONDS = 20

Progress = Callable[[float, str], Any]


def download(repo: str, progress: Progress, is_offered: bool = False) -> tuple[Path, str]:
    """Bring the weights of a repository to this machine.

    Args:
        repo: owner/name.
        progress: called with a fraction and a text.
        is_offered: whether the operator chose it, and not a visitor: then it may be large, or private, or come from
            the cache where the Hub can't be reached.

    Returns:
        What `load_checkpoint` takes: the folder, or the weights file in it; and the commit.

    Raises:
        gr.Error: saying what to do.
    """
    progress(0.0, f"Looking for {repo}")
    token = None if is_offered else False  # a visitor sees what everybody sees, not what the operator may
    try:
        revision = HfApi().model_info(repo, timeout=PATIENCE_SECONDS, token=token).sha
        tree = HfApi().list_repo_tree(repo, recursive=True, revision=revision, token=token)
        sizes = {item.path: item.size for item in tree if isinstance(item, RepoFile)}
    except Exception as error:  # the client lets errors of its HTTP library through
        known = _from_cache(repo) if is_offered and not _is_refusal(error) else None
        if known is None:
            raise gr.Error(told(repo, error)) from error
        return known
    files = needed_files(repo, sizes)
    total = sum(files.values())
    if not is_offered:
        _check_room(repo, total)
        progress = patient(progress)
    try:
        folder = snapshot_download(
            repo,
            revision=None if is_offered else revision,  # the cache remembers what "main" is only for None
            allow_patterns=list(files),
            tqdm_class=byte_counter(repo, total, progress),
            token=token,
        )
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(told(repo, error)) from error
    return _checkpoint_in(Path(folder), list(files))


def needed_files(repo: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Of a repository's files those that make the model: its safetensors, else its only weights file.

    Args:
        repo: owner/name.
        sizes: file → bytes.

    Raises:
        gr.Error: for a repository without weights, or with several that could be meant.
    """
    plain = [name for name in sizes if PLAIN_NAME.fullmatch(name)]
    weights = [name for name in plain if "/" not in name and name.endswith(".safetensors")]
    if not weights:
        weights = [name for name in plain if name.endswith(WEIGHT_SUFFIXES)]
        if len(weights) != 1:
            found = ", ".join(weights[:5]) or "no weights"
            raise gr.Error(
                f"{repo} must hold safetensors or one weights file, and has {found}. Choose a repository of a Segment "
                "Anything model."
            )
    return {name: sizes[name] for name in (CONFIG, INDEX, *weights) if name in sizes}


def patient(progress: Progress) -> Progress:
    """The same, which ends what it is told about when that takes too long or nobody waits for it."""
    check = end_of_patience()

    def told_on(fraction: float, text: str) -> None:
        check()
        progress(fraction, text)

    return told_on


def byte_counter(repo: str, total: int, progress: Progress) -> type[tqdm]:
    """A progress bar class for `snapshot_download` that tells bytes to `progress` and shows nothing itself."""
    lock = Lock()

    class ByteCounter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # One of the bars counts files and one what the network brought, which may be less than the bytes.
            self.counts_bytes = kwargs.get("name") == "huggingface_hub.snapshot_download"
            self.num_bytes = 0.0
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self.counts_bytes:
                with lock:
                    self.num_bytes += n or 0
                    fraction = min(self.num_bytes / max(total, 1), 1.0)
                    progress(fraction, f"Downloading {repo}: {fraction * total / 1e6:.1f} of {total / 1e6:.1f} MB")

    return ByteCounter


def told(choice: str, error: BaseException) -> str:
    """Why a model can't be had, in a sentence without paths of this machine."""
    reason = known_reason(error)
    if reason is not None:
        return f"{choice} can't be downloaded: {reason}."
    if not any(isinstance(cause, ValueError) for cause in causes(error)):
        return f"{choice} can't be loaded. Try again, or choose another model."
    reason = SERVER_PATH.sub("…", first_line(error))[:300]
    return f"{choice} can't be loaded: {reason}. Choose a repository of a Segment Anything model."


def _check_room(repo: str, total: int) -> None:
    """Raise gr.Error for a model that is too large for a visitor to ask for, or for the disk."""
    if total > limits.MAX_MODEL_BYTES:
        raise gr.Error(
            f"{repo} has {total / 1e9:.1f} GB; at most {limits.MAX_MODEL_BYTES / 1e9:.1f} GB are taken. Choose a "
            "smaller model."
        )
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    if shutil.disk_usage(there).free - total < limits.MIN_FREE_BYTES:
        raise gr.Error(f"There is no room left for {repo} here. Choose one of the models in the list.")


def _from_cache(repo: str) -> tuple[Path, str] | None:
    """A repository that was downloaded before."""
    for kinds in (["*.safetensors"], [f"*{suffix}" for suffix in WEIGHT_SUFFIXES]):
        try:
            folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=[CONFIG, INDEX, *kinds]))
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            return _checkpoint_in(folder, list(needed_files(repo, dict.fromkeys(names, 0))))
        except (OSError, ValueError, gr.Error):
            continue
    return None


def _checkpoint_in(folder: Path, files: list[str]) -> tuple[Path, str]:
    """The folder where it can be loaded as a whole, else the weights file; and the commit, by which it is named."""
    weights = [name for name in files if name.endswith(WEIGHT_SUFFIXES)]
    return folder if CONFIG in files and "/" not in weights[0] else folder / weights[0], folder.name


def _is_refusal(error: BaseException) -> bool:
    """Whether the Hub answered, and said no."""
    return any(status_of(cause) is not None for cause in causes(error))
