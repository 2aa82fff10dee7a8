"""What the Space leaves on the disk: nothing that is old, whoever wrote it, and nothing at all at the end."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from demo_server import upload
from gradio.utils import get_upload_folder

from sam_variants.hub_scripts.demo_process import free_port
from sam_variants.spaces_demo import housekeeping, limits, serving
from sam_variants.spaces_demo.housekeeping import delete_old, own_cache

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"


def test_what_is_old_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "of-a-visitor"
    folder.mkdir(parents=True)
    (folder / "photo.jpg").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"x")
    delete_old(tmp_path / "cache", 100)
    assert (folder / "photo.jpg").exists()
    for _ in range(2):  # a folder is changed by what is deleted from it
        delete_old(tmp_path / "cache", -1)
    assert list((tmp_path / "cache").iterdir()) == []
    assert (tmp_path / "elsewhere").exists()


def test_the_cache_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(limits, "CACHE_CHECK_SECONDS", 0.02)
    monkeypatch.setattr(limits, "SESSION_SECONDS", -1)
    (tmp_path / "of-somebody-else").write_bytes(b"x")
    called = []

    def fails() -> None:
        called.append(1)
        raise RuntimeError

    monkeypatch.setattr(housekeeping.logger, "exception", lambda text: None)
    with own_cache(fails) as folder:
        assert get_upload_folder() == str(folder)
        (folder / "part-of-an-upload").write_bytes(b"x")
        deadline = time.monotonic() + 10
        while (folder / "part-of-an-upload").exists() or len(called) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert get_upload_folder() == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["of-somebody-else"]


def test_it_ends_when_it_is_told_to_and_leaves_nothing(tmp_path: Path) -> None:
    port = free_port()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GRADIO_SERVER_PORT": str(port),
        "TMPDIR": str(tmp_path),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("GRADIO_TEMP_DIR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "sam_variants.spaces_demo.app"],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "The Space is at" in line:
                break
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/", timeout=20, trust_env=False) as client:
            upload(client, "coins.jpg", COINS.read_bytes())
            broken = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            broken.putrequest("POST", "/gradio_api/upload")
            broken.putheader("Content-Type", "multipart/form-data; boundary=x")
            broken.putheader("Content-Length", "100000")
            broken.endheaders(b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\nxxxx')
            broken.close()
            # Somebody who stays: the end doesn't wait for him.
            with client.stream("GET", "gradio_api/heartbeat/visitor") as stream:
                next(stream.iter_lines())
                assert any(tmp_path.glob("sam_variants_space_*/*"))
                process.terminate()
                said, _ = process.communicate(timeout=15)
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("sam_variants")] == []
    finally:
        process.kill()
        process.communicate()


def test_the_system_keeps_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    with own_cache() as folder:
        assert folder.parent == Path(tempfile.gettempdir())
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_freed_pixels_go_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it six visitors with large photos leave two gigabytes behind that nobody has."""
    asked = []
    library = SimpleNamespace(mallopt=lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(serving.ctypes, "CDLL", lambda name: library)
    serving.give_memory_back()
    [(option, num_bytes)] = asked
    assert option == -3
    assert num_bytes < 16 * 2**20 - 4096  # Pillow's blocks
    monkeypatch.setattr(serving.ctypes, "CDLL", lambda name: SimpleNamespace())  # as on systems without it
    serving.give_memory_back()
