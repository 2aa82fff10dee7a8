"""config.json: nothing in it is silently ignored, and it says which version wrote it."""

from __future__ import annotations

import json
import logging
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, BertConfig

import sam_variants
from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.configuration.configuration_base import PACKAGE_VERSION, VERSION_FIELD
from sam_variants.configuration.configuration_mask_decoder import MaskDecoderConfig
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.modeling_sam_variants import SamVariantsModel
from tests.tiny import save_tiny_video, tiny_config

LOADERS = (AutoModel.from_pretrained, load_checkpoint)
PARTS = ("vision_config", "mask_decoder_config", "memory_attention_config", "memory_encoder_config")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_video(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def their_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged through transformers."""
    logger = logging.getLogger("transformers")
    before, logger.propagate = logger.propagate, True
    yield caplog
    logger.propagate = before


def edit(folder: Path, part: str | None = None, **values: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    (content if part is None else content[part]).update(values)
    path.write_text(json.dumps(content))


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert sam_variants.__version__ == PACKAGE_VERSION == project["version"]


def test_a_saved_configuration_says_who_wrote_it(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    assert content[VERSION_FIELD] == PACKAGE_VERSION
    assert content["transformers_version"] == transformers.__version__
    assert not [part for part in PARTS if VERSION_FIELD in content[part]]
    edit(folder, sam_variants_version="0.0.1")
    config = AutoConfig.from_pretrained(folder)
    config.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text()) == content
    MaskDecoderConfig().save_pretrained(folder / "part")
    assert json.loads((folder / "part" / "config.json").read_text())[VERSION_FIELD] == PACKAGE_VERSION


@pytest.mark.parametrize("part", [None, *PARTS])
def test_unknown_fields_are_named(part: str | None, folder: Path, their_log: pytest.LogCaptureFixture) -> None:
    edit(folder, part, new_switch=True)
    for load in LOADERS:
        config = load(folder).config
        assert (config if part is None else getattr(config, part)).new_switch
    assert "Config has no 'new_switch'; it is kept as an attribute of your own" in their_log.text
    edit(folder, sam_variants_version="0.99.0")
    message = r"has no 'new_switch'; .* written by version 0\.99\.0 .* this is .*: pip install --upgrade sam-variants$"
    for load in LOADERS:
        with pytest.raises(ValueError, match=message):
            load(folder)
    edit(folder, sam_variants_version=PACKAGE_VERSION, transformers_version="99.0.0")
    for load in LOADERS:
        config = load(folder).config
        assert not hasattr(config if part is None else getattr(config, part), "new_switch")
    assert "has no 'new_switch'; it is ignored, because" in their_log.text
    assert "written with transformers 99.0.0" in their_log.text


def test_attributes_of_ones_own_come_back(folder: Path, tmp_path: Path) -> None:
    own = {"finetuned_from": "x", "seed": 123456, "losses": [0.5] * 2000, "notes": {"a": None}}
    model = load_checkpoint(folder)
    for name, value in own.items():
        setattr(model.config, name, value)
        setattr(model.config.vision_config, name, value)
    model.save_pretrained(tmp_path / "again")
    for load in LOADERS:
        config = load(tmp_path / "again").config
        for part in (config, config.vision_config):
            assert {name: getattr(part, name) for name in own} == own
    with pytest.raises(ValueError, match="SamVariantsVideoConfig has no 'image_sise'; did you mean image_size"):
        model.config.image_sise = 64


@pytest.mark.parametrize("version", [None, "0.0.1"])
def test_files_of_older_versions_load(version: str | None, folder: Path) -> None:
    edit(folder, sam_variants_version=version, old_switch=1)
    for load in LOADERS:
        assert load(folder).config.old_switch == 1
    content = json.loads((folder / "config.json").read_text())
    del content[VERSION_FIELD]
    (folder / "config.json").write_text(json.dumps(content))
    assert AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("version", [transformers.__version__, "99.0.0"])
def test_other_weights_are_not_followed(version: str, folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    edit(folder, transformers_weights="other.safetensors", transformers_version=version)
    for load in LOADERS:
        with pytest.raises(ValueError, match="'transformers_weights' names other weights"):
            load(folder)


def test_a_method_is_no_field(folder: Path) -> None:
    edit(folder, to_dict=3)
    for load in LOADERS:
        with pytest.raises(ValueError, match="has no 'to_dict', and a method or property has that name"):
            load(folder)


def test_a_newer_version_without_new_fields_loads(folder: Path) -> None:
    edit(folder, sam_variants_version="99.0", transformers_version="99.0.0")
    for load in LOADERS:
        assert load(folder)
    edit(folder, "vision_config", model_type="sam_variants_newer")
    for load in LOADERS:
        with pytest.raises(ValueError, match=r"known image encoders: .*pip install --upgrade sam-variants"):
            load(folder)


def test_typing_errors_are_answered_with_what_was_meant(folder: Path) -> None:
    with pytest.raises(ValueError, match="SamVariantsConfig has no 'image_sise'; did you mean image_size"):
        SamVariantsConfig(image_sise=64)
    with pytest.raises(ValueError, match="MaskDecoderConfig has no 'transformer_dims'; did you mean transformer_dim"):
        SamVariantsConfig(mask_decoder_config={"transformer_dims": 32})
    with pytest.raises(TypeError, match="image_sise"):
        AutoModel.from_pretrained(folder, image_sise=64)


def test_what_transformers_adds_is_no_error(folder: Path) -> None:
    common = {
        "_name_or_path": "somewhere",
        "attn_implementation": "eager",
        "auto_map": {"AutoModel": "code.Model"},
        "custom_pipelines": {},
        "fusion_config": None,
        "id2label": {"0": "thing"},
        "label2id": {"thing": 0},
        "output_attentions": True,
        "problem_type": None,
        "return_dict": True,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
    }
    edit(folder, **common)
    for part in PARTS:
        edit(folder, part, _name_or_path="", torch_dtype="float32", chunk_size_feed_forward=0, is_encoder_decoder=False)
    for load in LOADERS:
        assert load(folder).config.id2label == {0: "thing"}
    # Every field of the base class, whatever its version.
    for name, value in BertConfig().to_dict().items():
        if name in transformers.PreTrainedConfig().to_dict() and name not in ("model_type", "architectures"):
            edit(folder, **{name: value})
    assert AutoModel.from_pretrained(folder)


def test_options_of_a_load_go_where_they_went(folder: Path) -> None:
    model = AutoModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.bfloat16, output_hidden_states=True, image_size=128
    )
    assert (model.dtype, model.config.image_size) == (torch.bfloat16, 128)
    assert model.mask_decoder.config._attn_implementation == "eager"
    assert model.config.output_hidden_states
    config, unused = AutoConfig.from_pretrained(folder, return_unused_kwargs=True, nonsense=1)
    assert type(config) is SamVariantsVideoConfig
    assert unused == {"nonsense": 1}


def test_the_configuration_of_another_model_is_told(folder: Path) -> None:
    edit(folder, model_type="bert")
    with pytest.raises(ValueError, match=r"config\.json of '.*' has model_type='bert', which is not of this package"):
        SamVariantsModel.from_pretrained(folder)
    edit(folder, model_type="sam_variants_newer", sam_variants_version="99.0")
    with pytest.raises(ValueError, match=r"where 'sam_variants' is needed.*pip install --upgrade sam-variants"):
        SamVariantsModel.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"which is unknown here.*pip install --upgrade sam-variants"):
        load_checkpoint(folder)
    tiny_config("vit").vision_config.save_pretrained(folder)
    with pytest.raises(ValueError, match="has model_type='sam_variants_vit', where 'sam_variants_mask_decoder' is"):
        MaskDecoder.from_pretrained(folder)
