"""`model.push_to_hub`: complete repositories, in transformers' words."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard, create_repo
from local_hub import LocalHub
from test_push_folder import ON_HUB, writes
from tiny import save_tiny, tiny_model, tiny_video_model
from transformers import AutoModel, AutoProcessor, PreTrainedModel
from transformers.utils import PushToHubMixin

from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.hub.model_card import model_card
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for


def test_a_push_is_complete_and_comes_back(hub: LocalHub) -> None:
    model = tiny_video_model()
    commit = model.push_to_hub("tracker", commit_message="First", private=True)
    assert isinstance(commit, CommitInfo)
    assert str(commit) == f"{hub.url}/me/tracker/commit/{commit.oid}"
    assert hub.titles("me/tracker") == ["First", "initial commit"]
    assert sorted(hub.files("me/tracker")) == ON_HUB
    assert HfApi().model_info("me/tracker").private
    again = AutoModel.from_pretrained("me/tracker")
    assert type(again) is type(model)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert AutoProcessor.from_pretrained("me/tracker").to_dict() == processor_for(model).to_dict()


def test_a_second_push_changes_nothing(hub: LocalHub) -> None:
    model = tiny_model("tiny_vit")
    first = model.push_to_hub("me/tiny", tags=["coins"])
    since = len(hub.hub.log)
    assert model.push_to_hub("me/tiny").oid == first.oid
    assert writes(hub, since) == []
    assert "coins" in ModelCard.load("me/tiny").data.tags
    assert ModelCard.load("me/tiny").text.count("me/tiny") == 2


def test_shards_and_back(hub: LocalHub) -> None:
    model = tiny_model("tiny_vit")
    model.push_to_hub("me/tiny", max_shard_size="150KB")
    assert "model.safetensors" not in hub.files("me/tiny")
    model.push_to_hub("me/tiny", max_shard_size=None)
    assert sorted(hub.files("me/tiny")) == ON_HUB


def test_a_pull_request_and_a_branch(hub: LocalHub) -> None:
    model = tiny_model("tiny_vit")
    commit = model.push_to_hub("me/tiny", create_pr=True)
    assert commit.pr_num == 1
    assert sorted(hub.files("me/tiny", revision="refs/pr/1")) == ON_HUB
    model.push_to_hub("me/tiny", revision="trial")
    AutoModel.from_pretrained("me/tiny", revision="trial")


def test_a_card_that_somebody_wrote_is_kept(hub: LocalHub) -> None:
    model = tiny_model("tiny_vit")
    model.push_to_hub("me/tiny")
    text = hub.files("me/tiny")["README.md"].decode().replace("no classes", "no classes, believe me")
    edited = text.replace("---\n", "---\nlanguage: en\n", 1).encode()
    hub.put("me/tiny", {"README.md": edited})
    other = tiny_model("tiny_vit", seed=1)
    other.push_to_hub("me/tiny")
    assert hub.files("me/tiny")["README.md"] == edited
    other.push_to_hub("me/tiny", card=model_card(other, "me/tiny", license="mit"))
    assert b"believe me" not in hub.files("me/tiny")["README.md"]
    assert ModelCard.load("me/tiny").data.license == "mit"


def test_another_processor(hub: LocalHub) -> None:
    model = tiny_model("tiny_vit")
    processor = processor_for(model)
    processor.image_processor.image_mean = [1.0, 2.0, 3.0]
    model.push_to_hub("me/tiny", processor=processor)
    assert list(AutoProcessor.from_pretrained("me/tiny").image_processor.image_mean) == [1.0, 2.0, 3.0]


def test_every_argument_of_transformers_is_taken() -> None:
    theirs = signature(PushToHubMixin.push_to_hub).parameters
    ours = signature(SamVariantsModel.push_to_hub).parameters
    assert set(theirs) <= set(ours)
    assert {name: ours[name].default for name in theirs} == {name: theirs[name].default for name in theirs}


def test_a_fused_model_is_not_pushed(hub: LocalHub) -> None:
    with pytest.raises(ValueError, match="fused"):
        tiny_model("tiny_vit").fuse().push_to_hub("me/tiny")
    assert not hub.hub.log


def test_parts_and_processors_are_pushed_as_transformers_does(hub: LocalHub, tmp_path: Path) -> None:
    model = tiny_model("tiny_vit")
    model.image_encoder.push_to_hub("me/encoder")
    assert isinstance(AutoModel.from_pretrained("me/encoder"), TinyViT)
    assert TinyViT.push_to_hub is PreTrainedModel.push_to_hub
    create_repo("me/tiny")
    processor_for(model).push_to_hub("me/tiny")
    assert "processor_config.json" in hub.files("me/tiny")
    # The other way that transformers pushes: while saving.
    save_tiny(tmp_path / "model")
    model.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="me/tiny")
    assert {"model.safetensors", "SHA256SUMS", "config.json"} <= set(hub.files("me/tiny"))
