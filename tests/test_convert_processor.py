"""`sam-variants convert`: what belongs to the weights goes with them, from this machine and from the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_examples import names_in, official, refused, report_of, their_models, tiny_presets  # noqa: F401
from huggingface_hub import HfApi
from test_cli import run
from tiny import save_tiny
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.processor_for import processor_for

OWN_MEAN = [1.0, 2.0, 3.0]
CARD = "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n\n# Written by hand\n"
IMAGE = torch.randint(0, 256, (40, 60, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()


def edited(path: Path, **changes: Any) -> None:
    """Change what a JSON file says."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def image_settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "processor_config.json").read_text())["image_processor"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of ours with a processor and a card of its own."""
    folder = save_tiny(tmp_path / "own", "vit")
    edited(folder / "processor_config.json", image_processor=image_settings(folder) | {"image_mean": OWN_MEAN})
    (folder / "README.md").write_text(CARD)
    return folder


def test_our_repository_keeps_its_processor_and_card(own: Path, hub: Any, tmp_path: Path) -> None:
    """The same from the Hub, from the folder, and from the weights file in it; the report tells of the card."""
    api = HfApi()
    api.create_repo("me/own")
    api.upload_folder(repo_id="me/own", folder_path=own)
    for number, source in enumerate(("me/own", own, own / "model.safetensors")):
        out = tmp_path / f"out{number}"
        report = report_of(source, "--out", out)
        assert image_settings(out)["image_mean"] == OWN_MEAN
        assert (out / "README.md").read_text() == CARD
        assert report["licence"] == "other"
    shown = " ".join(run("convert", own, "--out", tmp_path / "shown").stdout.split())
    assert "licence other" in shown
    assert report_of(own, "--out", tmp_path / "mit", "--licence", "mit")["licence"] == "mit"
    card = (tmp_path / "mit" / "README.md").read_text()
    assert "license: mit" in card
    assert "license_name" not in card


def test_a_card_that_cannot_be_read_is_named(own: Path, tmp_path: Path) -> None:
    (own / "README.md").write_text("---\nlicense: [\n---\n")
    assert "README.md" in refused(own, "--out", tmp_path / "out")
    assert names_in(tmp_path) == {"own"}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """transformers' folder of SAM with its processor, in the file that older versions wrote."""
    folder = tmp_path / "theirs"
    their_models()["transformers-sam"].save_pretrained(folder)
    image_processor(folder).save_pretrained(folder)
    return folder


def image_processor(folder: Path) -> SamImageProcessorPil:
    """transformers' image processor for a tiny model."""
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    side, mask = vision["image_size"], 4 * vision["image_size"] // vision["patch_size"]
    square = {"height": side, "width": side}
    return SamImageProcessorPil(
        size={"longest_edge": side},
        pad_size=square,
        mask_size={"longest_edge": mask},
        mask_pad_size={"height": mask, "width": mask},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"do_rescale": False, "image_mean": OWN_MEAN},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"resample": 3},
    ],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_their_processor_is_taken_over(changes: dict[str, Any], is_nested: bool, theirs: Path, tmp_path: Path) -> None:
    """Ours gives what theirs gives for the same image, and there and back the settings are the same."""
    path = theirs / "preprocessor_config.json"
    edited(path, **changes)
    expected = SamImageProcessorPil.from_pretrained(theirs)(IMAGE, return_tensors="np")["pixel_values"]
    if is_nested:
        settings = {"image_processor": json.loads(path.read_text()), "processor_class": "SamProcessor"}
        (theirs / "processor_config.json").write_text(json.dumps(settings))
        edited(path, image_mean=[9.0, 9.0, 9.0])  # an older file that newer versions do not read
    report_of(theirs, "--out", tmp_path / "ours")
    processor = SamVariantsProcessor.from_pretrained(tmp_path / "ours")
    found = processor(IMAGE, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    report_of(tmp_path / "ours", "--out", tmp_path / "back", "--to", "transformers")
    back = SamImageProcessorPil.from_pretrained(tmp_path / "back")(IMAGE, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-4)


def test_the_published_processor_is_ours(theirs: Path, tmp_path: Path) -> None:
    """The same numbers on another scale change nothing in what we write."""
    report_of(theirs, "--out", tmp_path / "ours")
    processor = SamVariantsProcessor.from_pretrained(tmp_path / "ours")
    model_alone = tmp_path / "alone"
    their_models()["transformers-sam"].save_pretrained(model_alone)
    report_of(model_alone, "--out", tmp_path / "default")
    assert processor.to_dict() == SamVariantsProcessor.from_pretrained(tmp_path / "default").to_dict()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", {"longest_edge": 512}),
        ("pad_size", {"height": 512, "width": 512}),
        ("mask_size", {"longest_edge": 8}),
        ("mask_pad_size", {"height": 8, "width": 8}),
        ("do_pad", False),
        ("do_resize", False),
        ("image_mean", [0.5, 0.5]),
    ],
)
def test_what_ours_cannot_do_is_refused(field: str, value: Any, theirs: Path, tmp_path: Path) -> None:
    edited(theirs / "preprocessor_config.json", **{field: value})
    message = refused(theirs, "--out", tmp_path / "out")
    assert "preprocessor_config.json of" in message
    assert f"{field}={value!r}" in message.replace("(0.5, 0.5)", "[0.5, 0.5]")
    assert names_in(tmp_path) == {"theirs"}


@pytest.mark.usefixtures("tiny_presets")
def test_their_sam2_processor_from_the_hub(hub: Any, tmp_path: Path) -> None:
    official("sam2.1-hiera-tiny", tmp_path / "given.pt")
    folder = tmp_path / "theirs"
    report_of(tmp_path / "given.pt", "--out", folder, "--to", "transformers")
    edited(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5], do_pad=None, pad_size=None)
    api = HfApi()
    api.create_repo("someone/theirs")
    api.upload_folder(repo_id="someone/theirs", folder_path=folder)
    report_of("someone/theirs", "--out", tmp_path / "ours")
    found = image_settings(tmp_path / "ours")
    assert found["image_mean"] == [0.5, 0.5, 0.5]
    expected = processor_for("sam2.1-hiera-tiny").image_processor
    assert found["image_std"] == list(expected.image_std)
    assert found["size"] == {"height": 64, "width": 64}
    edited(folder / "preprocessor_config.json", size={"height": 512, "width": 512})
    assert "has size={'height': 512, 'width': 512}, and this model takes 64" in refused(
        folder, "--out", tmp_path / "other"
    )
