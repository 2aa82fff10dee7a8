"""`sam-variants everything`: which images are taken, what is written, and what becomes of those that can't be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from test_cli import QuietHandler, assert_one_line, run, served  # noqa: F401
from tiny import save_tiny

from sam_variants.coco_files import CocoWriter
from sam_variants.hub_scripts import everything
from sam_variants.hub_scripts.everything_run import EverythingRun
from sam_variants.hub_scripts.image_sources import find_images, unique_stems
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.results import Masks

HEIGHT, WIDTH = 48, 80
LOOSE = {"points_per_side": 3, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
OPTIONS = [part for name, value in LOOSE.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_tiny(tmp_path_factory.mktemp("command") / "model")


def write_photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH + seed, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write_photo(tmp_path / "photo.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos of two names in two folders, and what is no image."""
    folder = tmp_path / "photos"
    write_photo(folder / "b.png", 1)
    write_photo(folder / "a.png", 2)
    write_photo(folder / "below" / "a.PNG", 3)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


def report_of(*arguments: Any, exit_code: int = 0) -> dict[str, Any]:
    result = run("everything", *arguments, *OPTIONS, "--json")
    assert result.exit_code == exit_code, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def masks_in(coco: Path, image_id: int = 1) -> Masks:
    annotations = json.loads(coco.read_text())["annotations"]
    return Masks.from_coco([entry for entry in annotations if entry["image_id"] == image_id])


def test_every_file_holds_the_masks_of_the_pipeline(model: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    report = report_of(photo, "--model", model, "--out", out)
    assert {path.name for path in out.iterdir()} == {
        "photo_overlay.png",
        "photo_label_map.png",
        "photo.coco.json",
        "instances.json",
    }
    pipe = SamVariantsMaskGenerationPipeline(model=SamVariantsModel.from_pretrained(model).fuse())
    expected = pipe(photo, **LOOSE)
    (entry,) = report["images"]
    assert (entry["image"], entry["width"], entry["height"]) == (str(photo), WIDTH, HEIGHT)
    assert entry["num_masks"] == report["num_masks"] == len(expected) > 0
    for name in (out / "photo.coco.json", out / "instances.json"):
        masks = masks_in(name)
        assert torch.equal(masks.data, expected.data)
        torch.testing.assert_close(masks.scores, expected.scores)
        torch.testing.assert_close(masks.stability_scores, expected.stability_scores)
    pixels = np.asarray(Image.open(photo))
    assert np.array_equal(np.asarray(Image.open(entry["files"]["label_map"])), expected.to_label_map())
    assert np.array_equal(np.asarray(Image.open(entry["files"]["overlay"])), np.asarray(expected.overlay(pixels)))
    assert set(report["time_split"]) == {"encode", "decode", "post-processing"}
    assert report["seconds"]["segment"] >= max(report["time_split"].values())


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--crop-n-layers", "1", "--crop-nms-thresh", "1"], {"crop_n_layers": 1, "crop_nms_thresh": 1.0}),
        (["--preset", "fast", "--points-per-batch", "2"], {"preset": "fast"}),
        (["--use-m2m"], {"use_m2m": True}),
        (
            ["--mask-threshold", "0.05", "--min-mask-region-area", "9"],
            {"mask_threshold": 0.05, "min_mask_region_area": 9},
        ),
        (["--max-hole-area", "9", "--max-sprinkle-area", "9"], {"max_hole_area": 9, "max_sprinkle_area": 9}),
        (["--max-memory", "4GB", "--batch-size", "2"], {}),
    ],
)
def test_flags_mean_the_options_of_the_pipeline(
    model: Path, photo: Path, tmp_path: Path, flags: list[str], options: dict[str, Any]
) -> None:
    report = report_of(photo, "--model", model, "--out", tmp_path / "out", *flags)
    assert options.items() <= report["settings"].items()
    pipe = SamVariantsMaskGenerationPipeline(model=SamVariantsModel.from_pretrained(model).fuse())
    expected = pipe(photo, **LOOSE | options)
    masks = masks_in(tmp_path / "out" / "photo.coco.json")
    assert len(masks) == len(expected)
    assert (masks.data != expected.data).float().mean() < 1e-3


def test_image_size_device_and_dtype_are_taken(model: Path, photo: Path, tmp_path: Path) -> None:
    flags = ("--image-size", 128, "--device", "cpu", "--dtype", "bfloat16")
    report = report_of(photo, "--model", model, "--out", tmp_path / "out", *flags)
    assert (report["device"], report["dtype"]) == ("cpu", "bfloat16")
    loaded = SamVariantsModel.from_pretrained(model, image_size=128).fuse().encode_in(torch.bfloat16)
    expected = SamVariantsMaskGenerationPipeline(model=loaded)(photo, **LOOSE)
    assert torch.equal(masks_in(tmp_path / "out" / "photo.coco.json").data, expected.data)


def test_images_of_folders_do_not_overwrite_each_other(model: Path, photos: Path, tmp_path: Path) -> None:
    out = photos / "results"
    for _ in range(2):  # what the first run wrote is not taken for images by the second
        report = report_of(photos, photos / "b.png", "--recursive", "--model", model, "--out", out, "--batch-size", 2)
        assert [Path(entry["image"]).name for entry in report["images"]] == ["a.png", "b.png", "a.PNG"]
    assert [Path(entry["files"]["coco"]).name for entry in report["images"]] == [
        "a.coco.json",
        "b.coco.json",
        "a_2.coco.json",
    ]
    for entry in report["images"]:
        together, alone = (
            masks_in(out / "instances.json", entry["id"]),
            masks_in(Path(entry["files"]["coco"]), entry["id"]),
        )
        assert torch.equal(together.data, alone.data)
        assert together.size == (entry["height"], entry["width"])


def test_all_images_together_are_one_coco_dataset(model: Path, photos: Path, tmp_path: Path) -> None:
    report = report_of(photos, "--model", model, "--out", tmp_path / "out")
    dataset = COCO(str(tmp_path / "out" / "instances.json"))
    assert [dataset.imgs[key]["file_name"] for key in sorted(dataset.imgs)] == ["a.png", "b.png"]
    assert len(dataset.anns) == report["num_masks"]
    assert sorted(dataset.anns) == list(range(1, report["num_masks"] + 1))
    for annotation in dataset.anns.values():
        assert dataset.annToMask(annotation).sum() == annotation["area"]
    assert dataset.loadCats(dataset.getCatIds()) == [{"id": 1, "name": "object"}]


def test_images_that_cannot_be_read_are_reported_at_the_end(model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "aa.png").write_bytes((photos / "a.png").read_bytes()[:2000])
    (photos / "z.png").write_text("no image")
    report = report_of(photos, "--model", model, "--out", tmp_path / "out", "--batch-size", "2", exit_code=1)
    assert [Path(entry["image"]).name for entry in report["images"]] == ["a.png", "b.png"]
    assert [Path(entry["image"]).name for entry in report["failed"]] == ["aa.png", "z.png"]
    result = run("everything", photos, "--model", model, "--out", tmp_path / "out", *OPTIONS)
    assert result.exit_code == 1
    assert "2 images" in result.stdout
    assert "2 could not be read" in result.stdout
    first, second = result.stderr.splitlines()
    assert "aa.png" in first
    assert "can't be decoded" in first
    assert "z.png" in second


def test_only_unreadable_images_still_make_a_dataset(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    report = report_of(tmp_path / "text.png", "--model", model, "--out", tmp_path / "out", exit_code=1)
    assert report["images"] == []
    assert json.loads((tmp_path / "out" / "instances.json").read_text())["images"] == []


def test_the_summary_says_what_lies_where_and_where_the_time_went(model: Path, photo: Path, tmp_path: Path) -> None:
    result = run("everything", photo, "--model", model, "--out", tmp_path / "out", *OPTIONS)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    for word in ("1 image, ", "masks", "encode", "decode", "post-processing", str(tmp_path / "out" / "instances.json")):
        assert word in result.stdout


@pytest.mark.parametrize("command", ["everything", "segment"])
def test_file_names_are_shown_as_they_are(
    model: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a short path fits into one line
    photo = write_photo(Path("[/b]/[x]:cat:.png"))
    options = OPTIONS if command == "everything" else ["--point", "3,3"]
    result = run(command, photo, "--model", model, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.stderr
    assert "[/b]/[x]:cat:.png" in result.stdout


def test_a_call_that_finds_nothing_out_leaves_an_earlier_dataset(model: Path, photo: Path, tmp_path: Path) -> None:
    report_of(photo, "--model", model, "--out", tmp_path / "out")
    earlier = (tmp_path / "out" / "instances.json").read_text()
    result = run("everything", photo, "--model", model, "--out", tmp_path / "out", "--max-memory", "1MB")
    assert_one_line(result, 1, "max_memory")
    assert (tmp_path / "out" / "instances.json").read_text() == earlier
    assert not list((tmp_path / "out").glob("*.part"))


def test_the_embedded_checkpoint_is_the_default(
    model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everything, "default_checkpoint", lambda: model)
    report = report_of(photo, "--out", tmp_path / "out")
    assert report["model"] == "embedded"


def test_a_url_and_a_pattern_are_images(model: Path, photos: Path, photo: Path, served: str, tmp_path: Path) -> None:  # noqa: F811
    sources = (f"{served}/photo.png?size=large", f"{photos}/*.png", f"{served}/missing.png")
    report = report_of(*sources, "--out", tmp_path / "out", "--model", model, exit_code=1)
    assert [entry["files"]["overlay"] for entry in report["images"]] == [
        str(tmp_path / "out" / f"{stem}_overlay.png") for stem in ("photo", "a", "b")
    ]
    assert "404" in report["failed"][0]["error"]


BAD_CALLS: dict[str, tuple[list[str], str]] = {
    "a missing file": (["{folder}/missing.png"], "there is no image file or folder"),
    "an empty folder": (["{folder}/empty"], "holds no images; --recursive"),
    "an empty pattern": (["{folder}/*.webp"], "no file fits the pattern"),
    "results among images": (["{folder}", "--out", "{folder}"], "--out is the folder of the images"),
    "an option": (["{folder}/photo.png", "--pred-iou-thresh", "nan"], "pred_iou_thresh"),
    "a hole area": (["{folder}/photo.png", "--max-hole-area", "-1", "--model", "never loaded"], "max_hole_area"),
    "a preset": (["{folder}/photo.png", "--preset", "slow"], "preset"),
    "memory": (["{folder}/photo.png", "--max-memory", "some"], "max_memory"),
    "a device": (["{folder}/photo.png", "--device", "abacus"], "--device abacus can't be used"),
    "too little memory": (["{folder}/photo.png", "--max-memory", "1MB"], "max_memory=1MB is too little"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_one_line(model: Path, photo: Path, tmp_path: Path, case: str) -> None:
    (tmp_path / "empty").mkdir()
    arguments, words = BAD_CALLS[case]
    given = [argument.format(folder=tmp_path) for argument in arguments]
    defaults = {"--out": tmp_path / "out", "--model": model}
    missing = [part for name, value in defaults.items() if name not in given for part in (name, value)]
    assert_one_line(run("everything", *given, *missing), 1, words)


def test_usage_errors_show_the_call(photo: Path) -> None:
    for arguments in ([], [photo, "--dtype", "int8"], [photo, "--batch-size", "0"], [photo, "--points", "3"]):
        assert_one_line(run("everything", *arguments), 2, "everything --help")


def test_folders_are_read_in_order_and_only_below_when_asked(photos: Path, tmp_path: Path) -> None:
    names = [Path(path).name for path in find_images([str(photos)], False, tmp_path)]
    assert names == ["a.png", "b.png"]
    assert len(find_images([str(photos)], True, tmp_path)) == 3
    assert len(find_images([str(photos)], True, photos / "below")) == 2
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no images$"):
        find_images([str(empty)], True, tmp_path / "out")


def test_stems_are_unique_on_every_file_system() -> None:
    sources = ["x/a.png", "y/a.jpg", "A.png", "a_2.png", "https://host/a.png?b=c", "https://host/"]
    stems = unique_stems(sources)
    assert stems == ["a", "a_2", "A_3", "a_2_2", "a_4", "image"]
    assert len({stem.casefold() for stem in stems}) == len(stems)


def test_images_of_one_name_keep_their_paths_in_the_dataset(photos: Path, tmp_path: Path) -> None:
    sources = [str(photos / "a.png"), str(tmp_path / "a.png")]
    assert EverythingRun(sources, tmp_path).names == sources
    assert EverythingRun(sources[:1], tmp_path).names == ["a.png"]


def test_a_dataset_that_breaks_off_holds_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text("an earlier run's")
    dataset = CocoWriter(path)
    dataset.add({"id": 1}, [{"id": 1}, {"id": 2}])
    assert path.read_text() == "an earlier run's"
    dataset.__exit__(OSError, OSError("full"), None)
    assert json.loads(path.read_text())["annotations"] == [{"id": 1}, {"id": 2}]
    assert [file.name for file in tmp_path.iterdir()] == ["instances.json"]
