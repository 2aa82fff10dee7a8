"""The processor that lies beside the weights that `sam-variants convert` reads, ours or transformers'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from sam_variants.checkpoint_layouts.read_checkpoint import read_json
from sam_variants.hub.remote_repo import explained
from sam_variants.hub_scripts.push_staging import download_all
from sam_variants.processing.image_fitting import LONGEST_SIDE, height_width
from sam_variants.processing.processing_sam_variants import PROCESSOR_FILES, SamVariantsProcessor
from sam_variants.processing.processor_for import processor_for

# What pixels go through, which a processor of ours can do as transformers' do.
TAKEN_OVER = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample")
# What cannot be otherwise here.
SWITCHES = {"do_resize": True, "do_convert_rgb": True, "do_center_crop": False}
PAD = "do_pad"


def download_beside(name: str, path: Path, is_own: bool) -> Path:
    """The folder of weights that have a config.json, with what else belongs to them when it is in the Hub's cache.

    Args:
        name: what it was called on the command line.
        path: the weights file or folder.
        is_own: whether this package wrote it: then its card and its code belong to it, too.

    Raises:
        OSError: when the Hub cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    if Path(name).expanduser().exists() or folder.parent.name != "snapshots":
        return folder
    repo_id, commit = "/".join(name.split("/")[:2]), folder.name
    if is_own:
        return download_all(repo_id, commit)
    with explained(repo_id, "can't be read"):
        return Path(snapshot_download(repo_id, revision=commit, allow_patterns=list(PROCESSOR_FILES)))


def processor_beside(model: Any, folder: Path | None, is_own: bool) -> SamVariantsProcessor:
    """The processor beside weights, else the one that belongs to the model.

    Args:
        model: ours.
        folder: where the weights and their config.json lie; None for a file alone.
        is_own: whether this package wrote them.

    Raises:
        ValueError: when transformers' processor does what ours cannot.
    """
    if folder is None or not any((folder / name).is_file() for name in PROCESSOR_FILES):
        return processor_for(model)
    if is_own:
        return SamVariantsProcessor.from_pretrained(folder)
    return taken_over(processor_for(model), *their_settings(folder))


def their_settings(folder: Path) -> tuple[dict[str, Any], str]:
    """The settings of transformers' image processor, and what to call their file: newer ones have all in one."""
    for name in PROCESSOR_FILES:
        path = folder / name
        values = read_json(path) if path.is_file() else {}
        settings = values if name == PROCESSOR_FILES[-1] else values.get("image_processor")
        if isinstance(settings, dict):
            return {key: value for key, value in settings.items() if value is not None}, f"{name} of {str(folder)!r}"
    return {}, ""


def taken_over(processor: SamVariantsProcessor, theirs: dict[str, Any], where: str) -> SamVariantsProcessor:
    """A processor of ours that does to images what transformers' does.

    Args:
        processor: the one that belongs to the model.
        theirs: what transformers' settings say; what they leave out is as published.
        where: what messages call them.

    Raises:
        ValueError: naming the field that cannot be taken over.
    """
    ours: Any = processor.image_processor
    refuse_others(ours, theirs, where)
    published = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": ours.resample}
    scale = 1 if ours.do_rescale else 255
    for name in ("image_mean", "image_std"):
        published[name] = [value / scale for value in getattr(ours, name)]
    changes = {name: theirs[name] for name in TAKEN_OVER if name in theirs}
    try:
        if all(is_same(value, published[name]) for name, value in changes.items()):
            return processor
        return SamVariantsProcessor(ours.updated(**(published | changes)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} cannot be taken over: {error}") from error


def refuse_others(ours: Any, theirs: dict[str, Any], where: str) -> None:
    """Raise ValueError for a setting that the model, or a processor of ours, cannot have."""
    pads = ours.resize_mode == LONGEST_SIDE
    image_side, mask_side = ours.image_size, max(height_width(ours.mask_size))
    sides = {"size": image_side, "mask_size": mask_side}
    if pads:
        sides |= {"pad_size": image_side, "mask_pad_size": mask_side}
    for name, side in sides.items():
        value = theirs.get(name, side)
        if any(
            found != side for found in (value.values() if isinstance(value, dict) else [value]) if found is not None
        ):
            raise ValueError(f"{where} has {name}={value!r}, and this model takes {side}; correct the file")
    for name, needed in (SWITCHES | ({PAD: True} if pads else {})).items():
        if bool(theirs.get(name, needed)) != needed:
            raise ValueError(f"{where} has {name}={theirs[name]!r}, which no processor of sam-variants can do")


def is_same(one: Any, other: Any) -> bool:
    """Whether two settings are the same number, or numbers, but for their last digits."""
    pair = [value if isinstance(value, Sequence) else [value] for value in (one, other)]
    if len(pair[0]) == 1:
        pair[0] = [*pair[0]] * len(pair[1])
    return len(pair[0]) == len(pair[1]) and all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(*pair, strict=True)
    )
