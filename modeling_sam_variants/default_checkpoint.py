"""The checkpoint that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def default_checkpoint(video: bool = False) -> Path:
    """Folder of the embedded checkpoint: config, safetensors and processor, no network needed.

    Args:
        video: the checkpoint that can track objects through a video.

    Returns:
        A folder for `AutoModel.from_pretrained` and `AutoProcessor.from_pretrained`.

    Raises:
        ValueError: when this edition embeds no such checkpoint.
    """
    if video:
        raise ValueError("video=True: this edition embeds a checkpoint for images only; use default_checkpoint()")
    return Path(str(files("sam_variants") / "weights"))
