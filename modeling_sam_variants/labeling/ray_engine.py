"""A labeling run on the workers of a Ray cluster: the same parts, labeler and output, in an actor pool of Ray Data.

Ray restarts a worker that died, on whichever machine has room, and hands it its part again; the part goes on behind the
last batch that was recorded. A part that kills its worker again and again is given up.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from sam_variants.labeling.items import Part
from sam_variants.labeling.label_job import LabelJob
from sam_variants.labeling.label_part import Labeler
from sam_variants.labeling.label_progress import RunProgress
from sam_variants.labeling.label_run import count_rows, finish_if_done
from sam_variants.labeling.progress_entries import Totals
from sam_variants.labeling.ray_tally import tally_class
from sam_variants.labeling.ray_worker import FAILED, GIVEN_UP, STOPPED, PartWorker
from sam_variants.labeling.write_behind import BatchDone

# A worker that dies so often at the same place is killed by what lies there.
MAX_DEATHS = 3
# So many such parts are no accident: the model does not fit, for one.
MAX_GIVEN_UP = 3
MOST_CPUS = 8
POLL_SECONDS = 0.5
# What goes through it are numbers of parts.
OBJECT_STORE_BYTES = 128 * 2**20
# Nothing is sent to Ray's makers.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Workers:
    """The pool.

    Args:
        number: how many; None for what the cluster has room for.
        cpus: of each; None: with a GPU its share of the machine's, else up to 8.
        gpus: of each, or a share of one; None for 1 where the cluster has any.

    Raises:
        ValueError: numbers that can't be.
    """

    number: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("number", self.number, 1), ("cpus", self.cpus, 0), ("gpus", self.gpus, 0)):
            if value is not None and not least <= value < float("inf"):
                raise ValueError(f"{name} of workers must be at least {least}, got {value}")


def run_ray(
    job: LabelJob,
    labeler: Labeler,
    workers: Workers | None = None,
    *,
    address: str | None = None,
    console: Console | None = None,
    progress: RunProgress | None = None,
    stop: threading.Event | None = None,
    coco: bool = True,
) -> Totals:
    """Label what is left of a run on a Ray cluster, and finish the dataset.

    Args:
        job: what is labeled, how, and where the rows go: a folder that all machines see under this name, as they do the
            source and the checkpoint.
        labeler: what labels; each worker has its own copy.
        workers: the pool.
        address: of a running cluster, such as "auto"; None starts one on this machine, and ends it. A program that
            is connected to Ray already uses that connection and keeps it.
        console: where the progress is shown.
        progress: counts what is recorded; None makes one on the console.
        stop: when it is set, workers finish and record what they have begun, and the run ends.
        coco: whether instances.json is written at the end.

    Returns:
        What is recorded, by all runs together.

    Raises:
        ValueError: the output folder holds another run, with what differs; or the cluster has no room for a worker.
        ChildProcessError: parts whose workers died again and again, with their names; the others are labeled.
        OSError: something can't be read, written or started. What was recorded stays, and the same call goes on.
    """
    folder, stop, workers = job.open(), stop or threading.Event(), workers or Workers()
    parts = job.source.parts
    left = [part for part in parts if not folder.is_done(part.index)]
    progress = progress or RunProgress(console)
    total = count_rows(parts)
    progress.expect(total, 0 if total is None else total - (count_rows(left) or 0))
    if left:
        # Ray prints what befalls its workers to the standard output, which may be read by a program.
        with redirect_stdout(sys.stderr), _connection(address, workers), progress:
            _label_parts(replace(job, out=folder.out), left, labeler, _fitting(workers), progress, stop)
    return folder.progress() if stop.is_set() else finish_if_done(folder, job, coco)


@contextmanager
def _connection(address: str | None, workers: Workers) -> Iterator[None]:
    """A cluster on this machine, or the one that runs already."""
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    on_end = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            # More workers than cores are the user's choice.
            cpus = max(os.cpu_count() or 1, int((workers.number or 1) * (workers.cpus or 1)))
            ray.init(num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
    except (RuntimeError, ConnectionError) as error:
        where = "on this machine" if address is None else f"at {address!r}"
        raise OSError(f"there is no Ray cluster {where}: {error}") from error
    finally:
        # Ray would end the process at once.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_end or signal.SIG_DFL)
    try:
        yield
    finally:
        ray.shutdown()


def _fitting(workers: Workers) -> Workers:
    """What isn't said of the pool, by what the cluster's machines have.

    Raises:
        ValueError: no machine has room for one.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: max((machine.get(kind, 0) for machine in machines), default=0) for kind in ("CPU", "GPU")}
    gpus = workers.gpus if workers.gpus is not None else min(1, most["GPU"])
    cpus = workers.cpus
    if cpus is None and gpus:
        cpus = max(1, min(MOST_CPUS, most["CPU"] * gpus // max(most["GPU"], 1)))
    elif cpus is None:
        cpus = max(1, min(MOST_CPUS, most["CPU"] // (workers.number or 1)))
    room = sum(_room(machine, cpus, gpus) for machine in machines)
    if workers.number is None and not room:
        raise ValueError(
            f"a worker needs {cpus:g} CPUs and {gpus:g} GPUs, and the cluster's largest machine has {most['CPU']:g} "
            f"and {most['GPU']:g}; to wait for larger ones say how many workers there will be"
        )
    return Workers(workers.number or room, cpus, gpus)


def _room(machine: dict[str, float], cpus: float, gpus: float) -> int:
    """How many workers a machine has room for."""
    needed = {"CPU": cpus, "GPU": gpus}
    return int(min((machine.get(kind, 0) // number for kind, number in needed.items() if number), default=1))


def _label_parts(
    job: LabelJob,
    left: Sequence[Part],
    labeler: Labeler,
    workers: Workers,
    progress: RunProgress,
    stop: threading.Event,
) -> None:
    """Let the pool label parts, and tell of those that it gave up."""
    tally = _tally_here()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    # A part may take hours; and a machine may vanish while a worker starts on it, which is no reason to end.
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = MAX_DEATHS
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"part": part.index} for part in left]
    outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        PartWorker,
        fn_constructor_args=(job, labeler, tally),
        batch_size=1,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
        # None waits for a worker that is busy, so that the last parts go to whoever is free.
        compute=ray.data.ActorPoolStrategy(size=min(workers.number or 1, len(rows)), max_tasks_in_flight_per_actor=1),
    )
    with _following(tally, progress, stop):
        try:
            given_up = _collect(outcomes.iter_rows(), tally)
        except ray.exceptions.RayError as error:
            raise OSError(f"Ray gave up: {_essence(error)}") from error
    if given_up:
        raise ChildProcessError("; ".join(given_up))


def _tally_here() -> Any:
    """A tally on this machine, which has to stay: any other may vanish, and the count of the deaths with it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0)(tally_class()).options(scheduling_strategy=here).remote(MAX_DEATHS)


def _collect(outcomes: Iterable[Mapping[str, Any]], tally: Any) -> list[str]:
    """Wait until all parts are done, or nobody is at work any more after a stop; tell what was given up."""
    given_up = []
    for outcome in outcomes:
        if outcome["outcome"] == FAILED:
            raise pickle.loads(outcome["told"])
        if outcome["outcome"] == GIVEN_UP:
            given_up.append(outcome["told"].decode())
            if len(given_up) == MAX_GIVEN_UP:
                break
        if outcome["outcome"] == STOPPED and not ray.get(tally.num_active.remote()):
            break
    return given_up


def _essence(error: Exception) -> str:
    """What Ray says first and last; between them are its own traceback and advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " … ".join(dict.fromkeys((lines[0], lines[-1])))


@contextmanager
def _following(tally: Any, progress: RunProgress, stop: threading.Event) -> Iterator[None]:
    """Pass on, in a thread, what the workers tell, and that they are to stop."""
    finished = threading.Event()

    def follow() -> None:
        is_last = False
        while not is_last:
            is_last = finished.wait(POLL_SECONDS)
            if stop.is_set():
                tally.stop.remote()
            try:
                batches, seconds = ray.get(tally.take.remote())
            except ray.exceptions.RayError:  # the cluster is gone, which the run itself tells
                return
            for batch in batches:
                progress.add(BatchDone(*batch))
            progress.times.add(seconds)

    thread = threading.Thread(target=follow, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
