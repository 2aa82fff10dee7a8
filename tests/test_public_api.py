"""`import sam_variants`: the names it promises, what it registers, and what it must not drag in."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForMaskGeneration
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

import sam_variants
from sam_variants.results import Masks

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
UNWANTED = {
    *("torchvision", "timm", "gradio", "datasets", "skimage", "cv2", "av", "rich", "typer"),
    *("sam_variants.hub_scripts", "sam_variants.hub.push_model", "sam_variants.checkpoint_layouts"),
}
# What a process has to be able to do behind both imports, whichever came first.
USE = """
from transformers import AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY
checkpoint = sam_variants.default_checkpoint()
kinds = [type(auto.from_pretrained(checkpoint)).__name__ for auto in (AutoModel, AutoProcessor)]
tasks = ("promptable-segmentation", "promptable-video-segmentation", "mask-generation")
kinds += [PIPELINE_REGISTRY.check_task(task)[1]["impl"].__name__ for task in tasks]
print(json.dumps([kinds, modules]))
"""
IMPORT = "import json, sys\nimport sam_variants\nmodules = sorted(sys.modules)\n"
THEIRS_FIRST = "import transformers.pipelines\nfrom transformers import AutoModel, SamModel\n"
KINDS = [
    *("SamVariantsModel", "SamVariantsProcessor"),
    *("PromptableSegmentationPipeline", "PromptableVideoSegmentationPipeline", "SamVariantsMaskGenerationPipeline"),
]


def answer_of(code: str) -> Any:
    """What a fresh interpreter prints last, which is JSON."""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def imported_first() -> tuple[list[str], list[str]]:
    """Of a process that imports this package first: what transformers then finds, and the modules of the import."""
    kinds, modules = answer_of(IMPORT + USE)
    return kinds, modules


def test_every_promised_name_is_exported() -> None:
    assert set(sam_variants.__all__) >= PROMISED


def test_all_is_what_is_exported() -> None:
    assert len(sam_variants.__all__) == len(set(sam_variants.__all__))
    assert set(sam_variants.__all__) == {*sam_variants._DEFINED_IN, "default_checkpoint"} == set(dir(sam_variants))
    assert all(getattr(sam_variants, name) is not None for name in sam_variants.__all__)
    with pytest.raises(AttributeError, match=r"'sam_variants' has no attribute 'SamVariantModel'"):
        sam_variants.SamVariantModel  # noqa: B018


def test_type_checkers_see_what_python_finds() -> None:
    source = Path(str(sam_variants.__file__)).read_text(encoding="utf-8")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    (block,) = (block for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    found = {name: f"sam_variants.{module}" for name, module in sam_variants._DEFINED_IN.items()}
    assert seen == {name: module for name, module in found.items() if name != "__version__"}


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


def test_transformers_knows_us_when_we_were_first(imported_first: tuple[list[str], list[str]]) -> None:
    assert imported_first[0] == KINDS


def test_transformers_knows_us_when_it_was_first_and_without_torchvision() -> None:
    """A module set to None in `sys.modules` cannot be imported, whether or not it is installed."""
    without = "import sys\nsys.modules['torchvision'] = None\n"
    assert answer_of(without + THEIRS_FIRST + IMPORT + USE)[0] == KINDS


@pytest.mark.parametrize("unwanted", sorted(UNWANTED))
def test_the_import_stays_light(unwanted: str, imported_first: tuple[list[str], list[str]]) -> None:
    assert "sam_variants.modeling_sam_variants" in imported_first[1]
    assert unwanted not in imported_first[1]


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ("/usr/bin/sam-variants", True),
        ("C:/Python/Scripts/sam-variants.exe/__main__.py", True),
        ("/src/sam-variants/train.py", False),
        ("/usr/bin/sam-variants.py", False),
        (None, False),
    ],
)
def test_the_command_is_known_by_its_file(main: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=main))
    assert sam_variants._runs_the_command() is expected
    monkeypatch.delitem(sys.modules, "__main__")
    assert not sam_variants._runs_the_command()


def test_a_public_name_registers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the process of the command, where the import itself has not."""
    registered: list[bool] = []
    monkeypatch.setattr(sam_variants, "_register", lambda: registered.append(True))
    monkeypatch.delitem(vars(sam_variants), "Masks", raising=False)
    assert sam_variants.Masks is Masks
    assert registered == [True]
