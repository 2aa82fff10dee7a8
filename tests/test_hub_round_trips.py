"""Everything the Hub is for, with the real client on a Hub of this machine: what comes back is what went there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_models import TINY, copied, difference, model_from, randomise, same_tensors
from datasets import Dataset, Features, List, Value, load_dataset
from huggingface_hub import HfApi, ModelCard, RepoCard, snapshot_download
from local_hub import LocalHub
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForMaskGeneration, AutoProcessor, SamModel, pipeline

from sam_variants.checkpoint_layouts.detect_preset import image_part
from sam_variants.checkpoint_layouts.layout_transformers_sam import config_to_transformers_sam
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.encoders.encoder_hiera import ImageEncoder
from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.encoders.encoder_vit import ImageEncoderViT
from sam_variants.hub.push_folder import push_folder
from sam_variants.hub.repo_folder import write_repo_folder
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.results import Masks

IMAGE_AND_VIDEO = ["sam", "mobile-sam", "sam2-image", "sam2-video"]
ENCODERS = {"sam": ImageEncoderViT, "mobile-sam": TinyViT, "sam2-image": ImageEncoder, "sam2-video": ImageEncoder}
# As the authors of each family publish their files; none of a published name, for those have a known sha256.
OFFICIAL = {"sam": "sam_vit_t.pth", "mobile-sam": "mobile_sam_tiny.pt", "sam2": "checkpoints/sam2.1_hiera_nano.pt"}
# With these the masks of random weights survive.
LOOSE: dict[str, Any] = {
    "points_per_side": 3,
    "pred_iou_thresh": -9.0,
    "stability_score_thresh": 0.0,
    "stability_score_offset": 0.01,
    "box_nms_thresh": 1.0,
}


def family_model(family: str) -> SamVariantsModel:
    """A tiny model of a family with random weights."""
    if family == "sam2-image":
        return model_from(image_part(AutoConfig.for_model(**TINY["sam2"])).to_dict())
    return model_from({"model_type": "sam_variants", **TINY[family.removesuffix("-video")]})


def third_of(model: torch.nn.Module) -> int:
    """A size in bytes that the weights do not fit into."""
    return sum(tensor.nbytes for tensor in model.state_dict().values()) // 3


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 80, 3), dtype=np.uint8))


def assert_same_model(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    """The same class, the same weights, and outputs without any difference."""
    assert type(found) is type(expected)
    assert same_tensors(found.state_dict(), expected.state_dict())
    assert difference(aligned(found), expected) == 0.0


def aligned(model: torch.nn.Module) -> torch.nn.Module:
    """Give every tensor memory of its own: mapped from a file, it begins where vector instructions add up otherwise."""
    model.load_state_dict(copied(model), assign=True)
    return model.eval()


def assert_same_masks(found: Any, expected: Any) -> None:
    assert len(found) == len(expected) > 0
    assert torch.equal(torch.as_tensor(found.data), torch.as_tensor(expected.data))
    assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize(
    ("family", "is_xet"), [("sam", False), ("mobile-sam", True), ("sam2-image", True), ("sam2-video", False)]
)
def test_a_model_in_shards(family: str, is_xet: bool, hub: LocalHub, poison_empty: None) -> None:
    """One commit holds all: weights, configuration, processor, card and checksums."""
    if is_xet:
        hub.use_xet()
    model = family_model(family)
    model.push_to_hub("me/model", max_shard_size=third_of(model))
    assert len(hub.titles("me/model")) == 2  # after that of the Hub itself
    files = hub.files("me/model")
    shards = [path for path in files if path.endswith(".safetensors")]
    assert len(shards) > 2
    others = {"config.json", "processor_config.json", "model.safetensors.index.json", "README.md", "SHA256SUMS"}
    assert set(files) == {*shards, *others, ".gitattributes"}
    assert bool(hub.requests("PUT", "/_lfs/*")) != is_xet

    assert_same_model(AutoModel.from_pretrained("me/model").eval(), model)
    assert_same_model(AutoModelForMaskGeneration.from_pretrained("me/model").eval(), model)
    assert_same_model(load_checkpoint("me/model", verify=True), model)
    processor = AutoProcessor.from_pretrained("me/model")
    expected = processor_for(model)(images=picture(), return_tensors="pt")
    assert torch.equal(processor(images=picture(), return_tensors="pt")["pixel_values"], expected["pixel_values"])
    encoder = ENCODERS[family].from_pretrained("me/model")
    assert same_tensors(encoder.state_dict(), model.image_encoder.state_dict())
    assert bool(hub.requests("GET", "*/xet-read-token/*")) == is_xet

    folder = Path(snapshot_download("me/model"))
    assert {path: (folder / path).read_bytes() for path in files} == files
    assert not HfApi().verify_repo_checksums("me/model").mismatches
    card = ModelCard.load("me/model")
    assert card.data.library_name == "transformers"
    card.validate()
    assert HfApi().model_info("me/model").pipeline_tag == card.data.pipeline_tag == "mask-generation"


@pytest.mark.parametrize("family", IMAGE_AND_VIDEO)
def test_branches_tags_and_pull_requests(family: str, hub: LocalHub) -> None:
    """Every revision has its own weights, whoever moves on."""
    model = family_model(family)
    states = []
    for how in ({}, {"revision": "next"}, {"create_pr": True}):
        commit = model.push_to_hub("me/model", **how)
        states.append((commit, copied(model)))
        if not how:
            HfApi().create_tag("me/model", tag="v1")
        randomise(model)
    first, following, proposed = states
    assert proposed[0].pr_revision == "refs/pr/1"
    model.push_to_hub("me/model")
    expected = {
        "v1": first,
        first[0].oid: first,
        "next": following,
        "refs/pr/1": proposed,
        "main": (None, copied(model)),
    }
    for revision, (_, state) in expected.items():
        assert same_tensors(AutoModel.from_pretrained("me/model", revision=revision).state_dict(), state), revision
    assert same_tensors(load_checkpoint("me/model", revision="refs/pr/1").state_dict(), proposed[1])
    HfApi().merge_pull_request("me/model", 1)
    model.load_state_dict(proposed[1])
    assert_same_model(AutoModel.from_pretrained("me/model").eval(), model)


@pytest.mark.parametrize(("name", "is_xet"), [("sam", True), ("mobile-sam", False), ("sam2", True)])
def test_official_files(name: str, is_xet: bool, hub: LocalHub, tmp_path: Path) -> None:
    """By the name of the file, and by that of a repository with no other weights."""
    if is_xet:
        hub.use_xet()
    model = family_model(name)
    state = copied(export_state_dict(model, name))
    torch.save({"model": state} if name == "sam2" else state, tmp_path / "weights")
    HfApi().create_repo("me/official")
    HfApi().upload_file(path_or_fileobj=tmp_path / "weights", path_in_repo=OFFICIAL[name], repo_id="me/official")
    for source in (f"me/official/{OFFICIAL[name]}", "me/official"):
        assert_same_model(load_checkpoint(source, preset=model.config, verify=True), model)


def test_a_repository_of_transformers_own_class(hub: LocalHub) -> None:
    config = SamVariantsConfig(**TINY["sam"])
    theirs: Any = randomise(SamModel(config_to_transformers_sam(config)))
    theirs.push_to_hub("me/theirs")
    found = load_checkpoint("me/theirs")
    state = export_state_dict(found, "transformers-sam")
    assert same_tensors(state, {name: theirs.state_dict()[name] for name in state})


def test_what_save_pretrained_wrote(hub: LocalHub, tmp_path: Path) -> None:
    """The ways around ours: `upload_folder`, and transformers' `push_to_hub` of a processor."""
    model = family_model("mobile-sam")
    model.save_pretrained(tmp_path / "model", max_shard_size=third_of(model))
    HfApi().create_repo("me/model")
    HfApi().upload_folder(repo_id="me/model", folder_path=tmp_path / "model", commit_message="by hand")
    processor_for(model).push_to_hub("me/model")
    assert_same_model(AutoModel.from_pretrained("me/model").eval(), model)
    assert type(AutoProcessor.from_pretrained("me/model")) is type(processor_for(model))


@pytest.mark.parametrize("family", IMAGE_AND_VIDEO)
def test_pipelines_by_repository(family: str, hub: LocalHub, tmp_path: Path) -> None:
    """A pipeline of a repository's name answers as that of the folder it was pushed from; the card names the task."""
    folder = pushed_folder(family, tmp_path)
    click = {"points": [[20, 20]], "multimask": True}
    by_name, by_path = (pipeline("promptable-segmentation", model=source) for source in ("me/model", folder))
    assert_same_masks(by_name(picture(), **click), by_path(picture(), **click))
    by_name, by_path = pipeline(model="me/model", **LOOSE), pipeline("mask-generation", model=folder, **LOOSE)
    assert by_name.task == "mask-generation"
    assert_same_masks(by_name(picture()), by_path(picture()))


def test_video_pipeline_by_repository(hub: LocalHub, tmp_path: Path) -> None:
    folder = pushed_folder("sam2-video", tmp_path)
    frames = [np.roll(np.asarray(picture()), 3 * index, axis=1) for index in range(3)]
    prompts = {0: {1: {"points": [[20, 20]], "labels": [1]}, 2: {"boxes": [30, 6, 70, 40]}}}
    by_name, by_path = (pipeline("promptable-video-segmentation", model=source) for source in ("me/model", folder))
    results = list(zip(by_name(frames, prompts=prompts), by_path(frames, prompts=prompts), strict=True))
    assert len(results) == len(frames)
    for found, expected in results:
        assert_same_masks(found, expected)


def pushed_folder(family: str, tmp_path: Path) -> str:
    """The folder of a model that was pushed as "me/model"."""
    write_repo_folder(family_model(family), tmp_path / "model")
    push_folder(tmp_path / "model", "me/model")
    return str(tmp_path / "model")


def test_a_space(hub: LocalHub, tmp_path: Path) -> None:
    """A folder with a card and an app, as a Space that names its model."""
    family_model("mobile-sam").push_to_hub("me/model")
    card = "---\ntitle: Segment\nsdk: gradio\napp_file: app.py\nmodels:\n- me/model\n---\n\nClick on something.\n"
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "app.py").write_text("print('hello')\n")
    report = push_folder(tmp_path, "me/demo", repo_type="space", space_sdk="gradio")
    assert len(hub.titles("me/demo", "space")) == 2
    assert report.oid == HfApi().space_info("me/demo").sha
    found = RepoCard.load("me/demo", repo_type="space")
    assert found.data.to_dict()["models"] == ["me/model"]
    folder = Path(snapshot_download("me/demo", repo_type="space"))
    assert (folder / "app.py").read_text() == "print('hello')\n"
    assert hub.repo("me/demo", "space").settings["sdk"] == "gradio"
    with pytest.raises(OSError, match="me/demo"):
        AutoModel.from_pretrained("me/demo")


def test_a_folder_of_weights_in_half_precision(hub: LocalHub, tmp_path: Path) -> None:
    model = family_model("sam2-image").to(torch.bfloat16)
    folder = tmp_path / "folder"
    write_repo_folder(model, folder, max_shard_size=third_of(model))
    push_folder(folder, "me/half", private=True)
    assert hub.repo("me/half").private
    found = AutoModel.from_pretrained("me/half")
    assert found.dtype == torch.bfloat16
    assert same_tensors(found.state_dict(), model.state_dict())


MASK_FEATURES = Features(
    {
        "image_id": Value("int64"),
        "masks": List({"size": List(Value("int32"), length=2), "counts": Value("string")}),
        "scores": List(Value("float32")),
    }
)


@pytest.mark.parametrize("is_xet", [False, True], ids=["lfs", "xet"])
def test_a_dataset_with_masks(is_xet: bool, hub: LocalHub) -> None:
    """Run lengths in a column of a dataset; none of its images may lose a pixel of a mask."""
    if is_xet:
        hub.use_xet()
    images = [random_masks(count) for count in (3, 1, 0, 5)]
    rows = [
        {
            "image_id": index,
            "masks": [annotation["segmentation"] for annotation in masks.to_coco(index)],
            "scores": masks.scores.tolist(),
        }
        for index, masks in enumerate(images)
    ]
    Dataset.from_list(rows, features=MASK_FEATURES).push_to_hub("me/masks")
    assert "data/train-00000-of-00001.parquet" in hub.files("me/masks", "dataset")
    for streaming in (False, True):
        found = load_dataset("me/masks", split="train", streaming=streaming)
        assert found.features == MASK_FEATURES
        for row, expected in zip(found, images, strict=True):
            masks = Masks.from_rle(row["masks"], size=expected.size, scores=torch.tensor(row["scores"]))
            assert torch.equal(masks.data, expected.data)
            assert torch.equal(masks.scores, expected.scores)


def random_masks(count: int) -> Masks:
    return Masks(torch.rand(count, 20, 30) > 0.6, scores=torch.rand(count))
