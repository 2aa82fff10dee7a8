"""Files that a Hub does not have, and files that it does not hand out: two things, and neither is made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from local_hub import LocalHub
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel, pipeline

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.modeling_sam_variants import SamVariantsModel
from tests.tiny import save_tiny

REPO = "me/tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", "vit")


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    """What the repository holds."""
    return load_checkpoint(folder)


@pytest.fixture
def repo(hub: LocalHub, folder: Path) -> LocalHub:
    """A Hub with one complete repository."""
    hub.put(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    return hub


@pytest.mark.parametrize(("status", "reason"), [(403, "does not let you do that"), (503, r"status 503\)")])
def test_weights_that_are_refused_are_not_missing(status: int, reason: str, repo: LocalHub) -> None:
    repo.fail("*", f"*/{WEIGHTS}", status=status)
    for loader in (AutoModel, SamVariantsModel):
        with pytest.raises(OSError, match=f"{WEIGHTS} of the Hub repository '{REPO}' cannot be read: .*{reason}") as e:
            loader.from_pretrained(REPO)
        assert "\n" not in str(e.value)


def test_weights_that_are_missing(hub: LocalHub, folder: Path, model: PreTrainedModel, tmp_path: Path) -> None:
    config = (folder / "config.json").read_bytes()
    hub.put("me/empty", {"config.json": config})
    with pytest.raises(OSError, match=rf"^the Hub repository 'me/empty' has no {WEIGHTS}$"):
        AutoModel.from_pretrained("me/empty")
    torch.save(model.state_dict(), tmp_path / "weights.bin")
    hub.put("me/torch", {"config.json": config, "pytorch_model.bin": (tmp_path / "weights.bin").read_bytes()})
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, .*sam_variants\.load_checkpoint\('me/torch'\) reads"):
        AutoModel.from_pretrained("me/torch")
    loaded = load_checkpoint("me/torch").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())
    load_checkpoint(folder).save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    files = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    del files[lost := max(name for name in files if name.endswith(".safetensors"))]
    hub.put("me/shards", files)
    with pytest.raises(
        FileNotFoundError, match=f"^'me/shards' is incomplete: .* the shard '{lost}', which is missing$"
    ):
        load_checkpoint("me/shards")
    with pytest.raises(OSError, match=f"{lost}' is missing"):
        AutoModel.from_pretrained("me/shards")


@pytest.mark.parametrize("task", ["mask-generation", "promptable-segmentation"])
def test_a_pipeline_makes_up_no_processor_that_is_there(task: str, repo: LocalHub, folder: Path) -> None:
    HfApi().create_tag(REPO, tag="whole")
    repo.put(REPO, {"processor_config.json": b"{"})
    with pytest.raises((OSError, ValueError), match=r"processor_config\.json"):
        pipeline(task, model=REPO)
    assert pipeline(task, model=REPO, revision="whole")
    repo.put("me/slow", {path.name: path.read_bytes() for path in folder.iterdir()})
    fault = repo.fail("*", "*processor_config.json", status=503)
    with pytest.raises(OSError, match="me/slow"):
        pipeline(task, model="me/slow")
    fault.stop()
    bare = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "processor_config.json"}
    repo.put("me/bare", bare)
    assert pipeline(task, model="me/bare").image_processor.image_size == 64


def test_local_files_only_asks_nobody(repo: LocalHub, folder: Path) -> None:
    repo.put("me/bare", {"config.json": (folder / "config.json").read_bytes()})
    AutoConfig.from_pretrained("me/bare")
    asked = len(repo.hub.log)
    with pytest.raises(OSError, match="me/bare"):
        AutoProcessor.from_pretrained("me/bare", local_files_only=True)
    assert len(repo.hub.log) == asked
