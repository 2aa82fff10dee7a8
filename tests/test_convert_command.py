"""`sam-variants convert`: what is taken and refused, whole or not at all, and what is told of it."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_models import TINY, model_from
from convert_examples import (  # noqa: F401
    REPOSITORY,
    converted,
    names_in,
    official,
    refused,
    report_of,
    same_bits,
    their_models,
    tiny_presets,
)
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from test_cli import run
from tiny import save_tiny, save_tiny_video
from torch import Tensor

from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.checkpoint_layouts.write_checkpoint import PUBLISHED
from sam_variants.configuration.known_checkpoints import CHECKPOINTS, KnownCheckpoint
from sam_variants.configuration.presets import PRESETS
from sam_variants.hub.checksums import sha256_of
from sam_variants.hub_scripts import convert_folder, convert_target
from sam_variants.hub_scripts.convert_source import sources_in

pytestmark = pytest.mark.usefixtures("tiny_presets")


def test_a_folder_of_all_presets(tmp_path: Path) -> None:
    """Each goes to its preset's folder; what can't be read is told at the end, and the others are done."""
    given = {}
    for known in CHECKPOINTS.values():
        given[known.preset] = official(known.preset, tmp_path / f"weights of {known.preset}.pt")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    (tmp_path / "notes.txt").write_text("nothing")
    found = converted(tmp_path, "--out", tmp_path / "out", exit_code=1)
    assert {report["preset"] for report in found["converted"]} == set(PRESETS)
    (failure,) = found["failed"]
    assert "broken.pt" in failure["error"]
    assert names_in(tmp_path / "out") == set(PRESETS)
    for preset, tensors in given.items():
        loaded = load_checkpoint(tmp_path / "out" / preset)
        layout = PUBLISHED[loaded.config.vision_config.model_type].official
        assert same_bits(export_state_dict(loaded, layout), tensors)
    for preset in set(PRESETS) - {"sam-vit-huge", "mobile-sam"}:
        (tmp_path / f"weights of {preset}.pt").unlink()
    result = run("convert", tmp_path, "--out", tmp_path / "again", "--to", "official")
    assert result.exit_code == 1
    assert result.stderr.count("sam-variants: ") == 1
    assert (tmp_path / "again" / "sam-vit-huge" / "sam-vit-huge.pth").is_file()


def test_two_files_of_one_preset(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        official("sam-vit-base", tmp_path / name)
    converted(tmp_path, "--out", tmp_path / "out")
    assert names_in(tmp_path / "out") == {"sam-vit-base", "b"}


def test_what_is_a_checkpoint_folder(tmp_path: Path) -> None:
    def listed(*names: str) -> list[str]:
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        return [Path(source).name for source in sources_in(str(folder))]

    known = CHECKPOINTS["sam_vit_b"].file_name
    assert listed("a.pt", "b.pt", known) == [known, "a.pt", "b.pt"]
    for marks in (
        ("a.pt",),
        ("config.json", "a.pt", "b.pt"),
        ("model.safetensors.index.json", "a.safetensors", "b.pt"),
    ):
        assert listed(*marks) == ["-".join(marks)]
    assert sources_in("owner/name") == ["owner/name"]


def publish(monkeypatch: pytest.MonkeyPatch, path: Path, sha256: str) -> KnownCheckpoint:
    """Let a file count as published."""
    row = KnownCheckpoint(**{**vars(CHECKPOINTS["sam_vit_b"]), "file_name": path.name, "sha256": sha256})
    monkeypatch.setitem(CHECKPOINTS, "sam_vit_b", row)
    return row


def test_the_published_file_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "published.pth"
    official("sam-vit-base", path)
    known = publish(monkeypatch, path, sha256_of(path))
    report = report_of(path, "--out", tmp_path / "ours")
    assert report["files"][0]["published"] == "published.pth"
    assert (report["licence"], report["base_model"]) == (known.licence.lower(), known.hub_repo)
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "base_model: facebook/sam-vit-base" in card
    other = path.rename(tmp_path / "renamed.bin")
    assert report_of(other, "--out", tmp_path / "renamed")["licence"] == known.licence.lower()
    assert "that of the published published.pth" in unwrapped(run("convert", other, "--out", tmp_path / "shown").stdout)


def unwrapped(text: str) -> str:
    """What a table's cells say, without its lines."""
    return " ".join("".join(" " if character in "│┌┐└┘─┬┴" else character for character in text).split())


def test_a_published_name_with_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "published.pth"
    official("sam-vit-base", path)
    publish(monkeypatch, path, "0" * 64)
    message = refused(path, "--out", tmp_path / "ours")
    assert sha256_of(path) in message
    assert "0" * 64 in message
    assert "--no-check" in message
    assert not (tmp_path / "ours").exists()
    report = report_of(path, "--out", tmp_path / "ours", "--no-check")
    assert report["files"][0]["published"] is None
    assert report["licence"] is None


def test_options_of_a_repository(tmp_path: Path) -> None:
    given = official("sam-vit-base", tmp_path / "given.pth")
    out = tmp_path / "ours"
    report = report_of(
        tmp_path / "given.pth", "--out", out, "--dtype", "bfloat16", "--max-shard-size", "50KB", "--licence", "mit",
        "--with-code",
    )  # fmt: skip
    assert (report["dtype"], report["stored_dtypes"], report["licence"]) == ("bfloat16", ["float32"], "mit")
    assert "license: mit" in (out / "README.md").read_text()
    assert len(list(out.glob("*.safetensors"))) > 1
    assert list(out.glob("*.py"))
    assert "auto_map" in json.loads((out / "config.json").read_text())
    loaded = load_checkpoint(out)
    assert same_bits(loaded.state_dict(), {name: tensor.bfloat16() for name, tensor in given.items()})
    message = refused(tmp_path / "given.pth", "--to", "official", "--licence", "mit")
    assert "--licence is for a repository of ours" in message


def test_preset_names_the_architecture(tmp_path: Path) -> None:
    official("sam-vit-base", tmp_path / "given.pth")
    assert (
        report_of(tmp_path / "given.pth", "--out", tmp_path / "a", "--preset", "sam-vit-base")["told_by"] == "--preset"
    )
    message = refused(tmp_path / "given.pth", "--out", tmp_path / "b", "--preset", "mobile-sam")
    assert "does not fit the configuration" in message


@pytest.mark.parametrize("save", [save_tiny, save_tiny_video])
def test_what_nobody_else_has(save: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    message = refused(folder, "--out", tmp_path / "out", "--to", "transformers")
    assert "with the image encoder 'tiny_vit'" in message
    if save is save_tiny_video:
        message = refused(folder, "--out", tmp_path / "out", "--to", "official")
        assert "there is no official MobileSAM file for this architecture" in message
    assert names_in(tmp_path) == {"model"}


def test_a_model_for_images_alone_is_no_official_sam2(tmp_path: Path) -> None:
    their_models()["transformers-sam2"].save_pretrained(tmp_path / "theirs")
    message = refused(tmp_path / "theirs", "--out", tmp_path / "out", "--to", "official")
    assert "keys of the official SAM 2 layout are missing: " in message
    assert "memory_attention" in message


def test_a_part_is_no_model(tmp_path: Path) -> None:
    model: Any = model_from({"model_type": "sam_variants", **TINY["sam"]})
    model.prompt_encoder.save_pretrained(tmp_path / "part")
    assert "PromptEncoder alone" in refused(tmp_path / "part", "--out", tmp_path / "out")


def test_the_output_folder(tmp_path: Path) -> None:
    """New or empty; with --force an older result goes and other files stay; never the source."""
    given, out = tmp_path / "given.pth", tmp_path / "out"
    official("sam-vit-base", given)
    out.mkdir()
    report_of(given, "--out", out, "--max-shard-size", "50KB")
    (out / "notes.txt").write_text("mine")
    (out / "old_code.py").write_text("")
    message = refused(given, "--out", out)
    assert "is not empty" in message
    assert "--force" in message
    report_of(given, "--out", out, "--force")
    assert names_in(out) == REPOSITORY | {"notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"
    assert load_checkpoint(out).dtype == torch.float32
    assert "holds the checkpoint" in refused(out, "--out", out, "--force")
    assert "is a file" in refused(given, "--out", given)
    assert names_in(tmp_path) == {"given.pth", "out"}


def full_disk(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official("sam-vit-base", tmp_path / "given.pth")
    for to, name in (
        ("ours", "write_repo_folder"),
        ("official", "write_official"),
        ("transformers", "update_checksums"),
    ):
        monkeypatch.setattr(convert_target, name, full_disk)
        message = refused(tmp_path / "given.pth", "--out", tmp_path / "out", "--to", to)
        assert "can't be written, nothing was left there: No space left on device" in message
    monkeypatch.setattr(convert_folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert "are needed, 1,000 are free" in refused(tmp_path / "given.pth", "--out", tmp_path / "out")
    assert names_in(tmp_path) == {"given.pth"}


@pytest.mark.parametrize("error", [RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"), KeyError(1)])
def test_what_else_goes_wrong_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    expected = OSError if isinstance(error, RuntimeError) else KeyError

    def fail() -> None:
        with convert_folder.whole_folder(tmp_path / "out", False, 1) as draft:
            (draft / "half").touch()
            raise error

    with pytest.raises(expected):
        fail()
    assert names_in(tmp_path) == set()


def test_a_wrong_write_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one tensor is enough."""
    official("sam-vit-base", tmp_path / "given.pth")
    write = convert_target.write_repo_folder

    def flip(model: Any, folder: Path, **options: Any) -> None:
        write(model, folder, **options)
        tensors = load_file(folder / "model.safetensors")
        edit(dict(tensors), folder)

    def edit(tensors: dict[str, Tensor], folder: Path) -> None:
        tensors["mask_decoder.iou_token.weight"] = tensors["mask_decoder.iou_token.weight"].clone()
        tensors["mask_decoder.iou_token.weight"].view(torch.int32)[0, 0] ^= 1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(convert_target, "write_repo_folder", flip)
    message = refused(tmp_path / "given.pth", "--out", tmp_path / "out")
    assert "1 tensors were not written as they are: mask_decoder.iou_token.weight" in message
    assert names_in(tmp_path) == {"given.pth"}


def test_nan_is_compared_by_its_bits() -> None:
    one = torch.tensor([float("nan"), 1.0])
    assert convert_target.same_bits(one, one.clone())
    assert not convert_target.same_bits(one, torch.tensor([float("nan"), -1.0]))
    assert not convert_target.same_bits(one, one.half())


def test_the_card_of_our_repository_stays(tmp_path: Path) -> None:
    """Where somebody only wants other shards or another precision."""
    official("sam-vit-base", tmp_path / "given.pth")
    report_of(tmp_path / "given.pth", "--out", tmp_path / "first")
    path = tmp_path / "first" / "README.md"
    path.write_text("---\nlicense: mit\ntags:\n- mine\n---\n\n# Written by hand\n")
    report_of(tmp_path / "first", "--out", tmp_path / "second", "--dtype", "float16")
    card = (tmp_path / "second" / "README.md").read_text()
    assert "# Written by hand" in card
    assert "license: mit" in card
    assert "- mine" in card
    report_of(tmp_path / "first", "--out", tmp_path / "third", "--licence", "apache-2.0")
    assert "license: apache-2.0" in (tmp_path / "third" / "README.md").read_text()


def test_a_repository_on_the_hub(hub: Any, tmp_path: Path) -> None:
    """Checked against what the Hub says of its files; a revision is taken from there, and only from there."""
    official("sam2.1-hiera-tiny", tmp_path / "given.pt")
    report_of(tmp_path / "given.pt", "--out", tmp_path / "theirs", "--to", "transformers")
    api = HfApi()
    api.create_repo("someone/theirs")
    commit = api.upload_folder(repo_id="someone/theirs", folder_path=tmp_path / "theirs")
    report = report_of("someone/theirs", "--out", tmp_path / "ours", "--revision", commit.oid)
    (file,) = report["files"]
    assert "the Hub" in file["equals"]
    assert file["sha256"] == sha256_of(tmp_path / "theirs" / "model.safetensors")
    assert report["layout"] == "transformers Sam2VideoModel"
    assert names_in(tmp_path / "ours") == REPOSITORY
    assert "someone/none" in refused("someone/none", "--out", tmp_path / "other")
    message = refused(tmp_path / "given.pt", "--out", tmp_path / "other", "--revision", "main")
    assert "is for Hub repositories" in message
