"""`model.push_to_hub`: complete repositories, in transformers' words."""

from __future__ import annotations

from functools import partial
from inspect import signature
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard, create_repo
from local_hub import LocalHub
from test_model_card import report
from test_push_folder import ON_HUB, writes
from tiny import save_tiny, tiny_model, tiny_video_model
from transformers import AutoModel, AutoProcessor, PreTrainedModel
from transformers.utils import PushToHubMixin

from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.hub.model_card import model_card
from sam_variants.hub.repo_folder import write_repo_folder
from sam_variants.hub.saved_weights import checkpoint_checksums
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


def test_a_processor_that_does_not_fit_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    model, processor = tiny_model("tiny_vit"), processor_for("mobile-sam")
    for write in (model.push_to_hub, partial(write_repo_folder, model)):
        with pytest.raises(ValueError, match="for images of 1024 pixels, but the model takes 64"):
            write(tmp_path / "model" if isinstance(write, partial) else "me/tiny", processor=processor)
    assert not hub.hub.log
    assert not list(tmp_path.glob("model*"))


def test_what_the_card_says(hub: LocalHub, tmp_path: Path) -> None:
    model = tiny_model("tiny_vit")
    write_repo_folder(model, tmp_path / "model")
    evaluation = report("evaluate")
    evaluation["model"] |= {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": checkpoint_checksums(tmp_path / "model"),
    }
    said = {"license": "mit", "base_model": "me/base", "datasets": "me/scenes", "evaluation": evaluation}
    model.push_to_hub("me/tiny", **said)
    data = ModelCard.load("me/tiny").data
    assert (data.license, data.base_model, data.datasets) == ("mit", "me/base", ["me/scenes"])
    assert len(data.eval_results) == 8
    with pytest.raises(ValueError, match=r"of other weights"):
        tiny_model("tiny_vit", seed=1).push_to_hub("me/tiny", evaluation=evaluation)
    with pytest.raises(ValueError, match="a card was given, so it says license itself"):
        model.push_to_hub("me/tiny", license="mit", card=model_card(model))


def test_arguments_of_another_kind(hub: LocalHub) -> None:
    with pytest.raises(TypeError, match=r"card is a str, expected a huggingface_hub\.ModelCard"):
        tiny_model("tiny_vit").push_to_hub("me/tiny", card="# hi")
    with pytest.raises(TypeError, match=r"repo_id is a .*Path"):
        tiny_model("tiny_vit").push_to_hub(Path("me/tiny"))
    assert not hub.hub.log


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
