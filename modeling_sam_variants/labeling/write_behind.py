"""Batches and whole shards written in threads of their own, behind the model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

from sam_variants.labeling.items import FailedImage, LabeledImage
from sam_variants.labeling.label_folder import PartWriter
from sam_variants.labeling.stage_times import WRITE, StageTimes

# Batches that wait to be written; more would only hold memory.
WAITING = 2

Row = LabeledImage | FailedImage


class BatchDone(NamedTuple):
    """What was recorded.

    Attributes:
        part: its number.
        images: rows, those of images that failed too.
        masks: of them all.
        errors: images that failed.
        is_resumed: whether an earlier run had done it.
    """

    part: int
    images: int
    masks: int
    errors: int
    is_resumed: bool = False


OnBatch = Callable[[BatchDone], None]


class FinishBehind:
    """Writes the last shard of a part while the next part is labeled; of one part at a time.

    A shard is hundreds of megabytes that the disk is waited for. An error is raised at the next call.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "finish")
        self._working: Future[None] | None = None

    def __enter__(self) -> FinishBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: Any) -> None:
        """Wait until it is written; what went wrong is raised, unless something else did."""
        self._pool.shutdown()
        if kind is None:
            self.wait()

    def add(self, writer: PartWriter, opened: ExitStack, times: StageTimes) -> None:
        """Have a part finished, as soon as that before it is; `opened` is closed behind that."""
        with opened:
            self.wait()
            self._working = self._pool.submit(_finish, writer, opened.pop_all(), times)

    def wait(self) -> None:
        """Wait for the part that is being finished. Raises: what went wrong."""
        if self._working is not None:
            self._working.result()

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._working is not None and self._working.done():
            self._working.result()


def _finish(writer: PartWriter, opened: ExitStack, times: StageTimes) -> None:
    with opened, times.stage(WRITE):
        writer.finish()


class WriteBehind:
    """Hands batches to a part's writer in order. An error of the writer is raised at the next call.

    Args:
        writer: of the part.
        part: its number.
        on_batch: called in the thread when a batch is recorded.
        times: where writing is added.
        finishing: the part before, whose error is raised here too.
    """

    def __init__(
        self,
        writer: PartWriter,
        part: int,
        on_batch: OnBatch | None = None,
        times: StageTimes | None = None,
        finishing: FinishBehind | None = None,
    ) -> None:
        self._writer, self._part, self._on_batch = writer, part, on_batch
        self._times, self._finishing = times or StageTimes(), finishing
        self._batches: queue.Queue[Sequence[Row] | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="write", daemon=True)

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: Any) -> None:
        """Wait until everything is written; what went wrong is raised, unless something else did."""
        self._batches.put(None)
        self._thread.join()
        if kind is None:
            self.check()

    def add(self, batch: Sequence[Row]) -> None:
        """Have a batch written, as soon as there is room for one more that waits."""
        self.check()
        self._batches.put(batch)

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if self._error is not None:
            raise self._error
        if self._finishing is not None:
            self._finishing.check()

    def _write(self) -> None:
        while (batch := self._batches.get()) is not None:
            if self._error is not None:
                continue  # the queue is emptied, so that whoever adds to it doesn't wait for ever
            try:
                with self._times.stage(WRITE):
                    self._writer.add(batch)
                if self._on_batch is not None:
                    self._on_batch(_count(self._part, batch))
            except BaseException as error:  # it is raised in the thread that adds
                self._error = error


def _count(part: int, batch: Sequence[Row]) -> BatchDone:
    done = [row for row in batch if isinstance(row, LabeledImage)]
    return BatchDone(part, len(batch), sum(len(row.annotations) for row in done), len(batch) - len(done))
