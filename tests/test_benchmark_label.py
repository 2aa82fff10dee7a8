"""The benchmark `label`: all make the same masks, and the report says what was measured."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts import benchmark_label
from sam_variants.hub_scripts.benchmark_everything import own_options
from sam_variants.hub_scripts.benchmark_generators import OURS, THEIRS
from sam_variants.hub_scripts.benchmark_label import LABEL, LOOP, Work, measure_label, write_images
from sam_variants.hub_scripts.benchmark_label_tables import label_tables
from sam_variants.hub_scripts.benchmark_labeling import MEASUREMENTS, main
from sam_variants.hub_scripts.benchmark_settings import LabelingSettings


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, 2, 0.02)
    model = str(default_checkpoint())
    return Work(LABEL, str(folder), model, 2, options=own_options(model) | {"points_per_side": 6})


def test_labeling_and_both_loops_make_the_same_masks(work: Work) -> None:
    labeled = MEASUREMENTS[LABEL](work)
    loops = [MEASUREMENTS[LOOP](replace(work, what=LOOP, generator=name)) for name in (OURS, THEIRS)]
    assert labeled["images"] == 2
    assert labeled["masks"] > 5
    assert {loop["masks"] for loop in loops} == {labeled["masks"]}
    assert 0 < labeled["writing"] < 1
    assert [done for done, _ in labeled["memory"]] == [1, 2]


def test_a_measurement_prints_a_line(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    main([json.dumps(asdict(replace(work, what=LOOP, count=1)))])
    assert json.loads(capsys.readouterr().out)["images"] == 1


def test_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Work] = []

    def measured(work: Work) -> dict[str, object]:
        asked.append(work)
        seconds = {OURS: 2.0, THEIRS: 20.0}[work.generator] if work.what == LOOP else 1.0 * work.count
        shares = {"writing": 0.015, "resuming": 0.01, "memory": [(1, 5_000_000), (2, None)]}
        return {"images": work.count, "masks": 3 * work.count, "seconds": seconds} | shares

    monkeypatch.setattr(benchmark_label, "measured_alone", measured)
    shares: list[float] = []
    settings = LabelingSettings(images=2, their_images=2, memory_images=3, jobs=(1, 4))
    report = json.loads(json.dumps(measure_label(settings, shares.append)))
    assert sum(shares) == pytest.approx(1)
    assert [(each.what, each.jobs) for each in asked] == [(LABEL, 1), (LABEL, 4), (LOOP, 1), (LOOP, 1), (LABEL, 1)]
    assert all(not Path(each.folder).exists() for each in asked)
    console = Console(width=160, record=True, file=io.StringIO())
    for table in label_tables(report):
        console.print(table)
    text = console.export_text()
    for expected in ("label --jobs 4", "10×", "1.5 %", "1.0 %", "5 MB", "3 images"):
        assert expected in text
