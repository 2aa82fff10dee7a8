"""Labeling on a Ray cluster: workers that are killed, a part that kills, and nothing that is left behind."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from deadly_labeler import DeadlyLabeler, wait_for
from labeling_runs import StandIn, digests, stand_in_job, write_photos

from sam_variants.labeling.label_job import LabelJob
from sam_variants.labeling.label_progress import RunProgress
from sam_variants.labeling.label_run import run_local
from sam_variants.labeling.ray_tally import tally_class

ray_engine = pytest.importorskip("sam_variants.labeling.ray_engine")
ray_worker = pytest.importorskip("sam_variants.labeling.ray_worker")

NUM_PHOTOS, BROKEN = 22, 9
LAYOUT = {"rows_per_shard": 4, "batch_size": 2}
# The second batch of a part each.
VICTIM, POISON, POISONED_PART = "0006.png", "0014.png", 3
MAX_DEATHS = 2


def test_deaths_are_counted_where_they_happen() -> None:
    tally = tally_class()(2)
    assert tally.begin(7) == (True, 0, True)
    tally.add((7, 4, 0, 0, True), {})  # recorded by an earlier run
    tally.add((7, 2, 5, 1, False), {"write": 0.5})
    assert tally.begin(7) == (True, 1, True)  # died behind what it had recorded
    tally.add((7, 6, 0, 0, True), {})  # its own rows, which were counted
    tally.add((7, 2, 3, 0, False), {"write": 0.25})
    assert tally.take() == ([(7, 4, 0, 0, True), (7, 4, 8, 1, False)], {"write": 0.75})
    assert tally.begin(7) == (True, 1, True)
    assert tally.begin(7) == (False, 2, True)  # twice at the same place
    assert tally.begin(7) == (False, 3, False)  # and when only its names were read
    assert tally.begin(8) == (True, 0, True)
    assert tally.num_active() == 2
    tally.end(7)
    tally.stop()
    assert tally.begin(9) == (False, 0, False)
    assert (tally.take(), tally.num_active(), tally.is_stopping()) == (([], {}), 1, True)


@pytest.mark.parametrize(("may_read", "told"), [(True, "row 0 (0000.png, 0001.png)"), (False, "can't even be read")])
def test_what_kills_its_reader_is_not_read_again(
    may_read: bool, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the worker that tells of a part that is given up would die of it, and be restarted without end."""
    job = stand_in_job(write_photos(tmp_path / "photos", 4), tmp_path / "out", **LAYOUT)
    job.open()
    reads, read = [], type(job.source).read

    def noted(source: Any, part: int, start: int) -> Any:
        reads.append(part)
        return read(source, part, start)

    monkeypatch.setattr(type(job.source), "read", noted)
    monkeypatch.setattr(ray_worker.ray, "get", lambda answer: answer)
    answers = {"begin": lambda part: (False, 3, may_read), "end": lambda part: None}
    tally = SimpleNamespace(**{name: SimpleNamespace(remote=answer) for name, answer in answers.items()})
    told_of = ray_worker.PartWorker(replace(job), StandIn(), tally)({"part": np.array([0])})
    assert told_of["outcome"] == [ray_worker.GIVEN_UP]
    assert told in told_of["told"][0].decode()
    assert reads == [0] * may_read


def test_the_tally_is_on_a_machine_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def remote(**first: Any) -> Any:
        def options(kind: type, **more: Any) -> Any:
            asked.update(first, **more)
            return SimpleNamespace(remote=kind)

        return lambda kind: SimpleNamespace(options=partial(options, kind))

    here = SimpleNamespace(get_node_id=lambda: "ab" * 28)
    monkeypatch.setattr(ray_engine.ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(ray_engine.ray, "remote", remote)
    assert ray_engine._tally_here().num_active() == 0
    assert asked["num_cpus"] == 0
    assert asked["scheduling_strategy"].node_id == "ab" * 28


MACHINES = {"cpus": [{"CPU": 16.0}, {"CPU": 6.0}], "gpus": [{"CPU": 32.0, "GPU": 8.0}, {"CPU": 4.0}], "none": [{}]}


@pytest.mark.parametrize(
    ("machines", "given", "expected"),
    [
        ("cpus", (), (2, 8, 0)),
        ("cpus", (4,), (4, 4, 0)),
        ("cpus", (None, 3), (7, 3, 0)),
        ("gpus", (), (8, 4, 1)),
        ("gpus", (None, None, 0.5), (16, 2, 0.5)),
        ("gpus", (None, 4, 0), (9, 4, 0)),
        ("none", (3,), (3, 1, 0)),
    ],
)
def test_the_pool_fits_the_machines(
    monkeypatch: pytest.MonkeyPatch, machines: str, given: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    nodes = [{"Alive": True, "Resources": each} for each in MACHINES[machines]]
    monkeypatch.setattr(ray_engine.ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 96.0}}])
    assert ray_engine._fitting(ray_engine.Workers(*given)) == ray_engine.Workers(*expected)


def test_a_worker_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(ValueError, match="needs 8 CPUs and 0 GPUs, and the cluster's largest machine has 4 and 0"):
        ray_engine._fitting(ray_engine.Workers(cpus=8))
    for given in ((0,), (1, -1), (1, 1, float("nan"))):
        with pytest.raises(ValueError, match="of workers must be"):
            ray_engine.Workers(*given)


@dataclass
class Disturbed:
    """A run on Ray of which a worker was killed, and which met a part that kills; and what was seen of it."""

    photos: Path
    job: LabelJob
    labeler: DeadlyLabeler
    error: BaseException
    progress: RunProgress
    processes: list[psutil.Process]
    handlers: list[Any]


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("ray")
    photos = write_photos(folder / "photos", NUM_PHOTOS, [BROKEN])
    job = stand_in_job(photos, folder / "out", **LAYOUT)
    labeler = DeadlyLabeler(folder, job.out / "journals", VICTIM, POISON)
    processes: list[psutil.Process] = []
    others = set(psutil.Process().children(recursive=True))
    handlers = [signal.getsignal(signal.SIGTERM)]

    def kill_one() -> None:
        wait_for(lambda: labeler.tries(VICTIM))
        handlers.append(signal.getsignal(signal.SIGTERM))
        processes.extend(set(psutil.Process().children(recursive=True)) - others)
        os.kill(labeler.tries(VICTIM)[0], signal.SIGKILL)

    progress = RunProgress()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_engine, "MAX_DEATHS", MAX_DEATHS)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        # Ray's workers step back behind everything else on a machine, which is other tests here.
        patch.setenv("RAY_worker_niceness", "0")
        killer = threading.Thread(target=kill_one)
        killer.start()
        with pytest.raises(ChildProcessError) as raised:
            ray_engine.run_ray(job, labeler, ray_engine.Workers(2, 1, 0), progress=progress)
        killer.join()
    return Disturbed(photos, job, labeler, raised.value, progress, processes, handlers)


def test_a_part_that_kills_is_given_up_by_name(disturbed: Disturbed) -> None:
    name = disturbed.job.source.parts[POISONED_PART].name
    message = str(disturbed.error)
    assert message.startswith(f"part {POISONED_PART} ({name}) is given up: {MAX_DEATHS} workers")
    assert f"row 2 ({POISON}, 0015.png)" in message
    assert len(disturbed.labeler.tries(POISON)) == MAX_DEATHS


def test_the_other_parts_are_done(disturbed: Disturbed) -> None:
    folder, parts = disturbed.job.attach(), disturbed.job.source.parts
    assert [part.index for part in parts if not folder.is_done(part.index)] == [POISONED_PART]
    assert len(disturbed.labeler.tries(VICTIM)) == 2


def test_a_killed_worker_is_counted_once(disturbed: Disturbed) -> None:
    told = disturbed.progress.report()
    # What a worker tells in the moment in which it dies may be lost.
    assert NUM_PHOTOS - 2 * LAYOUT["batch_size"] <= told["images"] <= NUM_PHOTOS - LAYOUT["batch_size"]
    assert told["errors"] == 1
    assert told["time_split"]["write"] > 0


def test_who_asks_the_run_to_end_is_still_heard(disturbed: Disturbed) -> None:
    """Ray has a handler of its own, which would end the process without a word."""
    before, meanwhile = disturbed.handlers
    assert meanwhile == before


def test_nothing_runs_on(disturbed: Disturbed) -> None:
    assert len(disturbed.processes) >= 4
    _, alive = psutil.wait_procs(disturbed.processes, timeout=120)
    assert alive == []


def test_rows_are_those_of_a_quiet_run(disturbed: Disturbed, tmp_path: Path) -> None:
    """Where it was given up the run goes on elsewhere."""
    assert run_local(disturbed.job, labeler=StandIn()) == (6, NUM_PHOTOS - 1, 2 * (NUM_PHOTOS - 1), 1)
    quiet = stand_in_job(disturbed.photos, tmp_path / "out", **LAYOUT)
    run_local(quiet, labeler=StandIn())
    assert digests(disturbed.job.out) == digests(quiet.out)
