"""Images to label from files: folders, patterns, lists; and what all sources have in common."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from label_examples import OUT, check_source, every_item, numbers, png, write_files, write_tar

from sam_variants.labeling import file_listing
from sam_variants.labeling.items import Source
from sam_variants.labeling.label_sources import open_label_source
from sam_variants.labeling.stored_files import expand_braces

ODD_NAMES = ["a b/ü/é.webp", "a b/1&<b>\"'.jpg", "UPPER.JPG", "z\n.png", "#1.png", "a b/[x].png", "{1,2}.png"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares goes where the test is, not into the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def opened(*sources: Any, rows_per_shard: int = 3, **options: Any) -> Source:
    return open_label_source([str(source) for source in sources], rows_per_shard=rows_per_shard, out=OUT, **options)


def checked(*sources: Any, **options: Any) -> list[Any]:
    source = opened(*sources, **options)
    return check_source(source, opened(*sources, **options), pickle.loads(pickle.dumps(source)))


def test_a_folder_with_odd_names(tmp_path: Path) -> None:
    write_files(tmp_path, {name: png(number) for number, name in enumerate(ODD_NAMES)})
    write_files(tmp_path, {".hidden.png": png(), ".git/x.png": png(), "note.txt": b"no image", "noending": png()})
    items = checked(tmp_path, recursive=True)
    expected = sorted(ODD_NAMES, key=os.fsencode)
    assert [item.key for item in items] == expected
    assert numbers(items) == [ODD_NAMES.index(name) for name in expected]
    assert items[0].path == str(tmp_path / expected[0])
    assert items[0].prompts is None
    flat = opened(tmp_path)
    assert [item.key for item in every_item(flat)] == [name for name in expected if "/" not in name]
    assert [part.num_rows for part in flat.parts] == [3, 1]
    assert flat.description() == {"kind": "files", "name": tmp_path.name, "num_images": 4}


def test_links_and_what_cannot_be_read(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "photos", {"a.png": png(1), "below/b.png": png(2), "empty.png": b""})
    write_files(tmp_path / "elsewhere", {"c.png": png(3)})
    (folder / "linked.png").symlink_to("a.png")
    (folder / "nowhere.png").symlink_to("missing")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    (folder / "below" / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    os.close(os.open(os.fsencode(folder) + b"/\xff.png", os.O_CREAT))
    items = {item.key: item for item in checked(folder, recursive=True)}
    assert list(items) == [
        *(
            "a.png",
            "below/b.png",
            "empty.png",
            "folder/c.png",
            "itself.png",
            "linked.png",
            "nowhere.png",
            "pipe.png",
            "\\xff.png",
        ),
    ]
    assert numbers(items.values()) == [1, 2, None, 3, None, 1, None, None, None]
    errors = {key: item.error for key, item in items.items() if item.error}
    assert errors["empty.png"] == errors["\\xff.png"] == "the file is empty"
    assert errors["nowhere.png"] == "the file can't be read: No such file or directory"
    assert errors["pipe.png"] == "the file can't be read: it is no regular file"
    assert items["\\xff.png"].path == f"{folder}/\\xff.png"
    sizes = {name: size for name, size, _ in opened(folder).listing()}
    assert sizes["nowhere.png"] is None
    assert sizes["a.png"] == len(png(1))


def test_names_that_are_the_same_as_text_are_refused(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"\\xff.png"):
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT))
    with pytest.raises(ValueError, match=r"two files in .* would be called '.*xff.png': rename one"):
        opened(tmp_path)


def test_the_listing_shows_what_changed(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": png(1), "b.png": png(2)})
    before = list(opened(tmp_path).listing())
    os.utime(tmp_path / "b.png", ns=(1, 1))
    after = list(opened(tmp_path).listing())
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert after[1].stamp == "1"


def test_several_sources_and_patterns(tmp_path: Path) -> None:
    names = ["one/a.png", "one/b.PNG", "two/a.png", "two/deep/c.png", "two/d.unknown"]
    write_files(tmp_path, {name: png(number) for number, name in enumerate(names)})
    items = checked(tmp_path / "two", tmp_path / "one", tmp_path / "one" / "a.png")
    assert [item.key for item in items] == ["one/a.png", "one/b.PNG", "two/a.png"]
    assert [item.key for item in checked(tmp_path / "**" / "*.png")] == ["one/a.png", "two/a.png", "two/deep/c.png"]
    assert [item.key for item in checked(tmp_path / "t*" / "a.png")] == ["two/a.png"]
    assert [item.key for item in checked(tmp_path / "two" / "d.unknown")] == ["d.unknown"]


def test_results_are_no_images(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": png(), "out/contact.png": png(), "out2/b.png": png()})
    source = open_label_source([str(tmp_path)], rows_per_shard=3, out=tmp_path / "out", recursive=True)
    assert [item.key for item in every_item(source)] == ["a.png", "out2/b.png"]
    with pytest.raises(ValueError, match="--out is the folder of the images"):
        open_label_source([str(tmp_path)], rows_per_shard=3, out=tmp_path)


def test_a_disk_that_is_gone_is_no_fault_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"below/a.png": png(), "below/b.png": png()})
    source = opened(tmp_path, recursive=True)
    (tmp_path / "below" / "a.png").unlink()
    assert [item.error for item in every_item(source)] == ["the file can't be read: No such file or directory", None]
    (tmp_path / "below" / "b.png").unlink()
    with pytest.raises(OSError, match="No such file"):
        list(every_item(source))
    write_files(tmp_path, {"below/a.png": png()})

    def out_of_files(*args: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("sam_variants.labeling.image_content.read_file", out_of_files)
    with pytest.raises(OSError, match="Too many open files"):
        list(every_item(source))


def test_a_million_names_are_held_compactly() -> None:
    files = (file_listing.FoundFile(b"/data/%03d/image_%08d.jpg" % (n % 100, n), n, n) for n in range(70_000))
    table = file_listing.table_of(files, len("/data/")).sort_by("name").combine_chunks()
    assert table.nbytes < 50 * 70_000
    assert len(pickle.dumps(table)) < 50 * 70_000
    listed = file_listing.FileTable("/data", table)
    assert listed.path(0) == b"/data/000/image_00000000.jpg"
    assert listed.name(69_999) == b"099/image_00069999.jpg"


def test_a_list_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "lists", {"p/a b.png": png(1), "é.png": png(2), "third.png": png(3)})
    lines = ["\ufeffé.png", "", "p/a b.png  ", "é.png", str(tmp_path / "lists" / "third.png"), "missing.png"]
    (tmp_path / "lists" / "all.txt").write_text("\r\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    items = checked("@lists/all.txt")
    assert [item.key for item in items] == ["é.png", "p/a b.png", lines[4], "missing.png"]
    assert numbers(items) == [2, 1, 3, None]
    assert opened("lists/all.txt").description() == {"kind": "list", "name": "all.txt", "num_images": 4}
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"empty.txt lists no image: a line is a URL or a path"):
        opened("empty.txt")
    (tmp_path / "binary.txt").write_bytes(png())
    with pytest.raises(ValueError, match=r"binary.txt is no text"):
        opened("@binary.txt")
    with pytest.raises(OSError, match=r"nothing\.txt"):
        opened("@nothing.txt")


def rows(count: int, first: int = 0) -> Dataset:
    features = Features({"image": ImageFeature(), "name": Value("string"), "other": Value("int64")})
    values = [
        {"image": {"bytes": png(first + n), "path": None}, "name": f"n{first + n}", "other": n} for n in range(count)
    ]
    return Dataset.from_list(values, features=features)


def test_parquet(tmp_path: Path) -> None:
    rows(7).to_parquet(tmp_path / "a.parquet", batch_size=2)  # row groups of two
    rows(2, 7).to_parquet(tmp_path / "b.parquet")
    items = checked(tmp_path / "*.parquet")
    assert numbers(items) == list(range(9))
    assert [item.key for item in items] == [f"a.parquet#{n}" for n in range(7)] + ["b.parquet#0", "b.parquet#1"]
    assert {item.path for item in items} == {None}
    source = opened(tmp_path)
    assert [tuple(part[1:]) for part in source.parts] == [
        ("a.parquet from row 0", 4),
        ("a.parquet from row 4", 3),
        ("b.parquet from row 0", 2),
    ]
    assert source.description() == {"kind": "parquet", "name": tmp_path.name, "image_column": "image"}
    named = checked(tmp_path / "a.parquet", key_column="name")
    assert [item.key for item in named] == [f"n{n}" for n in range(7)]


def test_parquet_reads_only_the_row_groups_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(8).to_parquet(tmp_path / "a.parquet", batch_size=2)
    source = opened(tmp_path / "a.parquet", rows_per_shard=8)
    groups = []
    read = pa.parquet.ParquetFile.iter_batches

    def noted(self: Any, batch_size: int, row_groups: list[int], columns: list[str], **options: Any) -> Any:
        groups.append((row_groups, columns))
        return read(self, batch_size, row_groups, columns, **options)

    monkeypatch.setattr(pa.parquet.ParquetFile, "iter_batches", noted)
    assert numbers(source.read(0, 5)) == [5, 6, 7]
    assert groups == [([2], ["image"]), ([3], ["image"])]


def test_parquet_that_points_to_files(tmp_path: Path) -> None:
    write_files(tmp_path, {"tables/photos/a.png": png(1), "b.png": png(2)})
    paths = ["photos/a.png", str(tmp_path / "b.png"), "missing.png", None]
    pa.parquet.write_table(pa.table({"file_name": paths, "x": [1, 2, 3, 4]}), tmp_path / "tables" / "t.parquet")
    items = checked(tmp_path / "tables" / "t.parquet")
    assert numbers(items) == [1, 2, None, None]
    assert items[3].error == "column 'file_name' holds no image: None"


def test_broken_parquet(tmp_path: Path) -> None:
    rows(6).to_parquet(tmp_path / "a.parquet", batch_size=2)
    metadata = pa.parquet.read_metadata(tmp_path / "a.parquet")
    page = metadata.row_group(1).column(0)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    start = page.dictionary_page_offset or page.data_page_offset
    content[start : start + page.total_compressed_size] = b"\xff" * page.total_compressed_size
    (tmp_path / "a.parquet").write_bytes(content)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing of this kind PAR1")
    rows(2, 6).to_parquet(tmp_path / "c.parquet")
    items = checked(tmp_path / "*.parquet")
    assert numbers(items) == [0, 1, None, None, 4, 5, None, 6, 7]
    assert [item.key for item in items[2:4]] == ["a.parquet#2", "a.parquet#3"]
    assert str(items[2].error).startswith("row group 1 of the file is broken")
    assert items[6].key == "b.parquet#rest"
    assert str(items[6].error).startswith("the file can't be read as Parquet")
    with pytest.raises(ValueError, match=r"b.parquet can't be read as Parquet"):
        opened(tmp_path / "b.parquet")


def test_keys_that_come_twice_are_refused(tmp_path: Path) -> None:
    double = Dataset.from_list([{"image": png(n), "id": n // 2} for n in range(3)])
    double.to_parquet(tmp_path / "a.parquet")
    message = r"1 keys of column 'id' come more than once \(0 2 times\); a key names one image"
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "a.parquet", key_column="id")
    double.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "saved", key_column="id")


def test_coco_detections(tmp_path: Path) -> None:
    """Boxes that another model found, beside the images or in a folder of them."""
    write_files(tmp_path, {"photos/a.png": png(1), "photos/b.png": png(2)})
    content = {
        "images": [{"id": 5, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}],
        "annotations": [
            {"id": 1, "image_id": 3, "bbox": [1, 1, 2, 3], "category_id": 9, "score": 0.5},
            {"id": 2, "image_id": 3, "bbox": [0, 0, 1, 1], "category_id": 2},
        ],
        "categories": [{"id": 9, "name": "cat"}],
    }
    (tmp_path / "found.json").write_text(json.dumps(content))
    items = checked(tmp_path / "found.json", boxes_column="objects", box_format="xywh")
    assert [item.key for item in items] == ["b.png", "a.png"]
    assert numbers(items) == [2, 1]
    assert [len(item.prompts) for item in items] == [0, 2]
    assert items[1].prompts.boxes.tolist() == [[1, 1, 3, 4], [0, 0, 1, 1]]
    assert items[1].prompts.categories == ["cat", 2]
    content["annotations"].append({"id": 3, "image_id": 4, "bbox": [0, 0, 1, 1]})
    (tmp_path / "found.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has annotations of images that it doesn't list: image_id '4'"):
        opened(tmp_path / "found.json")


def test_save_to_disk(tmp_path: Path) -> None:
    DatasetDict(train=rows(4), test=rows(2, 4)).save_to_disk(tmp_path / "saved")
    items = checked(tmp_path / "saved", split="train")
    assert numbers(items) == [0, 1, 2, 3]
    assert [item.key for item in items] == [f"train#{n}" for n in range(4)]
    with pytest.raises(ValueError, match=r"several splits: 'train' \(4 rows\), 'test' \(2 rows\)"):
        opened(tmp_path / "saved")
    rows(2).save_to_disk(tmp_path / "one")
    assert [item.key for item in checked(tmp_path / "one", key_column="name")] == ["n0", "n1"]


def test_tables_of_paths(tmp_path: Path) -> None:
    write_files(tmp_path, {"photos/a.png": png(1), "photos/b.png": png(2)})
    lines = [{"file_name": f"photos/{name}.png", "boxes": boxes} for name, boxes in (("a", [[0, 0, 4, 3]]), ("b", []))]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    items = checked(tmp_path / "t.jsonl", boxes_column="boxes")
    assert numbers(items) == [1, 2]
    assert [len(item.prompts) for item in items] == [1, 0]
    (tmp_path / "t.csv").write_text('path,boxes\nphotos/b.png,"[[1, 1, 3, 3], [0, 0, 1, 1]]"\nphotos/a.png,\n')
    items = checked(tmp_path / "t.csv", boxes_column="boxes")
    assert numbers(items) == [2, 1]
    assert [len(item.prompts) for item in items] == [2, 0]


def test_a_folder_with_a_table_beside_its_images(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": png(1), "b.png": png(2)})
    lines = [{"file_name": name, "objects": {"bbox": [[0, 0, 2, 2]]}} for name in ("a.png", "b.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [item.key for item in checked(tmp_path)] == ["a.png", "b.png"]
    items = checked(tmp_path, boxes_column="objects.bbox", box_format="xywh")
    assert numbers(items) == [1, 2]
    assert [item.prompts.boxes.tolist() for item in items] == [[[0, 0, 2, 2]]] * 2


def test_folders_of_datasets(tmp_path: Path) -> None:
    """As they are downloaded from the Hub, and as this project writes them."""
    (tmp_path / "data").mkdir()
    rows(2).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    assert numbers(checked(tmp_path)) == [0, 1]
    rows(1, 5).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert numbers(checked(tmp_path, split="test")) == [5]
    with pytest.raises(ValueError, match=r"several splits: .*'train'.*Say which: --split"):
        opened(tmp_path)
    write_files(tmp_path, {"contact_sheet.jpg": png()})
    with pytest.raises(ValueError, match=r"holds images \(contact_sheet.jpg\) and tables \(data/test-.*say which"):
        opened(tmp_path)
    write_files(tmp_path, {"label.json": b"{}"})
    assert numbers(checked(tmp_path, split="train")) == [0, 1]


def test_tars_are_streams_of_samples(tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "000.tar", [(f"{n}.png", png(n)) for n in range(3)])
    write_tar(tmp_path / "shards" / "001.tar", [(f"{n}.png", png(n)) for n in range(3, 5)])
    for source in (tmp_path / "shards", tmp_path / "shards" / "{000..001}.tar", tmp_path / "shards" / "*.tar"):
        assert numbers(checked(source)) == [0, 1, 2, 3, 4]


def test_braces() -> None:
    assert list(expand_braces("a{08..11}b")) == ["a08b", "a09b", "a10b", "a11b"]
    assert list(expand_braces("{x,y}/{0..1}.tar")) == ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]
    assert list(expand_braces("{x}/a.tar")) == ["{x}/a.tar"]


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {}, "no source is given; a source is a folder of images"),
        (["missing/a.jpg"], {}, "there is no file or folder 'missing/a.jpg'; a source is"),
        (["no where/at all.png"], {}, "there is no file or folder 'no where/at all.png'; a source is"),
        (["*.gif"], {}, r"no file fits the pattern '\*.gif'"),
        (["empty"], {}, "the folder 'empty' holds no images; --recursive looks into"),
        (["missing.tar"], {}, "there is no file 'missing.tar'"),
        (["a.png", "t.parquet"], {}, r"several kinds: 'a.png' \(files\), 't.parquet' \(parquet\). Label one"),
        (["a.png"], {"split": "train"}, "split='train' was given, but 'a.png' is a folder or files of images: leave"),
        (["a.png"], {"boxes_column": "b"}, r"a column was named \('b'\), but 'a.png' is"),
        (["a.png"], {"box_format": "xywh"}, "box_format='xywh' belongs to boxes"),
        (["t.parquet"], {"boxes_column": "image", "box_format": "yxyx"}, "the box format is one of .* not 'yxyx'"),
        (["t.parquet"], {"category_column": "name"}, "categories belong to boxes or points"),
        (["t.parquet"], {"boxes_column": "boxen"}, "there is no column 'boxen'; the columns are 'image': Image"),
        (["t.parquet"], {"image_column": "img"}, "there is no column 'img'; the columns are 'image': Image"),
        (["a.png"], {"rows_per_shard": 0}, "rows_per_shard is 0"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(write_files(tmp_path, {"a.png": png(), "empty/note.txt": b""}))
    rows(1).to_parquet("t.parquet")
    with pytest.raises(ValueError, match=message):
        opened(*sources, **options)


def test_columns_of_images(tmp_path: Path) -> None:
    two = Dataset.from_list([{"left": {"bytes": png(1), "path": None}, "right": {"bytes": png(2), "path": None}}])
    two = two.cast(Features({"left": ImageFeature(), "right": ImageFeature()}))
    two.to_parquet(tmp_path / "two.parquet")
    with pytest.raises(ValueError, match=r"\['left', 'right'\] could each be the images; .*--image-column left"):
        opened(tmp_path / "two.parquet")
    assert numbers(checked(tmp_path / "two.parquet", image_column="right")) == [2]
    Dataset.from_list([{"x": 1}]).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="no column looks like images; the columns are 'x': int64"):
        opened(tmp_path / "none.parquet")
