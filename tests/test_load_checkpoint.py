"""`load_checkpoint`: every kind of file and folder, completely or with one clear error."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_models import (
    PROMPTS,
    TINY,
    TOLERANCE,
    copied,
    difference,
    legacy_torch,
    randomise,
    same_tensors,
    tiny_model,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, SamConfig, SamModel

from sam_variants.checkpoint_layouts.layout_transformers_sam import config_to_transformers_sam
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.modeling_sam_variants import SamVariantsModel


def prefixed(prefix: str) -> Callable[[dict[str, Tensor], Path], None]:
    return lambda state, path: torch.save({prefix + name: tensor for name, tensor in state.items()}, path)


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "torch.save": torch.save,
    "before torch 1.6": legacy_torch,
    "safetensors": save_file,
    "under model": lambda state, path: torch.save({"model": state}, path),
    "training state": lambda state, path: torch.save(
        {
            "model_state_dict": state,
            "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 12,
            "best_iou": np.float64(0.75),
            "args": argparse.Namespace(lr=0.1),
        },
        path,
    ),
    "data parallel": prefixed("module."),
    "compiled data parallel in a wrapper": lambda state, path: torch.save(
        {"state_dict": {f"module._orig_mod.model.{name}": tensor for name, tensor in state.items()}}, path
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", TINY)
def test_official_files(name: str, writer: str, tmp_path: Path, poison_empty: None) -> None:
    """The suffix is always the same: what counts is the content."""
    model = tiny_model(name)
    WRITERS[writer](copied(export_state_dict(model, name)), tmp_path / "weights.pth")
    loaded = load_checkpoint(tmp_path / "weights.pth", preset=model.config)
    assert same_tensors(loaded.state_dict(), model.state_dict())
    assert not loaded.training
    assert difference(model, loaded) == 0


def test_published_leftovers_are_dropped(tmp_path: Path) -> None:
    model = tiny_model("mobile-sam")
    state = copied(model)
    state["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(9, 9, dtype=torch.int64)
    state["image_encoder.layers.1.blocks.0.attn.ab"] = torch.randn(2, 9, 9)
    torch.save(state, tmp_path / "weights.pt")
    loaded = load_checkpoint(tmp_path / "weights.pt", preset=model.config)
    assert same_tensors(loaded.state_dict(), model.state_dict())
    assert difference(model, loaded) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model("mobile-sam").to(dtype)
    torch.save(copied(model), tmp_path / "weights.pt")
    loaded = load_checkpoint(tmp_path / "weights.pt", preset=model.config)
    assert loaded.dtype == dtype
    assert same_tensors(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_model_does_not_hang_on_the_file(suffix: str, tmp_path: Path) -> None:
    """A file that was memory-mapped while loading can be overwritten by the next save."""
    model, path = tiny_model("sam"), tmp_path / f"weights{suffix}"
    write = torch.save if suffix == ".pt" else save_file
    write(copied(model), path)
    loaded = load_checkpoint(path, preset=model.config)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert same_tensors(loaded.state_dict(), model.state_dict())


def sam_like(**changes: Any) -> SamVariantsModel:
    """A model with SAM's decoder width and an encoder of unusual size."""
    vision = {**TINY["sam"]["vision_config"], "out_chans": 256, **changes.pop("vision_config", {})}
    decoder = {"transformer_mlp_dim": 64, **changes}
    return randomise(SamVariantsModel(SamVariantsConfig(vision_config=vision, mask_decoder_config=decoder)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_multimask_outputs": 5, "iou_head_depth": 4, "transformer_depth": 1},
        {"vision_config": {"window_size": 0, "global_attn_indexes": []}},
        {"vision_config": {"qkv_bias": False, "mlp_ratio": 2.5, "image_size": 128}},
    ],
)
def test_unusual_sizes_are_read_from_shapes(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = sam_like(**changes)
    torch.save(copied(model), tmp_path / "finetuned.pth")
    loaded = load_checkpoint(tmp_path / "finetuned.pth")
    assert "fits no preset" in caplog.text
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        found, expected = (getattr(config, part).to_dict() for config in (loaded.config, model.config))
        assert {**found, "dtype": None} == {**expected, "dtype": None}
    assert same_tensors(loaded.state_dict(), model.state_dict())
    assert difference(model, loaded) == 0


def test_mobile_sam_with_another_head_is_read_from_shapes(tmp_path: Path) -> None:
    values = {**TINY["mobile-sam"]["vision_config"], "out_chans": 256, "embed_dims": [8, 16, 24, 320], "num_classes": 0}
    model = randomise(SamVariantsModel(SamVariantsConfig(vision_config={**values, "image_size": 1024})))
    torch.save(copied(model), tmp_path / "finetuned.pt")
    loaded = load_checkpoint(tmp_path / "finetuned.pt")
    assert same_tensors(loaded.state_dict(), model.state_dict())
    assert difference(model, loaded) == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: tiny_model("sam"), "shapes do not show the decoder's number of heads: found .*'embed_dim': 24"),
        (lambda: sam_like(vision_config={"use_rel_pos": False}), "shapes do not show num_heads, window_size: found"),
        (lambda: sam_like(vision_config={"use_abs_pos": False}), "shapes do not show image_size, window_size: found"),
    ],
)
def test_what_shapes_do_not_show_is_asked_for(
    model: Callable[[], SamVariantsModel], message: str, tmp_path: Path
) -> None:
    torch.save(copied(model()), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message + ".*pass preset= with one of sam-vit-base.* SamVariantsConfig"):
        load_checkpoint(tmp_path / "weights.pth")


def test_a_misfit_lists_keys_and_shapes(tmp_path: Path) -> None:
    state = copied(tiny_model("sam", num_multimask_outputs=4))
    del state["image_encoder.neck.3.bias"]
    state["mask_decoder.output_upscaling.9.bias"] = torch.ones(3)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="nothing was loaded") as raised:
        load_checkpoint(tmp_path / "weights.pth", preset=SamVariantsConfig(**TINY["sam"]))
    message = str(raised.value)
    assert "1 missing: image_encoder.neck.3.bias (32,)" in message
    assert "mask_decoder.output_upscaling.9.bias (3,)" in message
    assert "mask_decoder.mask_tokens.weight is (5, 32) instead of (4, 32)" in message
    assert "\n" not in message
    with pytest.raises(ValueError, match=r"keys \d+ missing: .*image_encoder\.blocks\..* and \d+ more"):
        load_checkpoint(tmp_path / "weights.pth", preset="sam-vit-base")


def test_preset_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset='sam-vit-giant' is unknown"):
        load_checkpoint(tmp_path / "weights.pth", preset="sam-vit-giant")
    with pytest.raises(TypeError, match="preset must be a preset's name or a configuration, got int"):
        load_checkpoint(tmp_path / "weights.pth", preset=3)


TINY_SAM = {
    "vision_config": {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "mlp_dim": 50,
        "output_channels": 32,
        "image_size": 64,
        "patch_size": 8,
        "window_size": 3,
        "global_attn_indexes": [1],
        "num_pos_feats": 16,
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 32,
        "mlp_dim": 40,
        "num_attention_heads": 4,
        "num_multimask_outputs": 2,
        "iou_head_depth": 4,
        "iou_head_hidden_dim": 24,
    },
}


@pytest.fixture
def their_model() -> SamModel:
    return randomise(SamModel(SamConfig.from_dict(TINY_SAM)))


@pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"])
def test_transformers_folder(max_shard_size: str, their_model: SamModel, tmp_path: Path) -> None:
    """Their saved folder, whole or sharded, gives their outputs, and its tensors come back bit for bit."""
    their_model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors").is_file() == (max_shard_size == "1GB")
    loaded = load_checkpoint(tmp_path)
    assert difference(their_model, loaded) < TOLERANCE
    assert same_tensors(export_state_dict(loaded, "transformers-sam"), their_model.state_dict())


def test_transformers_file_beside_its_config(their_model: SamModel, tmp_path: Path) -> None:
    their_model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert difference(their_model, loaded) < TOLERANCE


def test_transformers_mask_prompts(their_model: SamModel, tmp_path: Path) -> None:
    their_model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    pixel_values, mask = torch.randn(1, 3, 64, 64), torch.randn(1, 1, 32, 32)
    prompts = {"pixel_values": pixel_values, "input_boxes": PROMPTS["boxes"]["input_boxes"][:, :1], "input_masks": mask}
    with torch.no_grad():
        theirs, ours = their_model(**prompts).pred_masks, loaded(**prompts).pred_masks
    assert (theirs - ours).abs().max() < TOLERANCE
    assert theirs.std() > 0.05


def test_ours_in_the_transformers_layout(tmp_path: Path) -> None:
    """The other direction: transformers computes what our model computes, and its folder brings our tensors back."""
    model = tiny_model("sam")
    exported = export_state_dict(model, "transformers-sam")
    theirs, info = SamModel.from_pretrained(
        None, config=config_to_transformers_sam(model.config), state_dict=exported, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert difference(model, theirs.eval()) < TOLERANCE
    theirs.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert same_tensors(loaded.state_dict(), model.state_dict())
    assert difference(model, loaded) == 0


@pytest.mark.parametrize("name", TINY)
def test_official_export_is_the_state_dict(name: str) -> None:
    """But for a prefix of SAM 2's."""
    model = tiny_model(name)
    exported = {key.removeprefix("sam_"): tensor for key, tensor in export_state_dict(model, name).items()}
    assert same_tensors(exported, model.state_dict())


def test_export_refuses_what_a_layout_cannot_hold() -> None:
    model = tiny_model("mobile-sam")
    with pytest.raises(ValueError, match="do not belong to the transformers SamModel layout"):
        export_state_dict(model, "transformers-sam")
    with pytest.raises(ValueError, match="layout='sam3' is unknown; choose one of sam, mobile-sam"):
        export_state_dict(model, "sam3")


@pytest.mark.parametrize("name", TINY)
def test_our_own_folder_and_its_file(name: str, tmp_path: Path, poison_empty: None) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_checkpoint(path)
        assert type(loaded) is type(model)
        assert same_tensors(loaded.state_dict(), model.state_dict())
        assert difference(model, loaded) == 0


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.pop("mask_decoder.iou_token.weight"), r"1 missing: mask_decoder\.iou_token\.weight"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), r"1 unexpected: extra \(1,\)"),
        (
            lambda tensors: tensors.update({"mask_decoder.iou_token.weight": torch.ones(1, 7)}),
            r"iou_token\.weight is \(1, 7\)",
        ),
    ],
)
def test_our_own_folder_is_never_loaded_partially(edit: Callable[..., Any], message: str, tmp_path: Path) -> None:
    tiny_model("sam").save_pretrained(tmp_path)
    edit_weights(tmp_path, edit)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 400, -10])
def test_our_own_folder_cut_short(keep: int, tmp_path: Path) -> None:
    tiny_model("sam").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors' is (empty|a truncated|no checkpoint|not a checkpoint)"):
        load_checkpoint(tmp_path)


def test_shards_are_checked(their_model: SamModel, tmp_path: Path) -> None:
    their_model.save_pretrained(tmp_path, max_shard_size="20KB")
    index_path = tmp_path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    key, shard = next(iter(index["weight_map"].items()))
    index_path.write_text(json.dumps({"weight_map": {**index["weight_map"], "ghost": shard}}))
    with pytest.raises(ValueError, match="does not hold what its index says: ghost"):
        load_checkpoint(tmp_path)
    index_path.write_text(json.dumps({"weight_map": {**index["weight_map"], key: "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match="shards lie beside the index"):
        load_checkpoint(tmp_path)
    index_path.write_text(json.dumps(index))
    (tmp_path / shard).unlink()
    with pytest.raises(FileNotFoundError, match=rf"is incomplete: .* the shard '{shard}', which is missing"):
        load_checkpoint(tmp_path)
    index_path.write_text("{}")
    with pytest.raises(ValueError, match="has no 'weight_map'"):
        load_checkpoint(tmp_path)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no weights"):
        load_checkpoint(tmp_path)
    model = tiny_model("sam")
    torch.save(copied(model), tmp_path / "b.pth")
    assert same_tensors(load_checkpoint(tmp_path, preset=model.config).state_dict(), model.state_dict())
    shutil.copy(tmp_path / "b.pth", tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"holds 2 weights files; give the path of one: a\.pth, b\.pth"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "sam_hq"}')
    with pytest.raises(
        ValueError, match=r"has model_type='sam_hq'; those that can be read: sam_variants…, sam, sam2_video, sam2$"
    ):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json' is not valid JSON"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["missing.pth", "some/folder/missing", "folder/missing.pt", "./missing/x.pth", "missing"]
)
def test_missing_files(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file or folder"):
        load_checkpoint(name)


@pytest.mark.parametrize("name", ["someone/no-such-model", "someone/no-such-model/weights.pth"])
def test_hub_repositories_without_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=f"'{name}' is no local path, and the Hub.*HF_HUB_OFFLINE is set") as raised:
        load_checkpoint(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("video", [False, True])
def test_the_embedded_checkpoints_are_stored_small_and_computed_exactly(video: bool) -> None:
    folder = default_checkpoint(video=video)
    model = load_checkpoint(folder)
    assert model.dtype == AutoModel.from_pretrained(folder).dtype == torch.float32
    assert hasattr(model, "start_session") == video
    sizes = [sum(file.stat().st_size for file in default_checkpoint(video=one).iterdir()) for one in (False, True)]
    assert sum(sizes) < 15_000_000
