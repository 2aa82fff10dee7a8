"""`sam-variants push-space`: what goes to the Hub runs there with nothing else than its requirements."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from huggingface_hub import SpaceCard, constants, snapshot_download
from local_hub import LocalHub
from PIL import Image
from pycocotools import mask as mask_utils
from test_push_folder import writes
from typer.testing import CliRunner, Result

from sam_variants.hub_scripts.cli import app
from sam_variants.hub_scripts.push_space import write_space
from sam_variants.processing.video_reader import read_frames
from sam_variants.processing.video_writer import VideoWriter

SPACE = Path(__file__).resolve().parent.parent / "spaces_demo"
EXAMPLES = SPACE / "examples"
ADDRESS = "http://127.0.0.1:7860"
COIN = (155, 50)
# As on ZeroGPU: a call goes to another process, and so does its answer.
FAKE_SPACES = """
import functools, inspect, pickle, sys

print("spaces came", "after" if "torch" in sys.modules else "before", "torch", flush=True)

def elsewhere(value):
    return pickle.loads(pickle.dumps(value))

def GPU(duration):
    def decorate(function):
        @functools.wraps(function)
        def lent(*args, **kwargs):
            print("lent to", function.__name__, flush=True)
            args, kwargs = elsewhere((args, kwargs))
            return elsewhere(function(*args, **kwargs))
        @functools.wraps(function)
        def lent_for_long(*args, **kwargs):
            print("lent to", function.__name__, flush=True)
            args, kwargs = elsewhere((args, kwargs))
            yield from map(elsewhere, function(*args, **kwargs))
        return lent_for_long if inspect.isgeneratorfunction(function) else lent
    return decorate

def gradio_auto_wrap(function):
    return function
"""


@contextmanager
def running(folder: Path, *paths: Path) -> Iterator[tuple[str, list[str]]]:
    """The app of a Space's folder in a process that finds no other package of ours; its address and what it prints."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Without `site`, no editable install adds itself to what can be imported.
    python = [sys.executable, "-S"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [*paths, sysconfig.get_paths()["purelib"]])),
        "PYTHONUNBUFFERED": "1",
        "GRADIO_SERVER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    nowhere = subprocess.run([*python, "-c", "import sam_variants"], cwd=SPACE, env=environment, capture_output=True)
    assert b"No module named 'sam_variants'" in nowhere.stderr
    process = subprocess.Popen(
        [*python, "app.py"], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line.strip())
            if line.startswith("The Space is at "):
                break
        else:
            raise AssertionError("\n".join(printed))
        yield f"http://127.0.0.1:{port}", printed
    finally:
        process.terminate()
        printed += process.communicate(timeout=30)[0].splitlines()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["push-space", *arguments])


def report(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_space_runs_from_what_was_pushed(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = report("me/demo", "--private", "--message", "The demo")
    assert pushed["creates"]
    assert hub.titles("me/demo", "space") == ["The demo", "initial commit"]
    again = report("me/demo")
    assert [file for file in again["files"] if file["change"] != "unchanged"] == []
    assert again["commit_url"] is None
    assert len(hub.titles("me/demo", "space")) == 2
    card = SpaceCard.load("me/demo")
    assert card.data.sdk == "gradio"
    assert card.data.thumbnail == f"{constants.ENDPOINT}/spaces/me/demo/resolve/main/thumbnail.png"
    names = set(hub.files("me/demo", "space"))
    assert {"app.py", "README.md", "requirements.txt", "thumbnail.png"} <= names
    assert {"sam_variants/__init__.py", "sam_variants/configuration/presets.py"} <= names
    assert {f"sam_variants/{part}/model.safetensors" for part in ("weights", "weights_video")} <= names
    assert {f"sam_variants/spaces_demo/{part}" for part in ("__init__.py", "page.py", "page.css")} <= names
    assert not [name for name in names if re.search(r"hub_scripts|/training/|/labeling/|/browse|__pycache__", name)]
    assert [name for name in names if name.endswith("coins.jpg")] == ["sam_variants/spaces_demo/examples/coins.jpg"]
    assert [name for name in names if name.endswith(("/app.py", "/requirements.txt", "/thumbnail.png"))] == []

    folder = Path(snapshot_download("me/demo", repo_type="space", local_dir=tmp_path / "clone"))
    example = re.search(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert example
    assert example[1].count(ADDRESS) == 1
    monkeypatch.chdir(EXAMPLES)
    with running(folder) as (url, _):
        assert "Segment Anything" in httpx.get(url, timeout=30).text
        endpoints = httpx.get(f"{url}/gradio_api/info", timeout=30).json()["named_endpoints"]
        told: dict[str, Any] = {}
        exec(example[1].replace(ADDRESS, url), told)
    assert {f"`{name}`" for name in endpoints} <= set(re.findall(r"`/\w+`", card.text))
    (mask,) = told["found"]["masks"]
    assert mask["name"] == "coin"
    assert 1200 < mask["area"] < 2200
    assert mask_utils.decode(mask["segmentation"])[COIN[1], COIN[0]]
    with Image.open(told["overlay"]) as overlay:
        assert overlay.size == (384, 303)
    assert len(told["everything"]["masks"]) >= 24


def test_a_space_with_a_gpu_that_is_lent(tmp_path: Path) -> None:
    """`spaces` comes before torch, and the models work in its calls, whose arguments and answers travel."""
    write_space(tmp_path / "space")
    fake = tmp_path / "fake" / "spaces.py"
    fake.parent.mkdir()
    fake.write_text(FAKE_SPACES, encoding="utf-8")
    with VideoWriter(tmp_path / "clip.mp4", fps=12) as writer:
        for frame in read_frames(EXAMPLES / "toys.mp4", stop=4):
            writer.write(frame.image)
    coins = handle_file(EXAMPLES / "coins.jpg")
    with running(tmp_path / "space", fake.parent) as (url, printed):
        client = Client(url, verbose=False)
        found = client.predict(coins, [{"points": [COIN]}], api_name="/segment")[0]
        everything = client.predict(coins, points_per_side=4, api_name="/everything")[0]
        ball = {"frame": 0, "objects": [{"id": 1, "points": [[120, 294]]}]}
        tracked = client.predict(handle_file(tmp_path / "clip.mp4"), [ball], overlay=False, api_name="/track")[0]
    assert 1200 < found["masks"][0]["area"] < 2200
    assert everything["masks"]
    assert tracked["num_frames"] == 4
    assert "spaces came before torch" in printed
    assert len({line for line in printed if line.startswith("lent to ")}) >= 3


def test_a_name_without_an_owner(hub: LocalHub) -> None:
    assert report("demo")["repo_id"] == "me/demo"
    address = f"{constants.ENDPOINT}/spaces/me/demo/resolve/main/thumbnail.png"
    assert SpaceCard.load("me/demo").data.thumbnail == address
    with_reason = report("demo", "--dry-run")
    assert with_reason["note"] == ""


def test_what_the_package_no_longer_has_is_deleted(hub: LocalHub) -> None:
    others = {"app_settings.toml": b"a = 1\n", "mine.safetensors": b"\0" * 8, "helper.py": b"# mine\n"}
    hub.put("me/demo", {"sam_variants/old_module.py": b"# old\n", **others}, repo_type="space")
    changes = {file["path"]: file["change"] for file in report("me/demo")["files"]}
    assert [path for path, change in changes.items() if change == "deleted"] == ["sam_variants/old_module.py"]
    assert len(hub.titles("me/demo", "space")) == 3
    names = set(hub.files("me/demo", "space"))
    assert "sam_variants/old_module.py" not in names
    assert others.keys() <= names


def test_a_dry_run_writes_nothing(hub: LocalHub, tmp_path: Path) -> None:
    rehearsed = report("me/demo", "--dry-run")
    assert rehearsed["dry_run"]
    assert rehearsed["creates"]
    assert hub.hub.repos == {}
    assert writes(hub) == []
    write_space(tmp_path / "space", repo_id="me/demo")
    expected = {
        path.relative_to(tmp_path / "space").as_posix(): path.stat().st_size
        for path in (tmp_path / "space").rglob("*")
        if path.is_file()
    }
    assert {file["path"]: file["size"] for file in rehearsed["files"]} == expected
    result = run("me/demo", "--dry-run")
    assert "nothing was written" in " ".join(result.stdout.split())


def test_a_space_of_ones_own(hub: LocalHub, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    result = run("me/own", "--folder", str(own))
    assert result.exit_code == 1
    assert "is no Space" in result.stderr
    (own / "README.md").write_text("---\nsdk: gradio\napp_file: main.py\n---\n", encoding="utf-8")
    (own / "main.py").write_text("import sam_variants\n", encoding="utf-8")
    names = {file["path"] for file in report("me/own", "--folder", str(own))["files"]}
    assert {"main.py", "README.md", "sam_variants/__init__.py"} <= names
    assert "app.py" not in names
    clone = snapshot_download("me/own", repo_type="space", local_dir=tmp_path / "clone")
    (tmp_path / "clone" / "sam_variants" / "old_module.py").write_text("", encoding="utf-8")
    assert report("me/own", "--folder", clone)["commit_url"] is None


def test_a_pull_request(hub: LocalHub) -> None:
    hub.put("me/demo", {"README.md": b"---\nsdk: gradio\n---\n"}, repo_type="space")
    assert report("me/demo", "--create-pr")["pr_url"].endswith("/1")
    assert "app.py" not in hub.files("me/demo", "space")


@pytest.mark.parametrize("status", [401, 403, 503])
def test_a_refusal_is_one_line(hub: LocalHub, status: int) -> None:
    hub.fail("POST", "*/commit/*", status=status)
    result = run("me/demo")
    assert result.exit_code == 1
    assert result.stderr.startswith("sam-variants: 'me/demo' can't be pushed to: ")
    assert len(result.stderr.strip().splitlines()) == 1
