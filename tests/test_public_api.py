"""`import sam_variants`: the names it promises, what it registers, and what it must not drag in."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from types import ModuleType

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForMaskGeneration
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

import sam_variants

PROMISED = {
    "ImageEncoderViT",
    "ImageEncoderViTConfig",
    "MaskDecoder",
    "MaskDecoderConfig",
    "Masks",
    "PRESETS",
    "PromptEncoder",
    "PromptEncoderConfig",
    "SamVariantsConfig",
    "SamVariantsImageProcessorPil",
    "SamVariantsModel",
    "SamVariantsProcessor",
    "TinyViT",
    "TinyViTConfig",
    "config_for",
    "default_checkpoint",
    "load_checkpoint",
    "processor_for",
}
PARTS = {
    "ImageEncoderViTConfig": "ImageEncoderViT",
    "TinyViTConfig": "TinyViT",
    "PromptEncoderConfig": "PromptEncoder",
    "MaskDecoderConfig": "MaskDecoder",
    "SamVariantsConfig": "SamVariantsModel",
}
UNWANTED = {"torchvision", "timm", "gradio", "datasets", "skimage", "sam_variants.hub_scripts"}


@pytest.fixture(scope="module")
def imported_modules() -> set[str]:
    """What a fresh interpreter has loaded after `import sam_variants`."""
    code = "import json, sys, sam_variants; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_every_promised_name_is_exported() -> None:
    assert set(sam_variants.__all__) >= PROMISED


def test_all_is_what_is_exported() -> None:
    exported = {
        name
        for name, value in vars(sam_variants).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert set(sam_variants.__all__) - {"__version__"} == exported
    assert len(sam_variants.__all__) == len(set(sam_variants.__all__))


@pytest.mark.parametrize("name", sorted(PROMISED - {"PRESETS"}))
def test_public_names_are_documented(name: str) -> None:
    value = getattr(sam_variants, name)
    assert value.__doc__, f"{name} has no docstring"
    assert value.__module__.startswith("sam_variants.")


@pytest.mark.parametrize("name", sorted(PROMISED - {"PRESETS"}))
def test_a_public_name_is_the_one_of_its_defining_module(name: str) -> None:
    value = getattr(sam_variants, name)
    assert getattr(importlib.import_module(value.__module__), name) is value


@pytest.mark.parametrize(("config_name", "model_name"), PARTS.items())
def test_every_part_is_registered_with_the_auto_classes(config_name: str, model_name: str) -> None:
    config_class = getattr(sam_variants, config_name)
    assert config_class.model_type.startswith("sam_variants")
    assert type(AutoConfig.for_model(config_class.model_type)) is config_class
    assert AutoModel._model_mapping[config_class] is getattr(sam_variants, model_name)


def test_the_model_and_its_processors_are_registered() -> None:
    config_class = sam_variants.SamVariantsConfig
    assert AutoModelForMaskGeneration._model_mapping[config_class] is sam_variants.SamVariantsModel
    assert PROCESSOR_MAPPING[config_class] is sam_variants.SamVariantsProcessor
    assert IMAGE_PROCESSOR_MAPPING[config_class]["pil"] is sam_variants.SamVariantsImageProcessorPil


def test_config_for_knows_every_preset() -> None:
    for preset in sam_variants.PRESETS:
        assert isinstance(sam_variants.config_for(preset), sam_variants.SamVariantsConfig)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match="sam-vit-tiniest"):
        sam_variants.config_for("sam-vit-tiniest")


@pytest.mark.parametrize("unwanted", sorted(UNWANTED))
def test_the_import_stays_light(unwanted: str, imported_modules: set[str]) -> None:
    assert "sam_variants" in imported_modules
    assert unwanted not in imported_modules


def test_the_import_works_without_torchvision() -> None:
    """A module set to None in `sys.modules` cannot be imported, whether or not it is installed."""
    lines = (
        "import sys",
        "sys.modules['torchvision'] = None",
        "import sam_variants",
        "print(sam_variants.SamVariantsModel.__name__)",
    )
    code = "\n".join(lines)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["SamVariantsModel"]
