"""int8 weights: without torchao here, because every process that finds it starts slower, and with it in another one.

`pip install --no-deps --target build/torchao torchao` puts it where the other process finds it.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from own_process import assert_checks_pass
from safetensors.torch import save_file
from tiny import save_tiny, tiny_config
from transformers import AutoModel

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.hub.model_card import model_card
from sam_variants.hub.quantized_weights import (
    MissingTorchaoError,
    quantized_only,
    refuse_quantized,
)
from sam_variants.hub_scripts.cli import app
from sam_variants.hub_scripts.model_options import Quantize
from sam_variants.labeling.label_settings import LabelSettings
from sam_variants.quantization import QUANTIZATIONS, quantization_for

TESTS = Path(__file__).parent
TORCHAO = TESTS.parent / "build" / "torchao"
EXTRA = r"pip install 'sam-variants\[quantize\]'"
SAVED = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
    "modules_to_not_convert": ["mask_decoder"],
}
without_torchao = pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed here")


def test_with_torchao() -> None:
    if not TORCHAO.is_dir() and find_spec("torchao") is None:
        reason = f"no torchao: pip install --no-deps --target {TORCHAO} torchao"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    assert_checks_pass("quantized_checks.py", TORCHAO)


def quantised_folder(folder: Path) -> Path:
    """A checkpoint whose config.json says that it is quantised."""
    save_tiny(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": SAVED}), "utf-8")
    return folder


@without_torchao
@pytest.mark.parametrize(
    "ask",
    [
        lambda folder: AutoModel.from_pretrained(folder),
        lambda folder: load_checkpoint(folder),
        lambda folder: load_checkpoint(folder, quantize="int8"),
        lambda folder: quantization_for("int8-dynamic"),
        lambda folder: app(["convert", str(folder), "--quantize", "int8"], standalone_mode=False),
    ],
    ids=["from_pretrained", "load_checkpoint", "quantize", "quantization_for", "convert"],
)
def test_without_torchao_one_error_names_the_extra(ask: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingTorchaoError, match=EXTRA) as caught:
        ask(quantised_folder(tmp_path / "int8"))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ImportError)


def test_an_unknown_way_names_those_there_are(tmp_path: Path) -> None:
    for ask in (quantization_for, lambda name: load_checkpoint(tmp_path, quantize=name)):
        with pytest.raises(ValueError, match="quantize='int3' is unknown; choose one of int8, int8-dynamic"):
            ask("int3")


def test_the_command_has_all_ways() -> None:
    assert [choice.value for choice in Quantize] == list(QUANTIZATIONS)


def entry(kind: str) -> str:
    return json.dumps({"_type": kind})


def test_metadata_keeps_what_is_quantised_and_names_without_a_dot_go() -> None:
    metadata = {
        "no_mem_embed": entry("Tensor"),
        "a.bias": entry("Tensor"),
        "a.weight": entry("Int8Tensor"),
        "tensor_names": json.dumps(["no_mem_embed", "a.bias", "a.weight"]),
    }
    assert quantized_only(metadata) == {"a.weight": entry("Int8Tensor"), "tensor_names": '["a.weight"]'}
    assert quantized_only({"format": "pt"}) == {"format": "pt"}


@pytest.mark.parametrize(
    "metadata",
    [
        {"tensor_names": "["},
        {"tensor_names": "3"},
        {"tensor_names": '["a"]'},
        {"tensor_names": '["a"]', "a": "[]"},
        {"tensor_names": "[" * 100_000},
    ],
    ids=["no JSON", "no list", "no entry", "no type", "nested"],
)
def test_damaged_metadata_is_one_error(metadata: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="metadata in the weights is damaged"):
        quantized_only(metadata)


def test_a_plain_model_is_not_refused(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(save_tiny(tmp_path / "whole"))
    refuse_quantized(model, "trained")
    assert model.train().training


def test_the_card_says_what_reads_the_weights() -> None:
    config: Any = tiny_config("vit")
    assert "torchao" not in model_card(config).text
    config.quantization_config = SAVED
    assert "`pip install 'sam-variants[quantize]'`" in model_card(config).text


def test_runs_from_before_quantising_go_on() -> None:
    settings = {"checkpoint": "a", "model": "a", "weights": "0", "image_size": 64}
    assert "quantize" not in LabelSettings(**settings).identity()
    assert LabelSettings.from_json(LabelSettings(**settings, quantize="int8").identity()).quantize == "int8"


def test_weights_without_their_config_are_not_loaded_as_nonsense(tmp_path: Path) -> None:
    save_file({"image_encoder.layers.0.fc._weight_qdata": torch.ones(2, 2)}, tmp_path / "loose.safetensors")
    with pytest.raises(ValueError, match="loose"):
        load_checkpoint(tmp_path / "loose.safetensors")
