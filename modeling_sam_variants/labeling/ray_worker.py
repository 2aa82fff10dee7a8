"""What a worker of a Ray cluster does: parts, one after the other, and what it tells of them."""

from __future__ import annotations

import itertools
import pickle
import socket
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray

from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.labeling.label_job import LabelJob
from sam_variants.labeling.label_part import Labeler, label_part
from sam_variants.labeling.stage_times import StageTimes
from sam_variants.labeling.write_behind import BatchDone

ASK_SECONDS = 1.0
DONE, STOPPED, GIVEN_UP, FAILED = "done", "stopped", "given up", "failed"


class PartWorker:
    """Labels parts in a process of the cluster, one at a time.

    What goes wrong is returned: an exception would be retried, or wrapped, or end the pool, as Ray sees fit.
    """

    def __init__(self, job: LabelJob, labeler: Labeler, tally: Any) -> None:
        # The model is loaded with the first part: who dies of that has begun it, and is counted.
        self._job, self._labeler, self._tally = job, labeler, tally
        self._times: StageTimes = getattr(labeler, "times", None) or StageTimes()
        self._told_seconds: dict[str, float] = {}
        self._folder: LabelFolder | None = None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """Label the part whose number is the only row; returns that, what became of it, and what there is to tell."""
        part = int(batch["part"][0])
        try:
            outcome, told = self._label(part)
        except Exception as error:
            outcome, told = FAILED, _packed(error)
        return {"part": [part], "outcome": [outcome], "told": [told]}

    def _label(self, part: int) -> tuple[str, bytes]:
        folder = self._folder = self._folder or self._attach()
        if folder.is_done(part):
            return DONE, b""
        may_begin, deaths, may_read = ray.get(self._tally.begin.remote(part))
        if not may_begin and not deaths:
            return STOPPED, b""
        try:
            if not may_begin:
                return GIVEN_UP, self._obituary(folder, part, deaths, may_read).encode()
            with self._stop_event() as stop:
                is_whole = label_part(
                    self._job, part, self._labeler, self._tell, folder=folder, stop=stop, times=self._times
                )
        finally:
            ray.get(self._tally.end.remote(part))
        return DONE if is_whole else STOPPED, b""

    def _attach(self) -> LabelFolder:
        try:
            return self._job.attach()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the worker on {socket.gethostname()} does not see the output folder {str(self._job.out)!r}: it has "
                "to lie on storage that all machines of the cluster share"
            ) from error

    def _obituary(self, folder: LabelFolder, part: int, deaths: int, may_read: bool) -> str:
        with folder.writer(part) as writer:
            start = writer.start
        source, batch = self._job.source, "which can't even be read"
        if may_read:
            items = itertools.islice(source.read(part, start), self._job.settings.batch_size)
            batch = ", ".join(item.key for item in items)
        return (
            f"part {part} ({source.parts[part].name}) is given up: {deaths} workers, one after the other, died over "
            f"what begins with its row {start} ({batch}); it may need more memory than they have"
        )

    def _tell(self, batch: BatchDone) -> None:
        seconds, before = self._times.seconds, self._told_seconds
        self._tally.add.remote(tuple(batch), {name: value - before.get(name, 0.0) for name, value in seconds.items()})
        self._told_seconds = seconds

    @contextmanager
    def _stop_event(self) -> Iterator[threading.Event]:
        """An event that is set when the run is to stop."""
        stop, finished = threading.Event(), threading.Event()

        def ask() -> None:
            while not (finished.wait(ASK_SECONDS) or stop.is_set()):
                if ray.get(self._tally.is_stopping.remote()):
                    stop.set()

        thread = threading.Thread(target=ask, name="ask", daemon=True)
        thread.start()
        try:
            yield stop
        finally:
            finished.set()
            thread.join()


def _packed(error: Exception) -> bytes:
    """An exception for another process, with where it was raised; one that can't be sent only in words."""
    where = "".join(traceback.format_exception(error))
    error.add_note(where)
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return packed
