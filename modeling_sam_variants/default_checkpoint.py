"""The checkpoints that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def default_checkpoint(video: bool = False) -> Path:
    """Folder of an embedded checkpoint: config, safetensors and processor, no network needed.

    Args:
        video: the checkpoint that can track objects through a video; it is a little worse on single images.

    Returns:
        A folder for `AutoModel.from_pretrained` and `AutoProcessor.from_pretrained`.
    """
    return Path(str(files("sam_variants") / ("weights_video" if video else "weights")))
