"""`sam-variants demo`: the Space on this machine, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import save_tiny
from typer.testing import CliRunner, Result

from sam_variants.hub_scripts import cli, demo
from sam_variants.spaces_demo import app, models


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["demo", *arguments], prog_name="sam-variants")


def refused(*arguments: str) -> str:
    """The one line that the command says."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How the page would be served, instead of serving it; the models of this process stay as they were."""
    asked: dict[str, Any] = {}

    def serve(announce: Any, **where: Any) -> None:
        asked.update(where)
        announce("http://127.0.0.1:1/")

    monkeypatch.setattr(app, "serve", serve)
    monkeypatch.setattr(models, "_store", None)
    monkeypatch.setattr(webbrowser, "open", lambda url: asked.setdefault("opened", url))
    return asked


def test_what_is_asked_for_is_served(served: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "trained")
    result = run("--model", str(folder), "--model", "facebook/sam2.1-hiera-tiny", "--no-hub")
    assert result.exit_code == 0, result.stderr
    assert served == {"server_name": "127.0.0.1", "server_port": None}
    offered = ["embedded", "embedded-video", "trained", "facebook/sam2.1-hiera-tiny"]
    assert models.store().choices() == offered
    assert not models.store().allow_hub
    assert f"http://127.0.0.1:1/ with {', '.join(offered)}" in result.stdout


def test_a_browser_is_opened_on_request(served: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert run("--open", "--port", str(port), "--host", "::1").exit_code == 0
    assert served == {"server_name": "[::1]", "server_port": port, "opened": "http://127.0.0.1:1/"}
    assert models.store().allow_hub


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert 'the demo needs gradio and mcp, not installed here: pip install "sam-variants[demo]"' in refused()


def test_an_address_that_can_not_be_listened_on(served: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1 port {port} can't be listened on (Address already in use): try another" in refused(
            "--port", port
        )
    assert "--host nowhere.invalid can't be listened on: " in refused("--host", "nowhere.invalid")
    assert served == {}


def test_a_checkpoint_that_is_none(served: dict[str, Any], tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert f"--model {nowhere!r} is neither a file or folder here nor owner/name" in refused("--model", nowhere)
    for name in ("one", "two"):
        (tmp_path / name / "same").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert "empty can't be loaded" in refused("--model", str(tmp_path / "empty"))
    twice = ["--model", str(tmp_path / "one" / "same"), "--model", str(tmp_path / "two" / "same")]
    assert "two checkpoints are called 'same'" in refused(*twice)
    assert served == {}


def heed_interrupts() -> None:
    """What a shell starts in the background, tests too, would else ignore Ctrl+C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_it_runs_and_ends(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "trained")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "sam_variants.hub_scripts.cli",
        "demo",
        "--port",
        str(port),
        "--model",
        str(folder),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=heed_interrupts,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "The demo is at" in line:
                break
        found = re.search(r"The demo is at (\S+) with embedded, embedded-video, trained;", lines[-1])
        assert found, lines
        assert found[1] == f"http://127.0.0.1:{port}/"
        page = httpx.get(found[1], timeout=30)
        assert page.is_success
        assert "Segment Anything" in page.text
        tools = httpx.get(f"{found[1]}gradio_api/mcp/schema", timeout=30).json()
        assert any("segment" in tool["name"] for tool in tools)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.communicate()
