"""SHA256SUMS: written with every save, and compared with all the evidence there is."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.configuration.known_checkpoints import CHECKPOINTS
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub.checksums import CHECKSUMS_FILE, read_checksums, sha256_of, verify_files, write_checksums
from sam_variants.modeling_sam_variants import SamVariantsModel
from tests.tiny import tiny_model

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
OTHER = "a" * 64


def flip_byte(path: Path, position: int = -1) -> None:
    """Change one byte of a file, which keeps its size."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny_model("vit").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def test_the_file_is_what_sha256sum_reads(folder: Path) -> None:
    assert (folder / CHECKSUMS_FILE).read_text() == f"{sha256_of(folder / 'model.safetensors')}  model.safetensors\n"
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", CHECKSUMS_FILE], cwd=folder, check=True)
    (folder / "empty.safetensors").touch()
    assert write_checksums(folder) == folder / CHECKSUMS_FILE
    assert read_checksums(folder) == {
        "empty.safetensors": EMPTY,
        "model.safetensors": sha256_of(folder / "model.safetensors"),
    }
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["SHA256SUMS", "config.json", "empty.safetensors", "model.safetensors"]
    )


def test_each_save_covers_its_own_files(tmp_path: Path) -> None:
    """A later save into the same folder: what is left is complete, and nothing old is loaded or vouched for."""
    first, second = tiny_model("vit"), tiny_model("vit", seed=1)
    first.save_pretrained(tmp_path)
    first.save_pretrained(tmp_path, variant="fp16")
    assert set(read_checksums(tmp_path)) == {"model.safetensors", "model.fp16.safetensors"}
    flip_byte(tmp_path / "model.fp16.safetensors")
    second.save_pretrained(tmp_path, max_shard_size="40KB")
    shards = {path.name for path in tmp_path.glob("model-*.safetensors")}
    assert len(shards) > 1
    assert set(read_checksums(tmp_path)) == shards | {"model.fp16.safetensors"}
    loaded = SamVariantsModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in second.state_dict().items())
    with pytest.raises(ValueError, match=r"model\.fp16\.safetensors' is damaged"):
        verify_files(tmp_path)
    (tmp_path / "model.fp16.safetensors").unlink()
    first.save_pretrained(tmp_path)
    assert set(read_checksums(tmp_path)) == {"model.safetensors"}
    assert not list(tmp_path.glob("*.index.json"))
    assert load_checkpoint(tmp_path, verify=True)


def test_a_save_leaves_out_lines_that_cannot_be_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    sums = folder / CHECKSUMS_FILE
    sums.write_text(f"# mine\n\\{OTHER}  a\\nb\n{OTHER}  config.json\n{EMPTY}  config.json\n" + sums.read_text())
    with transformers_log():
        tiny_model("vit", seed=1).save_pretrained(folder)
    assert read_checksums(folder) == {
        "config.json": OTHER,
        "model.safetensors": sha256_of(folder / "model.safetensors"),
    }
    for told in ("line 1: .* found '# mine'; the line is left out", "line 2: ", "two checksums of 'config.json'"):
        assert re.search(told, caplog.text)


@contextmanager
def transformers_log() -> Iterator[None]:
    """What is logged through transformers reaches pytest."""
    logger = logging.getLogger("transformers")
    before, logger.propagate = logger.propagate, True
    yield
    logger.propagate = before


def test_a_save_that_writes_no_weights_writes_no_checksums(folder: Path, tmp_path: Path) -> None:
    model = tiny_model("vit")
    model.save_pretrained(tmp_path / "other rank", is_main_process=False)
    assert not (tmp_path / "other rank" / CHECKSUMS_FILE).exists()
    model.config.save_pretrained(tmp_path / "config")
    assert not (tmp_path / "config" / CHECKSUMS_FILE).exists()
    with pytest.raises(ValueError, match=r"holds no \.safetensors file"):
        write_checksums(tmp_path / "config")


def test_the_checksums_are_there_before_anything_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers lists what it uploads inside `save_pretrained(push_to_hub=True)` and `push_to_hub`."""
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(
        "transformers.modeling_utils.PreTrainedModel._upload_modified_files",
        lambda self, folder, *args, **kwargs: seen.append(read_checksums(Path(folder))),
    )
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: AnyApi())
    monkeypatch.setattr("transformers.modeling_utils.hf_api", lambda: AnyApi())
    monkeypatch.setattr("transformers.modeling_utils.create_and_tag_model_card", lambda *args, **kwargs: AnyApi())
    model = tiny_model("vit").prompt_encoder
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="someone/part")
    assert seen == [{"model.safetensors": sha256_of(tmp_path / "model.safetensors")}]


class AnyApi:
    """Answers every call, and has every attribute."""

    repo_id = "someone/part"

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self


def test_a_flipped_byte_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    assert verify_files(folder) == verify_files(path) == {"model.safetensors": CHECKSUMS_FILE}
    before, wanted = load_file(path), sha256_of(path)
    flip_byte(path)
    assert load_file(path).keys() == before.keys()  # it loads without a word
    message = rf"model\.safetensors' is damaged or was changed: its sha256 is {sha256_of(path)}, but SHA256SUMS states "
    for name in (folder, path):
        with pytest.raises(ValueError, match=message + wanted):
            load_checkpoint(name, verify=True)


def test_a_lost_file_and_a_broken_list_are_found(folder: Path) -> None:
    sums = folder / CHECKSUMS_FILE
    good = sums.read_text()
    sums.write_text(good + f"{OTHER}  lost.safetensors\n{OTHER} *README.md\n\n")
    with pytest.raises(FileNotFoundError, match=r"SHA256SUMS' names 'lost\.safetensors', which is missing"):
        verify_files(folder)
    sums.write_text(good + "not a line\n")
    with pytest.raises(ValueError, match="line 2: expected a sha256 and a file name, found 'not a line'"):
        verify_files(folder)
    sums.write_text(good + f"{OTHER}  ./model.safetensors\n")
    with pytest.raises(ValueError, match="states two checksums"):
        verify_files(folder)
    sums.write_text(good.replace("  ", " *").upper().replace("MODEL.SAFETENSORS", "./model.safetensors"))
    assert verify_files(folder)


def test_without_evidence_there_is_no_verification(folder: Path, tmp_path: Path) -> None:
    (folder / CHECKSUMS_FILE).unlink()
    with pytest.raises(ValueError, match=r"nothing to compare '.*model\.safetensors' with"):
        load_checkpoint(folder, verify=True)
    assert load_checkpoint(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no weights to verify"):
        verify_files(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        verify_files(tmp_path / "gone")


def test_a_published_file_is_compared_with_what_was_published(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mobile_sam.pt"
    torch.save({}, path)
    with pytest.raises(ValueError, match=r"but the published mobile_sam\.pt states 6dbb90523a35330fedd7"):
        verify_files(path)
    known = replace(CHECKPOINTS["mobile_sam"], sha256=sha256_of(path))
    monkeypatch.setitem(CHECKPOINTS, "mobile_sam", known)
    assert verify_files(tmp_path / "mobile_sam.pt") == {"mobile_sam.pt": "the published mobile_sam.pt"}


def hub_cache(folder: Path, root: Path, name: str, shared: bool) -> Path:
    """A snapshot as huggingface_hub lays it out: links to blobs by sha256, which may be links to blobs by Xet hash."""
    repo = root / "models--someone--model"
    snapshot, blobs = repo / "snapshots" / ("0" * 40), repo / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    blob = blobs / name
    if shared:
        store = root / "shared" / OTHER[:2]
        store.mkdir(parents=True)
        shutil.copy(folder / "model.safetensors", store / OTHER)
        blob.symlink_to(Path("../../shared") / OTHER[:2] / OTHER)
    else:
        shutil.copy(folder / "model.safetensors", blob)
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs") / name)
    shutil.copy(folder / "config.json", snapshot)
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_the_cache_of_the_hub_is_evidence(shared: bool, folder: Path, tmp_path: Path) -> None:
    sha256 = sha256_of(folder / "model.safetensors")
    snapshot = hub_cache(folder, tmp_path / "good", sha256, shared)
    assert verify_files(snapshot) == {"model.safetensors": "the Hub"}
    assert load_checkpoint(snapshot, verify=True)
    shutil.copy(folder / CHECKSUMS_FILE, snapshot)
    assert verify_files(snapshot) == {"model.safetensors": "SHA256SUMS and the Hub"}
    (snapshot / CHECKSUMS_FILE).open("a").write(f"{OTHER}  other.safetensors\n")
    assert verify_files(snapshot)  # a snapshot may hold a part of the repository
    for name in (OTHER, sha256):
        bad = hub_cache(folder, tmp_path / name, name, shared)
        if name == sha256:
            flip_byte((bad / "model.safetensors").resolve())
        with pytest.raises(ValueError, match=f"but the Hub states {name}"):
            load_checkpoint(bad, verify=True)


def test_a_name_alone_is_no_evidence(folder: Path, tmp_path: Path) -> None:
    """The cache of Xet names files by another hash, which looks the same."""
    weights, store = folder / "model.safetensors", tmp_path / "store"
    store.mkdir()
    weights.rename(store / OTHER)
    weights.symlink_to(store / OTHER)
    assert verify_files(folder) == {"model.safetensors": CHECKSUMS_FILE}


@pytest.mark.parametrize("video", [False, True])
def test_the_embedded_checkpoints_have_theirs(video: bool) -> None:
    assert verify_files(default_checkpoint(video=video)) == {"model.safetensors": CHECKSUMS_FILE}
