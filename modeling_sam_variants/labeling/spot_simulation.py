"""Machines that vanish and come back, simulated event by event: what that costs a labeling run."""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Journal = Literal["shared", "machine"]
Sharing = Literal["any", "own"]

# e to this: how often a piece of work is begun, on average, before a machine lives long enough to end it.
MAX_EXPONENT = 7.0
MAX_PARTS = 1_000_000


@dataclass(frozen=True)
class SpotPlan:
    """A labeling run and the machines for it.

    Attributes:
        images: how many there are.
        seconds_per_image: of one machine with all its cores or its GPU.
        machines: how many work at the same time when none is missing.
        rows_per_shard: images in a part of the source, which one machine labels at a time.
        batch_size: images that are journaled together.
        startup_seconds: from when a machine is paid to when it labels.
        vanish_after_seconds: mean life of a machine, exponentially distributed; None where machines stay.
        return_after_seconds: mean time until another stands in for one that vanished, exponentially distributed.
        journal: where the rows since the last whole shard lie: on storage that outlives the machine, or on its disk.
        sharing: "any" machine takes the next free part (Ray), or each labels its "own" (torchrun, SLURM).
    """

    images: int
    seconds_per_image: float
    machines: int = 1
    rows_per_shard: int = 1000
    batch_size: int = 8
    startup_seconds: float = 0.0
    vanish_after_seconds: float | None = None
    return_after_seconds: float = 0.0
    journal: Journal = "shared"
    sharing: Sharing = "any"

    def __post_init__(self) -> None:
        for name in ("images", "machines", "rows_per_shard", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("seconds_per_image", "vanish_after_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value:g}")
        for name in ("startup_seconds", "return_after_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be below 0, but is {getattr(self, name):g}")
        if self.num_parts > MAX_PARTS:
            raise ValueError(
                f"{self.images} images in shards of {self.rows_per_shard} are {self.num_parts} shards, more than the "
                f"{MAX_PARTS} that the output folder takes: take more rows per shard"
            )

    @property
    def num_parts(self) -> int:
        return -(-self.images // self.rows_per_shard)

    def ends(self) -> bool:
        """Whether machines live long enough to get anywhere.

        A piece that has to be done in one life, start of the machine included, is begun exp(its time / mean life) times
        on average: a whole shard where the journal vanishes with its machine, else a batch.
        """
        if self.vanish_after_seconds is None:
            return True
        rows = min(self.images, self.rows_per_shard if self.journal == "machine" else self.batch_size)
        piece = self.startup_seconds + rows * self.seconds_per_image
        return piece <= MAX_EXPONENT * self.vanish_after_seconds


@dataclass(frozen=True)
class SpotOutcome:
    """What a run took, in seconds; those of machines are summed over all of them and make up `paid_seconds`.

    Attributes:
        wall_seconds: from the first start to the last image.
        useful_seconds: for images that were kept.
        lost_seconds: for images that had to be done again.
        startup_seconds: for machines that were not ready yet.
        idle_seconds: waited for others at the end.
        vanished: how often a machine did.
    """

    wall_seconds: float
    useful_seconds: float
    lost_seconds: float
    startup_seconds: float
    idle_seconds: float
    vanished: int

    @property
    def paid_seconds(self) -> float:
        return self.useful_seconds + self.lost_seconds + self.startup_seconds + self.idle_seconds


class Work(NamedTuple):
    """A part of the source and how many of its rows are still to do."""

    part: int
    rows: int


@dataclass(eq=False)
class Machine:
    """One of the machines, or whichever stands in for it.

    Attributes:
        number: its place among the others.
        alive: whether there is one that is paid.
        dies_at: when it vanishes.
        since: when it began what it does.
        ready: whether it has started.
        work: what it labels.
        turn: grows with every change of plan, so that events of earlier plans are known.
    """

    number: int
    alive: bool = False
    dies_at: float = math.inf
    since: float = 0.0
    ready: bool = False
    work: Work | None = None
    turn: int = 0


@dataclass
class Simulation:
    """A run of a plan: events in order of time, each the end of what one machine does."""

    plan: SpotPlan
    generator: random.Random
    events: list[tuple[float, int, int]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("useful", "lost", "startup", "idle"), 0.0))
    vanished: int = 0

    def __post_init__(self) -> None:
        self.machines = [Machine(number) for number in range(self.plan.machines)]
        self.rows_left = self.plan.images
        self.waiting: deque[Machine] = deque()
        self.returned: dict[int, deque[Work]] = defaultdict(deque)
        self.next_part = [0] if self.plan.sharing == "any" else list(range(self.plan.machines))

    def run(self) -> SpotOutcome:
        """From the start of all machines to the last row."""
        for machine in self.machines:
            self.start(machine, 0.0)
        now = 0.0
        while self.rows_left:
            now, number, turn = heapq.heappop(self.events)
            machine = self.machines[number]
            if turn != machine.turn:
                continue
            if not machine.alive:
                self.start(machine, now)
            elif now >= machine.dies_at:
                self.vanish(machine, now)
            else:
                self.advance(machine, now)
        for machine in self.machines:
            if machine.alive:
                self.spend(machine, now)
        spent = self.seconds
        return SpotOutcome(now, spent["useful"], spent["lost"], spent["startup"], spent["idle"], self.vanished)

    def plan_until(self, machine: Machine, now: float, then: float) -> None:
        """A machine begins something that ends then, or with the machine."""
        machine.since = now
        machine.turn += 1
        end = min(then, machine.dies_at) if machine.alive else then
        heapq.heappush(self.events, (end, machine.number, machine.turn))

    def start(self, machine: Machine, now: float) -> None:
        mean = self.plan.vanish_after_seconds
        machine.alive, machine.ready = True, False
        machine.dies_at = math.inf if mean is None else now + self.generator.expovariate(1 / mean)
        self.plan_until(machine, now, now + self.plan.startup_seconds)

    def advance(self, machine: Machine, now: float) -> None:
        """A machine is ready, or done with a part, or called: it takes the next part, or waits."""
        self.spend(machine, now)
        if machine.work is not None:
            self.rows_left -= machine.work.rows
        machine.ready, machine.work = True, self.next_work(machine)
        if machine.work is not None:
            self.plan_until(machine, now, now + machine.work.rows * self.plan.seconds_per_image)
        elif self.plan.sharing == "any":
            self.waiting.append(machine)
            self.plan_until(machine, now, math.inf)
        else:
            machine.alive = False  # its process has ended
            machine.turn += 1

    def spend(self, machine: Machine, now: float) -> None:
        """Count what a machine's time since its last event was for."""
        kind = "useful" if machine.work is not None else "idle" if machine.ready else "startup"
        self.seconds[kind] += now - machine.since

    def vanish(self, machine: Machine, now: float) -> None:
        self.vanished += 1
        work, elapsed = machine.work, now - machine.since
        if work is None:
            self.spend(machine, now)
            if machine.ready:
                self.waiting.remove(machine)
        machine.alive, machine.work = False, None
        delay = self.plan.return_after_seconds
        self.plan_until(machine, now, now + (self.generator.expovariate(1 / delay) if delay else 0.0))
        if work is not None:
            self.give_back(self.share(machine), work, elapsed)
            if self.waiting:
                self.advance(self.waiting.popleft(), now)

    def give_back(self, share: int, work: Work, elapsed: float) -> None:
        """Part of the time was for nothing; the next who asks goes on where the journal ends."""
        plan, kept = self.plan, 0
        if plan.journal == "shared":
            batches = int(elapsed / (plan.seconds_per_image * plan.batch_size))
            kept = min(batches * plan.batch_size, work.rows)
        self.seconds["useful"] += kept * plan.seconds_per_image
        self.seconds["lost"] += elapsed - kept * plan.seconds_per_image
        self.rows_left -= kept
        if work.rows > kept:
            self.returned[share].append(Work(work.part, work.rows - kept))

    def share(self, machine: Machine) -> int:
        return 0 if self.plan.sharing == "any" else machine.number

    def next_work(self, machine: Machine) -> Work | None:
        """What was given back first, so that no part is late; then what nobody has begun."""
        share, plan = self.share(machine), self.plan
        if self.returned[share]:
            return self.returned[share].popleft()
        part = self.next_part[share]
        if part >= plan.num_parts:
            return None
        self.next_part[share] += len(self.next_part)
        return Work(part, min(plan.rows_per_shard, plan.images - part * plan.rows_per_shard))


def simulate(plan: SpotPlan, seed: int = 0) -> SpotOutcome | None:
    """Run a plan once.

    Args:
        plan: the run and its machines.
        seed: of the machines' lives; the same gives the same.

    Returns:
        what it took, or None where machines live too short to ever end it (`SpotPlan.ends`).
    """
    return Simulation(plan, random.Random(seed)).run() if plan.ends() else None
