"""What is refused before anything is written: a dry run says no where the push does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from local_hub import LocalHub
from test_push_folder import writes
from tiny import tiny_model

from sam_variants.hub.push_folder import push_folder
from sam_variants.hub.repo_folder import write_repo_folder

BERT = {
    "config.json": json.dumps({"model_type": "bert"}).encode(),
    "README.md": b"---\nlicense: apache-2.0\n---\n# Bert\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_repo_folder(tiny_model("tiny_vit"), tmp_path / "model")
    return tmp_path / "model"


def refused(hub: LocalHub, folder: Path, repo_id: str, **how: Any) -> str:
    """What a push says that is refused, after its dry run said the same."""
    since, told = len(hub.hub.log), []
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            push_folder(folder, repo_id, dry_run=dry_run, **how)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert writes(hub, since) == []
    return told[0]


def test_another_visibility(hub: LocalHub, folder: Path) -> None:
    push_folder(folder, "me/tiny", private=False)
    assert "private=True, but 'me/tiny' exists and is public" in refused(hub, folder, "me/tiny", private=True)


def test_a_pull_request_to_nowhere(hub: LocalHub, folder: Path) -> None:
    wanted = {"revision": "nope", "create_pr": True}
    assert "has no revision 'nope'" in refused(hub, folder, "me/tiny", **wanted)
    assert not hub.hub.repos
    assert "only branches can be created" in refused(hub, folder, "me/tiny", revision="refs/pr/9")
    push_folder(folder, "me/tiny")
    assert "has no revision 'nope'" in refused(hub, folder, "me/tiny", **wanted)


def test_a_card_that_the_hub_does_not_take(hub: LocalHub, folder: Path) -> None:
    hub.fail("POST", "*validate-yaml*", status=400, message="license must be one of")
    told = refused(hub, folder, "me/tiny")
    assert told.startswith("the Hub does not take the metadata in README.md: ")
    assert "license must be one of" in told
    assert not hub.hub.repos


def test_a_repository_of_another_model(hub: LocalHub, folder: Path) -> None:
    hub.put("me/bert", BERT)
    told = refused(hub, folder, "me/bert")
    assert "'me/bert' holds another model (its config.json has model_type='bert'): give another repository" in told
    with pytest.raises(ValueError, match="model_type='bert'"):
        tiny_model("tiny_vit").push_to_hub("me/bert")
    assert hub.files("me/bert")["README.md"] == BERT["README.md"]
    # Not even on a new branch, which would begin with that model's files.
    assert "model_type='bert'" in refused(hub, folder, "me/bert", revision="trial")
    hub.put("me/started", {"config.json": b"{}"})
    push_folder(folder, "me/started")


def test_a_new_branch_begins_with_the_files_of_the_default_one(hub: LocalHub, folder: Path) -> None:
    push_folder(folder, "me/tiny")
    hub.put("me/tiny", {"README.md": b"---\nlicense: mit\n---\nMine.\n", "model-00001-of-00002.safetensors": b"x"})
    rehearsed = push_folder(folder, "me/tiny", revision="trial", dry_run=True)
    assert push_folder(folder, "me/tiny", revision="trial").changes == rehearsed.changes
    assert rehearsed.changes["model-00001-of-00002.safetensors"] == "deleted"
    tiny_model("tiny_vit").push_to_hub("me/tiny", revision="other")
    assert b"Mine." in hub.files("me/tiny", revision="other")["README.md"]


def test_the_network_is_switched_off(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set, which switches the network off"):
        push_folder(folder, "me/tiny")
    assert "which switches the network off" in push_folder(folder, "me/tiny", dry_run=True).note
