"""Images decoded ahead of the model: their order, their batches, how many at once, and what becomes of broken ones."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_variants.labeling import read_ahead
from sam_variants.labeling.items import Item
from sam_variants.labeling.read_ahead import Group, ReadAhead, batch_end
from sam_variants.labeling.stage_times import OPEN, READ, StageTimes
from sam_variants.memory_budget import HELD, READING


def encoded(width: int, height: int = 8, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def reader(items: Iterator[Item], start: int = 0, **options: Any) -> ReadAhead:
    defaults = {"batch_size": 1, "rows_per_shard": 100, "num_threads": 2, "max_bytes": 10**6}
    return ReadAhead(items, start, **(defaults | options))


def groups_of(items: list[Item], start: int = 0, **options: Any) -> list[tuple[list[str], bool]]:
    found = []
    with reader(iter(items), start, **options) as ahead:
        while (group := ahead.next_group(timeout=20)) is not None:
            found.append(([item.key for item in group.items], group.ends_batch))
            group.release()
    return found


def pixels_of(*items: Item) -> list[np.ndarray | str]:
    found: list[np.ndarray | str] = []
    with reader(iter(items)) as ahead:
        while (group := ahead.next_group(timeout=20)) is not None:
            found += group.pixels()
            group.release()
    return found


def test_batches_end_at_fixed_rows_wherever_reading_begins() -> None:
    ends = [batch_end(row, 4, 10) for row in range(20)]
    assert ends == [4] * 4 + [8] * 4 + [10] * 2 + [14] * 4 + [18] * 4 + [20] * 2
    items = [Item(str(row), encoded(8)) for row in range(20)]
    whole = groups_of(items, batch_size=4, rows_per_shard=10)
    assert [len(keys) for keys, _ in whole] == [4, 4, 2, 4, 4, 2]
    for start in (4, 8, 10, 18):
        assert groups_of(items[start:], start, batch_size=4, rows_per_shard=10) == [
            group for group in whole if int(group[0][0]) >= start
        ]


def test_a_part_may_end_within_a_batch() -> None:
    assert groups_of([Item(key, encoded(8)) for key in "abc"], batch_size=2) == [(["a", "b"], True), (["c"], True)]
    assert groups_of([], batch_size=2) == []


def test_pixels_come_in_order_upright_and_rgb(tmp_path: Path) -> None:
    gray = Image.new("L", (6, 4), 200)
    exif = Image.Exif()
    exif[274] = 6  # turned by 90°
    gray.save(tmp_path / "gray.jpg", exif=exif)
    contents = [encoded(8 + index, seed=index) for index in range(12)]
    found = pixels_of(*(Item(str(index), content) for index, content in enumerate(contents)))
    for content, pixels in zip(contents, found, strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(content))))
    (turned,) = pixels_of(Item("gray", path=str(tmp_path / "gray.jpg")))
    assert isinstance(turned, np.ndarray)
    assert turned.shape == (6, 4, 3)


def test_a_large_batch_goes_to_the_model_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "GROUP_PIXELS", 30 * 8)
    widths = {"a": 10, "b": 10, "c": 10, "d": 10, "huge": 90, "e": 5, "f": 5, "g": 5}
    items = [Item(key, encoded(width)) for key, width in widths.items()]
    expected = [(["a", "b", "c"], False), (["d"], False), (["huge"], False), (["e", "f"], True), (["g"], True)]
    assert groups_of(items, batch_size=7) == expected
    # What shares a group doesn't depend on how much room there is for images ahead.
    assert groups_of(items, batch_size=7, max_bytes=1) == expected


class Watched:
    """Items that count how many of them were asked for."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents, self.asked = contents, 0
        self.changed = threading.Condition()

    def __iter__(self) -> Iterator[Item]:
        for index, content in enumerate(self.contents):
            with self.changed:
                self.asked += 1
                self.changed.notify_all()
            yield Item(str(index), content)

    def wait_for(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.asked >= number, 20)


def test_no_more_is_ahead_than_fits() -> None:
    content = encoded(50, 40)
    size, one = 50 * 40, (HELD + READING) * 50 * 40 + len(content)
    watched = Watched([content] * 40)
    held = HELD * size + len(content)
    with reader(iter(watched), max_bytes=3 * one, num_threads=8) as ahead:
        taken: list[Group] = []
        released = 0
        watched.wait_for(4)
        for _ in range(10):
            group = ahead.next_group(timeout=20)
            assert group is not None
            group.pixels()
            taken.append(group)
            assert ahead._budget._bytes <= 3 * one
            # A decoded image takes less than one that is being decoded; one more is read and waits for room.
            assert watched.asked <= released + 3 * one // held + 1
            if len(taken) == 2:
                for each in taken:
                    each.release()
                released, taken = released + 2, []


def test_an_image_that_is_too_large_is_taken_alone() -> None:
    watched = Watched([encoded(8), encoded(300, 200), encoded(8), encoded(8)])
    with reader(iter(watched), max_bytes=50_000) as ahead:
        small = ahead.next_group(timeout=20)
        assert small is not None
        small.pixels()
        with pytest.raises(TimeoutError):
            ahead.next_group(timeout=0.1)
        small.release()
        large = ahead.next_group(timeout=20)
        assert large is not None
        assert [item.key for item in large.items] == ["1"]
        (pixels,) = large.pixels()
        assert isinstance(pixels, np.ndarray)
        with pytest.raises(TimeoutError):  # nothing else, until it is done with
            ahead.next_group(timeout=0.1)
        large.release()
        assert [ahead.next_group(timeout=20) is not None for _ in range(2)] == [True, True]
        assert ahead.next_group(timeout=20) is None


def test_small_images_are_bounded_by_their_number() -> None:
    watched = Watched([encoded(8)] * 500)
    with reader(iter(watched), num_threads=1) as ahead:
        first = ahead.next_group(timeout=20)
        assert first is not None
        watched.wait_for(read_ahead.IMAGES_PER_THREAD)
        assert watched.asked <= read_ahead.IMAGES_PER_THREAD + 1


BROKEN = {
    "text": (b"no image", "it is no image of a known kind"),
    "empty": (b"", "the file is empty"),
    "cut": (encoded(60, 60)[:900], "the image can't be decoded: image file is truncated"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_say_why_in_the_same_words_every_time(case: str) -> None:
    content, words = BROKEN[case]
    found = pixels_of(Item("before", encoded(8)), Item("broken", content), Item("behind", encoded(9)))
    assert isinstance(found[0], np.ndarray)
    assert found[1] == words
    assert isinstance(found[2], np.ndarray)
    assert pixels_of(Item("broken", content)) == [words]


def test_decompression_bombs_and_vanished_files_are_errors_of_their_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    bomb, gone, error, nothing, fine = pixels_of(
        Item("bomb", encoded(60, 60)),
        Item("gone", path=str(tmp_path / "gone.png")),
        Item("error", error="the row is empty"),
        Item("nothing"),
        Item("fine", encoded(9, 9)),
    )
    assert "decompression bomb" in str(bomb)
    assert "No such file" in str(gone)
    assert error == "the row is empty"
    assert nothing == "there is neither an image nor a path"
    assert isinstance(fine, np.ndarray)


def test_a_source_that_breaks_ends_the_reading_with_its_error() -> None:
    def items() -> Iterator[Item]:
        yield Item("a", encoded(8))
        raise OSError(5, "Input/output error", "images.tar")

    with reader(items()) as ahead:
        assert ahead.next_group(timeout=20) is not None
        with pytest.raises(OSError, match=r"images\.tar"):
            ahead.next_group(timeout=20)


def test_content_is_let_go_of_where_it_is_not_kept() -> None:
    content = encoded(8)
    for keeps in (True, False):
        with reader(iter([Item("a", content)]), keeps_content=keeps) as ahead:
            group = ahead.next_group(timeout=20)
            assert group is not None
            assert group.items[0].encoded == (content if keeps else None)
            assert isinstance(group.pixels()[0], np.ndarray)


def test_leaving_in_the_middle_does_not_wait_for_the_source() -> None:
    is_waiting, never = threading.Event(), threading.Event()

    def items() -> Iterator[Item]:
        yield Item("a", encoded(8))
        is_waiting.set()
        never.wait(20)

    with reader(items()) as ahead:
        assert is_waiting.wait(20)
    assert ahead._reader.is_alive()
    never.set()
    ahead._reader.join(20)
    assert not ahead._reader.is_alive()


def test_reading_and_decoding_are_timed() -> None:
    times = StageTimes()
    with reader(iter([Item("a", encoded(300, 300))]), times=times) as ahead:
        group = ahead.next_group(timeout=20)
        assert group is not None
        group.pixels()
        assert ahead.next_group(timeout=20) is None
    seconds = times.seconds
    assert seconds[READ] > 0
    assert seconds[OPEN] > 0
