"""Photos that visitors upload: any kind is read, a hostile one refused, and a large one costs a bounded memory."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio.context import LocalContext
from PIL import Image

from sam_variants.processing.image_loading import rgb_array
from sam_variants.spaces_demo import limits, photos
from sam_variants.spaces_demo.photos import cache_file, explained, file_url, open_photo, photo_props

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """gradio's cache, for this test alone."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    photos._PIXELS.clear()
    return folder


def written(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return exif


def two_colours(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (0, size[1] // 2, *size))
    return image


def test_an_example_is_opened() -> None:
    photo = open_photo(COINS)
    assert (photo.name, photo.width, photo.height, photo.size) == ("coins", 384, 303, (303, 384))
    assert (np.asarray(photo.image()) == rgb_array(COINS)).all()
    assert photo.preview().size == (384, 303)
    again = open_photo(str(COINS))
    assert again.id != photo.id  # or else the canvas would keep the clicks on the one before
    assert again.image() is photo.image()


KINDS: dict[str, tuple[Image.Image, dict[str, Any], tuple[int, int, int]]] = {
    "plain.png": (Image.new("RGB", (60, 40), RED), {}, RED),
    "gray.jpg": (Image.new("L", (60, 40), 128), {}, (128, 128, 128)),
    "sixteen.png": (Image.fromarray(np.full((40, 60), 32896, dtype=np.uint16)), {}, (128, 128, 128)),
    "clear.png": (Image.new("RGBA", (60, 40), (*RED, 0)), {}, (255, 255, 255)),
    "clear.webp": (Image.new("RGBA", (60, 40), (*RED, 0)), {"lossless": True}, (255, 255, 255)),
    "gray_clear.png": (Image.new("LA", (60, 40), (0, 0)), {}, (255, 255, 255)),
    "palette.gif": (Image.new("P", (60, 40)), {"transparency": 0}, (255, 255, 255)),
    "print.jpg": (Image.new("CMYK", (60, 40), (0, 255, 0, 0)), {}, (255, 0, 255)),
    "float.tif": (Image.fromarray(np.ones((40, 60), dtype=np.float32)), {}, (255, 255, 255)),
    "one_bit.png": (Image.new("1", (60, 40), 1), {}, (255, 255, 255)),
    "windows.bmp": (Image.new("RGB", (60, 40), RED), {}, RED),
    "moving.webp": (Image.new("RGB", (60, 40), RED), {"save_all": True, "lossless": True}, RED),
}


@pytest.mark.parametrize("name", KINDS)
def test_any_kind_of_image_becomes_rgb(name: str, tmp_path: Path) -> None:
    image, options, expected = KINDS[name]
    if "save_all" in options:
        options = {**options, "append_images": [Image.new("RGB", image.size, BLUE)]}
    photo = open_photo(written(tmp_path / name, image, **options))
    assert photo.size == (40, 60)
    assert photo.image().mode == photo.preview().mode == "RGB"
    assert photo.image().getpixel((5, 5)) == expected
    difference = np.asarray(photo.image()).astype(int) - np.asarray(photo.preview())
    assert abs(difference).max() <= 3
    assert (np.asarray(photo.image()) == rgb_array(tmp_path / name)).all()  # as the pipelines read it


def test_a_turned_photo_is_turned_back(cache: Path) -> None:
    photo = open_photo(written(cache / "turned.jpg", two_colours(), exif=turned()))
    assert photo.size == (60, 40)
    assert photo.preview().size == (40, 60)
    red, _, blue = photo.image().getpixel((35, 30))  # type: ignore[misc]
    assert red > 240
    assert blue < 15
    assert photo.preview_path != photo.path
    assert (np.asarray(photo.image()) == rgb_array(photo.path)).all()


def test_the_browser_gets_the_upload_where_that_will_do(cache: Path, tmp_path: Path) -> None:
    kept = open_photo(written(cache / "kept.jpg", two_colours()))
    assert kept.preview_path == kept.path
    for path in (written(tmp_path / "elsewhere.jpg", two_colours()), written(cache / "kept.bmp", two_colours())):
        photo = open_photo(path)
        assert photo.preview_path.is_relative_to(cache)
        assert photo.preview_path.suffix == ".jpg"


@pytest.mark.parametrize(("size", "expected"), [((5000, 3000), (1229, 2048)), ((100, 4096), (2048, 50))])
def test_a_large_photo_is_shown_smaller(size: tuple[int, int], expected: tuple[int, int], tmp_path: Path) -> None:
    photo = open_photo(written(tmp_path / "large.png", two_colours(size)))
    assert (photo.size, photo.preview_size) == ((size[1], size[0]), expected)
    preview = np.asarray(photo.preview()).astype(int)
    half = preview.shape[0] // 2
    assert preview.shape[:2] == expected
    assert abs(preview[: half - 16] - RED).max() <= 3
    assert abs(preview[half + 16 :] - BLUE).max() <= 3


def test_the_canvas_is_told_where_the_picture_is(cache: Path) -> None:
    assert photo_props(None) is None
    photo = open_photo(written(cache / "a photo?.jpg", two_colours()))
    with gr.Blocks() as page:
        gr.HTML()
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        props = photo_props(photo)
        assert props is not None
        assert (props["id"], props["width"], props["height"]) == (photo.id, 60, 40)
        answer = httpx.get(url.rstrip("/") + props["url"], timeout=20)
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == (60, 40)
        outside = httpx.get(f"{url}gradio_api/file={COINS}", timeout=20)
        assert outside.status_code == 403
    finally:
        page.close()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    """A header that promises a size, and hardly any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiled_tiff(tile_side: int) -> bytes:
    """Ten by ten pixels in one tile, which is decoded whole."""
    data = zlib.compress(bytes(10**6))
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile_side, 323: tile_side, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    body = data + b"\0" * (len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no photo"),
    "text": (b"hello", "no photo"),
    "script": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "no photo"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no photo"),
    "cut": (COINS.read_bytes()[:20_000], "no photo"),
    "no_pixels": (png(0, 10), "no photo"),
    "bomb": (png(50_000, 50_000), "at most 60 megapixels"),
    "largest": (png(2**31 - 1, 2**31 - 1), "at most 60 megapixels"),
    "too_large": (png(8000, 8000), "64 megapixels; at most 60"),
    "thin": (png(30_000, 1), "30000×1 pixels, too long"),
    "tile": (tiled_tiff(20_000), "at most 60"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_advice(name: str, tmp_path: Path) -> None:
    content, words = HOSTILE[name]
    path = tmp_path / f"{name}.png"
    path.write_bytes(content)
    with pytest.raises(gr.Error, match=words) as caught:
        open_photo(path)
    assert str(tmp_path) not in caught.value.message


def test_a_bomb_is_refused_before_a_pixel_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*args: Any) -> None:
        raise AssertionError("decoded")

    path = tmp_path / "bomb.png"
    path.write_bytes(png(8000, 8000))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(gr.Error, match="64 megapixels"):
        open_photo(path)


def test_what_is_gone_says_so(tmp_path: Path) -> None:
    photo = open_photo(written(tmp_path / "photo.png", two_colours()))
    assert photo.image().size == (60, 40)
    photo.path.unlink()
    assert photo.image().size == (60, 40)  # for a while
    photos._PIXELS.clear()
    photo.preview_path.unlink()
    for read in (photo.image, photo.preview):
        with pytest.raises(gr.Error, match="Upload it again"):
            read()
    with pytest.raises(gr.Error, match="Upload it again"):
        open_photo(tmp_path / "nothing.png")


def test_other_readers_of_images_can_be_explained() -> None:
    def read(path: str) -> Image.Image:
        return Image.open(io.BytesIO(path.encode()))

    with pytest.raises(gr.Error, match="no photo"):
        explained()(read)("broken")


def test_files_in_the_cache_are_deleted_with_it(cache: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "photo.png", two_colours())
    with gr.Blocks() as page:
        button, shown = gr.Button(), gr.Textbox()
        button.click(lambda: str(open_photo(path).preview_path), None, shown, api_name="open")
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        event = httpx.post(f"{url}gradio_api/call/open", json={"data": []}, timeout=20).json()["event_id"]
        answer = httpx.get(f"{url}gradio_api/call/open/{event}", timeout=20).text
        preview = next(cache.rglob("preview.jpg"))
        assert str(preview) in answer
        assert str(preview) in page.upload_file_set
    finally:
        page.close()
    assert cache_file("folder", "name.png").parent.is_dir()


def test_many_open_one_photo_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = written(tmp_path / "photo.png", two_colours((2500, 100))), []
    read, together = photos.read_image, threading.Barrier(8)
    monkeypatch.setattr(photos, "read_image", lambda path: reads.append(path) or read(path))

    def open_together() -> photos.Photo:
        together.wait(10)
        return open_photo(path)

    with ThreadPoolExecutor(8) as threads:
        opened = [future.result() for future in [threads.submit(open_together) for _ in range(8)]]
    assert len(reads) == 1
    assert len({photo.id for photo in opened}) == 8
    assert {photo.preview().size for photo in opened} == {(2048, 82)}
    assert not [name for name in os.listdir(opened[0].preview_path.parent) if name != "preview.jpg"]


def test_decoded_photos_are_bounded() -> None:
    assert photos._PIXELS.capacity == limits.PIXEL_BYTES
    photo = open_photo(COINS)
    assert photos._PIXELS.used == 4 * photo.width * photo.height


@pytest.mark.parametrize("root", ["", "/demo", "/demo/", "https://example.org/demo"])
def test_files_are_found_behind_a_proxy(root: str) -> None:
    token = LocalContext.blocks.set(SimpleNamespace(root_path=root))  # type: ignore[arg-type]
    try:
        assert file_url(Path("/cache/a b.jpg")) == f"{root.rstrip('/')}/gradio_api/file=/cache/a%20b.jpg"
    finally:
        LocalContext.blocks.reset(token)
