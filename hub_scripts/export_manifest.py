"""What lies beside exported graphs: export.json, which tells how to use them, and the predictor that reads it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
from pathlib import Path
from typing import Any

from PIL import Image

from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.hub_scripts.export_files import PACKAGES, Written
from sam_variants.hub_scripts.export_format import Format
from sam_variants.hub_scripts.export_parts import Part
from sam_variants.memory.memory_bank import MemoryRules
from sam_variants.processing.image_fitting import LONGEST_SIDE

MANIFEST_FILE = "export.json"
PREDICTOR_FILE = "predictor.py"
PREDICTOR_SOURCE = "onnx_predictor.py"
FORMAT_VERSION = 1
# More prompted frames than anybody gives.
NO_LIMIT = 2**31 - 1


def manifest(
    folder: Path,
    source: str,
    model: Any,
    processor: Any,
    to: Format,
    parts: dict[str, Part],
    written: dict[str, Written],
) -> dict[str, Any]:
    """Everything that a program must know to use the files of a folder, ready for JSON.

    Args:
        folder: where the files lie; all of them are described.
        source: what was exported.
        model, processor: that is in the graphs, and how photos are prepared for it.
        to: the format.
        parts, written: what the files hold, and what became of it.
    """
    packages = ("sam-variants", "torch", *PACKAGES[to])
    return {
        "format": to.value,
        "format_version": FORMAT_VERSION,
        "model": source,
        "model_type": model.config.model_type,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "graphs": {name: list(part.outputs) for name, part in parts.items()},
        "inputs": {
            name: {key: list(given.shape) for key, given in part.inputs.items()} for name, part in parts.items()
        },
        "differences": {name: found.differences for name, found in written.items()},
        **photo_settings(model.config, processor.image_processor),
        **(tracking_settings(model) if model.config.model_type == SamVariantsVideoConfig.model_type else {}),
        "files": {path.name: describe(path) for path in sorted(folder.iterdir())},
    }


def photo_settings(config: Any, images: Any) -> dict[str, Any]:
    """How a photo becomes the model's input, and what stands for a prompt that there is not.

    `resize` holds Pillow's mode and filter: "F" where pixels are resized as numbers, "L" where they stay bytes.
    """
    keeps_aspect = images.resize_mode == LONGEST_SIDE
    cells = 4 * config.prompt_encoder_config.image_embedding_size
    bytes_first = ["L", int(Image.Resampling.BICUBIC)]
    divisor = 1 / images.rescale_factor if images.do_rescale else 1.0
    return {
        "image_size": config.image_size,
        "mask_size": cells,
        "keeps_aspect": keeps_aspect,
        "resize": {
            "image": ["L" if keeps_aspect else "F", int(images.resample)],
            "video": ["L", int(images.resample)] if keeps_aspect else bytes_first,
        },
        "normalize": [[divisor] * 3, list(images.image_mean), list(images.image_std)],
        "prompts": {
            "points": [[1, 2], "-10"],
            "labels": [[1], "-10"],
            "boxes": [[4], "-10"],
            "mask_prompts": [[cells, cells], "nan"],
        },
    }


def tracking_settings(model: Any) -> dict[str, Any]:
    """How far frames look back: `look_back` is the oldest memory in steps, a step in frames, how many prompted frames,
    and how many object pointers; `reach` is the age in frames from which nothing of a tracked frame is needed.
    """
    rules: MemoryRules = model.memory_rules()
    limit = rules.max_cond_frames_in_attn
    step = rules.memory_temporal_stride_for_eval
    return {
        "look_back": [rules.num_maskmem - 1, step, NO_LIMIT if limit == -1 else limit, rules.max_obj_ptrs_in_encoder],
        "reach": max(rules.memory_reach, rules.pointer_reach) + 1 + step,
        "fill_hole_area": model.config.fill_hole_area,
        "memory_rules": {name: getattr(rules, name) for name in MemoryRules.__dataclass_fields__},
    }


def describe(file: Path) -> dict[str, Any]:
    """Size and checksum of a file."""
    with file.open("rb") as content:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def copy_predictor(folder: Path) -> None:
    """Put the program that needs ONNX Runtime alone beside the graphs."""
    source = importlib.resources.files("sam_variants.hub_scripts") / PREDICTOR_SOURCE
    (folder / PREDICTOR_FILE).write_text(source.read_text("utf-8"), "utf-8")
