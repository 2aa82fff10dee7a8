"""Datasets as they come: folders, COCO files, tables, splits, streams and the Hub."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from local_hub import LocalHub
from mask_rows import HEIGHT, LEFT, RIGHT, WIDTH, flat, label_map, photo, pictures, plain_rle, truths
from PIL import Image
from torch.utils.data import DataLoader

from sam_variants.mask_codecs import encode_mask
from sam_variants.results import Masks
from sam_variants.training.mask_datasets import MaskDataset, open_masks
from sam_variants.training.masked_image import MaskedImage


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares goes where the test is, not into the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def rows(count: int = 3) -> Dataset:
    codes = [encode_mask(mask) for mask in truths()]
    return Dataset.from_list([{"image": photo(n), "masks": codes, "id": f"p{n}"} for n in range(count)])


def check(masks: MaskDataset, numbers: tuple[int, ...] = (0, 1, 2)) -> None:
    """The photos of these numbers with both objects, in order."""
    examples = list(masks)
    assert len(examples) == len(numbers)
    for number, example in zip(numbers, examples, strict=True):
        np.testing.assert_array_equal(example.image, np.asarray(photo(number)))
        np.testing.assert_array_equal(example.masks, truths())


def write_pairs(folder: Path, numbers: tuple[int, ...] = (0, 1, 2), as_folders: bool = False, ending: str = "") -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in numbers:
        photo(number).save(folder / "images" / f"p{number}.png")
        if as_folders:
            (folder / "masks" / f"p{number}").mkdir()
            for index, picture in enumerate(pictures()):
                picture.save(folder / "masks" / f"p{number}" / f"{index}.png")
        else:
            Image.fromarray(label_map()).save(folder / "masks" / f"p{number}{ending}.png")
    return folder


def write_coco(file: Path, numbers: tuple[int, ...] = (0, 1, 2), images: str = "") -> Path:
    """One object as polygon, the other as code, compressed or not, and a crowd."""
    (file.parent / images).mkdir(parents=True, exist_ok=True)
    annotations: list[dict[str, Any]] = []
    for number in numbers:
        photo(number).save(file.parent / images / f"p{number}.png")
        code = plain_rle(truths()[1]) if number else encode_mask(truths()[1])
        for segmentation, crowd in (([flat(LEFT)], 0), (code, 0), (code, 1)):
            annotations.append({"image_id": number, "segmentation": segmentation, "iscrowd": crowd, "category_id": 1})
    entries = [{"id": number, "file_name": f"p{number}.png", "width": WIDTH, "height": HEIGHT} for number in numbers]
    content = {"info": {}, "images": entries, "annotations": annotations, "categories": []}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_images_beside_label_maps(tmp_path: Path) -> None:
    masks = open_masks(write_pairs(tmp_path / "coins"))
    check(masks)
    assert [example.name for example in masks] == ["p0.png", "p1.png", "p2.png"]
    assert masks.report().startswith("coins: 3 rows\nimages  column 'image' (Image)")
    check(open_masks(str(write_pairs(tmp_path / "named", ending="_mask"))))


def test_images_beside_folders_of_pictures(tmp_path: Path) -> None:
    masks = open_masks(write_pairs(tmp_path, as_folders=True))
    assert masks.found.kind == "instances"
    check(masks)


def test_parts_of_a_folder_are_splits(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train", (0, 1))
    write_pairs(tmp_path / "val", (2,))
    check(open_masks(tmp_path, split="train"), (0, 1))
    check(open_masks(tmp_path, split="val"), (2,))
    with pytest.raises(ValueError, match=r"has several parts: \['train', 'val'\]. Say which: split=\"train\""):
        open_masks(tmp_path)
    with pytest.raises(ValueError, match="has no part 'test'"):
        open_masks(tmp_path, split="test")
    inside = tmp_path / "inside"
    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (inside / kind).mkdir(parents=True, exist_ok=True)
            shutil.move(tmp_path / part / kind, inside / kind / part)
    check(open_masks(inside, split="val"), (2,))


def test_a_missing_or_superfluous_mask_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "masks" / "p1.png").rename(tmp_path / "masks" / "p7.png")
    with pytest.raises(ValueError, match=r"1 of 3 images have no mask in .*masks: 'p1'"):
        open_masks(tmp_path)
    photo().save(tmp_path / "masks" / "p1.png")
    with pytest.raises(ValueError, match=r"1 masks in .*masks have no image in .*images: 'p7'"):
        open_masks(tmp_path)
    (tmp_path / "masks" / "p3").mkdir()
    with pytest.raises(ValueError, match="mixes label maps"):
        open_masks(tmp_path)


@pytest.mark.parametrize("layout", ["beside", "images", "downloaded"])
def test_coco_files(tmp_path: Path, layout: str) -> None:
    if layout == "downloaded":
        file = write_coco(tmp_path / "instances_val.json", images="val")
        (tmp_path / "annotations").mkdir()
        shutil.move(file, tmp_path / "annotations")
        (tmp_path / "annotations" / "captions_val.json").write_text('{"images": [{"id": 0}], "annotations": []}')
    else:
        write_coco(tmp_path / "annotations.json", images="images" if layout == "images" else "")
    masks = open_masks(tmp_path)
    check(masks)
    assert masks.skipped == {"crowd regions": 3}
    assert [example.name for example in masks] == ["p0.png", "p1.png", "p2.png"]


def test_coco_files_of_several_splits(tmp_path: Path) -> None:
    write_coco(tmp_path / "instances_train.json", (0, 1))
    write_coco(tmp_path / "instances_val.json", (2,))
    check(open_masks(tmp_path, split="val"), (2,))
    check(open_masks(tmp_path / "instances_train.json"), (0, 1))
    with pytest.raises(ValueError, match=r"several parts: \['instances_train', 'instances_val'\]"):
        open_masks(tmp_path)


def test_what_this_project_writes_is_read_back(tmp_path: Path) -> None:
    """As `sam-variants everything --out` does it: the images stay where they were."""
    from sam_variants.coco_files import CocoWriter, coco_image

    (tmp_path / "photos").mkdir()
    with CocoWriter(tmp_path / "instances.json") as writer:
        for number in range(3):
            photo(number).save(tmp_path / "photos" / f"p{number}.png")
            masks = Masks(truths())
            annotations = masks.to_coco(number + 1, writer.num_annotations + 1)
            writer.add(coco_image(number + 1, f"p{number}.png", masks), annotations)
    check(open_masks(tmp_path / "instances.json", images=tmp_path / "photos"))


def test_coco_files_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "set" / "annotations.json")
    whole = json.loads(file.read_text())
    (tmp_path / "set" / "p2.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 images of .* aren't there: .*p2.png"):
        open_masks(file)
    file.write_text(json.dumps({**whole, "images": whole["images"][:2]}))
    with pytest.raises(ValueError, match="annotations of images that it doesn't list: image_id '2'"):
        open_masks(file)
    file.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"'p0.png', is not in .*name their folder \(images="):
        open_masks(file, images=tmp_path)
    file.write_text('{"images": [')
    with pytest.raises(ValueError, match="is no JSON"):
        open_masks(file)


def test_images_of_another_size_than_a_coco_file_says_are_refused(tmp_path: Path) -> None:
    """Polygons would lie in the wrong place, and nothing else would tell: scaled images, or turned ones."""
    file = write_coco(tmp_path / "annotations.json")
    photo(1).resize((2 * WIDTH, 2 * HEIGHT)).save(tmp_path / "p1.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(2).save(tmp_path / "p2.png", exif=turned)
    masks = open_masks(file)
    assert len(masks[0].masks) == 2
    with pytest.raises(ValueError, match=r"row 1, column 'objects': the COCO file says 40x24 .*, the image 80x48$"):
        masks[1]
    with pytest.raises(ValueError, match=r"the COCO file says 40x24 .*, the image 24x40: one of them is turned.*EXIF"):
        masks[2]


def test_coco_images_are_known_by_their_ids(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "annotations.json")
    whole = json.loads(file.read_text())
    twice = [*whole["images"], {"id": 2, "file_name": "p0.png"}]
    nameless = [*whole["images"], {"id": 7}]
    for images, named in ((twice, "two images with the id 2"), (nameless, 'an image without "id" and "file_name"')):
        file.write_text(json.dumps({**whole, "images": images}))
        with pytest.raises(ValueError, match=named):
            open_masks(file)
    # What a file doesn't know of its images isn't held against them.
    unsized = [{"id": n, "file_name": f"p{n}.png", "width": 0, "height": None} for n in range(3)]
    file.write_text(json.dumps({**whole, "images": unsized}))
    check(open_masks(file))


def test_a_folder_of_images_with_metadata(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    lines = []
    for number in range(3):
        photo(number).save(tmp_path / "train" / f"p{number}.png")
        objects = {"segmentation": [[flat(LEFT)], [flat(RIGHT)]], "category": ["a", "b"]}
        lines.append(json.dumps({"file_name": f"p{number}.png", "objects": objects}))
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    check(open_masks(tmp_path))
    check(open_masks(tmp_path, streaming=True, split="train"))


def test_a_tar_of_photos_with_annotations(tmp_path: Path) -> None:
    """As SA-1B is published: jpg and json of one name, the annotations inside the json."""
    with tarfile.open(tmp_path / "sa_000000.tar", "w") as tar:
        for number in range(3):
            photo(number).save(tmp_path / f"sa_{number}.png")
            annotations = [{"id": 1, "segmentation": encode_mask(mask)} for mask in truths()]
            content = {"image": {"image_id": number}, "annotations": annotations}
            (tmp_path / f"sa_{number}.json").write_text(json.dumps(content))
            for ending in ("png", "json"):
                tar.add(tmp_path / f"sa_{number}.{ending}", f"sa_{number}.{ending}")
    masks = open_masks(tmp_path / "sa_000000.tar", streaming=True)
    check(masks)
    assert masks.found.masks == "json.annotations"
    assert [example.name for example in masks] == ["sa_0", "sa_1", "sa_2"]


def test_tables_and_saved_datasets(tmp_path: Path) -> None:
    rows().to_parquet(tmp_path / "rows.parquet")
    check(open_masks(tmp_path / "rows.parquet"))
    check(open_masks(tmp_path / "rows.parquet", streaming=True))
    rows().save_to_disk(tmp_path / "saved")
    check(open_masks(tmp_path / "saved"))
    assert open_masks(tmp_path / "saved").fingerprint == open_masks(tmp_path / "saved").fingerprint
    both = DatasetDict(train=rows(2), test=rows(1))
    both.save_to_disk(tmp_path / "both")
    for source in (both, tmp_path / "both"):
        check(open_masks(source, split="test"), (0,))
        with pytest.raises(
            ValueError, match=r"several splits: 'train' \(2 rows\), 'test' \(1 rows\). Say which: split="
        ):
            open_masks(source)
        with pytest.raises(ValueError, match="no split 'val'"):
            open_masks(source, split="val")
    check(open_masks(DatasetDict(train=rows(2))), (0, 1))


def test_what_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"notes.txt is no dataset: files may be \['.arrow', '.csv'"):
        open_masks(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no dataset: .*a folder may be: images/ and masks/"):
        open_masks(tmp_path / "empty")
    with pytest.raises(TypeError, match="a dataset is a datasets"):
        open_masks([1, 2])


def test_changed_files_change_the_fingerprint(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path)
    before = open_masks(folder).fingerprint
    assert open_masks(folder).fingerprint == before
    os.utime(folder / "masks" / "p1.png", ns=(1, 1))
    assert open_masks(folder).fingerprint != before


def test_streams_have_no_numbers_and_are_resumed_where_they_stood(tmp_path: Path) -> None:
    stream = rows(6).to_iterable_dataset(num_shards=3)
    masks = open_masks(stream)
    assert "a stream of rows" in masks.report()
    for use in (len, lambda one: one[0], lambda one: one.select([0]), lambda one: one.fingerprint):
        with pytest.raises(TypeError, match="a streamed dataset has no"):
            use(masks)
    shuffled = masks.shuffle(seed=1, buffer_size=2)
    whole = [example.name for example in shuffled]
    assert sorted(whole) == [f"p{number}" for number in range(6)] != whole
    assert [example.name for example in masks.shuffle(seed=1, buffer_size=2)] == whole
    shuffled.set_epoch(1)
    assert [example.name for example in shuffled] != whole
    reader = iter(masks)
    seen = [next(reader).name for _ in range(4)]
    state = masks.state_dict()
    masks.report()
    resumed = open_masks(rows(6).to_iterable_dataset(num_shards=3))
    resumed.load_state_dict(state)
    assert seen + [example.name for example in resumed] == [f"p{number}" for number in range(6)]


def names_of(examples: list[MaskedImage]) -> list[str]:
    return [example.name for example in examples]


class Names(torch.utils.data.IterableDataset):
    """A stream inside PyTorch's workers."""

    def __init__(self, masks: MaskDataset) -> None:
        self.masks = masks

    def __iter__(self) -> Iterator[str]:
        return (example.name for example in self.masks)


def test_processes_and_workers_share_a_stream() -> None:
    masks = open_masks(rows(6).to_iterable_dataset(num_shards=2))
    parts = [names_of(list(masks.shard(process, 2))) for process in range(2)]
    assert sorted(parts[0] + parts[1]) == [f"p{number}" for number in range(6)]
    assert len(parts[0]) == len(parts[1]) == 3
    for workers in (0, 2):
        loaded = list(DataLoader(Names(masks), batch_size=None, num_workers=workers))
        assert sorted(loaded) == [f"p{number}" for number in range(6)]


def test_a_broken_row_of_a_stream_is_named() -> None:
    def generated() -> Any:
        for number in range(3):
            yield {"image": photo(number), "mask": label_map()[: HEIGHT - number]}

    masks = open_masks(IterableDataset.from_generator(generated))
    with pytest.raises(ValueError, match="row 1 of the stream, column 'mask': the mask is 40x23 pixels"):
        list(masks)


def test_the_hub(hub: LocalHub) -> None:
    DatasetDict(train=rows(3)).push_to_hub("me/one")
    check(open_masks("me/one"))
    check(open_masks("me/one", streaming=True))
    DatasetDict(train=rows(2), test=rows(1)).push_to_hub("me/two")
    check(open_masks("me/two", split="test"), (0,))
    with pytest.raises(ValueError, match=r"me/two has several splits: \['train', 'test'\]. Say which: split=\"train\""):
        open_masks("me/two")
    with pytest.raises(FileNotFoundError, match="'me/none' is neither a folder or file here nor a dataset on the Hub"):
        open_masks("me/none")
    with pytest.raises(ValueError, match="val"):
        open_masks("me/two", split="val")
    with pytest.raises(FileNotFoundError, match=r"'\./missing' is neither"):
        open_masks("./missing")


def test_a_mistyped_folder_is_named_where_the_hub_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach 'data/cions' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr("sam_variants.training.mask_folders.get_dataset_split_names", unreachable)
    with pytest.raises(FileNotFoundError, match=r"'data/cions' is neither a folder or file here nor .*Couldn't reach"):
        open_masks("data/cions")
