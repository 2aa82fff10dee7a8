"""Files that the Space gives: what is in them, what they are called, and how a click gets the right one."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sam_variants import Masks
from sam_variants.mask_codecs import encode_mask
from sam_variants.spaces_demo.downloads import (
    FILES_PER_PHOTO,
    FORMATS,
    ToSave,
    download_button,
    download_row,
    write,
)
from sam_variants.spaces_demo.file_formats import MAX_NAME_BYTES, mask_names, safe_name
from sam_variants.spaces_demo.photos import Photo, open_photo
from sam_variants.spaces_demo.python_panel import coloured, python_panel
from sam_variants.spaces_demo.theme import LOOK

if TYPE_CHECKING:
    from browser import Pages, Served
    from playwright.sync_api import Page

COINS = Path(__file__).parents[1] / "spaces_demo" / "examples" / "coins.jpg"
HOSTILE = ["../../x", "a" * 300, "😀", "Coin", "Coin", "CON", "", "x/y\\z", "\u202etxt.exe", "a\0b\n", ".hidden", "é…ü"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photo(cache: Path) -> Photo:
    return open_photo(COINS)


def blobs(count: int, size: tuple[int, int], first_id: int = 1) -> Masks:
    """Overlapping discs as masks that are held as run-length codes."""
    draw = np.random.default_rng(count)
    y, x = np.ogrid[: size[0], : size[1]]
    discs = [
        (y - draw.integers(size[0])) ** 2 + (x - draw.integers(size[1])) ** 2 <= draw.integers(5, size[0] // 4) ** 2
        for _ in range(count)
    ]
    ids = list(range(first_id, first_id + count))
    return Masks.from_rle([encode_mask(disc) for disc in discs], size, scores=[0.5] * count, object_ids=ids)


@pytest.mark.parametrize("count", [1, 3, 300])
def test_masks(count: int, photo: Photo) -> None:
    masks = blobs(count, photo.size)
    names = None if count == 300 else [f"Coin {number}" for number in range(count)]
    path = write("masks", masks, photo, names)
    if count == 1:
        assert path.name == "coins-mask.png"
        assert np.array_equal(np.asarray(Image.open(path)), masks.data[0].numpy())
        return
    assert path.name == "coins-masks.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == mask_names(names, count)
        pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
    assert np.array_equal(np.stack(pictures), masks.data.numpy())


@pytest.mark.parametrize(("count", "mode"), [(3, "P"), (300, "I;16")])
def test_label_map(count: int, mode: str, photo: Photo) -> None:
    masks = blobs(count, photo.size)
    picture = Image.open(write("labels", masks, photo))
    assert picture.mode == mode
    assert np.array_equal(np.asarray(picture), masks.to_label_map())


def test_cutout(photo: Photo) -> None:
    masks = blobs(3, photo.size)
    cutout = np.asarray(Image.open(write("cutout", masks, photo)))
    inside = masks.data.any(dim=0).numpy()
    assert np.array_equal(cutout[..., 3], inside * np.uint8(255))
    assert np.array_equal(cutout[..., :3][inside], np.asarray(photo.image())[inside])


def test_overlay_has_the_colours_of_the_page(photo: Photo) -> None:
    masks = blobs(3, photo.size, first_id=4)
    overlay = np.asarray(Image.open(write("overlay", masks, photo)))
    assert np.array_equal(overlay, np.asarray(masks.overlay(photo.image())))
    assert not np.array_equal(overlay, np.asarray(Masks(masks.data).overlay(photo.image())))


@pytest.mark.parametrize("names", [None, ["Coin", "Cup", "Coin"]])
def test_coco_round_trip(names: list[str] | None, photo: Photo) -> None:
    masks = blobs(3, photo.size)
    path = write("coco", masks, photo, names)
    assert path.name == "coins-coco.json"
    coco = COCO(path)
    assert coco.imgs == {1: {"id": 1, "file_name": "coins.jpg", "width": photo.width, "height": photo.height}}
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert np.array_equal(np.stack([coco.annToMask(each) for each in annotations]), masks.data.numpy())
    assert [each["area"] for each in annotations] == masks.areas.tolist()
    assert [each["object_id"] for each in annotations] == [1, 2, 3]
    found = [coco.cats[each["category_id"]]["name"] for each in annotations]
    assert found == (names or ["object"] * 3)
    assert len(coco.cats) == len(set(found))
    again = Masks.from_coco(json.loads(path.read_text())["annotations"])
    assert np.array_equal(again.data.numpy(), masks.data.numpy())


def test_masks_of_logits_are_the_same_in_every_file(photo: Photo) -> None:
    from sam_variants.spaces_demo.models import store
    from sam_variants.spaces_demo.prompts import ObjectPrompts
    from sam_variants.spaces_demo.segmenting import segment_objects

    objects = [ObjectPrompts(1, "Coin", ((155, 50),), (1,)), ObjectPrompts(2, "Box", box=(30, 25, 85, 80))]
    masks = segment_objects(store().get("embedded"), photo, objects)
    coco = COCO(write("coco", masks, photo))
    from_coco = np.stack([coco.annToMask(each) for each in coco.dataset["annotations"]])
    with zipfile.ZipFile(write("masks", masks, photo)) as archive:
        from_zip = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()])
    assert np.array_equal(from_coco, masks.data.numpy())
    assert np.array_equal(from_zip, masks.data.numpy())


def test_hostile_names_stay_in_their_folder(photo: Photo, tmp_path: Path) -> None:
    masks = blobs(len(HOSTILE), photo.size)
    path = write("masks", masks, photo, HOSTILE)
    out = tmp_path / "out"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        archive.extractall(out)
    assert len({name.casefold() for name in names}) == len(HOSTILE)
    assert sorted(each.name for each in out.iterdir()) == sorted(names)
    assert all(len(name.encode()) <= MAX_NAME_BYTES + 7 and name.isprintable() for name in names)
    assert names[0] == "01-x.png"
    assert names[3:5] == ["04-Coin.png", "05-Coin.png"]
    coco = COCO(write("coco", masks, photo, HOSTILE))
    assert [each["name"] for each in coco.dataset["categories"]] == list(dict.fromkeys(HOSTILE))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Große Münze 2", "Große_Münze_2"),
        ("नमस्ते", "नमस्ते"),
        ("../../etc/passwd", "etc_passwd"),
        ("nul.txt", "_nul.txt"),
        ("..", "photo"),
        ("❤\ufe0f", "photo"),
        ("a....b", "a.b"),
        ("Ω" * 200, "Ω" * (MAX_NAME_BYTES // 2)),
        ("-rf", "rf"),
    ],
)
def test_safe_names(name: str, expected: str) -> None:
    assert safe_name(name, "photo") == expected


def test_what_can_not_be_written_is_refused(photo: Photo) -> None:
    with pytest.raises(gr.Error, match="Choose one of masks, labels"):
        write("../../x", blobs(1, photo.size), photo)
    with pytest.raises(gr.Error, match="no mask"):
        write("masks", blobs(1, photo.size)[[]], photo)
    with pytest.raises(ValueError, match="a photo of"):
        write("masks", Masks(np.ones((1, 20, 30), dtype=bool)), photo)
    with pytest.raises(ValueError, match="2 names"):
        write("masks", blobs(1, photo.size), photo, ["a", "b"])


def test_files_of_a_photo_are_few_and_their_own(cache: Path, photo: Photo) -> None:
    masks = blobs(1, photo.size)
    paths = [write("masks", masks, photo) for _ in range(FILES_PER_PHOTO + 3)]
    assert [path.is_file() for path in paths] == [False] * 3 + [True] * FILES_PER_PHOTO
    assert all(path.is_relative_to(cache.resolve()) for path in paths)
    other = write("masks", masks, open_photo(COINS))
    assert not other.is_relative_to(paths[-1].parent.parent)
    assert paths[-1].is_file()


@pytest.mark.parametrize("name", FORMATS)
def test_memory_does_not_grow_with_the_masks(name: str, cache: Path, tmp_path: Path) -> None:
    height, width, count = 1500, 2000, 60
    Image.new("RGB", (width, height), (90, 120, 150)).save(tmp_path / "large.png")
    photo = open_photo(tmp_path / "large.png")
    bars = np.zeros((count, height, width), dtype=bool)
    for number, bar in enumerate(bars):
        bar[20 * number : 20 * number + 40, :100] = True
    masks = Masks.from_rle([encode_mask(bar) for bar in bars])
    photo.image()
    tracemalloc.start()
    write(name, masks, photo)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / (height * width) < 35  # bytes per pixel; the masks alone would take 60


@dataclass
class Choice:
    """What the page below answers, set by the tests."""

    count: int = 1
    error: str | None = None


CHOICE = Choice()
SCRIPT = """import a  # it's a 'comment' & <more>
names = ["é", '<b>"', f"{None}", 1.5]
print(names)
"""


@pytest.fixture(scope="module")
def page_url(serve: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with a row of downloads, a large file, and a script."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("page")
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        photo = open_photo(COINS)

        def answer(_: str) -> ToSave:
            if CHOICE.error:
                raise gr.Error(CHOICE.error, print_exception=False)
            return ToSave(blobs(CHOICE.count, photo.size), photo, HOSTILE[: CHOICE.count])

        def large(_: str) -> Path:
            path = folder / "cache" / "large.bin"
            path.write_bytes(bytes(60_000_000))
            return path

        with gr.Blocks(analytics_enabled=False, delete_cache=(600, 3600), title="Files") as blocks:
            text = gr.Textbox(label="Anything")
            download_row(answer, [text])
            download_button("Large", large, [text])
            python_panel(lambda _: SCRIPT, [text])
        blocks.queue()
        yield serve(blocks, **LOOK)


def saved(page: Page, title: str, keyboard: bool = False) -> tuple[str, bytes]:
    """The name and content of what a button downloads."""
    button = page.get_by_role("button", name=title, exact=True)
    with page.expect_download() as download:
        button.press("Enter") if keyboard else button.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_a_click_downloads_what_is_made_at_the_click(page_url: str, open_page: Pages) -> None:
    CHOICE.count, CHOICE.error = 1, None
    page = open_page(page_url)
    one = saved(page, "Masks")
    assert one[0] == "coins-mask.png"
    assert one == saved(page, "Masks", keyboard=True)
    CHOICE.count = 3
    name, content = saved(page, "Masks")
    assert name == "coins-masks.zip"
    assert len(zipfile.ZipFile(io.BytesIO(content)).namelist()) == 3
    assert len(json.loads(saved(page, "COCO JSON")[1])["annotations"]) == 3
    assert len(saved(page, "Large")[1]) == 60_000_000


def test_clicks_in_a_row_download_all(page_url: str, open_page: Pages) -> None:
    CHOICE.count, CHOICE.error = 2, None
    page = open_page(page_url)
    names: list[str] = []
    page.on("download", lambda download: names.append(download.suggested_filename))
    titles = [kind.title for kind in FORMATS.values()]
    for title in titles:
        page.get_by_role("button", name=title, exact=True).click()
    endings = {f"coins{kind.endings[1]}" for kind in FORMATS.values()}
    while len(names) < len(endings):
        page.wait_for_event("download")
    assert set(names) == endings


def test_an_error_is_told_and_nothing_is_downloaded(page_url: str, open_page: Pages) -> None:
    CHOICE.count, CHOICE.error = 1, None
    page = open_page(page_url)
    saved(page, "Overlay")  # which must not come once more
    CHOICE.error = "Click on a thing first."
    names: list[str] = []
    page.on("download", lambda download: names.append(download.suggested_filename))
    page.get_by_role("button", name="Overlay", exact=True).click()
    page.get_by_text("Click on a thing first.").wait_for()
    CHOICE.error = None
    assert saved(page, "Label map")[0] == "coins-labels.png"
    assert names == ["coins-labels.png"]


def test_files_of_one_visitor_are_not_told_to_another(page_url: str, open_page: Pages) -> None:
    CHOICE.count, CHOICE.error = 1, None
    urls: list[str] = []
    first = open_page(page_url)
    first.on("download", lambda download: urls.append(download.url))
    saved(first, "Overlay")
    second = open_page(page_url)
    second.get_by_role("button", name="Overlay", exact=True).wait_for()
    token = urls[0].split("/")[-2]
    assert len(token) == 32
    assert token not in second.content() + second.evaluate("JSON.stringify(window.gradio_config)")


@pytest.mark.parametrize("allowed", [True, False])
def test_copy_as_python(allowed: bool, page_url: str, open_page: Pages) -> None:
    page = open_page(page_url, clipboard=allowed)
    if not allowed:
        page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="Copy as Python").click()
    page.get_by_text("Copied. Run it" if allowed else "Copy it from here").wait_for()
    page.get_by_text("print(names)").wait_for()
    if allowed:
        assert page.evaluate("navigator.clipboard.readText()") == SCRIPT


def test_colours_leave_the_script_as_it_is() -> None:
    assert unescape(re.sub("<.*?>", "", coloured(SCRIPT))) == SCRIPT
    assert coloured("f'<b>'") == "<span class=\"text\">f'&lt;b&gt;'</span>"


@pytest.mark.parametrize("dark", [False, True])
def test_accessible(dark: bool, page_url: str, open_page: Pages) -> None:
    from browser import axe

    CHOICE.count, CHOICE.error = 1, None
    page = open_page(page_url, dark=dark, viewport=(390, 844))
    saved(page, "Cutout")
    page.get_by_role("button", name="Copy as Python").click()
    page.get_by_text("print(names)").wait_for()
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for kind in FORMATS.values():
        assert page.get_by_role("button", name=kind.title, exact=True).is_visible()
    assert page.get_by_role("button", name="Download").count() == 0  # those that hold the files
