"""Remote code (trust_remote_code): the package's own modules as a flat folder, written from their imports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sam_variants.configuration.configuration_base import PACKAGE_VERSION
from sam_variants.configuration.configuration_sam_variants import IMAGE_MODEL_TYPE, VIDEO_MODEL_TYPE
from sam_variants.configuration.remote_code import PACKAGE
from sam_variants.hub.repo_files import DOOR, GENERATED_CODE
from sam_variants.hub_scripts.remote_code_modules import flat_source, reached_modules

# Every file begins with it, so that a file of another hand is never taken for one of these.
MARK = GENERATED_CODE.decode()
# What transformers is sent to (`DOOR`): all classes in one module. With one module per class, transformers would copy
# and load the code of a local folder once for each, and no class would be the same in two of them.

CONFIGURATION = f"{PACKAGE}.configuration.configuration_sam_variants"
MODELING = f"{PACKAGE}.modeling_sam_variants"
# By the Auto class that saves it again: the class and its module.
PROCESSING = {
    "AutoImageProcessor": (f"{PACKAGE}.processing.image_processing_sam_variants", "SamVariantsImageProcessorPil"),
    "AutoProcessor": (f"{PACKAGE}.processing.processing_sam_variants", "SamVariantsProcessor"),
}
CONFIGS = {
    IMAGE_MODEL_TYPE: (CONFIGURATION, "SamVariantsConfig"),
    VIDEO_MODEL_TYPE: (f"{CONFIGURATION}_video", "SamVariantsVideoConfig"),
}
MODELS = {
    IMAGE_MODEL_TYPE: (MODELING, "SamVariantsModel"),
    VIDEO_MODEL_TYPE: (f"{MODELING}_video", "SamVariantsVideoModel"),
}
PIPELINES = {
    "mask-generation": (f"{PACKAGE}.mask_generation_pipeline", "SamVariantsMaskGenerationPipeline"),
    "promptable-segmentation": (f"{PACKAGE}.pipelines", "PromptableSegmentationPipeline"),
    "promptable-video-segmentation": (f"{PACKAGE}.video_pipeline", "PromptableVideoSegmentationPipeline"),
}
VIDEO_TASKS = {"promptable-video-segmentation"}


def export_remote_code(folder: Path) -> list[Path]:
    """Put the code of the installed package into a checkpoint's folder, which then loads without the package.

    `from_pretrained(…, trust_remote_code=True)` of the Auto classes and `pipeline(…, trust_remote_code=True)` find it.
    Code that was generated here before is replaced, and removed where it is no longer needed.

    Args:
        folder: with config.json and, if there is a processor, processor_config.json.

    Returns:
        The files written, configurations included.

    Raises:
        OSError: when there is no config.json.
        ValueError: for another model's configuration, for code that can't be flat (with file and line), and for a
            Python file in the way that was not generated.
    """
    folder = Path(folder)
    files = {folder / name: text for name, text in code_files().items()}
    files |= {path: _as_json(values) for path, values in _configurations(folder).items()}
    old = [path for path in sorted(folder.glob("*.py")) if _is_generated(path)]
    if foreign := [path.name for path in files if path.suffix == ".py" and path.exists() and path not in old]:
        raise ValueError(f"{folder} has files of its own where generated code would go: {', '.join(sorted(foreign))}")
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    for path in old:
        if path not in files:
            path.unlink()
    return sorted(files)


@cache
def code_files() -> dict[str, str]:
    """File name → text of all code; the same for every checkpoint."""
    classes = [*CONFIGS.values(), *MODELS.values(), *PROCESSING.values(), *PIPELINES.values()]
    modules = reached_modules([module for module, _ in classes], PACKAGE)
    mark = f"{MARK}{PACKAGE_VERSION} (Apache-2.0); changes are lost when it is generated again.\n"
    files = {f"{module.base_name}.py": mark + flat_source(module, PACKAGE) for module in modules}
    if f"{DOOR}.py" in files:
        raise ValueError(f"a module is called {DOOR}, which is the name of the generated one")
    files[f"{DOOR}.py"] = mark + _door_source(module.base_name for module in modules)
    for name, text in files.items():
        compile(text, name, "exec")
    return dict(sorted(files.items()))


def _door_source(base_names: Iterable[str]) -> str:
    by_auto_class = {
        "AutoConfig": CONFIGS.values(),
        "AutoModel": MODELS.values(),
        **{auto_class: [found] for auto_class, found in PROCESSING.items()},
    }
    everything = [*(found for group in by_auto_class.values() for found in group), *PIPELINES.values()]
    lines = ['"""All that transformers loads from this repository; the other files are reached from here."""', ""]
    lines += ["from typing import TYPE_CHECKING", ""]
    lines += sorted(f"from .{module.rsplit('.', 1)[-1]} import {name}" for module, name in everything)
    lines += ["", "if TYPE_CHECKING:"]
    lines += ["    # By such lines transformers finds the files of a model; here it finds them all at once."]
    lines += [f"    from .{name} import __name__ as _" for name in sorted(base_names)]
    lines += ["", "for _kind in (", *(f"    {name}," for name in sorted(name for _, name in everything)), "):"]
    lines += ["    # Where something is saved, its class's module is named and copied with all that it imports."]
    lines += ["    _kind.__module__ = __name__"]
    for auto_class, group in by_auto_class.items():
        lines += [f'{name}.register_for_auto_class("{auto_class}")' for _, name in group]
    return "\n".join(lines) + "\n"


def _configurations(folder: Path) -> dict[Path, dict[str, Any]]:
    """config.json and processor_config.json with what transformers needs to know of the code."""
    path = folder / "config.json"
    config = _read_json(path)
    model_type = config.get("model_type")
    if model_type not in MODELS:
        raise ValueError(f"{path} has model_type={model_type!r}; there is code for {' and '.join(MODELS)}")
    tasks = [task for task in PIPELINES if task not in VIDEO_TASKS or model_type == VIDEO_MODEL_TYPE]
    model = _reference(MODELS[model_type])
    config["auto_map"] = {
        "AutoConfig": _reference(CONFIGS[model_type]),
        "AutoModel": model,
        "AutoModelForMaskGeneration": model,
    }
    config["custom_pipelines"] = {
        task: {"impl": _reference(PIPELINES[task]), "pt": ["AutoModelForMaskGeneration"]} for task in tasks
    }
    found = {path: config}
    if (path := folder / "processor_config.json").exists():
        processor = found[path] = _read_json(path)
        references = {auto_class: _reference(kind) for auto_class, kind in PROCESSING.items()}
        processor["auto_map"] = {"AutoProcessor": references["AutoProcessor"]}
        if not isinstance(processor.get("image_processor"), dict):
            raise ValueError(f"{path} has no image_processor; save it again with processor.save_pretrained(folder)")
        processor["image_processor"]["auto_map"] = references
    return found


def _reference(found: tuple[str, str]) -> str:
    return f"{DOOR}.{found[1]}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OSError(f"{path.parent} has no {path.name}; save a model there first") from None
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def _as_json(values: dict[str, Any]) -> str:
    """As transformers writes configurations."""
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _is_generated(path: Path) -> bool:
    return path.read_text(encoding="utf-8", errors="replace").startswith(MARK)
