"""The Space's own functions, its page, and what its repository says."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from huggingface_hub import SpaceCard
from PIL import Image

from sam_variants.spaces_demo import app

ROOT = Path(__file__).resolve().parent.parent
SPACE = ROOT / "spaces_demo"
COINS = SPACE / "examples" / "coins.jpg"
COIN, BACKGROUND = (155, 50), (100, 10)


def click(photo: Any, place: tuple[int, int], kind: str = app.INCLUDE) -> tuple[Any, ...]:
    return app.click(photo, kind, SimpleNamespace(index=list(place)))  # type: ignore[arg-type]


@pytest.fixture
def photo() -> app.Photo:
    return app.start(str(COINS))[0]


def opaque(cutout: Image.Image) -> np.ndarray:
    return np.asarray(cutout)[..., 3] > 0


def test_a_click_cuts_out_the_coin(photo: app.Photo) -> None:
    _, picture, cutout, line = click(photo, COIN)
    assert picture.size == cutout.size == photo.image.size
    mask = opaque(cutout)
    assert mask[COIN[1], COIN[0]]
    assert not mask[BACKGROUND[1], BACKGROUND[0]]
    assert 1200 < mask.sum() < 2200  # the coin covers about 1,700 pixels
    assert line.startswith(f"{mask.sum():,} pixels")
    assert np.asarray(picture)[COIN[1], COIN[0]].tolist() == list(app.DOT_COLOURS[1])


def test_clicks_are_taken_back(photo: app.Photo) -> None:
    first = click(photo, COIN)
    click(photo, BACKGROUND, app.EXCLUDE)
    assert photo.labels == [1, 0]
    again = app.undo(photo)
    assert (opaque(again[2]) == opaque(first[2])).all()
    assert app.clear(photo)[2] is None
    assert photo.points == []
    assert app.undo(photo)[2] is None


def test_only_an_exclude_click_asks_for_the_thing(photo: app.Photo) -> None:
    _, picture, cutout, line = click(photo, BACKGROUND, app.EXCLUDE)
    assert cutout is None
    assert "include" in line
    assert picture != photo.image


def test_everything_finds_the_coins(photo: app.Photo) -> None:
    _, picture, cutout, line = app.find_everything(photo)
    assert 24 <= int(line.split()[0]) <= 60
    assert opaque(cutout)[COIN[1], COIN[0]]
    assert picture != photo.image
    assert photo.points == []


def test_the_candidate_can_be_chosen(photo: app.Photo) -> None:
    automatic = click(photo, COIN)
    answers = [app.choose(photo, candidate) for candidate in app.CANDIDATES]
    scores = [float(line.split()[-1].rstrip(".")) for *_, line in answers]
    assert scores == sorted(scores, reverse=True)
    assert (opaque(answers[0][2]) == opaque(automatic[2])).all()
    assert (opaque(answers[1][2]) != opaque(answers[0][2])).any()
    click(photo, (160, 55))
    assert (opaque(app.choose(photo, app.AUTOMATIC)[2]) != opaque(app.choose(photo, "3rd")[2])).any()


def write_image(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> str:
    image.save(folder / name, **options)
    return str(folder / name)


def test_a_turned_photo_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    path = write_image(tmp_path, Image.new("RGB", (60, 40), "white"), exif=exif)
    assert app.start(path)[0].image.size == (40, 60)


def test_any_image_becomes_rgb_of_a_size_that_is_answered_quickly(tmp_path: Path) -> None:
    clear = write_image(tmp_path, Image.new("RGBA", (60, 40), (255, 0, 0, 0)))
    assert app.start(clear)[1].getpixel((5, 5)) == (255, 255, 255)
    deep = write_image(tmp_path, Image.fromarray(np.full((40, 60), 32896, dtype=np.uint16)))
    assert app.start(deep)[1].getpixel((5, 5)) == (128, 128, 128)
    large = write_image(tmp_path, Image.new("L", (3000, 30)))
    assert app.start(large)[1].size == (app.MAX_SIDE, 20)


@pytest.mark.parametrize("action", [app.undo, app.clear, app.find_everything])
def test_without_an_image_the_page_says_so(action: Any) -> None:
    with pytest.raises(gr.Error, match="no image yet"):
        action(None)


def test_limits(photo: app.Photo) -> None:
    photo.points, photo.labels = [COIN] * app.MAX_CLICKS, [1] * app.MAX_CLICKS
    with pytest.raises(gr.Error, match="clicks are enough"):
        click(photo, COIN)
    assert app.start(None)[:3] == (None, None, None)


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write_image(tmp_path, Image.new("L", (2000, 1000))))
    path.write_bytes(path.read_bytes()[:60])  # its size, and no pixels
    with pytest.raises(gr.Error, match="can't be read"):
        app.start(str(path))
    monkeypatch.setattr(app, "MAX_MEGAPIXELS", 1)
    with pytest.raises(gr.Error, match="2 megapixels; at most 1 "):
        app.start(str(path))


def test_a_click_outside_changes_nothing(photo: app.Photo) -> None:
    first = click(photo, COIN)
    for place in ((-1, 5), (photo.image.width, 5), (5, photo.image.height)):
        with pytest.raises(gr.Error, match="outside the image"):
            click(photo, place)
    assert photo.points == [COIN]
    assert (opaque(app.choose(photo, app.AUTOMATIC)[2]) == opaque(first[2])).all()


@pytest.fixture
def page() -> Iterator[str]:
    blocks = app.build()
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **app.LIMITS)
    yield url
    blocks.close()


class Visitor:
    """Talks to the page's server as the page does."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=f"{url}gradio_api/", timeout=60)
        self.session = uuid.uuid4().hex
        config = httpx.get(f"{url}config", timeout=20).json()
        names = {part["id"]: part["props"].get("label") or part["props"].get("value") for part in config["components"]}
        self.events = {
            (names.get(part), event): listener["id"]
            for listener in config["dependencies"]
            for part, event in listener["targets"]
        }

    def upload(self, content: bytes, name: str = "photo.jpg") -> dict[str, Any]:
        answer = self.client.post("upload", files={"files": (name, content)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def does(self, part: str, event: str, *values: Any, event_data: Any = None) -> Any:
        """What the page gets back: the outputs, or the text of an error."""
        call = {"fn_index": self.events[part, event], "data": values, "event_data": event_data}
        self.client.post("queue/join", json=call | {"session_hash": self.session}).raise_for_status()
        with self.client.stream("GET", "queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") == "process_completed":
                    return message["output"]["data" if message["success"] else "error"]


def test_a_visit(page: str) -> None:
    assert "Segment Anything, small" in httpx.get(page, timeout=20).text
    assert not httpx.get(f"{page}config", timeout=20).json()["analytics_enabled"]
    first, second = Visitor(page), Visitor(page)
    canvas = "Image"
    place = {"index": COIN, "value": None}
    assert "384×303" in first.does(canvas, "upload", first.upload(COINS.read_bytes()))[3]
    *_, cutout, line = first.does(canvas, "select", None, app.INCLUDE, event_data=place)
    assert 1200 < int(line.split()[0].replace(",", "")) < 2200
    assert Image.open(io.BytesIO(httpx.get(cutout["url"], timeout=20).content)).mode == "RGBA"
    assert first.does("Candidate", "input", None, "2nd")[3] != line
    assert "masks" in first.does("Everything", "click", None)[3]
    assert first.does("Undo", "click", None)[3] == "Click on something."
    assert "no image yet" in second.does(canvas, "select", None, app.INCLUDE, event_data=place)
    assert "can't be read" in second.does(canvas, "upload", second.upload(b"no image"))
    with pytest.raises(httpx.HTTPStatusError, match="413"):
        second.upload(bytes(21_000_000))


def test_the_card_is_that_of_a_space() -> None:
    data = SpaceCard.load(SPACE / "README.md").data
    assert data.sdk == "gradio"
    assert data.sdk_version == gr.__version__
    assert (SPACE / str(data.app_file)).is_file()
    assert len(data.short_description) <= 60
    for example in (SPACE / "examples").iterdir():
        assert f"examples/{example.name}" in (SPACE / "README.md").read_text(encoding="utf-8")


def test_the_requirements_are_the_tested_versions() -> None:
    pinned = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").split()
    lines = [line for line in (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines() if "==" in line]
    assert set(lines) <= set(pinned)
