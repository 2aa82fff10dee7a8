"""Processes that share a labeling run and know nothing of each other but their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from labeling_runs import StandIn, digests, rows_of, stand_in_job, write_photos
from tiny import save_tiny
from typer.testing import CliRunner

from sam_variants.hub_scripts import cli
from sam_variants.labeling.label_run import run_local
from sam_variants.labeling.node_split import local_gpu, node_parts, this_node

NUM_PHOTOS = 7
OPTIONS = [
    *("--points-per-side", "2", "--pred-iou-thresh", "-10", "--stability-score-thresh", "0", "--box-nms-thresh", "1"),
    *("--rows-per-shard", "2", "--read-threads", "1", "--jobs", "1", "--device", "cpu", "--json"),
]


@pytest.mark.parametrize(("num_parts", "world_size"), [(0, 1), (1, 1), (10, 3), (2, 5), (8, 4), (9, 4)])
def test_every_part_falls_to_one_process(num_parts: int, world_size: int) -> None:
    shares = [node_parts(num_parts, rank, world_size) for rank in range(world_size)]
    assert sorted(part for share in shares for part in share) == list(range(num_parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # All get on alike: no process has the last parts alone.
    assert all(part % world_size == rank for rank, share in enumerate(shares) for part in share)


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0), (5, 3)])
def test_ranks_that_cannot_be_are_refused(rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} of {world_size}"):
        node_parts(10, rank, world_size)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, (2, 4)),
        # A batch script that starts one process itself.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),
        # torchrun, started by srun on each machine.
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "9", "WORLD_SIZE": "16"}, (9, 16)),
        ({"RANK": "", "WORLD_SIZE": ""}, (0, 1)),
    ],
)
def test_launchers_say_which_process_this_is(environ: Mapping[str, str], expected: tuple[int, int]) -> None:
    assert this_node(environ) == expected


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RANK": "1"}, "RANK=1 is set and WORLD_SIZE is not"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 is set and RANK is not"),
        ({"RANK": "one", "WORLD_SIZE": "4"}, "RANK must be a whole number, not 'one'"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "rank 4 of 4"),
        ({"SLURM_PROCID": "7", "SLURM_STEP_NUM_TASKS": "4"}, "rank 7 of 4"),
    ],
)
def test_half_an_environment_is_refused(environ: Mapping[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        this_node(environ)


def test_processes_on_a_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_gpu(environ) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_gpu(environ) == "cuda:1"
    assert local_gpu({}) is None
    assert local_gpu({"SLURM_LOCALID": "0"}) is None


def test_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    """The first of three, then both of two; who comes last finishes."""
    photos = write_photos(tmp_path / "photos", 13, broken=[5])
    job = stand_in_job(photos, tmp_path / "shared", rows_per_shard=2, batch_size=2)
    assert run_local(job, 0, 3, labeler=StandIn()).parts_done == 3
    second, first = StandIn(), StandIn()
    assert run_local(job, 1, 2, labeler=second).parts_done == 5
    assert not (job.out / "manifest.json").exists()
    assert run_local(job, 0, 2, labeler=first) == (7, 12, 24, 1)
    assert [batch[0] for batch in second.asked + first.asked] == ["0002.png", "0010.png", "0004.png", "0008.png"]
    alone = stand_in_job(photos, tmp_path / "alone", rows_per_shard=2, batch_size=2)
    run_local(alone, labeler=StandIn())
    assert digests(job.out) == digests(alone.out)


def test_two_processes_of_torchrun_make_what_one_makes(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", NUM_PHOTOS, broken=[3])
    model = save_tiny(tmp_path / "model")
    call = ["label", str(photos), "--model", str(model), *OPTIONS]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*launcher, "-m", "sam_variants.hub_scripts.cli", *call, "--out", str(tmp_path / "shared")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    reports: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["parts"] for report in reports] == [4, 4]
    assert any(report["is_done"] for report in reports)
    assert sorted(report["this_run"]["images"] for report in reports) == [3, 4]
    alone = CliRunner().invoke(cli.app, [*call, "--out", str(tmp_path / "alone")])
    assert alone.exit_code == 0, alone.output
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")
    assert len(rows_of(tmp_path / "shared")) == NUM_PHOTOS - 1
    assert all(row["objects"] for row in rows_of(tmp_path / "shared"))


def test_half_an_environment_stops_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    result = CliRunner().invoke(cli.app, ["label", str(photos), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "WORLD_SIZE=2 is set and RANK is not" in result.stderr
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(cli.app, ["label", str(photos), "--out", str(tmp_path / "out"), "--engine", "ray"])
    assert result.exit_code == 1
    assert "--engine ray shares the work out itself" in result.stderr
    assert not (tmp_path / "out").exists()
