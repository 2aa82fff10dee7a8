"""`benchmark page`: reports become Markdown, and README and PERFORMANCE.md hold what the recorded ones say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from typer.testing import CliRunner

from sam_variants.hub_scripts import benchmark_report, cli
from sam_variants.hub_scripts.benchmark_markdown import TABLES, in_order, markdown_table
from sam_variants.hub_scripts.benchmark_page import BEGIN, END
from sam_variants.hub_scripts.benchmark_summary import LINES, duration, ratio

ROOT = Path(__file__).parent.parent
REPORTS = sorted(Path(__file__).with_name("benchmark_reports").glob("*.json"))


def page(*arguments: Any) -> str:
    result = CliRunner().invoke(cli.app, ["benchmark", "page", *map(str, arguments)], prog_name="sam-variants")
    assert result.exit_code == 0, result.output
    return result.stdout.rstrip("\n")


def numbers_in(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip("\n")


def test_the_recorded_numbers_are_those_of_the_pages() -> None:
    assert numbers_in("README.md") == page("--summary", *REPORTS)
    assert numbers_in("PERFORMANCE.md") == page(*REPORTS)


def test_every_benchmark_is_recorded_and_has_its_lines() -> None:
    assert set(TABLES) == set(LINES) == {json.loads(path.read_text())["benchmark"] for path in REPORTS}


def test_a_page_says_how_and_where(tmp_path: Path) -> None:
    report = json.loads(next(path for path in REPORTS if path.stem == "decode").read_text())
    text = page(*REPORTS)
    assert f"## `{report['command']}`" in text
    assert benchmark_report.circumstances_line(report) in text
    assert text.index("benchmark encode") < text.index("benchmark decode") < text.index("benchmark load")


def test_only_the_numbers_of_a_file_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "README.md"
    target.write_text(f"# Ours\n\n{BEGIN}\nold\n{END}\n\nmore\n", encoding="utf-8")
    assert page("--summary", *REPORTS, "--into", target) == ""
    assert (
        target.read_text(encoding="utf-8") == f"# Ours\n\n{BEGIN}\n\n{page('--summary', *REPORTS)}\n\n{END}\n\nmore\n"
    )


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}", '{"benchmark": "other"}', '{"benchmark": "encode"}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "encode.json"
    if content is not None:
        path.write_text(content)
    result = CliRunner().invoke(cli.app, ["benchmark", "page", str(path)], prog_name="sam-variants")
    assert result.exit_code == 2
    assert "is no report" in result.stderr.replace("\n", " ")


def test_a_file_without_the_lines_is_left_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "README.md"
    target.write_text(f"{END} {BEGIN}")
    arguments = ["benchmark", "page", *map(str, REPORTS), "--into", str(target)]
    assert CliRunner().invoke(cli.app, arguments, prog_name="sam-variants").exit_code == 2
    assert target.read_text() == f"{END} {BEGIN}"


def test_a_table_is_markdown() -> None:
    table = Table("what")
    table.add_column("ms", justify="right")
    table.add_row("a|b", "1.0")
    assert markdown_table(table) == "| what | ms |\n| --- | ---: |\n| a\\|b | 1.0 |"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0034, "3.4 ms"), (0.044, "44 ms"), (0.53, "0.53 s"), (4.21, "4.2 s"), (143.4, "143 s")]
)
def test_durations_have_the_digits_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ratios() -> None:
    assert [ratio(number) for number in (0.97, 2.25, 12.4)] == ["1.0", "2.2", "12"]


def test_the_circumstances_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/sam-variants", "benchmark", "encode", "--models", "a b", "--json"])
    found = benchmark_report.circumstances("cpu")
    assert found["command"] == "sam-variants benchmark encode --models 'a b'"
    assert found["machine"]["processor"]
    assert found["machine"]["accelerator"] is None
    line = benchmark_report.circumstances_line({**found, "settings": {"threads": 2, "device": "cpu"}, "seconds": 12.3})
    assert line.startswith(found["date"])
    assert "2 threads on cpu" in line
    assert line.endswith("12 s in all")


def test_the_tables_are_found_by_name() -> None:
    assert list(in_order([{"benchmark": "load"}, {"benchmark": "encode"}])) == [
        {"benchmark": "encode"},
        {"benchmark": "load"},
    ]
