"""`sam-variants convert --verify`: a conversion that computes something else than transformers is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_models import TINY, copied, model_from
from test_cli import run
from tiny import save_tiny, save_tiny_video
from torch import Tensor

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict
from sam_variants.checkpoint_layouts.write_checkpoint import transformers_layout
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.hub_scripts import convert_run
from sam_variants.hub_scripts.convert_source import Source, preset_of, read_source
from sam_variants.hub_scripts.convert_verify import LIMIT, NUM_FRAMES, Verification, verify_source

IMAGE_OUTPUTS = {"masks", "scores"}
VIDEO_OUTPUTS = IMAGE_OUTPUTS | {"object scores", "memories", "masks while tracking", "object scores while tracking"}


def written(kind: str, folder: Path) -> Path:
    """A tiny model of ours whose object is seen, as a folder with its configuration."""
    model: Any = model_from({"model_type": "sam_variants", **TINY[kind]})
    if kind == "sam2":
        torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.layers[-1].bias, 10.0)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "outputs", "compared_with"),
    [
        ("sam", IMAGE_OUTPUTS, "SamModel"),
        ("mobile-sam", IMAGE_OUTPUTS, "SamModel (its prompt encoder and mask decoder, behind our image encoder)"),
        ("sam2", VIDEO_OUTPUTS, "Sam2Model and Sam2VideoModel"),
    ],
)
def test_what_is_compared(kind: str, outputs: set[str], compared_with: str, tmp_path: Path) -> None:
    source = read_source(str(written(kind, tmp_path)))
    found = verify_source(source)
    assert set(found.differences) == outputs
    assert 0 < max(found.differences.values()) < LIMIT
    assert found.compared_with == compared_with
    assert bool(found.not_compared) == (kind == "mobile-sam")
    assert source.model.config.to_dict() == read_source(str(tmp_path)).model.config.to_dict()


SPOILED: dict[str, tuple[str, str, str]] = {
    "image encoder of SAM": ("sam", "image_encoder.blocks.2.mlp.lin1.weight", "masks"),
    "decoder of SAM": ("sam", "mask_decoder.iou_prediction_head.layers.2.bias", "scores"),
    "decoder of MobileSAM": ("mobile-sam", "mask_decoder.output_upscaling.0.weight", "masks"),
    "image encoder of SAM 2": ("sam2", "image_encoder.trunk.blocks.3.mlp.layers.0.weight", "masks"),
    "memory encoder": ("sam2", "memory_encoder.pix_feat_proj.weight", "memories"),
    "memory attention": ("sam2", "memory_attention.layers.1.linear1.weight", "masks while tracking"),
    "object pointers": ("sam2", "obj_ptr_proj.layers.1.weight", "masks while tracking"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_wrong_weight_is_found(name: str, tmp_path: Path) -> None:
    kind, key, output = SPOILED[name]
    source = read_source(str(written(kind, tmp_path)))
    spoil(source.model, key, lambda weight: weight * 1.5 + 0.05)
    found = verify_source(source)
    assert found.differences[output] > LIMIT
    with pytest.raises(
        ValueError, match=rf"was not converted: outputs differ .* by up to .*{output} .*0.001 is allowed"
    ):
        found.check("weights.pth")


def spoil(model: Any, key: str, wrong: Callable[[Tensor], Tensor]) -> None:
    """Give a model another weight; the tensor that was read, which the model may hold itself, stays what it is."""
    model.load_state_dict({key: wrong(model.state_dict()[key])}, strict=False, assign=True)


def test_no_number_is_no_agreement() -> None:
    with pytest.raises(ValueError, match="masks nan"):
        Verification("SamModel", {"masks": float("nan"), "scores": 0.0}).check("weights.pth")
    Verification("SamModel", {"masks": LIMIT, "scores": 0.0}).check("weights.pth")


def spoiled(read: Callable[..., Source]) -> Callable[..., Source]:
    """A reader that gets one weight wrong."""

    def read_wrong(*arguments: Any) -> Source:
        source = read(*arguments)
        spoil(source.model, "mask_decoder.iou_token.weight", lambda weight: torch.full_like(weight, 3.0))
        return source

    return read_wrong


def test_the_command_refuses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An official file: nothing is written, and the difference is told; without the fault it is written and told."""
    model: Any = model_from({"model_type": "sam_variants", **TINY["sam"]})
    torch.save(copied(export_state_dict(model, "sam")), tmp_path / "given.pth")
    monkeypatch.setitem(convert_run.read_source.__globals__, "detect_config", lambda shapes, source: model.config)
    call = ("convert", tmp_path / "given.pth", "--out", tmp_path / "out", "--verify")
    with monkeypatch.context() as patch:
        patch.setattr(convert_run, "read_source", spoiled(convert_run.read_source))
        result = run(*call)
    assert result.exit_code == 1
    assert "was not converted: outputs differ from those of transformers' SamModel by up to masks" in result.stderr
    assert not (tmp_path / "out").exists()
    result = run(*call, "--json", "--dtype", "float16")
    assert result.exit_code == 0, result.stderr
    (report,) = json.loads(result.stdout)["converted"]
    assert report["verified"]["compared_with"] == "SamModel"
    assert max(report["verified"]["differences"].values()) < LIMIT
    assert "verify" in report["seconds"]
    shown = run(*call, "--force").stdout
    assert "largest difference: masks" in " ".join(shown.replace("│", " ").split())


def test_the_embedded_kinds(tmp_path: Path) -> None:
    """Of a TinyViT with skip connections transformers has a decoder, of one with SAM 2's decoder nothing."""
    save_tiny(tmp_path / "skips", "tiny_vit_with_skips")
    assert verify_source(read_source(str(tmp_path / "skips"))).not_compared
    save_tiny_video(tmp_path / "video")
    result = run("convert", tmp_path / "video", "--out", tmp_path / "out", "--verify")
    assert result.exit_code == 1
    assert "was not converted: transformers has no such architecture" in result.stderr
    assert "no place for the weights of a SAM 2 decoder" in result.stderr
    assert "without --verify it is converted" in result.stderr
    assert not (tmp_path / "out").exists()
    assert run("convert", tmp_path / "video", "--out", tmp_path / "out").exit_code == 0


def test_presets_are_known_by_transformers_configurations() -> None:
    for name in PRESETS:
        config: Any = config_for(name)
        if name != "mobile-sam":
            layout: Any = LAYOUTS[transformers_layout(config)]
            config = layout.config_from(layout.config_to(config).to_dict())
        assert preset_of(config) == name


def test_some_frames_look_back() -> None:
    assert NUM_FRAMES > 2
