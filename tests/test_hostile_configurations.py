"""Configurations made to do harm: refused with one clear error, before anything is built from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModel, pipeline

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.configuration.configuration_hiera import HieraConfig
from sam_variants.configuration.configuration_vit import ImageEncoderViTConfig
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from tests.tiny import save_tiny

LOADERS = (load_checkpoint, SamVariantsModel.from_pretrained, AutoModel.from_pretrained)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("saved") / "model", "vit")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def refused(load: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The one line with which something is refused."""
    with pytest.raises((ValueError, OSError)) as raised:
        load(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def edit(folder: Path, part: str | None, field: str, value: Any) -> None:
    """Set one field of a folder's config.json, or of a part in it."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    (values if part is None else values[part])[field] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("part", [None, "vision_config"])
@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_attention_kernels_are_code_too(field: str, part: str | None, folder: Path) -> None:
    edit(folder, part, field, "someone/kernel")
    for load in (*LOADERS, AutoConfig.from_pretrained):
        assert "asks for the attention kernel 'someone/kernel', which is code from the Hub" in refused(load, folder)


SIZES: dict[str, tuple[str, Any, str]] = {
    "width": ("embed_dim", 10**9, "embed_dim=1000000000 is out of range; at most 65536"),
    "depth": ("depth", 10**6, "depth=1000000 is out of range; at most 1000"),
    "blocks": ("global_attn_indexes", list(range(2000)), "global_attn_indexes has 2000 entries"),
    "labels": ("num_labels", 10**10, "num_labels=10000000000 is out of range"),
    "a word": ("embed_dim", "wide", "'embed_dim'"),
    "a fraction": ("depth", 2.5, "'depth'"),
    "together": ("embed_dim", 60000, "parameters; at most 4000000000 are allowed"),
}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_refused_before_they_take_memory(kind: str, folder: Path) -> None:
    field, value, message = SIZES[kind]
    edit(folder, "vision_config", field, value)
    for load in LOADERS:
        assert message in refused(load, folder)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("vision_config", "hidden_act", "evil", "hidden_act='evil' must be one of gelu"),
        ("mask_decoder_config", "transformer_act", "x", "transformer_act='x' must be one of gelu"),
        ("mask_decoder_config", "num_multimask_outputs", 65536, "at most 1000 is allowed"),
        ("mask_decoder_config", "transformer_num_heads", 0, "transformer_num_heads=0 must be positive"),
        ("vision_config", "num_heads", 0, "num_heads=0 must be positive"),
        ("vision_config", "num_attention_heads", 0, "num_heads=0 must be positive"),
        ("vision_config", "patch_size", -16, "patch_size=-16 must be positive"),
        ("vision_config", "mlp_ratio", -1.0, "mlp_ratio=-1.0 must be positive"),
        ("vision_config", "mlp_ratio", float("inf"), "mlp_ratio=inf is out of range"),
        ("vision_config", "mlp_ratio", 1e30, "mlp_ratio=1e+30 is out of range"),
        ("vision_config", "layer_norm_eps", float("nan"), "layer_norm_eps=nan is out of range"),
        (None, "dtype", "load", "dtype='load' must be one of float64"),
        (None, "dtype", 3, "dtype='3' must be one of float64"),
        (None, "id2label", [1], "a field has the wrong type"),
        (None, "quantization_config", 3, "a field has the wrong type"),
    ],
)
def test_values_that_no_model_has(part: str | None, field: str, value: Any, message: str, folder: Path) -> None:
    edit(folder, part, field, value)
    for load in LOADERS:
        assert message in refused(load, folder)


def test_processor_files_that_are_none(folder: Path) -> None:
    for text in ("[]", "3", '{"image_processor": []}'):
        (folder / "processor_config.json").write_text(text)
        assert "processor_config.json of '" in refused(SamVariantsProcessor.from_pretrained, folder)
        assert "processor_config.json of '" in refused(pipeline, "mask-generation", model=str(folder))


def test_stages_are_refused_before_they_are_counted() -> None:
    with pytest.raises(ValueError, match=r"stages=\[1, 1000000000, 1, 1\] is out of range"):
        HieraConfig(stages=[1, 10**9, 1, 1])
    config = ImageEncoderViTConfig()
    with pytest.raises(ValueError, match="image_size=10000000 is out of range"):
        config.image_size = 10**7


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3", '"sam_variants"', "\xff"])
def test_configurations_that_are_none(text: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    for load in (load_checkpoint, SamVariantsModel.from_pretrained):
        assert "config.json" in refused(load, folder)
    (folder / "config.json").write_text('{"model_type": "sam_variants"}' + " " * 20_000_000)
    assert "at most 20000000 are read" in refused(load_checkpoint, folder)
