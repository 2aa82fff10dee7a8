"""Images decoded in threads ahead of the model, in order, no more at once than fit into a number of bytes."""

from __future__ import annotations

import io
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sam_variants.labeling.items import Item
from sam_variants.labeling.stage_times import OPEN, READ, StageTimes
from sam_variants.memory_budget import HELD, READING
from sam_variants.processing.image_loading import rgb_array

# Pixels that are handed to the model together, unless one image has more. A constant, because it decides which images
# share a batch, and these must be the same in every run.
GROUP_PIXELS = 64 * 10**6
# So many images in each thread's turn are ahead at most, however small they are.
IMAGES_PER_THREAD = 8
JOIN_SECONDS = 0.5
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def one_line(error: BaseException) -> str:
    """An error as one line that is the same in every run."""
    return " ".join(ADDRESS.sub("", str(error)).split()) or type(error).__name__


def batch_end(row: int, batch_size: int, rows_per_shard: int) -> int:
    """Where the batch that row `row` of a part lies in ends: no batch reaches over the end of a shard."""
    shard = row - row % rows_per_shard
    return min(shard + ((row - shard) // batch_size + 1) * batch_size, shard + rows_per_shard)


@dataclass(frozen=True)
class Group:
    """Images that go to the model together: a batch, or the part of it that is not too large.

    Attributes:
        items: in the source's order.
        ends_batch: whether the batch is complete with them.
    """

    items: Sequence[Item]
    ends_batch: bool
    _decoded: Sequence[Future[np.ndarray] | str]
    _release: _Held

    def pixels(self) -> list[np.ndarray | str]:
        """H×W×3 uint8 of each image, or why it can't be read; waits until they are decoded."""
        return [entry if isinstance(entry, str) else _result_or_error(entry) for entry in self._decoded]

    def release(self) -> None:
        """Say that the pixels are no longer needed."""
        self._release.end()


class ReadAhead:
    """Iterates over the groups of a part from one of its rows on.

    Args:
        items: the images from that row on, not decoded.
        start: the row.
        batch_size, rows_per_shard: where batches end, see `batch_end`.
        num_threads: how many images are decoded at once.
        num_batches: how many are ahead or worked on at least, memory permitting.
        max_bytes: what images may take that are decoded or being decoded. A larger image is taken alone.
        keeps_content: whether the items keep the content of their files.
        times: where reading and decoding are added.

    Raises:
        Exception: when iterated over, whatever the source raises.
    """

    def __init__(
        self,
        items: Iterator[Item],
        start: int,
        *,
        batch_size: int,
        rows_per_shard: int,
        num_threads: int,
        num_batches: int = 2,
        max_bytes: int,
        keeps_content: bool = True,
        times: StageTimes | None = None,
    ) -> None:
        self._items, self._row = items, start
        self._batch_size, self._rows_per_shard = batch_size, rows_per_shard
        self._keeps_content, self._times = keeps_content, times or StageTimes()
        self._budget = _Budget(max_bytes, max(num_threads * IMAGES_PER_THREAD, num_batches * batch_size))
        self._pool = ThreadPoolExecutor(num_threads, "decode")
        self._groups: queue.SimpleQueue[Group | Exception | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="read", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._reader.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._budget.close()
        # A source that waits for a server is not waited for.
        self._reader.join(JOIN_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def next_group(self, timeout: float | None = None) -> Group | None:
        """The next group, or None behind the last.

        Raises:
            TimeoutError: it isn't there yet.
            Exception: whatever the source raised.
        """
        try:
            found = self._groups.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(found, Exception):
            raise found
        return found

    def _read(self) -> None:
        try:
            self._read_groups()
            self._groups.put(None)
        except Exception as error:
            self._groups.put(error)

    def _read_groups(self) -> None:
        opened: list[_Opened] = []
        end = batch_end(self._row, self._batch_size, self._rows_per_shard)
        while not self._budget.is_closed:
            with self._times.stage(READ):
                item = next(self._items, None)
                found = None if item is None else _Opened.of(item)
            if found is None:
                break
            if opened and sum(each.num_pixels for each in opened) + found.num_pixels > GROUP_PIXELS:
                self._hand_out(opened, ends_batch=False)
                opened = []
            opened.append(found)
            self._row += 1
            if self._row == end:
                self._hand_out(opened, ends_batch=True)
                opened, end = [], batch_end(self._row, self._batch_size, self._rows_per_shard)
        if opened:
            self._hand_out(opened, ends_batch=True)

    def _hand_out(self, opened: Sequence[_Opened], ends_batch: bool) -> None:
        held = _Held(self._budget, [each.num_bytes for each in opened])
        if not held.begin():
            return
        decoded = [self._decode(each, held) if each.image is not None else each.error for each in opened]
        items = [each.item if self._keeps_content else replace(each.item, encoded=None) for each in opened]
        self._groups.put(Group(items, ends_batch, decoded, held))

    def _decode(self, opened: _Opened, held: _Held) -> Future[np.ndarray]:
        def decode() -> np.ndarray:
            try:
                with self._times.stage(OPEN):
                    return rgb_array(opened.image)
            finally:
                opened.image = None
                held.shrink(READING * opened.num_pixels)

        return self._pool.submit(decode)


@dataclass
class _Opened:
    """An image of which the header was read."""

    item: Item
    image: Image.Image | None = None
    error: str = ""
    num_pixels: int = 0

    @classmethod
    def of(cls, item: Item) -> _Opened:
        if item.error is not None:
            return cls(item, error=item.error)
        try:
            if item.encoded is None:
                if item.path is None:
                    return cls(item, error="there is neither an image nor a path")
                item = replace(item, encoded=Path(item.path).read_bytes())
            if not item.encoded:
                return cls(item, error="the file is empty")
            image = Image.open(io.BytesIO(item.encoded))
            return cls(item, image, num_pixels=image.width * image.height)
        except UnidentifiedImageError:
            return cls(item, error="it is no image of a known kind")
        except Exception as error:  # readers of broken headers raise anything
            return cls(item, error=f"it can't be opened as an image: {one_line(error)}")

    @property
    def num_bytes(self) -> int:
        return (HELD + READING) * self.num_pixels + len(self.item.encoded or b"")


class _Budget:
    """Bytes and images that may be ahead."""

    def __init__(self, max_bytes: int, max_images: int) -> None:
        self._max_bytes, self._max_images = max_bytes, max_images
        self._bytes = self._images = 0
        self._changed = threading.Condition()
        self.is_closed = False

    def take(self, num_bytes: int, num_images: int) -> bool:
        """Wait until there is room, or nothing else is ahead; False when nobody wants more."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_closed or self._has_room(num_bytes, num_images))
            if self.is_closed:
                return False
            self._bytes += num_bytes
            self._images += num_images
            return True

    def _has_room(self, num_bytes: int, num_images: int) -> bool:
        fits = self._bytes + num_bytes <= self._max_bytes and self._images + num_images <= self._max_images
        return fits or self._images == 0

    def give_back(self, num_bytes: int, num_images: int = 0) -> None:
        with self._changed:
            self._bytes -= num_bytes
            self._images -= num_images
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


class _Held:
    """What one group takes of the budget: less when its images are decoded, nothing when they were labeled."""

    def __init__(self, budget: _Budget, sizes: Sequence[int]) -> None:
        self._budget, self._images, self._bytes = budget, len(sizes), sum(sizes)
        self._lock = threading.Lock()

    def begin(self) -> bool:
        return self._budget.take(self._bytes, self._images)

    def shrink(self, num_bytes: int) -> None:
        with self._lock:
            self._bytes -= num_bytes
            self._budget.give_back(num_bytes)

    def end(self) -> None:
        with self._lock:
            self._budget.give_back(self._bytes, self._images)
            self._bytes = self._images = 0


def _result_or_error(decoded: Future[np.ndarray]) -> np.ndarray | str:
    try:
        return decoded.result()
    except Exception as error:
        return one_line(error)
