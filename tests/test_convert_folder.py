"""`sam-variants convert`: the folder that is written, whole or not at all, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_examples import REPOSITORY, names_in, official, refused, report_of, tiny_presets  # noqa: F401

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.hub_scripts.convert_folder import whole_folder

NAMES = ("config.json", "model.safetensors")


@pytest.mark.usefixtures("tiny_presets")
def test_any_name_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder one is in, under two names; one behind a link, which stays; one behind a link that leads nowhere."""
    official("sam-vit-base", tmp_path / "given.pth")
    for name in (".", ""):
        here = tmp_path / f"here{name}"
        here.mkdir()
        monkeypatch.chdir(here)
        report_of(tmp_path / "given.pth", "--out", name)
        assert names_in(here) == REPOSITORY
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    for target in ("real", "new"):
        link = tmp_path / f"link to {target}"
        link.symlink_to(tmp_path / target)
        report_of(tmp_path / "given.pth", "--out", link)
        assert link.is_symlink()
        assert names_in(tmp_path / target) == REPOSITORY
        load_checkpoint(link)
    assert names_in(tmp_path) == {"given.pth", "here", "here.", "real", "new", "link to real", "link to new"}


def test_a_folder_that_is_a_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can't be replaced, and what lies beside it is on another file system."""
    out = tmp_path / "out"
    out.mkdir()
    replace = Path.replace

    def on_two_systems(path: Path, target: Path) -> Path:
        assert out in path.parents
        assert out in target.parents
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", on_two_systems)
    for content in ("first", "second"):
        write(out, content)
        assert contents(out) == dict.fromkeys(NAMES, content)


def write(out: Path, content: str) -> None:
    with whole_folder(out, True, 10) as draft:
        for name in NAMES:
            (draft / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_move_puts_the_older_output_back(
    number: int, is_done: bool, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before or right after each of the four files is moved."""
    out = tmp_path / "out"
    write(out, "old")
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    monkeypatch.setattr(Path, "replace", interrupted(number, is_done, error))
    with pytest.raises(error):
        write(out, "new")
    assert contents(out) == before
    assert names_in(tmp_path) == {"out"}


def interrupted(number: int, is_done: bool, error: type[BaseException]) -> Callable[[Path, Path], Path]:
    """`Path.replace` that is cut off once, at a call."""
    replace, calls = Path.replace, 0

    def count(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == number:
            if is_done:
                replace(path, target)
            raise error
        return replace(path, target)

    return count


@pytest.mark.usefixtures("tiny_presets")
@pytest.mark.parametrize("says", ["the system", "PyTorch alone"])
def test_a_full_disk_under_torch_save(says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch hides the system's error behind one of its own."""
    official("sam-vit-base", tmp_path / "given.pth")

    def fail(content: Any, file: Any) -> None:
        file.write(b"half")
        hidden = OSError(28, "No space left on device") if says == "the system" else None
        error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 832 vs 726. \nframe #0")
        error.__context__ = hidden
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        message = refused(tmp_path / "given.pth", "--out", tmp_path / "out", "--to", "official")
    assert "can't be written, nothing was left there: " in message
    assert message.endswith("No space left on device") == (says == "the system")
    assert ("the disk may be full" in message) == (says == "PyTorch alone")
    assert os.listdir(tmp_path) == ["given.pth"]
