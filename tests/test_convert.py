"""`sam-variants convert`: every layout there and back, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_examples import (  # noqa: F401
    LEFTOVER,
    REPOSITORY,
    names_in,
    official,
    refused,
    report_of,
    same_bits,
    their_models,
    tiny_presets,
)
from inventories import inventory, stand_ins
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoProcessor,
    SamModel,
)

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.configuration.known_checkpoints import CHECKPOINTS
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.hub.checksums import sha256_of, verify_files
from sam_variants.hub_scripts.convert_source import parameters_by_part, preset_of

pytestmark = pytest.mark.usefixtures("tiny_presets")


@pytest.mark.parametrize(
    ("preset", "dtype"),
    [
        ("sam-vit-base", torch.float32),
        ("mobile-sam", torch.float32),
        ("sam2-hiera-tiny", torch.float32),
        ("sam2.1-hiera-tiny", torch.float32),
        ("mobile-sam", torch.float16),
        ("sam2.1-hiera-tiny", torch.bfloat16),
    ],
)
def test_official_there_and_back(preset: str, dtype: torch.dtype, tmp_path: Path, poison_empty: None) -> None:
    given = official(preset, tmp_path / "given.pth", dtype)
    report = report_of(tmp_path / "given.pth", "--out", tmp_path / "ours")
    assert names_in(tmp_path / "ours") == REPOSITORY == {file["file"] for file in report["written"]}
    assert report["preset"] == preset
    assert report["dtype"] == str(dtype).removeprefix("torch.") == report["stored_dtypes"][0]
    assert set(report["dropped"]) == ({LEFTOVER} if preset == "mobile-sam" else set())
    assert report["files"][0]["sha256"] == sha256_of(tmp_path / "given.pth")
    assert report["files"][0]["published"] is None
    assert report["licence"] is None
    model = AutoModel.from_pretrained(tmp_path / "ours")
    assert report["parameters"]["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert model.dtype == dtype
    back = report_of(tmp_path / "ours", "--out", tmp_path / "back", "--to", "official")
    suffix = "pth" if preset == "sam-vit-base" else "pt"
    assert names_in(tmp_path / "back") == {f"{preset}.{suffix}", "SHA256SUMS"}
    assert back["written"][1]["bytes"] == (tmp_path / "back" / f"{preset}.{suffix}").stat().st_size
    content = torch.load(tmp_path / "back" / f"{preset}.{suffix}", weights_only=True)
    assert same_bits(content["model"] if preset.startswith("sam2") else content, given)
    assert verify_files(tmp_path / "back")


@pytest.mark.parametrize("layout", [name for name, row in LAYOUTS.items() if row.model_type])
def test_transformers_there_and_back(layout: str, tmp_path: Path, poison_empty: None) -> None:
    """The same tensors under the same names, and a configuration that builds the same model."""
    theirs = their_models()[layout]
    theirs.save_pretrained(tmp_path / "theirs")
    report = report_of(tmp_path / "theirs", "--out", tmp_path / "ours", "--verify")
    assert report["layout"] == LAYOUTS[layout].table.name
    assert report["told_by"] == "config.json"
    assert max(report["verified"]["differences"].values()) < 1e-3
    assert ("memories" in report["verified"]["differences"]) == layout.endswith("video")
    report_of(tmp_path / "ours", "--out", tmp_path / "back", "--to", "transformers")
    back, info = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert same_bits(back.state_dict(), theirs.state_dict())
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back")]
    assert same_bits(*files)
    # Weights of the same shapes, from the same configuration, do the same.
    settings = [preset_free(type(theirs).config_class.from_pretrained(tmp_path / name)) for name in ("theirs", "back")]
    assert settings[0] == settings[1]


def preset_free(config: Any) -> dict[str, Any]:
    """What a configuration says of the model; initialisation and bookkeeping aside."""
    beside = ("initializer_range", "transformers_version", "architectures", "dtype", "_name_or_path", "mlp_ratio")

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items() if name not in beside}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(config.to_dict())


def test_official_to_transformers_and_its_processor(tmp_path: Path) -> None:
    """Their processor loads without torchvision where they have one that does, and gives the input size."""
    official("sam-vit-base", tmp_path / "given.pth")
    report_of(tmp_path / "given.pth", "--out", tmp_path / "theirs", "--to", "transformers")
    assert names_in(tmp_path / "theirs") == {
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    processor = AutoProcessor.from_pretrained(tmp_path / "theirs")
    inputs = processor(torch.zeros(3, 30, 40, dtype=torch.uint8), input_points=[[[4, 5]]], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    model = SamModel.from_pretrained(tmp_path / "theirs")
    assert model(**inputs).pred_masks.shape[-1] == 32
    image_processor = processor.image_processor
    assert image_processor.image_mean == pytest.approx([0.485, 0.456, 0.406])
    assert image_processor.image_std == pytest.approx([0.229, 0.224, 0.225])
    official("sam2.1-hiera-tiny", tmp_path / "given.pt")
    report_of(tmp_path / "given.pt", "--out", tmp_path / "video", "--to", "transformers")
    files = {name: json.loads((tmp_path / "video" / name).read_text()) for name in names_in(tmp_path / "video")
             if name.endswith("processor_config.json")}  # fmt: skip
    assert files["processor_config.json"] == {
        "point_pad_value": -10,
        "processor_class": "Sam2VideoProcessor",
        "target_size": 64,
    }
    assert files["preprocessor_config.json"]["size"] == {"height": 64, "width": 64}
    assert files["video_preprocessor_config.json"]["video_processor_type"] == "Sam2VideoVideoProcessor"
    assert files["preprocessor_config.json"]["image_mean"] == [0.485, 0.456, 0.406]


def test_full_size_inventories_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published keys of every checkpoint come back under their names."""
    for name, known in CHECKPOINTS.items():
        tensors = stand_ins(inventory(name)["shapes"])
        table = LAYOUTS[known.layout].table
        back = table.to_theirs(table.to_ours(tensors))
        assert {key: tensor.shape for key, tensor in back.items()} == {key: t.shape for key, t in tensors.items()}
        assert inventory(name)["num_parameters"] == known.num_parameters
        counted = parameters_by_part((key, t) for key, t in table.to_ours(tensors).items() if "running_" not in key)
        assert counted["total"] >= known.num_parameters
        assert (counted["memory"] > 0) == (known.layout == "sam2")


def test_presets_are_told_apart() -> None:
    for name in PRESETS:
        assert preset_of(config_for(name)) == name
    changed = config_for("sam-vit-base")
    changed.vision_config.num_heads = 1  # nothing that a shape would show
    assert preset_of(changed) is None


def test_a_model_is_not_found(tmp_path: Path) -> None:
    message = refused(tmp_path / "none.pth")
    assert "there is no checkpoint file" in message
