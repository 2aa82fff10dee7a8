"""The benchmark `load`: a load is measured in a process of its own, and the report holds numbers against the aims."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tiny import tiny_model
from typer.testing import CliRunner

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts import benchmark_load, cli
from sam_variants.hub_scripts.benchmark_load import HELP, OURS, THEIRS, measure_load, medians, run_alone
from sam_variants.hub_scripts.benchmark_load_tables import load_tables
from sam_variants.hub_scripts.benchmark_loading import CHECKPOINT, LOADERS, PIPELINE, PRETRAINED, main
from sam_variants.hub_scripts.benchmark_settings import LoadSettings

LOADED = {"seconds": 0.25, "cpu_seconds": 0.5, "weights_bytes": 300_000_000, "peak_bytes": 330_000_000}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_load_is_one_line(loader: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([loader, str(default_checkpoint())])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    stored = (default_checkpoint() / "model.safetensors").stat().st_size
    assert found["weights_bytes"] == pytest.approx(2 * stored, rel=0.1)  # stored in half precision
    assert found["seconds"] > 0
    assert found.keys() == LOADED.keys()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A small preset, and processes that are only written down."""
    commands: list[list[str]] = []

    def answer(command: list[str], threads: int) -> str:
        commands.append(command)
        if "-m" in command:
            peak = None if CHECKPOINT in command else LOADED["peak_bytes"] * (1 + ("pipeline" in command))
            return json.dumps(LOADED | {"peak_bytes": peak})
        return "[0.125, 0.25]"

    monkeypatch.setattr(benchmark_load, "run_alone", answer)
    monkeypatch.setattr(benchmark_load, "benchmark_model", lambda *_: tiny_model("vit"))
    return commands


def test_the_report(asked: list[list[str]]) -> None:
    shares: list[float] = []
    report = json.loads(json.dumps(measure_load(LoadSettings(repeats=2), shares.append)))
    assert sum(shares) == pytest.approx(1)
    assert report["starts"]["added"] == {"seconds": 0.125, "cpu_seconds": 0.25}
    assert set(report["embedded"]) == {PRETRAINED, PIPELINE}
    assert set(report["preset"]) == {PRETRAINED, CHECKPOINT, THEIRS}
    assert sum(command[1:] == ["--help"] for command in asked) == 2
    folders = {Path(command[-1]) for command in asked if "-m" in command}
    assert {folder.name for folder in folders} == {default_checkpoint().name, OURS, THEIRS}
    assert [folder for folder in folders if folder.exists()] == [default_checkpoint()]
    console = Console(width=160, record=True, file=io.StringIO())
    for table in load_tables(report):
        console.print(table)
    text = console.export_text()
    report["preset"][PRETRAINED]["weights_bytes"] = 150e6
    assert load_tables(report)[-1].columns[-1]._cells == ["–"] * 3, "too small to be judged"
    for expected in (HELP, "which adds", "300 MB", "330 MB", "1.10×", "≤ 1.2 yes", "≤ 0.5 yes", "sam-vit-base", "–"):
        assert expected in text, expected


def test_quick_and_alone(asked: list[list[str]]) -> None:
    arguments = ["benchmark", "load", "--quick", "--skip-transformers", "--json"]
    result = CliRunner().invoke(cli.app, arguments, prog_name="sam-variants")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["benchmark"] == "load"
    assert report["settings"]["repeats"] == 1
    assert set(report["preset"]) == {PRETRAINED, CHECKPOINT}
    assert len(asked) == 9


def test_failures_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="failed: ValueError: broken"):
        run_alone([sys.executable, "-c", "raise ValueError('broken')"], 1)
    monkeypatch.setattr(benchmark_load.shutil, "which", lambda *_, **__: None)
    with pytest.raises(OSError, match="the command sam-variants is not installed"):
        benchmark_load.installed_command()
    with pytest.raises(ValueError, match="'sam-vit-tiniest' is none of"):
        LoadSettings(preset="sam-vit-tiniest")


def test_medians() -> None:
    results = [{"seconds": value, "peak_bytes": None if value == 2 else 5} for value in (3.0, 1.0, 2.0)]
    assert medians(results) == {"seconds": 2.0, "peak_bytes": None}
