"""`sam-variants models`: what is published, and what of it lies whole on this machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from test_cli import run
from tiny import tiny_model
from transformers import AutoModel

from sam_variants.configuration.known_checkpoints import CHECKPOINTS
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.models_here import has_whole_weights, safetensors_parameters

TINY = CHECKPOINTS["sam2.1_hiera_tiny"]


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of the Hub and of torch.hub with nothing in them."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def listed(*arguments: Any) -> dict[str, dict[str, Any]]:
    result = run("models", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return {row["name"]: row for row in json.loads(result.stdout)["models"]}


def sparse(path: Path, size: int) -> Path:
    """A file as long as a published one that takes no space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def cached(root: Path, repo: str, files: dict[str, bytes], commit: str = "c" * 40, is_main: bool = True) -> Path:
    """A repository in the Hub's cache, whose snapshot links to blobs."""
    folder = root / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "blobs" / name).write_bytes(content)
        (snapshot / name).symlink_to(os.path.relpath(folder / "blobs" / name, snapshot))
    if is_main:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
    return snapshot


def weights() -> bytes:
    """A tiny model's safetensors."""
    return (default_checkpoint() / "model.safetensors").read_bytes()


def test_everything_published_is_listed_and_true() -> None:
    start = time.perf_counter()
    rows = listed()
    assert time.perf_counter() - start < 2
    assert list(rows)[:2] == ["embedded", "embedded-video"]
    assert set(rows) == {"embedded", "embedded-video", *PRESETS}
    for known in CHECKPOINTS.values():
        row = rows[known.preset]
        assert row["here"] == []
        with torch.device("meta"):
            model = AutoModel.from_config(config_for(known.preset))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert row["num_parameters"] == parameters
        stored = sum(tensor.nbytes for tensor in model.state_dict().values())
        assert stored < row["bytes"] < 1.01 * stored + 200_000
        assert (row["for"] == "images and video") == row["name"].startswith("sam2")
    for name, video in (("embedded", False), ("embedded-video", True)):
        model = AutoModel.from_pretrained(rows[name]["here"][0]["load"])
        assert default_checkpoint(video=video) == Path(rows[name]["here"][0]["path"])
        assert rows[name]["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_the_hub_cache(empty_caches: Path) -> None:
    """transformers' folder by the repository's name, an older commit by its path, the bare file by its name there."""
    cached(empty_caches, "facebook/sam-vit-base", {"config.json": b"{}", "model.safetensors": weights()})
    old = cached(
        empty_caches, "facebook/sam-vit-large", {"config.json": b"{}", "model.safetensors": weights()}, is_main=False
    )
    mobile = CHECKPOINTS["mobile_sam"]
    cached(empty_caches, mobile.hub_repo, {mobile.file_name: bytes(mobile.size)})
    rows = listed()
    assert [place["load"] for place in rows["sam-vit-base"]["here"]] == ["facebook/sam-vit-base"]
    assert [place["load"] for place in rows["sam-vit-large"]["here"]] == [str(old)]
    assert [place["load"] for place in rows["mobile-sam"]["here"]] == [f"{mobile.hub_repo}/mobile_sam.pt"]
    assert {place["kind"] for row in ("sam-vit-base", "mobile-sam") for place in rows[row]["here"]} == {"Hub cache"}
    assert list(listed("--here")) == ["embedded", "embedded-video", "sam-vit-base", "sam-vit-large", "mobile-sam"]


def test_what_is_not_whole_is_not_here(empty_caches: Path) -> None:
    """Cut weights, weights without a configuration, a missing shard, a link into nothing, a cut official file."""
    index = json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}).encode()
    broken = {
        "facebook/sam-vit-base": {"config.json": b"{}", "model.safetensors": weights()[:-1]},
        "facebook/sam-vit-large": {"model.safetensors": weights()},
        "facebook/sam-vit-huge": {
            "config.json": b"{}", "model.safetensors.index.json": index, "a.safetensors": weights()
        },
        "facebook/sam2-hiera-tiny": {"config.json": b"{}", "model.safetensors": b"<html>"},
        "facebook/sam2-hiera-small": {"config.json": b"{}"},
    }  # fmt: skip
    for repo, files in broken.items():
        cached(empty_caches, repo, files)
    snapshot = cached(empty_caches, TINY.hub_repo, {"config.json": b"{}", "model.safetensors": weights()})
    (snapshot / "model.safetensors").resolve().unlink()
    sparse(empty_caches / "torch" / "checkpoints" / TINY.file_name, TINY.size - 1)
    assert list(listed("--here")) == ["embedded", "embedded-video"]


def test_whole_shards_are_whole(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    assert not has_whole_weights(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(weights())
    assert has_whole_weights(tmp_path)


def test_the_cache_of_torch_hub_and_folders(empty_caches: Path) -> None:
    file = sparse(empty_caches / "torch" / "checkpoints" / TINY.file_name, TINY.size)
    folder = empty_caches / "mine"
    other = sparse(folder / TINY.file_name, TINY.size)
    own = folder / "mobile-sam"
    own.mkdir()
    config_for("mobile-sam").save_pretrained(own)
    (own / "model.safetensors").write_bytes(weights())
    fake = folder / "sam-vit-base"
    tiny_model("vit").save_pretrained(fake)  # another architecture under a preset's name
    rows = listed("--folder", folder)
    assert [place["path"] for place in rows["sam2.1-hiera-tiny"]["here"]] == [str(file), str(other)]
    assert [place["kind"] for place in rows["sam2.1-hiera-tiny"]["here"]] == ["torch hub cache", "folder"]
    assert [place["load"] for place in rows["mobile-sam"]["here"]] == [str(own)]
    assert rows["sam-vit-base"]["here"] == []
    renamed = own.rename(empty_caches / "my weights")
    rows = listed("--folder", renamed)
    assert [place["load"] for place in rows["mobile-sam"]["here"]] == [str(renamed)]
    result = run("models", "--folder", folder / "none")
    assert result.exit_code == 1
    assert "is no folder" in result.stderr


def test_it_tells_people_how_to_load_one(empty_caches: Path) -> None:
    file = sparse(empty_caches / "torch" / "checkpoints" / TINY.file_name, TINY.size)
    result = run("models")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[-1].startswith("Load one with sam_variants.load_checkpoint(")
    assert str(file) in lines[-1]
    assert f"sam2.1-hiera-tiny: {file}" in lines
    assert any(line.startswith("sam-vit-base: not here; facebook/sam-vit-base on the Hub, https://") for line in lines)


def test_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    for content in (b"", b"short", b"\xff" * 20, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"):
        (tmp_path / "file").write_bytes(content)
        assert safetensors_parameters(tmp_path / "file") is None
