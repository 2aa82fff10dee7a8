"""Labeling runs that are killed at any moment: what they leave together is what an undisturbed run leaves."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from labeling_runs import StandIn, digests, errors_of, rows_of, stand_in_job, write_photos, write_tar

from sam_variants.labeling.label_run import run_local

SEED = 20_261
KILLS = 100
NUM_PHOTOS = 20
BROKEN = (4, 11)
SECONDS_PER_IMAGE = 0.01
PATIENCE_SECONDS = 60.0
# Each takes every so many steps, so that they can be run beside each other.
NUM_SWEEPS = 4
# Calls that change what is on the disk.
STEPS = ("write", "fsync", "replace", "link", "unlink", "ftruncate", "mkdir")


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Starts processes that have everything imported: a server that imported it once forks them."""
    tests = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])]))
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["test_label_kill"])

        def begin(*arguments: Any) -> BaseProcess:
            process = context.Process(target=label, args=arguments)
            process.start()
            return process

        yield begin


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same photos as files, whose parts are of known length, and in two tars, whose are not."""
    folder = tmp_path_factory.mktemp("sources")
    photos = write_photos(folder / "photos", NUM_PHOTOS, BROKEN)
    files = sorted(photos.iterdir())
    (folder / "tars").mkdir()
    write_tar(folder / "tars" / "0.tar", files[:13])
    write_tar(folder / "tars" / "1.tar", files[13:])
    return {"files": photos, "tars": folder / "tars" / "{0..1}.tar"}


def label(source: Path, out: Path, seconds: float = 0.0, rows_per_shard: int = 5, dies_at: int = 0) -> None:
    """A run, in a process of its own; `dies_at`: it kills itself in the middle of this step, counted from 1."""
    if dies_at:
        die_in_step(dies_at)
    run_local(stand_in_job(source, out, batch_size=2, rows_per_shard=rows_per_shard), labeler=StandIn(seconds, jobs=2))


def die_in_step(number: int) -> None:
    """Have this process killed in its n-th step: half of what is written is written, and nothing else happens."""
    count = 0

    def replaced(step: Callable[..., Any], writes: bool) -> Callable[..., Any]:
        def dying(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                if writes:
                    data = memoryview(arguments[1]).cast("B")
                    step(arguments[0], data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **keywords)

        return dying

    for name in STEPS:
        setattr(os, name, replaced(getattr(os, name), name == "write"))


def ended(process: BaseProcess) -> int:
    process.join(PATIENCE_SECONDS)
    assert process.exitcode is not None
    return process.exitcode


def finished(start: Callable[..., BaseProcess], source: Path, out: Path, rows_per_shard: int = 5) -> dict[str, str]:
    """The files of an undisturbed run, or of one that goes on."""
    assert ended(start(source, out, 0.0, rows_per_shard)) == 0
    return digests(out)


def number_of(key: str) -> int:
    """Which photo it is: of "0007.png", or "0.tar#0007"."""
    return int(key.removesuffix(".png")[-4:])


def assert_whole(source: str, out: Path) -> None:
    """Every image is there once, in order."""
    keys, failed = ([number_of(row["key"]) for row in rows] for rows in (rows_of(out), errors_of(out)))
    assert keys == [index for index in range(NUM_PHOTOS) if index not in BROKEN], source
    assert failed == list(BROKEN), source


@pytest.mark.parametrize("source", ["files", "tars"])
def test_killed_at_random_moments_a_run_leaves_what_an_undisturbed_one_leaves(
    source: str, sources: dict[str, Path], start: Callable[..., BaseProcess], tmp_path: Path
) -> None:
    expected = finished(start, sources[source], tmp_path / "undisturbed")
    assert_whole(source, tmp_path / "undisturbed")
    rows = rows_of(tmp_path / "undisturbed")
    begun = time.monotonic()
    slow = start(sources[source], tmp_path / "slow", SECONDS_PER_IMAGE)
    assert ended(slow) == 0
    longest = time.monotonic() - begun
    chance, kills, runs = random.Random(f"{SEED} {source}"), 0, 0
    while kills < KILLS // 2:
        out, runs = tmp_path / f"killed_{runs}", runs + 1
        while True:
            process = start(sources[source], out, SECONDS_PER_IMAGE)
            process.join(chance.uniform(0, longest / 2))
            if process.exitcode is None:
                process.kill()
            if ended(process) == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
        assert digests(out) == expected
        assert rows_of(out) == rows
    assert kills > 2 * runs  # most runs went on several times


@pytest.mark.parametrize("first", range(1, NUM_SWEEPS + 1))
def test_killed_in_any_step_of_writing_a_run_goes_on(
    start: Callable[..., BaseProcess], tmp_path: Path, first: int
) -> None:
    photos = write_photos(tmp_path / "photos", 4, broken=[2])
    expected = finished(start, photos, tmp_path / "undisturbed", 3)
    step, died = first, True
    while died:
        out = tmp_path / f"dies_at_{step}"
        died = ended(start(photos, out, 0.0, 3, step)) == -signal.SIGKILL
        assert finished(start, photos, out, 3) == expected, step
        step += NUM_SWEEPS
    assert step > 40


def test_two_processes_that_take_the_other_for_dead_do_no_harm(
    sources: dict[str, Path], start: Callable[..., BaseProcess], tmp_path: Path
) -> None:
    expected = finished(start, sources["files"], tmp_path / "undisturbed")
    processes = [start(sources["files"], tmp_path / "both", SECONDS_PER_IMAGE) for _ in range(3)]
    assert [ended(process) for process in processes] == [0, 0, 0]
    assert finished(start, sources["files"], tmp_path / "both") == expected
