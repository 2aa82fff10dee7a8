"""`sam-variants convert`: weights stay as they are stored, whatever dtype the model computes in."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_examples import refused, report_of, same_bits
from safetensors.torch import load_file, save_file
from test_cli import run
from tiny import save_tiny
from torch import Tensor
from transformers import SamModel

from sam_variants.checkpoint_layouts import mapped_tensors
from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.checkpoint_layouts.mapped_tensors import is_mapped
from sam_variants.hub.checksums import verify_files, write_checksums
from sam_variants.hub.repo_folder import write_repo_folder
from sam_variants.hub_scripts import convert_target
from sam_variants.hub_scripts.convert_source import read_source
from sam_variants.hub_scripts.convert_target import compare_tensors

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


def test_weights_are_in_memory_once(stored: dict[str, Tensor], tmp_path: Path) -> None:
    """The model that is written holds the tensors of the file themselves, whatever they are stored in."""
    source = read_source(str(tmp_path / "given"))
    held = source.model.state_dict()
    assert held.keys() == source.tensors.keys() == stored.keys()
    assert all(held[name].data_ptr() == tensor.data_ptr() for name, tensor in source.tensors.items())
    assert all(is_mapped(tensor) for tensor in source.tensors.values())


def test_what_was_written_is_compared_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_tensors, "SMALLEST_PART", 1)
    expected = {f"weight {number}": torch.full((5,), float(number)) for number in range(30)}
    readings: list[weakref.ref[Tensor]] = []

    def read() -> dict[str, Tensor]:
        assert all(tensor() is None for tensor in readings), "an earlier reading is still in memory"
        found = {name: tensor.clone() for name, tensor in expected.items()}
        readings[:] = [weakref.ref(tensor) for tensor in found.values()]
        found["weight 7"][0] = found["weight 29"][4] = -1
        return found

    with pytest.raises(OSError, match="2 tensors were not written as they are: weight 29, weight 7"):
        compare_tensors(expected, read)


def test_a_checkpoint_that_changes_meanwhile_is_not_converted(
    stored: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: Any, folder: Path, **options: Any) -> None:
        write_repo_folder(model, folder, **options)
        save_file(stored, tmp_path / "new.safetensors", metadata={"format": "pt"})
        (tmp_path / "new.safetensors").replace(tmp_path / "given" / "model.safetensors")

    monkeypatch.setattr(convert_target, "write_repo_folder", write)
    assert "changed while it was converted" in refused(tmp_path / "given", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
