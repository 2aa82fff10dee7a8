"""The plan of a large labeling run: the simulation of machines that vanish, and the command."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from typing import Any

import pytest
from typer.testing import CliRunner

from sam_variants.hub_scripts import cli
from sam_variants.hub_scripts.label_plan import amount, duration
from sam_variants.labeling import label_folder
from sam_variants.labeling.spot_simulation import MAX_PARTS, SpotOutcome, SpotPlan, simulate

# 40 machines that live 2 h and are missing 10 min; shards of 500 s.
PLAN = SpotPlan(
    images=1_000_000,
    seconds_per_image=0.5,
    machines=40,
    rows_per_shard=1000,
    batch_size=16,
    startup_seconds=120,
    vanish_after_seconds=7200,
    return_after_seconds=600,
)


def run(plan: SpotPlan, seed: int = 0) -> SpotOutcome:
    outcome = simulate(plan, seed)
    assert outcome is not None
    return outcome


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["label-plan", *map(str, arguments)], prog_name="sam-variants")


def test_machines_that_stay_take_what_division_says() -> None:
    """103 shards of which the last has a third of the rows, on 10 machines: the fastest do 11 of them."""
    plan = SpotPlan(images=10_233, seconds_per_image=2, machines=10, rows_per_shard=100, startup_seconds=30)
    outcome = run(plan)
    assert outcome.wall_seconds == pytest.approx(30 + 11 * 200)
    assert outcome.useful_seconds == pytest.approx(2 * 10_233)
    assert outcome.startup_seconds == pytest.approx(300)
    assert (outcome.lost_seconds, outcome.vanished) == (0, 0)
    # Two did 11, one 10 and a third, seven 10.
    assert outcome.idle_seconds == pytest.approx(7 * 200 + 200 - 66)


def test_each_with_its_own_parts_is_paid_until_these_are_done() -> None:
    plan = SpotPlan(images=10_233, seconds_per_image=2, machines=10, rows_per_shard=100, startup_seconds=30)
    outcome = run(replace(plan, sharing="own"))
    assert outcome.wall_seconds == pytest.approx(30 + 11 * 200)
    assert outcome.paid_seconds == pytest.approx(300 + 2 * 10_233)


@pytest.mark.parametrize("sharing", ["any", "own"])
@pytest.mark.parametrize("journal", ["shared", "machine"])
def test_every_image_is_kept_once(journal: Any, sharing: Any) -> None:
    outcome = run(replace(PLAN, journal=journal, sharing=sharing))
    assert outcome.useful_seconds == pytest.approx(PLAN.images * PLAN.seconds_per_image)
    assert outcome.vanished > 20
    assert outcome.paid_seconds <= PLAN.machines * outcome.wall_seconds * (1 + 1e-9)


def test_the_same_seed_gives_the_same() -> None:
    assert run(PLAN, 3) == run(PLAN, 3) != run(PLAN, 4)


def test_a_shared_journal_follows_its_formula() -> None:
    """As --help has it: each life loses its start and half a batch."""
    life, start, batch = 7200, 120, 16 * 0.5
    outcome = run(replace(PLAN, images=10_000_000))
    expected = 5e6 * (life + 600) / (40 * (life - start - batch / 2))
    assert outcome.wall_seconds == pytest.approx(expected, rel=0.03)
    assert outcome.lost_seconds / outcome.vanished == pytest.approx(batch / 2, rel=0.1)


def test_a_lost_journal_follows_its_formula() -> None:
    """A shard of T seconds takes V (exp(T / V) − 1) where it has to be done in one life."""
    plan = SpotPlan(
        images=2_000_000,
        seconds_per_image=1,
        machines=1,
        rows_per_shard=500,
        vanish_after_seconds=400,
        journal="machine",
    )
    assert run(plan).wall_seconds / 4000 == pytest.approx(400 * (math.exp(500 / 400) - 1), rel=0.05)


def test_a_shared_journal_and_free_parts_are_never_worse() -> None:
    wall = {
        (journal, sharing): run(replace(PLAN, journal=journal, sharing=sharing, rows_per_shard=5000)).wall_seconds
        for journal in ("shared", "machine")
        for sharing in ("any", "own")
    }
    assert wall["shared", "any"] < wall["machine", "any"] < wall["machine", "own"]
    assert wall["shared", "any"] < wall["shared", "own"]


def test_lives_too_short_for_a_shard_never_end() -> None:
    plan = replace(PLAN, rows_per_shard=200_000, journal="machine")
    assert simulate(plan) is None
    assert simulate(replace(plan, journal="shared")) is not None
    # Nor does anything where machines vanish before they have started.
    assert simulate(replace(PLAN, startup_seconds=8 * 7200)) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", 0),
        ("machines", 0),
        ("rows_per_shard", -1),
        ("batch_size", 0),
        ("seconds_per_image", 0),
        ("seconds_per_image", math.inf),
        ("seconds_per_image", math.nan),
        ("vanish_after_seconds", -1),
        ("return_after_seconds", -1),
        ("startup_seconds", math.nan),
    ],
)
def test_numbers_that_cannot_be_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        replace(PLAN, **{name: value})


def test_no_more_shards_than_the_folder_takes() -> None:
    assert MAX_PARTS == label_folder.MAX_PARTS
    with pytest.raises(ValueError, match="take more rows per shard"):
        replace(PLAN, images=MAX_PARTS * 1000 + 1)


def test_the_command_reports_what_the_simulation_finds() -> None:
    options = ["--images", "1e6", "--seconds-per-image", 0.5, "--machines", 40, "--price-per-hour", 0.4]
    spot = ["--vanish-after-hours", 2, "--batch-size", 16, "--steady-price-per-hour", 1.2]
    result = command(*options, *spot, "--bytes-per-image", 1e5, "--bytes-per-label", 1e4, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["plan"] == asdict(PLAN)
    runs = report["runs"]
    assert list(runs) == ["machines stay", "journal shared", "journal lost"]
    assert [each["price_per_hour"] for each in runs.values()] == [1.2, 0.4, 0.4]
    expected = run(PLAN)
    shared = runs["journal shared"]
    assert shared["wall_hours"] == pytest.approx(expected.wall_seconds / 3600)
    assert shared["cost"] == pytest.approx(0.4 * expected.paid_seconds / 3600)
    assert shared["vanished"] == expected.vanished
    assert shared["images_again"] == pytest.approx(expected.lost_seconds / 0.5)
    assert sum(shared["shares"].values()) == pytest.approx(1)
    assert runs["machines stay"]["vanished"] == 0
    output = report["output"]
    assert (output["shards"], output["files"], output["bytes"]) == (1000, 2006, 1.1e11)
    assert output["written_bytes_per_second"] == pytest.approx(80 * 1.1e5)


def test_the_tables_fit_a_terminal() -> None:
    options = ["--images", "1e8", "--seconds-per-image", 0.02, "--machines", 100, "--price-per-hour", 0.4]
    result = command(*options, "--vanish-after-hours", 0.05, "--rows-per-shard", 100_000)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "would not end" in result.stdout
    assert "21.0 TB" in result.stdout
    assert re.search(r"machine hours +│ +558\.9", result.stdout)


def test_without_vanishing_there_is_one_run() -> None:
    result = command("--images", 1000, "--seconds-per-image", 1, "--engine", "nodes", "--json")
    report = json.loads(result.stdout)
    assert list(report["runs"]) == ["machines stay"]
    assert report["plan"]["sharing"] == "own"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--images", 0.5], "--images must be at least 1"),
        (["--images", 10.5], "--images must be a whole number"),
        (["--images", "nan"], "--images must be"),
        (["--images", 10, "--price-per-hour", -1], "--price-per-hour must be at least 0"),
        (["--images", 10, "--machines", 0], "machines must be at least 1"),
        (["--images", "1e12", "--rows-per-shard", 1], "take more rows per shard"),
    ],
)
def test_the_command_refuses_by_name(arguments: list[Any], told: str) -> None:
    result = command(*arguments, "--seconds-per-image", 1)
    assert result.exit_code == 1
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_people_read_times_and_amounts() -> None:
    assert [duration(seconds) for seconds in (90, 600, 9000, 400_000)] == ["90 s", "10.0 min", "2.5 h", "4.6 days"]
    told = [amount(count) for count in (10, 2e3, 3e6, 4e9, 5e15)]
    assert told == ["10 B", "2.0 kB", "3.0 MB", "4.0 GB", "5,000.0 TB"]
