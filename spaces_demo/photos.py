"""Photos that visitors upload: checked before they are decoded, shown as a small copy, read whole when needed."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
from gradio.context import LocalContext
from gradio.utils import get_upload_folder
from gradio_client.utils import encode_file_path
from PIL import ExifTags, Image

from sam_variants.processing.image_loading import rgb_array
from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.caches import BoundedCache

# What Pillow decodes by itself; others are read by programs that are started for it, or hold more than one picture.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")
# What every browser shows as it is.
BROWSER_FORMATS = ("JPEG", "PNG", "WEBP")
BROWSER_MODES = ("RGB", "L")
UNREADABLE = "This is no photo that can be read here. Take a JPEG, PNG or WebP file."
TOO_LARGE = f"This image is too large: at most {limits.MAX_MEGAPIXELS} megapixels are taken. Make it smaller."
GONE = "The photo is no longer here: files are kept for an hour. Upload it again."
PREVIEW_QUALITY = 90

_PIXELS: BoundedCache[Image.Image] = BoundedCache(limits.PIXEL_BYTES, lambda image: 4 * image.width * image.height)
_LARGE = Lock()


@dataclass(frozen=True)
class Photo:
    """An image that a visitor opened.

    Attributes:
        id: new each time that a photo is opened.
        path: the upload.
        name: of the file, without folder and suffix.
        width, height: of the upright original, in pixels.
        preview_path: the picture that the browser gets, in gradio's cache.
        preview_size: its (height, width).
        digest: of the file's content: what is computed from two photos with the same is the same.
    """

    id: str
    path: Path
    name: str
    width: int
    height: int
    preview_path: Path
    preview_size: tuple[int, int]
    digest: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the original."""
        return self.height, self.width

    def image(self) -> Image.Image:
        """The upright RGB photo at its original size; it is shared, so copy it before changing it.

        Raises:
            gr.Error: when the upload was deleted meanwhile.
        """
        return _PIXELS.get(self.digest, lambda: read_image(self.path))

    def preview(self) -> Image.Image:
        """The same at `preview_size`.

        Raises:
            gr.Error: when the preview was deleted meanwhile.
        """
        with explained():
            return Image.open(self.preview_path).convert("RGB")


def open_photo(path: str | Path) -> Photo:
    """Check an uploaded image, decode it once, and make the copy for the browser.

    Args:
        path: the upload, or one of the examples.

    Returns:
        A photo with a new id.

    Raises:
        gr.Error: for what is no image, a damaged one, and one that is too large.
    """
    path = Path(path)
    with explained(), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    image = _PIXELS.get(digest, lambda: read_image(path))
    preview_path, preview_size = _preview(path, image, digest)
    return Photo(
        id=uuid.uuid4().hex,
        path=path,
        name=path.stem,
        width=image.width,
        height=image.height,
        preview_path=preview_path,
        preview_size=preview_size,
        digest=digest,
    )


def photo_props(photo: Photo | None) -> dict[str, Any] | None:
    """The canvas's property `photo`."""
    if photo is None:
        return None
    return {"id": photo.id, "url": file_url(photo.preview_path), "width": photo.width, "height": photo.height}


def file_url(path: Path) -> str:
    """Where gradio serves a file of its cache, also behind a proxy that gives the page a path of its own."""
    blocks = LocalContext.blocks.get(None)
    root = "" if blocks is None else blocks.root_path.rstrip("/")
    return f"{root}/gradio_api/file={encode_file_path(path)}"


def cache_file(folder: str, name: str) -> Path:
    """A path for a file to be written in gradio's cache, which serves it and deletes it when it is old.

    Args:
        folder: part of the path that nobody can guess, such as a photo's id.
        name: of the file.
    """
    path = Path(get_upload_folder()).resolve() / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = LocalContext.blocks.get(None)
    if blocks is not None:
        blocks.upload_file_set.add(str(path))
    return path


def read_image(path: Path) -> Image.Image:
    """An image file as upright 8-bit RGB, transparent parts on white.

    Raises:
        gr.Error: as `open_photo`.
    """
    with explained(), Image.open(path, formats=FORMATS) as opened:
        check_size(opened.width, opened.height)
        check_tiles(opened)
        is_large = opened.width * opened.height > limits.LARGE_MEGAPIXELS * 1e6
        with _LARGE if is_large else nullcontext():
            if opened.mode == "RGB" and not opened.has_transparency_data and is_upright(opened):
                opened.load()  # what most photos are, without further copies
                return opened
            return Image.fromarray(rgb_array(opened))


def is_upright(image: Image.Image) -> bool:
    """Whether no EXIF field says that the image must be turned."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def check_size(width: int, height: int) -> None:
    """Refuse an image by its header.

    Raises:
        gr.Error: saying what is allowed.
    """
    if width * height > limits.MAX_MEGAPIXELS * 1e6:
        raise gr.Error(
            f"This image has {width * height / 1e6:,.0f} megapixels; at most {limits.MAX_MEGAPIXELS} are taken. "
            "Make it smaller and upload it again."
        )
    if max(width, height) > limits.MAX_ASPECT * min(width, height):
        raise gr.Error(f"This image is {width}×{height} pixels, too long and thin. Cut it to the part you need.")


def check_tiles(image: Image.Image) -> None:
    """Refuse a TIFF whose tiles are larger than any image may be: each is decoded whole, however small the image.

    Raises:
        gr.Error: as `check_size`.
    """
    tags = getattr(image, "tag_v2", {})
    check_size(*(max(int(tags.get(tag, 1)), 1) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength)))


def _preview(path: Path, image: Image.Image, digest: str) -> tuple[Path, tuple[int, int]]:
    """The file for the browser and its (height, width): the upload itself where it will do."""
    in_cache = path.resolve().is_relative_to(Path(get_upload_folder()).resolve())
    if in_cache and max(image.size) <= limits.PREVIEW_SIDE and _is_shown_alike(path):
        return path.resolve(), (image.height, image.width)
    small = image.copy() if max(image.size) <= limits.PREVIEW_SIDE else image.reduce(_whole_factor(image))
    small.thumbnail((limits.PREVIEW_SIDE, limits.PREVIEW_SIDE), Image.Resampling.BICUBIC)
    target = cache_file(f"preview-{digest}", "preview.jpg")
    whole = target.with_name(f"{uuid.uuid4().hex}.part")  # nobody may see half of it
    small.save(whole, format="JPEG", quality=PREVIEW_QUALITY)
    os.replace(whole, target)
    return target, (small.height, small.width)


def _whole_factor(image: Image.Image) -> int:
    """By how much a large image is averaged first, which is fast, and leaves at least the preview's size."""
    return max(1, max(image.size) // limits.PREVIEW_SIDE)


def _is_shown_alike(path: Path) -> bool:
    """Whether a browser shows the file just as `read_image` reads it."""
    with Image.open(path, formats=FORMATS) as opened:
        return (
            opened.format in BROWSER_FORMATS
            and opened.mode in BROWSER_MODES
            and not opened.has_transparency_data
            and getattr(opened, "n_frames", 1) == 1
            and is_upright(opened)
        )


@contextmanager
def explained() -> Iterator[None]:
    """Errors of reading an image as advice; decorates what reads one, too.

    Raises:
        gr.Error: in place of any other.
    """
    try:
        yield
    except gr.Error:
        raise
    except FileNotFoundError as error:
        raise gr.Error(GONE) from error
    except Image.DecompressionBombError as error:
        raise gr.Error(TOO_LARGE) from error
    except Exception as error:  # decoders of broken files raise anything
        raise gr.Error(UNREADABLE) from error
