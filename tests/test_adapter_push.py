"""Adapters on the Hub, with the real client on a Hub of this machine: they go there alone, and come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from local_hub import LocalHub
from peft import PeftModel
from test_cli import run
from tiny import save_tiny, tiny_model
from transformers import AutoModel

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.training.lora import add_lora, load_adapter, push_adapter, save_adapter

ON_HUB = [".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"]


def trained(base: Any, seed: int = 0) -> PeftModel:
    """A model with adapters that do something."""
    model = add_lora(AutoModel.from_pretrained(base), rank=2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def masks(model: Any) -> torch.Tensor:
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(pixel_values=pixels, input_boxes=torch.tensor([[[8.0, 8.0, 40.0, 48.0]]])).pred_masks


def test_an_adapter_goes_alone_and_comes_back(hub: LocalHub, tmp_path: Path) -> None:
    AutoModel.from_pretrained(save_tiny(tmp_path, "tiny_vit")).push_to_hub("me/base")
    model = trained("me/base")
    report = push_adapter(model, "coins", license="mit", datasets=["me/coins"], tags="coins", private=True)
    assert (report.repo_id, report.creates) == ("me/coins", True)
    assert sorted(hub.files("me/coins")) == ON_HUB
    assert hub.titles("me/coins")[0] == "Upload adapter with sam-variants"
    assert torch.equal(masks(load_adapter(AutoModel.from_pretrained("me/base"), "me/coins")), masks(model))
    card = ModelCard.load("me/coins")
    assert card.data.base_model == "me/base"
    assert card.data.get("base_model_relation") == "adapter"
    assert (card.data.license, card.data.datasets) == ("mit", ["me/coins"])
    assert {"lora", "coins"} <= set(card.data.tags)
    assert 'load_adapter(base, "me/coins")' in card.text
    assert str(tmp_path) not in "".join(text.decode(errors="replace") for text in hub.files("me/coins").values())


def test_pushing_again(hub: LocalHub) -> None:
    model = trained(default_checkpoint())
    first = push_adapter(model, "me/coins", license="mit")
    assert not push_adapter(model, "me/coins").has_changes
    text = hub.files("me/coins")["README.md"].decode()
    assert "load_checkpoint(sam_variants.default_checkpoint())" in text
    hub.put("me/coins", {"README.md": text.replace("small addition", "tiny addition").encode()})
    again = push_adapter(trained(default_checkpoint(), seed=1), "me/coins", revision="second")
    assert again.changes["adapter_model.safetensors"] == "changed"
    assert "tiny addition" in hub.files("me/coins", revision="second")["README.md"].decode()
    assert str(default_checkpoint()) not in hub.files("me/coins")["adapter_config.json"].decode()
    base = AutoModel.from_pretrained(default_checkpoint())
    assert torch.equal(masks(load_adapter(base, "me/coins", revision=first.oid)), masks(model))


def test_what_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    model = trained(save_tiny(tmp_path / "base", "tiny_vit"))
    with pytest.raises(ValueError, match=r"loaded from '.*base', which others can't load.*base_model="):
        push_adapter(model, "me/coins")
    assert hub.hub.log == []
    assert push_adapter(model, "me/coins", base_model="me/elsewhere").creates
    tiny_model("tiny_vit").push_to_hub("me/whole")
    before = sorted(hub.files("me/whole"))
    with pytest.raises(ValueError, match=r"'me/whole' holds a whole model \(config\.json, model\.safetensors\)"):
        push_adapter(model, "me/whole", base_model="me/elsewhere")
    assert sorted(hub.files("me/whole")) == before
    with pytest.raises(OSError, match="from the Hub it can't be had: it does not exist"):
        load_adapter(tiny_model("tiny_vit"), "me/nowhere")
    with pytest.raises(FileNotFoundError, match="'me/whole' holds no adapter"):
        load_adapter(tiny_model("tiny_vit"), "me/whole")
    with pytest.raises(TypeError, match="a model with adapters"):
        save_adapter(tiny_model("vit"), tmp_path)


def test_the_command_pushes_a_folder(hub: LocalHub, tmp_path: Path) -> None:
    model = trained(default_checkpoint())
    folder = save_adapter(model, tmp_path / "adapter")
    call = ("push", folder, "me/coins", "--license", "mit", "--json")
    rehearsed = run(*call, "--dry-run")
    assert rehearsed.exit_code == 0, rehearsed.stderr
    pushed = run(*call)
    assert pushed.exit_code == 0, pushed.stderr
    assert json.loads(rehearsed.stdout)["creates"] is json.loads(pushed.stdout)["creates"] is True
    assert sorted(hub.files("me/coins")) == ON_HUB
    paths = {file["path"] for file in json.loads(rehearsed.stdout)["files"]}
    assert paths == set(ON_HUB) - {".gitattributes"}
    loaded = load_adapter(AutoModel.from_pretrained(default_checkpoint()), "me/coins")
    assert torch.equal(masks(loaded), masks(model))


def test_the_command_refuses(tmp_path: Path) -> None:
    folder = save_adapter(trained(save_tiny(tmp_path / "base", "tiny_vit")), tmp_path / "adapter")
    assert "which others can't load" in run("push", folder, "me/coins", "--dry-run").stderr
    whole = run("push", folder, "me/coins", "--with-code", "--evaluation", write_report(tmp_path))
    assert "--evaluation, --with-code: for whole models" in whole.stderr
    nameless = tiny_model("tiny_vit")
    nameless = type(nameless).from_pretrained(None, config=nameless.config, state_dict=nameless.state_dict())
    save_adapter(add_lora(nameless, rank=2), folder)
    assert "| base | not stated |" in (folder / "README.md").read_text()
    assert "does not say which model its adapter belongs to: add --base-model" in run("push", folder, "me/c").stderr


def write_report(folder: Path) -> Path:
    (folder / "report.json").write_text("{}")
    return folder / "report.json"
