"""The benchmark of the Space: that it visits the page as people do, that its numbers add up, and the reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from sam_variants.hub_scripts import benchmark_demo, cli, demo_process
from sam_variants.hub_scripts.benchmark_demo import Visits, demo_tables, places, summary, write_photos
from sam_variants.hub_scripts.benchmark_settings import DemoSettings
from sam_variants.hub_scripts.demo_browser import found_browser
from sam_variants.spaces_demo import limits


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["benchmark", "demo", *map(str, arguments)], prog_name="sam-variants")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    result = call("--users", 2, "--clicks", 2, "--pause", 0, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_every_click_is_answered(report: dict[str, Any]) -> None:
    assert report["one"]["driver"].startswith("HTTP" if found_browser() is None else "Chromium 1")
    for visits, users in ((report["one"], 1), (report["many"], 2)):
        assert visits["first_mask"]["count"] == users
        assert visits["click"]["count"] == 2 * users
        assert visits["refusals"] == []
        assert 0 < visits["click"]["median"] <= visits["click"]["p95"]
    assert 0 < report["ready_seconds"] < report["seconds"]


def test_memory_is_that_of_the_process_with_the_model(report: dict[str, Any]) -> None:
    assert report["limit_bytes"] == limits.MEMORY_GIB * 2**30
    assert 200e6 < report["peak_bytes"] < report["limit_bytes"]


def test_the_tables_tell_it(report: dict[str, Any]) -> None:
    console = Console(width=200, record=True)
    for table in demo_tables(report):
        console.print(table)
    text = console.export_text()
    for expected in (report["one"]["driver"], "GiB", "yes", "start to ready", "1024×768"):
        assert expected in text


def test_a_space_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_process, "MODULE", "no_such_module")
    result = call("--users", 1)
    assert result.exit_code == 1
    assert "No module named" in result.output


def test_refusals_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Refusing:
        def __init__(self, url: str) -> None:
            raise benchmark_demo.SessionError("The queue is full.", 503)

    monkeypatch.setattr(benchmark_demo, "DemoSession", Refusing)
    found = benchmark_demo.visit("http://127.0.0.1:1/", tmp_path, 1, 0.0)
    assert found == Visits([], [], ["The queue is full."])
    assert found.report()["click"] == {"count": 0, "median": None, "p95": None}


def test_photos_and_places_differ_and_are_always_the_same(tmp_path: Path) -> None:
    photos = [np.asarray(Image.open(path)) for path in write_photos(tmp_path, 3)]
    assert all(photo.shape == (768, 1024, 3) for photo in photos)
    assert not np.array_equal(photos[0], photos[1])
    assert places(3) == places(3)
    assert len(set(places(11))) == 11
    assert all(0 < share < 1 for place in places(11) for share in place)


def test_summaries() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"count": 3, "median": 2.0, "p95": pytest.approx(2.9)}
    assert DemoSettings().users == 30
