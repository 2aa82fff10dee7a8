"""`sam-variants browse`: the page of a labeled dataset in a process of its own, and what is refused in one line."""

from __future__ import annotations

import socket
import webbrowser
from pathlib import Path
from typing import Any

import pytest
from browse_examples import disc_image, write_dataset
from typer.testing import CliRunner, Result

from sam_variants.hub_scripts import cli, demo
from sam_variants.spaces_demo import browse_page


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["browse", *arguments], prog_name="sam-variants")


def refused(*arguments: str) -> str:
    """The one line that the command says."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be served and how, instead of serving it."""
    asked: dict[str, Any] = {}

    def serve_page(build: Any, options: Any, announce: Any, **where: Any) -> None:
        asked.update(where, page=build(), options=options())
        announce("http://127.0.0.1:1/")

    monkeypatch.setattr(browse_page, "serve_page", serve_page)
    monkeypatch.setattr(webbrowser, "open", lambda url: asked.setdefault("opened", url))
    return asked


def test_a_dataset_is_served(served: dict[str, Any], tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "discs <b>", [[disc_image(0), disc_image(1)]])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = run(str(folder), "--open", "--port", str(port), "--host", "::1")
    assert result.exit_code == 0, result.stderr
    assert "the page of 2 images" in result.stdout
    assert f"{folder} is at http://127.0.0.1:1/; Ctrl+C ends it." in result.stdout
    assert (served["server_name"], served["server_port"]) == ("[::1]", port)
    assert served["opened"] == "http://127.0.0.1:1/"
    assert not served["options"]["mcp_server"]
    assert served["page"].title == "discs <b> · labeled dataset"
    assert "<b>" not in str([block.get_config().get("value") for block in served["page"].blocks.values()])
    # To look is to leave everything as it is.
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_is_no_dataset_is_refused(served: dict[str, Any], tmp_path: Path) -> None:
    assert "is no output of sam-variants label" in refused(str(tmp_path / "nowhere"))
    assert "is no output of sam-variants label" in refused(str(tmp_path))
    folder = write_dataset(tmp_path / "out", [[disc_image(0)]])
    (shard,) = (folder / "data").iterdir()
    shard.write_bytes(shard.read_bytes()[:-10])
    assert f"the shard {str(shard)!r} can't be read" in refused(str(folder))
    shard.unlink()
    assert f"the shard {str(shard)!r} is missing" in refused(str(folder))
    (folder / "label.json").write_text("{", encoding="utf-8")
    assert "label.json' is damaged" in refused(str(folder))
    assert served == {}


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name in ("mcp", "pyarrow") else object())
    told = refused(str(tmp_path))
    assert 'browsing needs mcp and pyarrow, not installed here: pip install "sam-variants[demo,label]"' in told


def test_an_address_that_can_not_be_listened_on(served: dict[str, Any], tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "out", [[disc_image(0)]])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1 port {port} can't be listened on" in refused(str(folder), "--port", port)
    assert served == {}
