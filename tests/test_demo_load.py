"""Several visitors at once: everyone gets their own masks, clicks wait for nothing long, and too many are told so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from demo_server import call, running_space, upload
from PIL import Image

from sam_variants.hub_scripts.demo_session import DemoSession, SessionError
from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.models import EMBEDDED, store
from sam_variants.spaces_demo.photos import open_photo
from sam_variants.spaces_demo.prompts import ObjectPrompts
from sam_variants.spaces_demo.segmenting import segment_objects

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
COIN = (155, 50)
USERS, CLICKS = 6, 3


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_space(tmp_path_factory.mktemp("cache")) as url:
        yield url


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """For each visitor the coins, moved to the right by another number of pixels."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    with Image.open(COINS) as opened:
        for number in range(USERS):
            moved = Image.new("RGB", (opened.width + 8 * number, opened.height))
            moved.paste(opened, (8 * number, 0))
            paths.append(folder / f"photo{number}.png")
            moved.save(paths[-1])
    return paths


def test_everyone_gets_their_own_masks(space: str, photos: list[Path]) -> None:
    barrier = threading.Barrier(USERS)

    def visit(number: int) -> list[dict[str, Any]]:
        with DemoSession(space) as session:
            barrier.wait()
            session.open(photos[number])
            assert session.photo is not None
            assert session.photo["width"] == 384 + 8 * number
            answers = [session.click(COIN[0] + 8 * number + step, COIN[1]) for step in range(CLICKS)]
            assert all(answer["photo"] == session.photo["id"] for answer in answers)
            assert [answer["version"] for answer in answers] == list(range(1, CLICKS + 1))
            return answers

    with ThreadPoolExecutor(USERS) as pool:
        visits = list(pool.map(visit, range(USERS)))
    loaded = store().get(EMBEDDED)
    for number, answers in enumerate(visits):
        points = tuple((COIN[0] + 8 * number + step, COIN[1]) for step in range(CLICKS))
        alone = segment_objects(loaded, open_photo(photos[number]), [ObjectPrompts(1, "alone", points, (1,) * CLICKS)])
        [mask] = answers[-1]["objects"]
        assert mask["area"] == alone.areas.item()
        assert mask["score"] == pytest.approx(alone.scores[0].item(), abs=1e-4)


def test_a_click_does_not_wait_for_everything(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def endless(*_: Any) -> Any:
        begun.set()
        assert may_end.wait(60)
        raise RuntimeError("the end")

    monkeypatch.setattr("sam_variants.spaces_demo.api_calls.find_everything", endless)
    with httpx.Client(base_url=space, timeout=60, trust_env=False) as client, ThreadPoolExecutor(1) as pool:
        long = pool.submit(call, client, "everything", image=upload(client, "coins.jpg", COINS.read_bytes()))
        try:
            assert begun.wait(20)
            with DemoSession(space) as session:
                session.open(COINS)
                assert session.click(*COIN)["objects"]
        finally:
            may_end.set()
        event, told = long.result(20)
    assert event == "error"
    assert "the end" not in told["error"], "what went wrong inside is not told"


def join_often(session: DemoSession, event: dict[str, Any], values: dict[int, Any]) -> None:
    for _ in range(limits.MAX_WAITING + 1):
        session.join(event, values)


def test_a_full_queue_refuses_at_once(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def endless(*_: Any) -> Any:
        begun.set()
        assert may_end.wait(60)
        return {}

    monkeypatch.setattr("sam_variants.spaces_demo.api_calls.described", endless)
    with DemoSession(space) as session, httpx.Client(base_url=space, timeout=60, trust_env=False) as client:
        event = next(item for item in session.config["dependencies"] if item["api_name"] == "segment")
        photo = upload(client, "coins.jpg", COINS.read_bytes())
        values = dict(zip(event["inputs"], [photo, [{"points": [list(COIN)]}], "embedded", "none"], strict=True))
        try:
            session.join(event, values)
            assert begun.wait(20)
            with pytest.raises(SessionError) as info:
                join_often(session, event, values)
        finally:
            may_end.set()
    assert info.value.status == 503
    assert "full" in str(info.value).lower()
