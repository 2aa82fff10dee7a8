"""Uploads and long requests: refused before they are read, bounded in sum, and nobody shuts out the others."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from demo_server import call, running_space, upload

from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.request_limits import GuardError, HeldBodies, UploadBudget

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
OBJECTS = [{"points": [[155, 50]]}]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_space(tmp_path_factory.mktemp("cache")) as url:
        yield url


@pytest.fixture(scope="module")
def client(space: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=space, timeout=60, trust_env=False) as client:
        yield client


def test_a_large_upload_is_refused_before_it_is_read(space: str) -> None:
    connection = http.client.HTTPConnection(httpx.URL(space).netloc.decode(), timeout=20)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(2 * limits.MAX_UPLOAD_BYTES))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, b"too large" in response.read()) == (413, True)
    connection.close()


def test_an_upload_of_unknown_length_is_refused(client: httpx.Client) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("gradio_api/upload", content=iter([b"--x"]), headers=headers).status_code == 411


def test_uploads_are_bounded_in_sum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    budget = UploadBudget(max_bytes=100, seconds=3600, free_bytes=0)
    budget.take(60)
    for ask in (budget.check, budget.take):
        with pytest.raises(GuardError, match="no room"):
            ask(60)
    budget.check(40)
    budget.take(40)
    with pytest.raises(GuardError, match="no room"):
        UploadBudget(max_bytes=10**18, seconds=3600, free_bytes=10**17).check(1)
    forgetful = UploadBudget(max_bytes=100, seconds=-1, free_bytes=0)
    for _ in range(3):
        forgetful.take(100)


def test_who_only_says_that_much_will_come_takes_no_place(space: str, client: httpx.Client) -> None:
    """Otherwise a few connections that send nothing would shut out everybody."""
    stated = {
        "/gradio_api/upload": (limits.MAX_UPLOAD_BYTES, limits.UPLOAD_BYTES // limits.MAX_UPLOAD_BYTES + 1),
        "/gradio_api/mcp/": (limits.MAX_MCP_BYTES, limits.JSON_BYTES // limits.MAX_MCP_BYTES + 1),
    }
    connections = []
    for path, (num_bytes, count) in stated.items():
        for _ in range(count):
            connection = http.client.HTTPConnection(httpx.URL(space).netloc.decode(), timeout=20)
            connection.putrequest("POST", path)
            connection.putheader("Content-Type", "multipart/form-data; boundary=x")
            connection.putheader("Content-Length", str(num_bytes))
            connection.endheaders(b"--x\r\n")
            connections.append(connection)
    try:
        photo = upload(client, "coins.jpg", COINS.read_bytes())
        assert call(client, "segment", image=photo, objects=OBJECTS, file="none")[0] == "complete"
    finally:
        for connection in connections:
            connection.close()


def test_who_sends_too_slowly_is_told(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SILENT_SECONDS", 0.05)
    for path in ("/gradio_api/upload", "/gradio_api/mcp/", "/gradio_api/queue/join"):
        connection = http.client.HTTPConnection(httpx.URL(space).netloc.decode(), timeout=20)
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"--x\r\n")
        assert connection.getresponse().status == 408, path
        connection.close()


def test_large_requests_are_bounded_in_sum_and_short_ones_go_on() -> None:
    bodies = HeldBodies(100_000)
    with bodies.body() as first:
        first(b"x" * 80_000)
        with bodies.body() as second, pytest.raises(GuardError, match="at once"):
            second(b"x" * 80_000)
        with bodies.body() as click:
            assert click(b"x" * 30_000) == b"x" * 30_000
    assert bodies.num_bytes == 0
