"""How rows become shards: batches, row groups, progress, and what is refused."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from labeled_rows import Rows, content, files_in, label_all, label_part, labeled, open_folder, result

from sam_variants.labeling import whole_files
from sam_variants.labeling.items import FailedImage, Item, LabeledImage
from sam_variants.labeling.label_folder import LabelFolder, PartWriter

SOURCE = Rows((6, 3))  # of which the first part makes two shards, and one image of it fails


def test_progress_counts_what_others_do(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", SOURCE)
    assert folder.progress() == (0, 0, 0, 0)
    assert not folder.is_done(0)
    other = pickle.loads(pickle.dumps(folder))
    label_part(other, SOURCE, 1)
    assert folder.is_done(1)
    assert not folder.is_done(0)
    assert folder.progress() == (1, 3, 5, 0)
    label_part(other, SOURCE, 0, stop_at=5)
    assert folder.progress() == (1, 7, 11, 0)
    assert not folder.is_done(0)
    label_part(other, SOURCE, 0)
    assert folder.progress() == (2, 8, 11, 1)


def test_entries_that_are_done_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Rows((1,) * 12)
    label_all(tmp_path / "out", source, finish=False)
    folder = LabelFolder.attach(tmp_path / "out")
    reads = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path.name) or original(path))
    monkeypatch.setattr("sam_variants.labeling.progress_entries.READ_AT_ONCE", 5)
    assert folder.progress().parts_done == 12
    assert folder.progress().parts_done == 12
    assert all(folder.is_done(part) for part in range(12))
    assert sorted(reads) == sorted({*reads})
    assert len(reads) == 12


def test_batches_end_where_shards_do(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", SOURCE)
    with folder.writer(0) as writer:
        writer.add([result(row) for row in range(3)])
        with pytest.raises(ValueError, match="1 rows are left of part 0's shard, the batch has 2"):
            writer.add([result(3), result(4)])
        writer.add([])
        writer.add([result(3)])
        writer.finish()
        with pytest.raises(ValueError, match="part 0 is finished: it has 4 rows"):
            writer.add([result(4)])
    with folder.writer(0) as writer:
        assert writer.is_done
        assert writer.start == 4
        writer.finish()


def test_row_groups_depend_on_rows_and_not_on_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam_variants.labeling.shard_files.GROUP_ROWS", 3)
    files = []
    for batch in (1, 4, 10):
        folder = open_folder(tmp_path / str(batch), Rows((10,)), rows_per_shard=10)
        with folder.writer(0) as writer:
            for start in range(0, 10, batch):
                writer.add([labeled(row) for row in range(start, min(start + batch, 10))])
            writer.finish()
        files.append((folder.out / "data" / "000000-00000.parquet").read_bytes())
    assert files[0] == files[1] == files[2]
    metadata = pq.ParquetFile(folder.out / "data" / "000000-00000.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(4)] == [3, 3, 3, 1]
    compression = {
        metadata.row_group(0).column(column).path_in_schema: metadata.row_group(0).column(column).compression
        for column in range(metadata.num_columns)
    }
    assert compression.pop("image.bytes") == "UNCOMPRESSED"
    assert set(compression.values()) == {"ZSTD"}
    monkeypatch.setattr("sam_variants.labeling.shard_files.GROUP_BYTES", len(content(0)) + 10)
    label_all(tmp_path / "small", Rows((4,)))
    assert pq.ParquetFile(tmp_path / "small" / "data" / "000000-00000.parquet").metadata.num_row_groups == 4


@pytest.mark.parametrize("num_rows", [0, 4, 8])
def test_parts_that_end_where_a_shard_does(num_rows: int, tmp_path: Path) -> None:
    """A stream tells only behind its last row that it has ended: no empty shard follows, but that of an empty part."""
    label_all(tmp_path / "out", Rows((num_rows, 3)))
    shards = [name for name in files_in(tmp_path / "out") if name.startswith("data/000000")]
    assert len(shards) == max(num_rows // 4, 1)


class Refusal:
    """What a writer refuses, with what it says."""

    def __init__(self, row: Any, images: str, message: str, error: type[Exception] = ValueError) -> None:
        self.row, self.images, self.message, self.error = row, images, message, error


IMAGE = labeled(1)
MASK = IMAGE.annotations[0]


def with_annotation(**changes: Any) -> LabeledImage:
    return LabeledImage(IMAGE.item, IMAGE.size, [{**MASK, **changes}])


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(LabeledImage(Item("a.png"), (20, 24), []), "embed", "'a.png' comes without the content of its file"),
        Refusal(LabeledImage(Item("a.png", b""), (20, 24), []), "reference", "no file or URL that could be referred"),
        Refusal(with_annotation(quality=3), "embed", r"annotations\[0\] has unknown fields \['quality'\]"),
        Refusal(with_annotation(iscrowd=1), "embed", r"unknown fields \['iscrowd'\]"),
        Refusal(
            LabeledImage(IMAGE.item, (20, 20), [MASK]), "embed", r"mask of size \[20, 24\], the image is \[20, 20\]"
        ),
        Refusal({"key": "a.png"}, "embed", "a batch holds LabeledImage and FailedImage, got .*dict", TypeError),
    ],
)
def test_what_can_not_be_stored_is_refused_and_nothing_of_the_batch_recorded(refusal: Refusal, tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", SOURCE, images=refusal.images)
    with folder.writer(0) as writer:
        with pytest.raises(refusal.error, match=refusal.message):
            writer.add([FailedImage("0.png", "broken"), refusal.row])
        assert writer.rows == 0
    with pytest.raises(ValueError, match="there is no part 2: the source has 2"):
        folder.writer(2)
    with pytest.raises(ValueError, match="the run has 2 parts, got num_parts=3"):
        folder.finish(3)


def test_a_killed_run_leaves_no_drafts_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(tmp_path / "out", SOURCE)
    draft = whole_files.draft_path(folder.out / "data" / "000000-00000.parquet")
    draft.write_bytes(b"half")
    open_folder(tmp_path / "out", SOURCE)
    assert draft.exists()  # its writer may be at it
    os.utime(draft, (0, 0))
    open_folder(tmp_path / "out", SOURCE)
    assert not draft.exists()


def test_a_journal_that_is_taken_over_lasts_before_the_other_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content and its name, so that a power cut leaves one of them."""
    folder = open_folder(tmp_path / "out", SOURCE)
    label_part(folder, SOURCE, 0, stop_at=2)
    (old,) = (folder.out / "journals").iterdir()
    steps: list[Any] = []
    unlink = os.unlink
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "unlink", lambda path: steps.append(Path(path).name) or unlink(path))
    with folder.writer(0) as writer:
        assert writer.start == 2
    (new,) = old.parent.iterdir()
    assert steps == [new.stat().st_ino, old.parent.stat().st_ino, old.name]


def test_writers_hold_no_rows_in_memory(tmp_path: Path) -> None:
    """What a writer refers to stays the same from the first batch to the last."""

    def size_of(writer: PartWriter) -> int:
        return len(pickle.dumps({name: repr(value) for name, value in vars(writer).items()}))

    folder = open_folder(tmp_path / "out", Rows((40,)), rows_per_shard=40)
    with folder.writer(0) as writer:
        writer.add([labeled(0)])
        first = size_of(writer)
        for row in range(1, 40):
            writer.add([labeled(row)])
        assert abs(size_of(writer) - first) < 10


def test_what_was_loaded_before_the_end_or_before_another_run_does_not_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = Rows((3, 2))
    folder = open_folder(tmp_path / "out", source)
    with folder.writer(1) as writer:
        writer.add([labeled(3), labeled(4)])
        writer.finish()
    assert load_dataset(str(folder.out), split="train")["key"][:] == ["3.png", "4.png"]
    label_all(folder.out, source)
    assert load_dataset(str(folder.out), split="train")["key"][:] == [f"{row}.png" for row in range(5)]
    shutil.rmtree(folder.out)
    label_all(folder.out, Rows((2,)))
    assert load_dataset(str(folder.out), split="train")["key"][:] == ["0.png", "1.png"]
