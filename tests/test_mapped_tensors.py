"""Copies of what is mapped from a file: the file is never in memory twice, and a later change of it changes nothing."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from torch import Tensor

from sam_variants.checkpoint_layouts import load_checkpoint as loading
from sam_variants.checkpoint_layouts import mapped_tensors
from sam_variants.checkpoint_layouts.mapped_tensors import is_mapped, own_memory, parts_of


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    tensors = {str(number): torch.randn(5, 7) for number in range(12)}
    save_file(tensors, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", tensors


class Mapping(dict[str, Tensor]):
    """A mapping that can be watched."""


@pytest.mark.parametrize("smallest", [1, 1_000_000])
def test_a_large_file_is_mapped_anew_for_each_part(
    smallest: int, stored: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_tensors, "SMALLEST_PART", smallest)
    path, tensors = stored
    mappings: list[weakref.ref[Mapping]] = []

    def map_again() -> Mapping:
        assert all(mapping() is None for mapping in mappings), "an earlier mapping is still held"
        mapping = Mapping(load_file(path))
        mappings.append(weakref.ref(mapping))
        return mapping

    copies = own_memory(load_file(path), map_again)
    assert len(mappings) == (12 if smallest == 1 else 1)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert copies.keys() == tensors.keys()
    assert all(torch.equal(copies[name], tensors[name]) for name in tensors)
    assert not any(is_mapped(copy) for copy in copies.values())


def test_what_is_in_memory_is_used_up() -> None:
    tensors = {"a": torch.randn(3), "b": torch.randn(2)}
    expected = dict(tensors)
    copies = own_memory(tensors, lambda: pytest.fail("there is no file to map"))
    assert tensors == {}
    assert all(torch.equal(copies[name], expected[name]) for name in expected)
    assert copies["a"].data_ptr() != expected["a"].data_ptr()


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saves_is_mapped_but_in_its_old_format(legacy: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.randn(4)}, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    (tensor,) = loading.read_checkpoint(tmp_path / "weights.pth").values()
    assert is_mapped(tensor) is not legacy


def test_parts_keep_the_order_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_tensors, "SMALLEST_PART", 10)
    sizes = {"a": 4, "b": 6, "c": 1, "huge": 50, "d": 9, "e": 2}
    assert list(parts_of(sizes)) == [["a", "b"], ["c"], ["huge"], ["d"], ["e"]]
    assert list(parts_of({})) == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_load_checkpoint_copies_in_parts(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = tiny_model("vit"), tmp_path / f"weights{suffix}"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (torch.save if suffix == ".pth" else save_file)(state, path)
    reads: list[Path] = []

    def read(path: Path) -> dict[str, Tensor]:
        reads.append(path)
        return original(path)

    original = loading.read_checkpoint
    monkeypatch.setattr(loading, "read_checkpoint", read)
    monkeypatch.setattr(mapped_tensors, "SMALLEST_PART", 1)
    loaded = loading.load_checkpoint(path, preset=model.config).state_dict()
    assert 5 < len(reads) < 30
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
