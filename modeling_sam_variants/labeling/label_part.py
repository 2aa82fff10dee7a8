"""One part of a source, labeled: read ahead, worked on by several threads at once, written behind."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from time import perf_counter

import numpy as np

from sam_variants.labeling.items import FailedImage, Item, LabeledImage
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.labeling.label_job import LabelJob
from sam_variants.labeling.read_ahead import Group, ReadAhead
from sam_variants.labeling.stage_times import WAIT, WRITE, StageTimes
from sam_variants.labeling.write_behind import BatchDone, FinishBehind, OnBatch, WriteBehind

Row = LabeledImage | FailedImage
Labeler = Callable[[Sequence[Item], Sequence[np.ndarray | str]], list[Row]]
"""Items and their pixels (or why there are none) in, what became of each out, in the same order."""

POLL_SECONDS = 0.1


def label_part(
    job: LabelJob,
    part: int,
    labeler: Labeler,
    on_batch: OnBatch | None = None,
    *,
    folder: LabelFolder | None = None,
    stop: threading.Event | None = None,
    times: StageTimes | None = None,
    finishing: FinishBehind | None = None,
) -> bool:
    """Label what is left of one part and record it; the rows are the same wherever and however often that is begun.

    Args:
        job: what is labeled, how, and where the rows go; its output folder must be there (`job.open()`).
        part: its number.
        labeler: an `ImageLabeler`, or any function like it. As many calls as its attribute `jobs` says (1 without)
            are made at once, from several threads.
        on_batch: called with a `BatchDone` when a batch is recorded, in another thread; first for what an earlier run
            had recorded of it.
        folder: the output folder, where it is attached already.
        stop: when it is set, what has been begun is finished and recorded, and nothing more is begun.
        times: where reading, waiting and writing are added.
        finishing: writes the last shard behind the call, for whoever goes on with another part; None: it is written
            when the call returns.

    Returns:
        Whether all of the part is labeled; False only after `stop`.

    Raises:
        OSError: the part can't be read, or the rows can't be written. What was recorded stays.
        Exception: whatever else the labeler raises.
    """
    folder, times = folder or job.attach(), times or StageTimes()
    if folder.is_done(part):
        return True
    settings = job.settings
    with ExitStack() as opened:
        writer = opened.enter_context(folder.writer(part))
        start = writer.start
        if on_batch is not None and start:
            on_batch(BatchDone(part, start, 0, 0, is_resumed=True))
        with ExitStack() as stack:
            behind = stack.enter_context(WriteBehind(writer, part, on_batch, times, finishing))
            ahead = ReadAhead(
                iter(job.source.read(part, start)),
                start,
                batch_size=settings.batch_size,
                rows_per_shard=settings.rows_per_shard,
                num_threads=job.read_threads,
                num_batches=2 * jobs_of(labeler),
                max_bytes=job.read_ahead,
                keeps_content=settings.images == "embed",
                times=times,
            )
            line = _Line(stack.enter_context(ahead), labeler, behind, stop or threading.Event(), times)
            is_whole = line.run()
        if is_whole and finishing is not None:
            finishing.add(writer, opened.pop_all(), times)
        elif is_whole:
            with times.stage(WRITE):
                writer.finish()
    return is_whole


def jobs_of(labeler: Labeler) -> int:
    """How many calls of a labeler may be made at once."""
    return getattr(labeler, "jobs", 1)


class _Line:
    """Groups of images on their way from the reader through the labeler to the writer, in order."""

    def __init__(
        self, ahead: ReadAhead, labeler: Labeler, behind: WriteBehind, stop: threading.Event, times: StageTimes
    ) -> None:
        self._ahead, self._labeler, self._behind, self._stop, self._times = ahead, labeler, behind, stop, times
        self._jobs = jobs_of(labeler)
        self._working: deque[tuple[Group, Future[list[Row]]]] = deque()
        self._batch: list[Row] = []
        self._is_whole = False

    def run(self) -> bool:
        """Label group after group; False when it was stopped before the last."""
        with ThreadPoolExecutor(self._jobs, "label") as pool:
            try:
                while (group := self._next_group()) is not None:
                    self._working.append((group, self._begin(pool, group)))
                    # One more than is worked on waits, for each, so that nobody has to.
                    while len(self._working) > 2 * self._jobs or (self._working and self._working[0][1].done()):
                        self._take_first()
                if not self._is_whole:
                    self._give_up_what_waits()
                while self._working:
                    self._take_first()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return self._is_whole

    def _begin(self, pool: ThreadPoolExecutor, group: Group) -> Future[list[Row]]:
        """Label a group, in the pool where several are labeled at once.

        One at a time stays in this thread: OpenMP's threads wait for work asleep instead of ready as soon as two
        threads have a team of them, which costs a third of the speed.
        """
        if self._jobs > 1:
            return pool.submit(self._label, group)
        done: Future[list[Row]] = Future()
        done.set_result(self._label(group))
        return done

    def _next_group(self) -> Group | None:
        """The next one; None behind the last, and when the run is to stop."""
        while not self._stop.is_set():
            is_idle, begun = not self._working, perf_counter()
            try:
                group = self._ahead.next_group(POLL_SECONDS)
                self._is_whole = group is None
                return group
            except TimeoutError:
                self._behind.check()
                while self._working and self._working[0][1].done():
                    self._take_first()
            finally:
                if is_idle:
                    self._times.add({WAIT: perf_counter() - begun})
        return None

    def _label(self, group: Group) -> list[Row]:
        try:
            with self._times.stage(WAIT):
                pixels = group.pixels()
            rows = self._labeler(group.items, pixels)
        finally:
            group.release()
        if len(rows) != len(group.items):
            raise ValueError(f"the labeler must give one result per image, got {len(rows)} for {len(group.items)}")
        return rows

    def _take_first(self) -> None:
        group, labeled = self._working.popleft()
        self._batch += labeled.result()
        if group.ends_batch:
            self._behind.add(self._batch)
            self._batch = []

    def _give_up_what_waits(self) -> None:
        """Leave out groups that nobody has begun with, and what would share a batch with them."""
        kept: list[tuple[Group, Future[list[Row]]]] = []
        for group, labeled in self._working:
            if labeled.cancel():
                break
            kept.append((group, labeled))
        for _, labeled in list(self._working)[len(kept) :]:
            labeled.cancel()
        while kept and not kept[-1][0].ends_batch:
            kept.pop()
        self._working = deque(kept)
