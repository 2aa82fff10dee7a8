"""`push_folder`: a folder goes to the Hub in one commit, or not at all."""

from __future__ import annotations

import fnmatch
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from local_hub import LocalHub
from tiny import tiny_model
from transformers import AutoModel

from sam_variants.hub.checksums import sha256_of, verify_files, write_checksums
from sam_variants.hub.push_folder import PushReport, push_folder
from sam_variants.hub.repo_files import GENERATED_CODE, linked_pictures, repo_files
from sam_variants.hub.repo_folder import write_repo_folder
from sam_variants.hub_scripts import export_remote_code
from sam_variants.processing.processor_for import processor_for

FILES = ["README.md", "SHA256SUMS", "config.json", "model.safetensors", "processor_config.json"]
ON_HUB = sorted([".gitattributes", *FILES])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_repo_folder(tiny_model("tiny_vit"), tmp_path / "model")
    return tmp_path / "model"


def writes(hub: LocalHub, since: int = 0) -> list[tuple[str, str]]:
    """Requests that write; asking whether a card is well made does not."""
    return [
        request for request in hub.hub.log[since:] if request[0] not in ("GET", "HEAD") and "validate" not in request[1]
    ]


def commits(hub: LocalHub, repo_id: str = "me/tiny", revision: str = "main") -> int:
    return len(hub.titles(repo_id, revision=revision)) - 1  # without the one that made the repository


def changed(report: PushReport) -> dict[str, str]:
    return {path: change for path, change in report.changes.items() if change != "unchanged"}


def test_one_commit_holds_everything(hub: LocalHub, folder: Path) -> None:
    report = push_folder(folder, "me/tiny", commit_message="First")
    assert hub.titles("me/tiny") == ["First", "initial commit"]
    assert len(hub.requests("POST", "*/commit/*")) == 1
    assert sorted(hub.files("me/tiny")) == ON_HUB
    assert report.changes == dict.fromkeys(FILES, "new")
    assert dict(report.files) == {name: (folder / name).stat().st_size for name in FILES}
    assert report.commit_url == f"{hub.url}/me/tiny/commit/{report.oid}"
    assert report.creates
    assert not report.left_out
    model = AutoModel.from_pretrained("me/tiny")
    assert torch.equal(
        model.state_dict()["mask_decoder.mask_tokens.weight"],
        AutoModel.from_pretrained(folder).state_dict()["mask_decoder.mask_tokens.weight"],
    )


def test_without_a_change_there_is_no_commit(hub: LocalHub, folder: Path) -> None:
    first = push_folder(folder, "me/tiny")
    since = len(hub.hub.log)
    again = push_folder(folder, "tiny")
    assert commits(hub) == 1
    assert writes(hub, since) == []
    assert (again.commit_url, again.oid, again.has_changes) == (None, first.oid, False)
    (folder / "LICENSE").write_text("Do as you like.\n")
    assert changed(push_folder(folder, "me/tiny")) == {"LICENSE": "new"}


@pytest.mark.parametrize("exists", [False, True])
def test_a_dry_run_tells_the_files_and_touches_nothing(hub: LocalHub, folder: Path, exists: bool) -> None:
    if exists:
        push_folder(folder, "me/tiny")
        hub.put("me/tiny", {"model-00001-of-00002.safetensors": b"old"})
        (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    since = len(hub.hub.log)
    report = push_folder(folder, "me/tiny", dry_run=True)
    assert writes(hub, since) == []
    assert report.commit_url is None
    assert report.creates is not exists
    if exists:
        assert changed(report) == {"config.json": "changed", "model-00001-of-00002.safetensors": "deleted"}
        assert "model-00001-of-00002.safetensors" in hub.files("me/tiny")
    else:
        assert report.changes == dict.fromkeys(FILES, "new")
        assert not hub.hub.repos


def test_a_dry_run_without_a_hub_still_tells_the_files(hub: LocalHub, folder: Path) -> None:
    hub.stop()
    report = push_folder(folder, "me/tiny", dry_run=True)
    assert report.changes == dict.fromkeys(FILES, "unknown")
    assert "can't be reached" in report.note


def test_shards_of_an_earlier_push_go_in_the_same_commit(hub: LocalHub, folder: Path) -> None:
    write_repo_folder(tiny_model("tiny_vit"), folder, max_shard_size="150KB")
    push_folder(folder, "me/tiny")
    shards = fnmatch.filter(hub.files("me/tiny"), "model-*.safetensors")
    assert len(shards) > 1
    assert "model.safetensors.index.json" in hub.files("me/tiny")
    hub.put("me/tiny", {"notes.txt": b"mine", "onnx/model.safetensors": b"mine"})
    write_repo_folder(tiny_model("tiny_vit"), folder)
    report = push_folder(folder, "me/tiny")
    assert sorted(hub.files("me/tiny")) == sorted([*ON_HUB, "notes.txt", "onnx/model.safetensors"])
    assert {path for path, change in report.changes.items() if change == "deleted"} == {
        *shards,
        "model.safetensors.index.json",
    }
    assert len(hub.titles("me/tiny")) == 4
    AutoModel.from_pretrained("me/tiny")


def test_old_modules_go_and_somebodys_own_stay(hub: LocalHub, folder: Path) -> None:
    hub.put("me/tiny", {"old_module.py": GENERATED_CODE + b"0.0\n", "example.py": b"print('mine')\n"})
    report = push_folder(folder, "me/tiny")
    assert report.changes["old_module.py"] == "deleted"
    assert "example.py" in hub.files("me/tiny")
    assert export_remote_code.MARK.encode() == GENERATED_CODE


def test_private_and_public(hub: LocalHub, folder: Path) -> None:
    push_folder(folder, "me/tiny", private=True)
    assert HfApi().model_info("me/tiny").private
    assert push_folder(folder, "me/tiny", private=True).commit_url is None
    since = len(hub.hub.log)
    with pytest.raises(ValueError, match=r"private=False, but 'me/tiny' exists and is private"):
        push_folder(folder, "me/tiny", private=False)
    assert writes(hub, since) == []


def test_a_branch_is_made(hub: LocalHub, folder: Path) -> None:
    push_folder(folder, "me/tiny", revision="trial")
    assert sorted(hub.files("me/tiny")) == [".gitattributes"]
    assert sorted(hub.files("me/tiny", revision="trial")) == ON_HUB
    assert push_folder(folder, "me/tiny", revision="trial").commit_url is None
    assert commits(hub, revision="trial") == 1


def test_a_pull_request_leaves_the_branch_alone(hub: LocalHub, folder: Path) -> None:
    push_folder(folder, "me/tiny")
    (folder / "LICENSE").write_text("Do as you like.\n")
    report = push_folder(folder, "me/tiny", create_pr=True)
    assert report.pr_url == f"{hub.url}/me/tiny/discussions/1"
    assert "LICENSE" not in hub.files("me/tiny")
    assert "LICENSE" in hub.files("me/tiny", revision="refs/pr/1")
    # More work on it is a push to it.
    (folder / "NOTICE").write_text("Mine.\n")
    assert changed(push_folder(folder, "me/tiny", revision="refs/pr/1")) == {"NOTICE": "new"}
    assert "NOTICE" in hub.files("me/tiny", revision="refs/pr/1")


def test_a_space_takes_its_files(hub: LocalHub, tmp_path: Path) -> None:
    space = tmp_path / "space"
    (space / "examples").mkdir(parents=True)
    for name in ("app.py", "requirements.txt", "examples/a.txt", ".env", "old.pkl"):
        (space / name).write_text(name)
    (space / "README.md").write_text("---\nsdk: gradio\n---\n# Demo\n")
    report = push_folder(space, "me/demo", repo_type="space", space_sdk="gradio")
    assert sorted(hub.files("me/demo", "space")) == sorted(
        [".gitattributes", "README.md", "app.py", "examples/a.txt", "requirements.txt"]
    )
    assert report.left_out == [".env", "old.pkl"]
    assert report.url == f"{hub.url}/spaces/me/demo"


def test_only_a_checkpoints_files_are_pushed(hub: LocalHub, folder: Path) -> None:
    strangers = {
        "optimizer.pt": "",
        "training_args.bin": "",
        ".env": "TOKEN=hf_secret",
        "secrets.py": "TOKEN = 1",
        "trainer_state.json": "{}",
        "loss.csv": "1",
        "runs/events.txt": "1",
        "private.png": "",
    }
    others = {
        ".git/config": "",
        "__pycache__/x.pyc": "",
        ".eval_results/coins.yaml": "[]",
        "shown.png": "",
        "LICENSE": "mine",
    }
    for name, content in {**strangers, **others}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    card = ModelCard.load(folder / "README.md")
    card.text += "\n![coins](./shown.png) ![other](../private.png)\n"
    card.save(folder / "README.md")
    report = push_folder(folder, "me/tiny", include=["*.csv"])
    added = [".eval_results/coins.yaml", "shown.png", "LICENSE", "loss.csv"]
    assert sorted(hub.files("me/tiny")) == sorted([*ON_HUB, *added])
    assert report.left_out == sorted(set(strangers) - {"loss.csv"})


@pytest.mark.parametrize(("pattern", "named"), [("*.csv", "matches no file"), ("*.pt", "optimizer.pt")])
def test_what_include_cannot_do(folder: Path, pattern: str, named: str) -> None:
    (folder / "optimizer.pt").write_text("")
    with pytest.raises(ValueError, match=named):
        repo_files(folder, include=[pattern])


def test_pictures_outside_the_folder_are_none_of_its(folder: Path) -> None:
    (folder.parent / "outside.png").write_text("")
    (folder / "inside.png").write_text("")
    (folder / "README.md").write_text('<img width="9" src="inside.png"> ![a](../outside.png) ![b](https://x.y/z.png)')
    assert linked_pictures(folder / "README.md") == {"inside.png"}


def test_a_flipped_byte_is_found_before_anything_is_sent(hub: LocalHub, folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"model\.safetensors.*damaged"):
        push_folder(folder, "me/tiny")
    assert not hub.hub.log


def test_a_push_that_was_cut_off_is_completed_by_another(hub: LocalHub, folder: Path) -> None:
    fault = hub.fail("PUT", "/_lfs/*", cut=100)
    with pytest.raises(OSError, match="'me/tiny' can't be pushed to"):
        push_folder(folder, "me/tiny", private=True)
    assert fault.hits
    assert commits(hub) == 0
    hub.heal()
    report = push_folder(folder, "me/tiny", private=True)
    assert commits(hub) == 1
    assert report.changes == dict.fromkeys(FILES, "new")


def test_a_lost_answer_does_no_harm(hub: LocalHub, folder: Path) -> None:
    hub.fail("POST", "*/commit/*", lose_answer=True, times=1)
    with pytest.raises(OSError, match="'me/tiny' can't be pushed to"):
        push_folder(folder, "me/tiny")
    assert push_folder(folder, "me/tiny").commit_url is None
    assert commits(hub) == 1


def test_somebody_elses_push_is_not_overwritten(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_folder(folder, "me/tiny")
    (folder / "LICENSE").write_text("Do as you like.\n")
    commit = HfApi.create_commit

    def too_late(api: HfApi, *args: Any, **kwargs: Any) -> Any:
        hub.put("me/tiny", {"README.md": b"---\nlicense: mit\n---\nTheirs.\n"})
        return commit(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", too_late)
    with pytest.raises(OSError, match="changed meanwhile"):
        push_folder(folder, "me/tiny")
    assert b"Theirs" in hub.files("me/tiny")["README.md"]
    assert "LICENSE" not in hub.files("me/tiny")


def test_what_arrived_is_compared_with_what_was_sent(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = HfApi.get_paths_info

    def altered(api: HfApi, *args: Any, **kwargs: Any) -> Any:
        entries = found(api, *args, **kwargs)
        for entry in entries:
            if entry.lfs is not None:
                entry.lfs.sha256 = "0" * 64
        return entries

    monkeypatch.setattr(HfApi, "get_paths_info", altered)
    with pytest.raises(OSError, match=r"other content than was sent in model\.safetensors"):
        push_folder(folder, "me/tiny")
    monkeypatch.undo()


def test_without_a_token_nothing_is_tried(hub: LocalHub, folder: Path) -> None:
    hub.log_in(None)
    with pytest.raises(ValueError, match="hf auth login"):
        push_folder(folder, "me/tiny")
    assert not hub.hub.log


def test_a_token_that_may_only_read(hub: LocalHub, folder: Path) -> None:
    hub.require_tokens({"hf_r": "read", "hf_w": "write"})
    with pytest.raises(OSError, match="hf auth login"):
        push_folder(folder, "me/tiny", token="hf_r")
    push_folder(folder, "me/tiny", token="hf_w")
    assert commits(hub) == 1


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_refusal_is_one_sentence(hub: LocalHub, folder: Path, status: int) -> None:
    hub.fail("POST", "*/commit/*", status=status)
    with pytest.raises(OSError, match=r"^'me/tiny' can't be pushed to: [^\n]*$"):
        push_folder(folder, "me/tiny")


def test_xet(hub: LocalHub, folder: Path) -> None:
    hub.use_xet()
    push_folder(folder, "me/tiny")
    assert push_folder(folder, "me/tiny").commit_url is None
    assert commits(hub) == 1
    AutoModel.from_pretrained("me/tiny")


def test_the_folder_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="there is no folder"):
        push_folder(tmp_path / "missing", "me/tiny")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds nothing that belongs"):
        push_folder(tmp_path, "me/tiny")
    with pytest.raises(ValueError, match="repo_type='dataset'"):
        push_folder(tmp_path, "me/tiny", repo_type="dataset")


def test_a_repository_folder_is_complete(tmp_path: Path) -> None:
    model = tiny_model("tiny_vit")
    written = write_repo_folder(model, tmp_path / "below" / "model")
    assert [path.name for path in written] == FILES
    assert (tmp_path / "below" / "model" / "SHA256SUMS").read_text() == (
        f"{sha256_of(tmp_path / 'below' / 'model' / 'model.safetensors')}  model.safetensors\n"
    )
    assert json.loads((tmp_path / "below" / "model" / "config.json").read_text())["model_type"] == "sam_variants"
    assert not list((tmp_path / "below").glob(".*"))


def test_a_repository_folder_is_written_whole_or_not_at_all(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="fused"):
        write_repo_folder(tiny_model("tiny_vit", seed=1).fuse(), folder)

    class Broken:
        image_processor = processor_for(tiny_model("tiny_vit")).image_processor

        def save_pretrained(self, folder: Path) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_repo_folder(tiny_model("tiny_vit", seed=1), folder, processor=Broken())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not list(folder.parent.glob(".*"))


def test_a_second_folder_over_the_first(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    write_repo_folder(tiny_model("hiera"), folder, max_shard_size="150KB")
    names = sorted(path.name for path in folder.iterdir())
    assert "model.safetensors" not in names
    assert "notes.txt" in names
    assert "Mine." in (folder / "README.md").read_text()
    sums = (folder / "SHA256SUMS").read_text()
    assert sums == write_checksums(folder).read_text()
    AutoModel.from_pretrained(folder)


def test_weights_of_others_are_not_deleted(hub: LocalHub, folder: Path) -> None:
    others = [
        "precious.safetensors",
        "adapter_model.safetensors",
        "model.fp16.safetensors",
        "old.safetensors.index.json",
    ]
    shard = "model-00001-of-00002.safetensors"
    hub.put("me/tiny", dict.fromkeys([*others, shard, "model.safetensors.index.json"], b"x"))
    push_folder(folder, "me/tiny")
    assert sorted(hub.files("me/tiny")) == sorted([*ON_HUB, *others])
    for name in [*others, shard]:
        (folder / name).write_bytes(b"x")
    write_repo_folder(tiny_model("tiny_vit"), folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, *others])


def test_what_is_cut_off_in_an_old_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace
    moved: list[str] = []

    def cut_off(source: Path, target: Path) -> None:
        if Path(target).parent != folder:
            replace(source, target)
            return
        moved.append(Path(target).name)
        if len(moved) == len(FILES):
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(OSError, match="disk full"):
        write_repo_folder(tiny_model("tiny_vit", seed=1), folder)
    assert moved[-1] == "SHA256SUMS"
    with pytest.raises(ValueError, match="damaged or was changed"):
        verify_files(folder)
