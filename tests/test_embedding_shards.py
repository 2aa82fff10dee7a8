"""Image embeddings on disk: what is read is what the encoder gives, and interrupted work goes on."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model
from torch import Tensor

from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.embedding_shards import EmbeddingShards, embed_dataset, encoder_checksum
from sam_variants.training.image_rows import ImageRow

SMALL_SHARD = 0.012  # two rows of the tiny model with skips in float16


class RaggedImages:
    """Images of different sizes that count how often each is read."""

    def __init__(self, count: int = 7, fingerprint: str = "ragged") -> None:
        self.count, self.fingerprint = count, fingerprint
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> ImageRow:
        self.read.append(index)
        rng = np.random.default_rng(index)
        return ImageRow(rng.integers(0, 256, (40 + 5 * index, 80 - 6 * index, 3), np.uint8))


@pytest.fixture(scope="module")
def model() -> SamVariantsModel:
    return tiny_model("tiny_vit_with_skips")


def direct(model: SamVariantsModel, image: np.ndarray) -> list[Tensor]:
    with torch.no_grad():
        found: Any = model.get_image_embeddings(processor_for(model)(images=image, return_tensors="pt")["pixel_values"])
    return [level[0] for level in found]


def embed(model: SamVariantsModel, images: RaggedImages, folder: Path, **options: Any) -> EmbeddingShards:
    return embed_dataset(model, processor_for(model), images, folder, **{"batch_size": 3, **options})


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 4e-3), ("bfloat16", 3e-2)])
def test_what_is_read_is_what_the_encoder_gives(
    model: SamVariantsModel, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    images = RaggedImages()
    shards = embed(model, images, tmp_path / "cache", dtype=dtype, shard_mb=SMALL_SHARD)
    assert len(shards) == len(images)
    assert len(list(shards.folder.glob("rows-*.safetensors"))) > 1
    for row in (5, 0, 6, 2):
        levels = direct(model, images[row].image)
        assert [level.dtype for level in shards[row]] == [getattr(torch, dtype)] * 3
        for stored, exact in zip(shards[row], levels, strict=True):
            torch.testing.assert_close(stored.float(), exact, atol=tolerance, rtol=tolerance)


def test_a_model_in_training_is_embedded_in_evaluation_mode_and_stays_as_it_was(tmp_path: Path) -> None:
    trained = tiny_model("tiny_vit_with_skips").train()
    before = encoder_checksum(trained)
    shards = embed(trained, RaggedImages(2), tmp_path / "cache", dtype="float32")
    assert trained.training
    assert encoder_checksum(trained) == before
    torch.testing.assert_close(shards[1], direct(trained.eval(), RaggedImages()[1].image), atol=1e-5, rtol=1e-5)  # type: ignore[arg-type]


def test_a_killed_process_leaves_the_finished_shards(model: SamVariantsModel, tmp_path: Path) -> None:
    folder, maps = tmp_path / "cache", [torch.ones(4, 2, 2)]
    whole = 2 * maps[0].nbytes / 1e6

    def until_killed() -> Iterator[tuple[int, Sequence[Tensor]]]:
        for row in range(5):
            yield row, [level * row for level in maps]
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        EmbeddingShards(folder, {"of": "test"}).write(until_killed(), whole)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    shards = EmbeddingShards(folder, {"of": "test"})
    assert shards.missing(range(6)) == [4, 5]
    shards.write([(row, [level * row for level in maps]) for row in shards.missing(range(6))], whole)
    assert [float(shards[row][0].mean()) for row in range(6)] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="row 3 is already in"):
        shards.write([(3, maps)])


def test_a_row_that_cannot_be_read_costs_no_other(model: SamVariantsModel, tmp_path: Path) -> None:
    class Broken(RaggedImages):
        def __getitem__(self, index: int) -> ImageRow:
            if index == 5:
                raise OSError("row 5 is broken")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="row 5 is broken"):
        embed(model, Broken(), tmp_path / "cache")
    images = RaggedImages()
    shards = embed(model, images, tmp_path / "cache")
    assert images.read == [3, 4, 5, 6]  # the first batch of three is there
    torch.testing.assert_close(shards[1], direct(model, images[1].image), atol=4e-3, rtol=4e-3, check_dtype=False)


def test_slow_work_is_stored_from_time_to_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seconds = tmp_path / "cache", iter(range(0, 10_000, 200))
    monkeypatch.setattr("sam_variants.training.embedding_shards.time.monotonic", lambda: next(seconds))
    EmbeddingShards(folder, {}).write((row, [torch.ones(1, 2, 2)]) for row in range(5))
    assert sorted(path.name for path in folder.glob("rows-*"))[0] == "rows-00000000-00000001.safetensors"
    assert len(EmbeddingShards(folder, {})) == 5


def test_a_row_that_two_runs_wrote_is_read_from_one(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first, second = EmbeddingShards(folder, {}), EmbeddingShards(folder, {})
    first.write((row, [torch.ones(2, 4, 4), torch.ones(3, 2, 2)]) for row in range(4))
    second.write((row, [torch.ones(2, 4, 4), torch.ones(3, 2, 2)]) for row in range(2, 6))
    shards = EmbeddingShards(folder, {})
    assert len(shards) == 6
    assert [len(shards[row]) for row in range(6)] == [2] * 6


def test_only_missing_rows_are_encoded_again(model: SamVariantsModel, tmp_path: Path) -> None:
    images = RaggedImages()
    embed(model, images, tmp_path / "cache", rows=[1, 4])
    images.read.clear()
    shards = embed(model, images, tmp_path / "cache")
    assert sorted(images.read) == [0, 2, 3, 5, 6]
    assert len(shards) == 7
    images.read.clear()
    embed(model, images, tmp_path / "cache")
    assert images.read == []


def test_embeddings_of_something_else_are_refused(model: SamVariantsModel, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    embed(model, RaggedImages(2), folder)
    with pytest.raises(ValueError, match=r"encoder was .* is "):
        embed(tiny_model("tiny_vit_with_skips", seed=1), RaggedImages(2), folder)
    with pytest.raises(ValueError, match="dataset was 'ragged', is 'other'"):
        embed(model, RaggedImages(2, "other"), folder)
    with pytest.raises(ValueError, match="dtype was 'float16', is 'float32'"):
        embed(model, RaggedImages(2), folder, dtype="float32")
    larger = processor_for(model).image_processor.updated(image_size=128)
    with pytest.raises(ValueError, match="image_size was 64, is 128"):
        embed_dataset(model, larger, RaggedImages(2), folder)


def test_training_the_decoder_keeps_the_embeddings_valid() -> None:
    model = tiny_model("tiny_vit_with_skips")
    before = encoder_checksum(model)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight += 1
    assert encoder_checksum(model) == before
    with torch.no_grad():
        model.mask_decoder.conv_s0.bias += 1
    assert encoder_checksum(model) != before


def test_what_is_no_cache_or_damaged_is_refused(model: SamVariantsModel, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no embeddings"):
        embed(model, RaggedImages(2), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    folder = tmp_path / "cache"
    shards = embed(model, RaggedImages(2), folder)
    with pytest.raises(KeyError, match="row 2 is not among the 2 embedded rows"):
        shards[2]
    shard = next(folder.glob("rows-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(OSError, match="is damaged"):
        embed(model, RaggedImages(2), folder)
    (folder / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="is no index of embeddings"):
        embed(model, RaggedImages(2), folder)


def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = tiny_model("tiny_vit_with_skips")
    with torch.no_grad():
        model.mask_decoder.conv_s0.weight *= 1e7
    with pytest.raises(ValueError, match="values beyond float16: store dtype='bfloat16'"):
        embed(model, RaggedImages(2), tmp_path / "cache")
    with pytest.raises(ValueError, match="dtype='int8' must be one of"):
        embed(model, RaggedImages(2), tmp_path / "cache", dtype="int8")


def test_a_full_disk_is_told_before_the_work(
    model: SamVariantsModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    images = RaggedImages()
    with pytest.raises(OSError, match=r"7 embeddings take 0\.0 GB"):
        embed(model, images, tmp_path / "cache")
    assert len(images.read) <= 3


def test_workers_read_shards_of_their_own(model: SamVariantsModel, tmp_path: Path) -> None:
    shards = embed(model, RaggedImages(4), tmp_path / "cache")
    first = shards[0]
    copied = pickle.loads(pickle.dumps(shards))
    assert all(torch.equal(own, other) for own, other in zip(first, copied[0], strict=True))
    later = EmbeddingShards(shards.folder, shards.fingerprint)
    later.write([(9, first)])
    assert torch.equal(copied[9][-1], first[-1])  # found although another one wrote it


def test_shards_are_plain_safetensors(model: SamVariantsModel, tmp_path: Path) -> None:
    shards = embed(model, RaggedImages(2), tmp_path / "cache")
    tensors = load_file(next(shards.folder.glob("rows-*.safetensors")))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("1.")} == {
        "1.0": (4, 16, 16),
        "1.1": (8, 8, 8),
        "1.2": (32, 4, 4),
    }
