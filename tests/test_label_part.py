"""What keeps the model busy: shards are written behind it, and every job has a batch."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from labeling_runs import StandIn, digests, stand_in_job, write_photos

from sam_variants.labeling.items import Item
from sam_variants.labeling.label_folder import PartWriter
from sam_variants.labeling.label_run import run_local

PATIENCE_SECONDS = 20.0
finish = PartWriter.finish


class Watched(StandIn):
    """Tells when an image is asked for."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key, self.is_reached = key, threading.Event()

    def __call__(self, items: Sequence[Item], pixels: Sequence[Any]) -> Any:
        if any(item.key == self.key for item in items):
            self.is_reached.set()
        return super().__call__(items, pixels)


def test_a_shard_is_written_while_the_next_part_is_labeled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos", 12)
    layout = {"rows_per_shard": 4, "batch_size": 2}
    run_local(stand_in_job(photos, tmp_path / "undisturbed", **layout), labeler=StandIn())
    labeler, met = Watched("0006.png"), []

    def late(writer: PartWriter) -> None:
        if writer.part == 0:
            met.append(labeler.is_reached.wait(PATIENCE_SECONDS))
        finish(writer)

    monkeypatch.setattr(PartWriter, "finish", late)
    totals = run_local(stand_in_job(photos, tmp_path / "out", **layout), labeler=labeler)
    assert met == [True]
    assert (totals.parts_done, totals.rows) == (3, 12)
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


@pytest.mark.parametrize("bad_part", [0, 24])
def test_a_shard_that_cannot_be_written_stops_the_run(
    bad_part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon, and also where no part follows; the rows stay recorded."""
    photos = write_photos(tmp_path / "photos", 50)
    job = stand_in_job(photos, tmp_path / "out", rows_per_shard=2, batch_size=1)
    labeler = StandIn()

    def refuse(writer: PartWriter) -> None:
        if writer.part == bad_part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finish(writer)

    monkeypatch.setattr(PartWriter, "finish", refuse)
    with pytest.raises(OSError, match="No space left"):
        run_local(job, labeler=labeler)
    # Of the part behind it one was begun, and what was ahead of its writer.
    assert len(labeler.asked) <= min(2 * bad_part + 4, 50)
    assert not job.attach().is_done(bad_part)
    monkeypatch.undo()
    again = StandIn()
    assert run_local(job, labeler=again).rows == 50
    assert ["0000.png"] not in again.asked
    assert len(labeler.asked + again.asked) <= 52


@pytest.mark.parametrize("batch_size", [1, 12])
def test_every_job_has_a_batch(batch_size: int, tmp_path: Path) -> None:
    """However few threads read: the images that are ahead are enough for all."""

    class Together(StandIn):
        def __call__(self, items: Sequence[Item], pixels: Sequence[Any]) -> Any:
            everybody.wait()
            return super().__call__(items, pixels)

    jobs = 3
    everybody = threading.Barrier(jobs, timeout=PATIENCE_SECONDS)
    photos = write_photos(tmp_path / "photos", 2 * jobs * batch_size, side=8)
    job = stand_in_job(photos, tmp_path / "out", rows_per_shard=100, batch_size=batch_size)
    assert run_local(job, labeler=Together(jobs=jobs)).rows == 2 * jobs * batch_size


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_single_job_works_in_the_calling_thread(jobs: int, tmp_path: Path) -> None:
    """PyTorch is slower in a second one."""
    threads = set()

    class Noting(StandIn):
        def __call__(self, items: Sequence[Item], pixels: Sequence[Any]) -> Any:
            threads.add(threading.current_thread())
            return super().__call__(items, pixels)

    job = stand_in_job(write_photos(tmp_path / "photos", 4), tmp_path / "out", batch_size=2)
    run_local(job, labeler=Noting(jobs=jobs))
    assert (threads == {threading.main_thread()}) == (jobs == 1)
