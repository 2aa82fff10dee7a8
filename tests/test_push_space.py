"""`sam-variants push-space`: what goes to the Hub runs there with nothing else than its requirements."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import SpaceCard, snapshot_download
from local_hub import LocalHub
from test_push_folder import writes
from typer.testing import CliRunner, Result

from sam_variants.hub_scripts.cli import app
from sam_variants.hub_scripts.push_space import write_space

IN_A_SPACE = """
import sys
from importlib.machinery import PathFinder

# What an editable install adds to find the package elsewhere.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path_hooks[:] = [hook for hook in sys.path_hooks if "editable" not in repr(hook).lower()]
sys.path.insert(0, ".")
from types import SimpleNamespace
import sam_variants, app

photo = app.start("examples/coins.jpg")[0]
line = app.click(photo, app.INCLUDE, SimpleNamespace(index=[155, 50]))[3]
app.build()
print(sam_variants.__file__)
print(line)
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["push-space", *arguments])


def report(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_space_runs_from_what_was_pushed(hub: LocalHub) -> None:
    pushed = report("me/demo", "--private", "--message", "The demo")
    assert pushed["creates"]
    assert hub.titles("me/demo", "space") == ["The demo", "initial commit"]
    assert SpaceCard.load("me/demo").data.sdk == "gradio"
    names = set(hub.files("me/demo", "space"))
    assert {"app.py", "README.md", "requirements.txt", "examples/coins.jpg"} <= names
    assert {"sam_variants/__init__.py", "sam_variants/configuration/presets.py"} <= names
    assert {f"sam_variants/{part}/model.safetensors" for part in ("weights", "weights_video")} <= names
    assert not [name for name in names if "hub_scripts" in name or "spaces_demo" in name or "__pycache__" in name]

    folder = Path(snapshot_download("me/demo", repo_type="space"))
    answered = subprocess.run(
        [sys.executable, "-c", IN_A_SPACE], cwd=folder, capture_output=True, text=True, timeout=200, env=os.environ
    )
    assert answered.returncode == 0, answered.stderr[-3000:]
    where, line = answered.stdout.splitlines()[-2:]
    assert Path(where).is_relative_to(folder)
    assert 1200 < int(line.split()[0].replace(",", "")) < 2200

    again = report("me/demo")
    assert again["commit_url"] is None
    assert len(hub.titles("me/demo", "space")) == 2


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
    write_space(tmp_path / "space")
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
