"""What is true of models with int8 weights; test_quantization.py runs this in a process that can import torchao."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from local_hub import LocalHub
from safetensors import safe_open
from tiny import TINY_VISION, save_tiny, save_tiny_video, tiny_video_model
from torch import Tensor, nn
from torchao.quantization import Int8Tensor
from transformers import AutoModel, pipeline

from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.checkpoint_layouts.load_whole import load_whole
from sam_variants.checkpoint_layouts.read_checkpoint import read_weights_folder
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.hub_scripts.cli import app
from sam_variants.labeling.image_labeler import ImageLabeler
from sam_variants.layers.token_linear import activated, plain_weight
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.quantization import LEFT_ALONE, QUANTIZATIONS, quantization_for
from sam_variants.training.lora import add_lora

PHOTO = Path(__file__).parent.parent / "hub_scripts" / "photos" / "coins.jpg"
COIN = (160, 50)
BOTH = pytest.mark.parametrize("name", QUANTIZATIONS)
# Every image encoder and a tracker, whose encoder has skips, each with one of both.
KINDS = {"vit": "int8", "tiny_vit": "int8-dynamic", "hiera": "int8-dynamic", "tiny_vit_with_skips": "int8"}
TRACKS = "tiny_vit_with_skips"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint."""
    return save_tiny(tmp_path_factory.mktemp("checkpoints") / "whole")


@pytest.fixture(scope="module")
def int8_folder(folder: Path) -> Path:
    """The same with int8 weights, as the command writes it."""
    return converted(folder, folder.parent / "int8")


def converted(source: Path, out: Path, *options: str, name: str = "int8") -> Path:
    """A checkpoint that `convert --quantize` wrote."""
    app(["convert", str(source), "--out", str(out), "--quantize", name, "--json", *options], standalone_mode=False)
    return out


def quantized_layers(model: nn.Module) -> set[str]:
    return {name for name, layer in model.named_modules() if isinstance(getattr(layer, "weight", None), Int8Tensor)}


def linear_layers(model: nn.Module) -> set[str]:
    return {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a model, int8 weights as integers and scales."""
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        parts = {"": tensor} if not isinstance(tensor, Int8Tensor) else {".q": tensor.qdata, ".s": tensor.scale}
        found |= {name + suffix: part for suffix, part in parts.items()}
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same tensors, bit for bit."""
    mine, theirs = tensors_of(one), tensors_of(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@torch.no_grad()
def error(model: Any, reference: Any, side: int = 64) -> float:
    """How far an image encoder's answer is from another one's, relative to the latter."""
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    one, other = (whole.image_encoder(pixels).last_hidden_state for whole in (model, reference))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_is_quantised_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    assert KINDS.keys() == TINY_VISION.keys()
    name, save = KINDS[kind], save_tiny_video if kind == TRACKS else save_tiny
    source = save(tmp_path / "source", kind)
    plain = AutoModel.from_pretrained(source)
    model = AutoModel.from_pretrained(source, quantization_config=quantization_for(name))
    assert quantized_layers(model) == {layer for layer in linear_layers(plain) if not layer.startswith(LEFT_ALONE)}
    assert 1e-4 < error(model, plain) < 0.1
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(model)
    assert same(loaded, model)
    loaded.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    assert same(load_checkpoint(tmp_path / "again"), model)
    if kind == TRACKS:
        image = SamVariantsModel.from_pretrained(tmp_path / "saved")
        assert type(image) is SamVariantsModel
        assert error(image, model) == 0


@BOTH
def test_masks_of_the_embedded_model_stay(name: str, tmp_path: Path) -> None:
    source = default_checkpoint()
    folder = converted(source, tmp_path / "int8", name=name)
    stored, written = read_weights_folder(source), read_weights_folder(folder)
    kept = stored.keys() & written.keys()
    assert all(torch.equal(stored[key], written[key]) and stored[key].dtype == written[key].dtype for key in kept)
    assert {torch.float16} == {written[key].dtype for key in kept if written[key].is_floating_point()}
    assert size(folder) < 0.75 * size(source)
    card = (folder / "README.md").read_text("utf-8")
    assert "license: apache-2.0" in card
    assert "no evaluation came with these weights" in card
    plain, small = (pipeline("promptable-segmentation", model=str(path)) for path in (source, folder))
    assert small.model.mask_decoder.dtype == torch.float32
    one, other = (pipe(str(PHOTO), points=COIN) for pipe in (plain, small))
    assert (one.data & other.data).sum() / (one.data | other.data).sum() > 0.98
    assert abs(one.scores - other.scores).max() < 0.01


def size(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_the_file_says_only_what_is_needed(int8_folder: Path) -> None:
    with safe_open(int8_folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    names = {f"{layer}.weight" for layer in quantized_layers(AutoModel.from_pretrained(int8_folder))}
    assert set(json.loads(metadata["tensor_names"])) == names
    assert metadata.keys() == names | {"tensor_names", "format"}


@BOTH
def test_kernels_for_plain_weights_get_plain_weights_or_none(name: str, folder: Path) -> None:
    model: Any = AutoModel.from_pretrained(folder, quantization_config=quantization_for(name))
    layer, x = model.image_encoder.layers[1].blocks[0].mlp.fc1, torch.randn(5, 24)
    assert plain_weight(layer, x) is None  # with a gradient
    expected = nn.functional.gelu(nn.functional.linear(x, layer.weight, layer.bias))
    with torch.inference_mode():
        weight = plain_weight(layer, x)
        assert (weight is None) == (name == "int8-dynamic")
        assert weight is None or type(weight) is Tensor
        torch.testing.assert_close(activated(layer, nn.GELU(), x), expected, atol=1e-5, rtol=1e-5)
        assert model.mask_decoder.is_foldable(8)


@BOTH
def test_the_encoder_takes_bfloat16(name: str, folder: Path) -> None:
    plain = AutoModel.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, quantization_config=quantization_for(name)).fuse()
    model.encode_in(torch.bfloat16)
    assert quantized_layers(model)
    with torch.inference_mode():
        embeddings = [
            whole.get_image_embeddings(torch.ones(1, 3, 64, 64).to(dtype))
            for whole, dtype in ((plain, torch.float32), (model, torch.bfloat16))
        ]
    assert embeddings[1].dtype == torch.float32
    assert (embeddings[0] - embeddings[1]).norm() < 0.1 * embeddings[0].norm()


def test_other_sizes_and_pipelines_keep_int8(folder: Path, int8_folder: Path, tmp_path: Path) -> None:
    one, other = load_whole(str(folder), 96, "int8")[0], load_whole(str(int8_folder), 96)[0]
    assert one.config.image_size == other.config.image_size == 96
    assert same(one, other)
    assert error(one, other, 96) == 0
    config = {"quantization_config": quantization_for()}
    pipe = pipeline("mask-generation", model=str(folder), model_kwargs=config)
    assert pipe.model._is_fused
    pipe.save_pretrained(tmp_path / "pipe")
    assert same(AutoModel.from_pretrained(tmp_path / "pipe"), AutoModel.from_pretrained(int8_folder))


def test_the_commands_options(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", str(folder), "--quantize", "int8-dynamic", "--points-per-side", "2", "--json"]
    app(["everything", str(PHOTO), "--out", str(tmp_path / "found"), *asked], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["quantize"] == "int8-dynamic"
    labeler = ImageLabeler.for_checkpoint(str(folder), quantize="int8")
    assert labeler.settings.identity()["quantize"] == "int8"
    assert quantized_layers(labeler.pipe.model)


def test_the_hub_and_back(int8_folder: Path, hub: LocalHub) -> None:
    model: Any = AutoModel.from_pretrained(int8_folder)
    model.push_to_hub("owner/int8", token="hf_token")
    assert same(AutoModel.from_pretrained("owner/int8"), model)
    assert same(load_checkpoint("owner/int8", verify=True), model)
    assert b"quantised by torchao" in hub.files("owner/int8")["README.md"]


REFUSED: dict[str, Any] = {
    "can't be trained": lambda whole, int8, model: model.train(),
    "can't be given an adapter": lambda whole, int8, model: add_lora(model),
    "can't be written in another layout": lambda whole, int8, model: export_state_dict(model, "mobile-sam"),
    "can't be loaded alone": lambda whole, int8, model: TinyViT.from_pretrained(int8),
    "are quantised already.*quantize='int8'": lambda whole, int8, model: load_checkpoint(int8, quantize="int8"),
    "are quantised already.*preset=": lambda whole, int8, model: load_checkpoint(int8, "mobile-sam"),
    "are quantised and stay so": lambda whole, int8, model: converted(int8, int8.parent / "new"),
    "--quantize is for a repository of ours": lambda whole, int8, model: converted(
        whole, int8.parent / "new", "--to", "official"
    ),
    "--max-shard-size can't be applied": lambda whole, int8, model: app(
        ["push", str(int8), "owner/name", "--max-shard-size", "1MB", "--dry-run"], standalone_mode=False
    ),
}


@pytest.mark.parametrize("told", REFUSED)
def test_one_error_says_what_cannot_be(told: str, folder: Path, int8_folder: Path) -> None:
    model = AutoModel.from_pretrained(int8_folder)
    with pytest.raises(ValueError, match=told):
        REFUSED[told](folder, int8_folder, model)


def test_a_part_without_quantised_weights_is_loaded_alone(int8_folder: Path) -> None:
    decoder = MaskDecoder.from_pretrained(int8_folder)
    assert same(decoder, AutoModel.from_pretrained(int8_folder).mask_decoder)


def test_a_tracker_answers_like_the_plain_one() -> None:
    plain = tiny_video_model()
    model = type(plain).from_pretrained(
        None,
        config=copy.deepcopy(plain.config),
        state_dict=plain.state_dict(),
        quantization_config=quantization_for(),
    )
    frames = torch.randint(0, 255, (3, 48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shares = []
    for whole in (plain, model):
        session = whole.start_session()
        session.add_object(1, points=[[30, 20]], labels=[1])
        shares.append([float(session.step(frame.numpy()).data.float().mean()) for frame in frames])
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
