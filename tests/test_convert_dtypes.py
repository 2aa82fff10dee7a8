"""`sam-variants convert`: weights stay as they are stored, whatever dtype the model computes in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_examples import report_of, same_bits
from safetensors.torch import load_file, save_file
from test_cli import run
from tiny import save_tiny
from torch import Tensor
from transformers import SamModel

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.hub.checksums import verify_files, write_checksums

MIXED = "mask_decoder.iou_token.weight"


@pytest.fixture(params=["half", "mixed"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Tensor]:
    """The weights in the folder `given`: float16, maybe but for one, with a configuration that says float32."""
    folder = save_tiny(tmp_path / "given", "vit")
    tensors = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    if request.param == "mixed":
        tensors[MIXED] = tensors[MIXED].float() * 1.00001
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_checksums(folder)
    return tensors


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_our_folder_stays_as_it_is_stored(stored: dict[str, Tensor], tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    report = report_of(given, "--out", out, "--verify")
    assert same_bits(load_file(out / "model.safetensors"), stored)
    assert verify_files(out)
    assert report["dtype"] == ", ".join(report["stored_dtypes"])
    assert config(out)["dtype"] == config(given)["dtype"] == "float32"
    assert load_checkpoint(out).dtype == torch.float32 == load_checkpoint(given).dtype
    sharded = tmp_path / "sharded"
    report_of(given, "--out", sharded, "--max-shard-size", "20KB")
    shards = [load_file(path) for path in sharded.glob("*.safetensors")]
    assert len(shards) > 1
    assert same_bits({name: tensor for shard in shards for name, tensor in shard.items()}, stored)
    shown = run("convert", given, "--out", tmp_path / "shown").stdout
    assert "written in" not in shown


def test_another_dtype_is_computed_in(stored: dict[str, Tensor], tmp_path: Path) -> None:
    report = report_of(tmp_path / "given", "--out", tmp_path / "out", "--dtype", "bfloat16")
    assert report["dtype"] == "bfloat16" == config(tmp_path / "out")["dtype"]
    written = {name: tensor.bfloat16() for name, tensor in stored.items()}
    assert same_bits(load_file(tmp_path / "out" / "model.safetensors"), written)
    assert load_checkpoint(tmp_path / "out").dtype == torch.bfloat16


def test_the_others_files_too(stored: dict[str, Tensor], tmp_path: Path) -> None:
    given, theirs = tmp_path / "given", tmp_path / "theirs"
    report_of(given, "--out", tmp_path / "authors", "--to", "official")
    (file,) = (tmp_path / "authors").glob("*.pth")
    content = torch.load(file, weights_only=True)
    assert sorted(str(tensor.dtype) for tensor in content.values()) == sorted(str(t.dtype) for t in stored.values())
    report_of(given, "--out", theirs, "--to", "transformers")
    written = load_file(theirs / "model.safetensors")
    assert {str(tensor.dtype) for tensor in written.values()} == {str(tensor.dtype) for tensor in stored.values()}
    assert SamModel.from_pretrained(theirs).dtype == torch.float32
    report_of(theirs, "--out", tmp_path / "back")
    assert same_bits(load_file(tmp_path / "back" / "model.safetensors"), stored)
