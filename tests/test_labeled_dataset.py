"""What a labeling run wrote, read by everybody who would: `datasets`, training, pycocotools, the Hub, and by number."""

from __future__ import annotations

import json
import os
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, IterableDataset, load_dataset
from huggingface_hub import DatasetCard
from labeled_rows import HEIGHT, SETTINGS, WIDTH, Rows, content, files_in, label_all, labeled, open_folder, rectangle
from masked_data import save_rectangles
from PIL import Image
from pycocotools.coco import COCO

from sam_variants.labeling import labeled_dataset
from sam_variants.labeling.items import FailedImage, Item, LabeledImage
from sam_variants.labeling.label_card import histogram_text, size_category
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.labeling.labeled_dataset import LabeledDataset
from sam_variants.labeling.shard_files import histogram
from sam_variants.results import Masks
from sam_variants.training.mask_datasets import open_masks

SOURCE = Rows((6, 3, 0, 5))
ROWS = [row for row in range(14) if row % 7 != 5]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labeled") / "out"
    label_all(folder, SOURCE)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def check_rows(rows: Dataset | IterableDataset) -> None:
    found = list(rows)
    assert [row["key"] for row in found] == [f"{row}.png" for row in ROWS]
    for number, row in zip(ROWS, found, strict=True):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(BytesIO(content(number)))))
        assert (row["height"], row["width"]) == (HEIGHT, WIDTH)
        masks = Masks.from_coco(row["objects"], size=(row["height"], row["width"]))
        assert np.array_equal(masks.data, [rectangle(number, index) for index in range(number % 4)] or masks.data)
        assert len(masks) == number % 4
        for index, found_object in enumerate(row["objects"]):
            assert found_object["score"] == (number % 10) / 10 + index / 100
            assert found_object["point_coords"] == [[3.5, 4.25]]
            assert found_object["area"] == rectangle(number, index).sum()
            assert found_object["stability_score"] is None


def test_load_dataset(out: Path) -> None:
    check_rows(load_dataset(str(out), split="train"))


def test_load_dataset_streaming(out: Path) -> None:
    rows = load_dataset(str(out), split="train", streaming=True)
    assert rows.num_shards == 6  # one of them has no row
    check_rows(rows)


def test_what_is_finished_of_a_run_can_be_loaded(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", SOURCE)
    with folder.writer(1) as writer:
        writer.add([labeled(6), labeled(7)])
        writer.finish()
    with folder.writer(0) as writer:
        writer.add([labeled(0)])
    rows = load_dataset(str(folder.out), split="train")
    assert rows["key"][:] == ["6.png", "7.png"]
    dataset = LabeledDataset(folder.out)
    assert not dataset.is_finished
    assert dataset.keys().to_pylist() == ["6.png", "7.png"]
    with folder.writer(0) as writer:
        writer.finish()
    dataset.refresh()
    assert dataset.keys().to_pylist() == ["0.png", "6.png", "7.png"]
    assert dataset.record(-1) == dataset.record(2)


@pytest.mark.parametrize("streaming", [False, True])
def test_training_reads_it(streaming: bool, out: Path) -> None:
    rows = open_masks(str(out), streaming=streaming)
    assert (rows.found.image, rows.found.masks, rows.found.kind) == ("image", "objects", "objects")
    for number, row in zip(ROWS, rows, strict=True):
        assert row.name == f"{number}.png"
        assert row.image.shape == (HEIGHT, WIDTH, 3)
        expected = [rectangle(number, index) for index in range(number % 4)]
        assert np.array_equal(row.masks, np.array(expected).reshape(-1, HEIGHT, WIDTH))


def test_another_card_leaves_other_layouts_alone(tmp_path: Path) -> None:
    """A card that describes no dataset, or isn't one, says nothing about the files."""
    for card in ("# Mine", "---\nconfigs: nonsense\n---\n", "---\n: [\n---\n", "---\nlicense: mit\n---\n"):
        folder = save_rectangles(tmp_path / str(len(card)), [1, 2])
        (folder / "README.md").write_text(card)
        assert len(open_masks(folder)) == 2


def test_coco(out: Path) -> None:
    coco = COCO(str(out / "instances.json"))
    assert coco.getImgIds() == list(range(1, len(ROWS) + 1))
    assert [coco.imgs[number]["file_name"] for number in coco.getImgIds()] == [f"{row}.png" for row in ROWS]
    assert sorted(coco.anns) == list(range(1, sum(row % 4 for row in ROWS) + 1))
    for number, row in enumerate(ROWS, 1):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        masks = [coco.annToMask(annotation).astype(bool) for annotation in annotations]
        assert np.array_equal(masks, [rectangle(row, index) for index in range(row % 4)])
        assert all("stability_score" not in annotation for annotation in annotations)
        assert {annotation["category_id"] for annotation in annotations} <= {1}
        assert (coco.imgs[number]["width"], coco.imgs[number]["height"]) == (WIDTH, HEIGHT)


def test_coco_has_the_categories_that_were_asked_for(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", Rows((4,)))
    rows = [labeled(1, category="dog"), labeled(2), labeled(3, category=7), labeled(1, category="dog")]
    with folder.writer(0) as writer:
        writer.add(rows)
        writer.finish()
    folder.finish(1)
    content = json.loads((folder.out / "instances.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "object"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "7"}]
    assert [annotation["category_id"] for annotation in content["annotations"]] == [2, 1, 1, 3, 3, 3, 2]
    assert [each["category"] for each in LabeledDataset(folder.out).record(2)["objects"]] == ["7"] * 3


def test_errors_and_manifest(out: Path) -> None:
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert errors == [
        {"key": "5.png", "part": 0, "row": 5, "error": "row 5 is broken"},
        {"key": "12.png", "part": 3, "row": 3, "error": "row 12 is broken"},
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    shards, found = manifest["shards"], files_in(out)
    assert [(shard["part"], shard["chunk"], shard["rows"]) for shard in shards] == [
        (0, 0, 4),
        (0, 1, 1),
        (1, 0, 3),
        (2, 0, 0),
        (3, 0, 3),
        (3, 1, 1),
    ]
    assert {shard["file"]: shard["sha256"] for shard in shards} == {
        name: digest for name, digest in found.items() if name.startswith("data/")
    }
    assert manifest["totals"] == {
        "shards": 6,
        "rows": len(ROWS),
        "masks": sum(row % 4 for row in ROWS),
        "errors": 2,
        "bytes": sum((out / shard["file"]).stat().st_size for shard in shards),
    }
    assert manifest["histogram"] == histogram(np.array([row % 4 for row in ROWS]))


def test_the_card(out: Path) -> None:
    card = DatasetCard.load(out / "README.md")
    assert card.data.task_categories == ["image-segmentation"]
    assert card.data.size_categories == ["n<1K"]
    assert card.data.annotations_creators == ["machine-generated"]
    (config,) = card.data.to_dict()["configs"]
    assert config["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    for told in (
        "12 images with 18 masks",
        "| images that failed | 2, listed in `errors.jsonl` |",
        "| generation.points_per_side | `2` |",
        "| source: name | `numbers` |",
        "![Some of the images with their masks](contact_sheet.jpg)",
        'load_dataset("DIR", split="train")',
        "sam-variants train DIR",
        "      1           3  ██████",
        "`instances.json`",
        "The image files are in it.",
    ):
        assert told in card.text, told


def test_the_code_of_the_card_runs(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (out / "README.md").read_text()
    code = "".join(block.split("```")[0] for block in text.split("```python\n")[1:])
    monkeypatch.setattr(Image.Image, "show", lambda image: None)
    names: dict[str, Any] = {}
    exec(code.replace('"DIR"', repr(str(out))).replace("rows[0]", "rows[3]"), names)
    assert names["masks"].data.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("rows", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**8, "100M<n<1B"), (10**11, "1B<n<10B")],
)
def test_size_categories_are_those_of_the_hub(rows: int, name: str) -> None:
    assert size_category(rows) == name


def test_histograms() -> None:
    assert histogram(np.array([0, 0, 1, 2, 3, 4, 7, 8, 100])) == [2, 1, 2, 2, 1, 0, 0, 1]
    assert histogram(np.zeros(0, int)) == []
    assert histogram(2 ** np.arange(20)) == [0] + [1] * 20
    assert histogram(2 ** np.arange(1, 20) - 1) == [0] + [1] * 19
    assert histogram_text([2, 0, 1000]).splitlines() == [
        "  masks      images",
        "      0           2  █",
        "      1           0",
        "    2–3       1,000  " + "█" * 40,
    ]


def test_the_contact_sheet(out: Path) -> None:
    sheet = Image.open(out / "contact_sheet.jpg")
    assert sheet.size == (6 * 260 + 4, 2 * 260 + 4)
    pixels = np.asarray(sheet.convert("RGB")).astype(int)
    tile = pixels[4 + 118 : 4 + 138, 4 + 116 : 4 + 140]
    first = np.asarray(Image.open(BytesIO(content(0))).convert("RGB")).astype(int)
    assert np.abs(tile - first).mean() < 18  # an image without masks, as it is, but for JPEG
    fourth = np.asarray(Image.open(BytesIO(content(3))).convert("RGB")).astype(int)
    assert np.abs(pixels[4 + 118 : 4 + 138, 4 + 3 * 260 + 116 : 4 + 3 * 260 + 140] - fourth).mean() > 20
    assert (pixels[:, :3] < 60).all()


def test_the_contact_sheet_does_without_images_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And asks a server that doesn't answer only a few times."""
    photo = tmp_path / "photo.png"
    photo.write_bytes(content(0))
    items = [
        Item("0", path=os.path.relpath(photo)),
        *(Item(str(row), path=f"http://localhost:1/{row}.png") for row in range(1, 8)),
    ]
    folder = open_folder(tmp_path / "out", Rows((8,)), rows_per_shard=8, images="reference")
    with folder.writer(0) as writer:
        writer.add([LabeledImage(item, (HEIGHT, WIDTH), []) for item in items])
        writer.finish()
    asked = []
    original = labeled_dataset.rgb_array
    monkeypatch.setattr(labeled_dataset, "rgb_array", lambda image: asked.append(image) or original(image))
    folder.finish(1)
    assert asked == [str(photo), *(f"http://localhost:1/{row}.png" for row in range(1, 4))]
    assert Image.open(folder.out / "contact_sheet.jpg").size == (6 * 260 + 4, 2 * 260 + 4)
    dataset = LabeledDataset(folder.out)
    assert dataset[0]["image"] == {"bytes": None, "path": str(photo)}
    assert np.array_equal(dataset.picture(0), Image.open(photo))
    with pytest.raises(ValueError, match="localhost"):
        dataset.picture(1)
    assert "The images stay where they were" in (folder.out / "README.md").read_text()
    first = next(iter(load_dataset(str(folder.out), split="train")))
    assert np.array_equal(first["image"], Image.open(photo))


def test_a_run_without_a_single_image(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", Rows((1,)))
    with folder.writer(0) as writer:
        writer.add([FailedImage("0.png", "broken")])
        writer.finish()
    assert folder.finish(1) == (1, 0, 0, 1)
    assert not (folder.out / "contact_sheet.jpg").exists()
    assert len(LabeledDataset(folder.out)) == 0
    assert json.loads((folder.out / "instances.json").read_text())["images"] == []
    assert list(load_dataset(str(folder.out), split="train", streaming=True)) == []
    assert list(LabeledDataset(folder.out).columns("num_masks")["num_masks"]) == []
    with pytest.raises(IndexError):
        LabeledDataset(folder.out).record(0)


def test_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    """Embedded it needs no name; referred to it would not be found again."""
    image = LabeledImage(Item("caf\\xe9.png", content(0), "/photos/caf\udce9.png"), (HEIGHT, WIDTH), [])
    for images, totals in (("embed", (1, 1, 0, 0)), ("reference", (1, 0, 0, 1))):
        folder = open_folder(tmp_path / images, Rows((1,)), images=images)
        with folder.writer(0) as writer:
            writer.add([image])
            writer.finish()
        assert folder.finish(1) == totals
    assert LabeledDataset(tmp_path / "embed")[0]["image"] == {"bytes": content(0), "path": None}
    assert "rename it" in (tmp_path / "reference" / "errors.jsonl").read_text()


@pytest.mark.parametrize("group_rows", [1, 2, 100])
def test_rows_by_number(group_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam_variants.labeling.shard_files.GROUP_ROWS", group_rows)
    for name in ("KEPT_GROUPS", "KEPT_IMAGES", "KEPT_FILES"):
        monkeypatch.setattr(labeled_dataset, name, 1)
    label_all(tmp_path / "out", SOURCE)
    dataset = LabeledDataset(tmp_path / "out")
    assert dataset.is_finished
    assert len(dataset) == len(ROWS)
    assert dataset.num_shards == 5
    assert dataset.keys().to_pylist() == [f"{row}.png" for row in ROWS]
    for index in (0, 11, 4, 3, 5, 10, -1, *range(12)):
        row = ROWS[index]
        assert dataset[index]["key"] == dataset.record(index)["key"] == f"{row}.png"
        assert dataset[index]["image"] == {"bytes": content(row), "path": f"{row}.png"}
        assert "image" not in dataset.record(index)
        masks = dataset.masks(index)
        assert np.array_equal(masks.data, [rectangle(row, number) for number in range(row % 4)] or masks.data)
        assert dataset.picture(index).size == (WIDTH, HEIGHT)
    for index in (12, -13):
        with pytest.raises(IndexError):
            dataset.record(index)


def test_columns(out: Path) -> None:
    assert LabeledDataset(out).identity["settings"] == SETTINGS | {"rows_per_shard": 4, "images": "embed"}
    dataset = LabeledDataset(out)
    found = dataset.columns()
    counts = [row % 4 for row in ROWS]
    areas = [[rectangle(row, index).sum() for index in range(row % 4)] for row in ROWS]
    scores = [[(row % 10) / 10 + index / 100 for index in range(row % 4)] for row in ROWS]
    expected = {
        "num_masks": counts,
        "max_score": [max(each, default=np.nan) for each in scores],
        "min_score": [min(each, default=np.nan) for each in scores],
        "total_area": [sum(each) for each in areas],
        "max_area": [max(each, default=0) for each in areas],
        "min_area": [min(each, default=np.nan) for each in areas],
        "width": [WIDTH] * len(ROWS),
        "height": [HEIGHT] * len(ROWS),
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    assert list(dataset.columns("num_masks")) == ["num_masks"]
    with pytest.raises(KeyError, match="quality"):
        dataset.columns("quality")


def test_scores_that_are_not_known(tmp_path: Path) -> None:
    rows = [labeled(3, score=None), labeled(2)]
    rows[1].annotations[0]["score"] = None
    folder = open_folder(tmp_path / "out", Rows((2,)))
    with folder.writer(0) as writer:
        writer.add(rows)
        writer.finish()
    dataset = LabeledDataset(folder.out)
    np.testing.assert_allclose(dataset.columns("max_score")["max_score"], [np.nan, 0.21], rtol=1e-6)
    assert dataset.masks(1).scores is None  # which Masks knows of all or of none
    assert dataset.masks(1).points is not None


def test_columns_are_read_without_images(out: Path, tmp_path: Path) -> None:
    """Only what is needed of a file: the bytes of the images may be missing."""
    folder = LabelFolder.attach(out)
    target = tmp_path / "out"
    (target / "data").mkdir(parents=True)
    for name in ("label.json", "manifest.json"):
        (target / name).write_bytes((folder.out / name).read_bytes())
    for shard in (out / "data").iterdir():
        data = bytearray(shard.read_bytes())
        start = 0
        while (start := data.find(b"\x89PNG", start)) >= 0:
            data[start : start + 100] = bytes(100)
        (target / "data" / shard.name).write_bytes(data)
    broken, whole = LabeledDataset(target), LabeledDataset(out)
    assert np.array_equal(broken.columns("total_area")["total_area"], whole.columns("total_area")["total_area"])
    assert [broken.record(index) for index in range(12)] == [whole.record(index) for index in range(12)]
    with pytest.raises(ValueError, match="the image of row 0 can't be read"):
        broken.picture(0)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    label_all(tmp_path, SOURCE)
    (tmp_path / "data" / "000001-00000.parquet").unlink()
    (tmp_path / "data" / "000000-00000.parquet").write_bytes(b"PAR1 nothing PAR1")
    dataset = LabeledDataset(tmp_path)
    with pytest.raises(OSError, match=r"shard '.*000000-00000\.parquet' can't be read"):
        dataset.record(0)
    with pytest.raises(FileNotFoundError, match=r"shard '.*000001-00000\.parquet' is missing"):
        dataset.masks(5)
    with pytest.raises(OSError, match=r"000000-00000\.parquet"):
        dataset.columns()
    lines = (tmp_path / "manifest.json").read_text().splitlines()
    (tmp_path / "manifest.json").write_text("\n".join([*lines[:3], lines[3][:60]]))
    with pytest.raises(OSError, match=r"manifest\.json' is damaged"):
        LabeledDataset(tmp_path)


def test_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeled_dataset, "KEPT_FILES", 1)
    label_all(tmp_path, SOURCE)
    dataset, wrong = LabeledDataset(tmp_path), []

    def read(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, 12, 40).tolist():
            if dataset[index]["key"] != f"{ROWS[index]}.png":
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
