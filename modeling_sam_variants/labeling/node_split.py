"""Which parts of a source fall to which of several processes, without any of them talking to another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

# Rank and number of processes. torchrun and accelerate set the first two; the others are those of a step that `srun`
# started: SLURM_NTASKS is set in a batch script too, where only one process runs.
TORCHRUN = ("RANK", "WORLD_SIZE")
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


class Node(NamedTuple):
    """One of several processes that share a run.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1


def this_node(environ: Mapping[str, str] = os.environ) -> Node:
    """Which process this is, as torchrun, accelerate or SLURM's `srun` say; the only one where none of them started it.

    Raises:
        ValueError: half of what is needed is set, or numbers that can't be.
    """
    given = [name for name in TORCHRUN if environ.get(name)]
    if len(given) == 1:
        (missing,) = set(TORCHRUN) - set(given)
        raise ValueError(
            f"{given[0]}={environ[given[0]]} is set and {missing} is not; only both, as torchrun sets them, say which "
            f"of how many processes this is: unset {given[0]} to work alone"
        )
    for names in (TORCHRUN, SLURM):
        if all(environ.get(name) for name in names):
            return checked_node(*(whole_number(environ, name) for name in names))
    return Node()


def local_gpu(environ: Mapping[str, str] = os.environ) -> str | None:
    """The GPU of this process where several on a machine share the run; None for the first, or where there is none."""
    for name in LOCAL_RANKS:
        if environ.get(name) and this_node(environ).world_size > 1 and torch.cuda.is_available():
            return f"cuda:{whole_number(environ, name) % torch.cuda.device_count()}"
    return None


def whole_number(environ: Mapping[str, str], name: str) -> int:
    """A variable of the environment as a number."""
    try:
        return int(environ[name])
    except ValueError:
        raise ValueError(f"the environment variable {name} must be a whole number, not {environ[name]!r}") from None


def checked_node(rank: int, world_size: int) -> Node:
    """A node whose numbers fit each other.

    Raises:
        ValueError: they don't.
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(
            f"rank {rank} of {world_size} processes can't be: the least is 0, and it is below their number"
        )
    return Node(rank, world_size)


def node_parts(num_parts: int, rank: int, world_size: int) -> list[int]:
    """The parts that one of several processes labels: every part falls to exactly one.

    They are dealt out in turn, so that all get on alike and a run goes on evenly with another number of processes. What
    is done already doesn't matter: two processes may know of that at different moments.

    Args:
        num_parts: of the source.
        rank: of the process, from 0.
        world_size: how many processes there are.

    Raises:
        ValueError: a rank that can't be.
    """
    checked_node(rank, world_size)
    table = IterableDataset.from_generator(_part_rows, gen_kwargs={"num_parts": num_parts})
    return [row["part"] for row in split_dataset_by_node(table, rank=rank, world_size=world_size)]


def _part_rows(num_parts: int) -> Iterator[dict[str, int]]:
    """The table of parts."""
    for part in range(num_parts):
        yield {"part": part}
