"""`from_pretrained` of a model loads completely or not at all, unless it is told otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.pretrained_part import PretrainedPart
from tests.tiny import save_tiny, save_tiny_video, tiny_model

LOADERS = (AutoModel.from_pretrained, SamVariantsModel.from_pretrained)
TOKEN = "mask_decoder.iou_token.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", "tiny_vit")


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def widen(name: str, dim: int) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.update({name: torch.cat([tensors[name], tensors[name]], dim)})


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a weight is missing": (lambda tensors: tensors.pop(TOKEN), rf"1 missing: {TOKEN}"),
    "a statistic is missing": (
        lambda tensors: tensors.pop("image_encoder.patch_embed.seq.0.bn.running_var"),
        r"1 missing: image_encoder\.patch_embed\.seq\.0\.bn\.running_var",
    ),
    "a whole part is missing": (
        lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("prompt_encoder.")],
        r"\d+ missing: prompt_encoder\..*, .* and \d+ more",
    ),
    "an image has six channels": (
        widen("image_encoder.patch_embed.seq.0.c.weight", 1),
        r"1 mismatched: image_encoder\.patch_embed\.seq\.0\.c\.weight is \(8, 6, 3, 3\) instead of \(8, 3, 3, 3\)",
    ),
    "the embedding is wider": (
        widen("image_encoder.neck.0.weight", 0),
        r"1 mismatched: image_encoder\.neck\.0\.weight is \(64, 40, 1, 1\) instead of \(32, 40, 1, 1\)",
    ),
    "there are more masks": (
        widen("mask_decoder.mask_tokens.weight", 0),
        r"1 mismatched: mask_decoder\.mask_tokens\.weight is \(8, 32\) instead of \(4, 32\)",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_is_named(kind: str, folder: Path) -> None:
    edit, message = MISFITS[kind]
    edit_weights(folder, edit)
    for load in LOADERS:
        with pytest.raises(ValueError, match=rf"weights in '.*' do not fit a .*; keys {message}") as error:
            load(folder)
        assert "\n" not in str(error.value)
        assert isinstance(error.value, RuntimeError)  # as transformers raises for other shapes
    with pytest.raises(ValueError, match="nothing was loaded"):
        load_checkpoint(folder)


@pytest.mark.parametrize("kind", MISFITS)
def test_who_asks_for_it_gets_new_weights(kind: str, folder: Path, poison_empty: None) -> None:
    edit, _ = MISFITS[kind]
    edit_weights(folder, edit)
    for load in LOADERS:
        model, info = load(folder, ignore_mismatched_sizes=True, output_loading_info=True)
        assert info["missing_keys"] or info["mismatched_keys"]
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
        assert isinstance(load(folder, ignore_mismatched_sizes=True), SamVariantsModel)


def junk(tensors: dict[str, Tensor]) -> None:
    tensors |= {"mask_decoder.junk": torch.ones(3), "memory_encoder.junk": torch.ones(3)}


def drop_a_block(folder: Path) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["vision_config"]["depth"] -= 1
    path.write_text(json.dumps(values))


SURPLUS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a block of the encoder": (drop_a_block, r"14 unexpected: image_encoder\.blocks\.2\."),
    "keys of nothing": (lambda folder: edit_weights(folder, junk), r"1 unexpected: mask_decoder\.junk"),
}


@pytest.mark.parametrize("kind", SURPLUS)
def test_what_is_left_over_is_named(kind: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "vit")
    edit, message = SURPLUS[kind]
    edit(folder)
    for load in LOADERS:
        with pytest.raises(ValueError, match=rf"weights in '.*' do not fit a SamVariantsModel .*; keys {message}"):
            load(folder)
        assert load(folder, ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match=r"nothing was loaded; keys .* unexpected"):
        load_checkpoint(folder)


def test_other_parts_of_a_checkpoint_are_not_left_over(tmp_path: Path) -> None:
    folder = save_tiny_video(tmp_path / "video")
    whole = SamVariantsVideoModel.from_pretrained(folder)
    for kind in (SamVariantsModel, *{type(part) for part in whole.children() if isinstance(part, PretrainedPart)}):
        _, info = kind.from_pretrained(folder, output_loading_info=True)
        assert not info["unexpected_keys"]


def test_each_class_needs_its_own_parts_only(tmp_path: Path) -> None:
    folder = save_tiny_video(tmp_path / "video")
    drop_part(folder, "memory_attention.")
    for load in (AutoModel.from_pretrained, SamVariantsVideoModel.from_pretrained):
        with pytest.raises(ValueError, match=r"do not fit a SamVariantsVideoModel .* missing: memory_attention\."):
            load(folder)
    assert type(SamVariantsModel.from_pretrained(folder)) is SamVariantsModel
    assert MaskDecoder.from_pretrained(folder)
    drop_part(folder, "prompt_encoder.")
    with pytest.raises(ValueError, match=r"do not fit a SamVariantsModel .* missing: prompt_encoder\."):
        SamVariantsModel.from_pretrained(folder)
    assert MaskDecoder.from_pretrained(folder)


def drop_part(folder: Path, prefix: str) -> None:
    edit_weights(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(prefix)])


def test_state_dicts_are_complete_too(folder: Path) -> None:
    model = tiny_model("tiny_vit")
    state = model.state_dict()
    loaded, info = SamVariantsModel.from_pretrained(
        None, config=model.config, state_dict=dict(state), output_loading_info=True
    )
    assert not info["missing_keys"]
    assert torch.equal(loaded.state_dict()[TOKEN], state.pop(TOKEN))
    with pytest.raises(ValueError, match=f"weights in the state dict do not fit .* 1 missing: {TOKEN}"):
        SamVariantsModel.from_pretrained(None, config=model.config, state_dict=state)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "meta", "auto"])
def test_device_maps(device_map: Any, folder: Path) -> None:
    model = AutoModel.from_pretrained(folder, device_map=device_map)
    assert next(model.parameters()).device.type == ("meta" if device_map == "meta" else "cpu")
    edit_weights(folder, lambda tensors: tensors.pop(TOKEN))
    with pytest.raises(ValueError, match=f"1 missing: {TOKEN}"):
        AutoModel.from_pretrained(folder, device_map=device_map)
