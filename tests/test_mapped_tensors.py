"""Copies of what is mapped from a file: the file is never in memory twice, and a later change of it changes nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny, tiny_model
from torch import Tensor
from transformers import AutoModel

from sam_variants.checkpoint_layouts import load_checkpoint as loading
from sam_variants.checkpoint_layouts import mapped_tensors
from sam_variants.checkpoint_layouts.mapped_tensors import is_mapped, own_memory, parts_of
from sam_variants.decoders.mask_decoder import MaskDecoder


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


def save_anew(folder: Path) -> None:
    """Replaces the file, as `save_pretrained` does."""
    path = folder / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)


def save_shards(folder: Path) -> None:
    tiny_model("vit").save_pretrained(folder, max_shard_size="20KB")


def overwrite(folder: Path) -> None:
    """Writes into the file itself."""
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\x01" * 1000)


def delete(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("reads_before", [1, 4])
@pytest.mark.parametrize("change", [save_anew, overwrite])
def test_weights_that_are_written_meanwhile_are_not_mixed(
    change: Callable[[Path], None], reads_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, reads = save_tiny(tmp_path / "model", "vit"), []

    def read(folder: Path) -> dict[str, Tensor]:
        reads.append(folder)
        tensors = original(folder)
        if len(reads) == reads_before:
            change(folder)
        return tensors

    original = loading.read_weights_folder
    monkeypatch.setattr(loading, "read_weights_folder", read)
    monkeypatch.setattr(mapped_tensors, "SMALLEST_PART", 1)
    with pytest.raises(OSError, match=r"changed while it was read, and nothing was loaded"):
        loading.load_checkpoint(folder)
    assert len(reads) == reads_before
    assert loading.load_checkpoint(folder)


def test_the_last_part_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, copied = save_tiny(tmp_path / "model", "vit"), mapped_tensors.copies_of

    def copy_late(*arguments: object) -> dict[str, Tensor]:
        overwrite(folder)
        return copied(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(mapped_tensors, "copies_of", copy_late)
    with pytest.raises(OSError, match="changed while it was read"):
        loading.load_checkpoint(folder)


@pytest.mark.parametrize("sharded", [False, True])
def test_only_the_weights_that_are_read_have_to_stay(
    sharded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that a training goes on with has other files."""
    folder, original = save_tiny(tmp_path / "model", "vit"), loading.read_weights_folder
    if sharded:
        save_shards(folder)

    def read(folder: Path) -> dict[str, Tensor]:
        torch.save({}, folder / "optimizer.pt")
        return original(folder)

    monkeypatch.setattr(loading, "read_weights_folder", read)
    assert loading.load_checkpoint(folder)
    index = folder / "model.safetensors.index.json"
    monkeypatch.setattr(loading, "read_weights_folder", lambda folder: index.touch() or original(folder))
    if sharded:
        with pytest.raises(OSError, match="changed while it was read"):
            loading.load_checkpoint(folder)


@pytest.mark.parametrize("change", [save_anew, save_shards, delete])
@pytest.mark.parametrize("load", [AutoModel.from_pretrained, MaskDecoder.from_pretrained])
def test_weights_that_stay_mapped_survive_a_save_over_them(
    load: Callable[[Path], torch.nn.Module], change: Callable[[Path], None], tmp_path: Path
) -> None:
    """`from_pretrained` of float32 weights maps them; safetensors replaces files, and does not write into them."""
    folder = save_tiny(tmp_path / "model", "vit")
    state = load(folder).state_dict()
    assert all(is_mapped(tensor) for tensor in state.values())
    expected = {name: tensor.clone() for name, tensor in state.items()}
    change(folder)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_part_is_saved_over_the_whole_that_it_is_mapped_from(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "vit")
    part = MaskDecoder.from_pretrained(folder)
    expected = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    part.save_pretrained(folder)
    for state in (part.state_dict(), MaskDecoder.from_pretrained(folder).state_dict()):
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_training_in_place_does_not_write_into_the_file(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "model", "vit") / "model.safetensors"
    before, model = path.read_bytes(), AutoModel.from_pretrained(path.parent)
    path.chmod(0o400)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before
