"""Model cards: their metadata, their numbers, and the code in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from card_examples import HEIGHT, WIDTH, python_blocks, run, write_material
from huggingface_hub import ModelCard
from local_hub import LocalHub
from tiny import TINY_VISION, tiny_config, tiny_model, tiny_video_config, tiny_video_model

from sam_variants.configuration.known_checkpoints import CHECKPOINTS
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.hub.card_text import preset_of
from sam_variants.hub.model_card import count_parameters, model_card
from sam_variants.hub.repo_folder import write_repo_folder
from sam_variants.hub_scripts.export_remote_code import export_remote_code

REPORTS = Path(__file__).parent / "evaluation_reports"
EMBEDDED, EMBEDDED_VIDEO = 2_430_240, 3_380_114


def report(name: str) -> dict[str, Any]:
    return json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))


def card_of(**known: Any) -> ModelCard:
    return model_card(tiny_config("tiny_vit"), "me/tiny", num_parameters=EMBEDDED, **known)


def reloaded(card: ModelCard, folder: Path) -> ModelCard:
    card.save(folder / "README.md")
    return ModelCard.load(folder / "README.md")


def test_metadata_survives_a_file_and_passes_the_hubs_check(hub: LocalHub, tmp_path: Path) -> None:
    card = card_of(license="Apache-2.0", base_model="me/base", base_model_relation="finetune", datasets=["me/scenes"])
    again = reloaded(card, tmp_path)
    assert again.data.to_dict() == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "mask-generation",
        "tags": ["segment-anything", "sam-variants", "tiny-vit"],
        "base_model": "me/base",
        "base_model_relation": "finetune",
        "datasets": ["me/scenes"],
    }
    assert str(again) == str(card)
    again.validate()
    assert hub.requests("POST", "/api/validate-yaml")


@pytest.mark.parametrize("name", sorted(TINY_VISION))
def test_the_text_states_what_the_model_is(name: str) -> None:
    model = tiny_model(name)
    text = model_card(model, "me/tiny").text
    assert f"| parameters | {sum(p.numel() for p in model.parameters()):,} |" in text
    assert "| input | 64×64 pixels |" in text
    assert "| for | images |" in text
    assert "video.mp4" not in text
    # A configuration says the same as a model with it.
    assert text == model_card(model.config, "me/tiny").text


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_published_architecture_is_named(preset: str) -> None:
    assert preset_of(config_for(preset)) == preset


def test_another_size_is_no_published_architecture() -> None:
    config = config_for("mobile-sam")
    config.image_size = 512
    assert preset_of(config) is None
    assert preset_of(tiny_video_config()) is None


def test_parameters_are_counted_without_memory() -> None:
    assert count_parameters(config_for("sam-vit-huge")) == 641_090_608


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_a_published_base_brings_its_licence_and_its_repository(name: str) -> None:
    known = CHECKPOINTS[name]
    for base_model in (name, known.preset, known.file_name):
        card = card_of(base_model=base_model)
        assert card.data.license == known.licence.lower()
        assert known.url in card.text
        expected = None if known.preset == "mobile-sam" else f"facebook/{known.preset}"
        assert card.data.base_model == expected


def test_a_licence_is_never_invented() -> None:
    card = card_of(base_model="me/base")
    assert card.data.license is None
    assert "not stated" in card.text
    unknown = card_of(license="unknown")
    assert unknown.data.license == "unknown"
    assert "not known" in unknown.text
    other = card_of(license="other", license_name="my-terms", license_link="https://example.com/terms")
    assert other.data.to_dict()["license_name"] == "my-terms"
    assert "[my-terms (`other`)](https://example.com/terms)" in other.text


@pytest.mark.parametrize(
    ("known", "named"),
    [
        ({"license": "Apache 2.0"}, "license='Apache 2.0'"),
        ({"base_model": "somewhere"}, "base_model='somewhere'"),
        ({"base_model_relation": "copy"}, "base_model_relation='copy'"),
        ({"evaluation": {"results": {}}}, "sam-variants evaluate --json"),
        ({"evaluation": {"results": {"held_out": {"model": {}}}, "model": {}}}, "sam-variants evaluate --json"),
        ({"evaluation": report("evaluate_tracking")}, "3,380,114 parameters, where this one has 2,430,240"),
    ],
)
def test_what_cannot_be_is_refused(known: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named.replace("(", r"\(")):
        card_of(**known)


def test_without_an_evaluation_nothing_was_measured() -> None:
    card = card_of()
    assert card.data.eval_results is None
    assert "## Measured\n\nNothing" in card.text


def test_numbers_are_those_of_the_evaluation(tmp_path: Path) -> None:
    values = report("evaluate")
    card = reloaded(card_of(evaluation=values), tmp_path)
    found = {(result.dataset_type, result.metric_name): result for result in card.data.eval_results}
    for dataset, name in (("sam-variants/held-out-scenes", "held_out"), ("scikit-image/coins", "coins")):
        expected = values["results"][name]["model"]["all"]
        measured = {metric: result.metric_value for (kind, metric), result in found.items() if kind == dataset}
        assert list(measured.values()) == [expected[key] for key in ("click", "best_of_3", "three_clicks", "box")]
        assert measured["mean IoU, 1 click"] == expected["click"]
        assert f"| mean IoU, box | {100 * expected['box']:.1f} % | {expected['objects']} objects |" in card.text
    result = found["scikit-image/coins", "mean IoU, box"]
    assert result.dataset_args == {**values["settings"], "image_size": 320}
    assert "scenes 2" in card.text
    assert f"torch {values['versions']['torch']}" in card.text
    # Those of flood fill and GrabCut are not the model's.
    baseline = values["results"]["coins"]["grabcut"]["all"]["box"]
    assert baseline not in [result.metric_value for result in card.data.eval_results]


def test_numbers_of_tracking_and_of_mask_generation() -> None:
    tracking, everything = report("evaluate_tracking"), report("evaluate_everything")
    card = model_card(tiny_video_config(), "me/v", num_parameters=EMBEDDED_VIDEO, evaluation=tracking)
    values = [result.metric_value for result in card.data.eval_results]
    session = tracking["results"]["session"]
    assert values == [session[key] for key in ("j_first", "j", "j_visible")]
    both = card_of(evaluation=[report("evaluate"), everything])
    coins = everything["results"]["coins"]["full"]
    values = [result.metric_value for result in both.data.eval_results if result.dataset_type == "scikit-image/coins"]
    assert values[-3:] == [coins["objects"]["0.75"], coins["objects"]["0.9"], coins["objects_iou"]]
    assert both.text.count("By `sam-variants evaluate") == 2


def check_image_example(variables: dict[str, Any]) -> None:
    mask = variables["mask"]
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.dtype == torch.bool


def test_the_examples_run_from_the_hub(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_video_model().push_to_hub("me/tracker")
    write_material(tmp_path)
    monkeypatch.chdir(tmp_path)
    card = ModelCard.load("me/tracker")
    image, video = python_blocks(card)
    check_image_example(run(image))
    assert run(video)["masks"].object_ids.tolist() == [1]
    assert "constant memory" in card.text
    assert "video-segmentation" in card.data.tags


def test_the_example_runs_beside_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repo_folder(tiny_model("hiera"), tmp_path / "model")
    write_material(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    [image] = python_blocks(ModelCard.load("README.md"))
    check_image_example(run(image))


def test_the_example_with_code_runs_without_the_package(hub: LocalHub, tmp_path: Path) -> None:
    """And what it loaded goes back to the Hub from there, again with its code and a card of its own."""
    folder = tmp_path / "model"
    write_repo_folder(tiny_model("tiny_vit"), folder, card=model_card(tiny_config("tiny_vit"), with_code=True))
    export_remote_code(folder)
    write_material(folder)
    [image] = python_blocks(ModelCard.load(folder / "README.md"))
    assert "import sam_variants" not in image
    told = "print(tuple(mask.shape), type(model).__module__)\nmodel.push_to_hub('me/again', processor=processor)\n"
    (folder / "example.py").write_text(f"{image}\n{told}")
    # None in place of the package makes every import of it fail.
    start = "import sys, runpy; sys.modules['sam_variants'] = None; runpy.run_path('example.py')"
    environment = {**hub.environment(), "HF_TOKEN": "hf_local", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert f"({HEIGHT}, {WIDTH}) transformers_modules." in done.stdout
    files = hub.files("me/again")
    assert {path.name for path in folder.glob("*.py")} - {"example.py"} == {name for name in files if ".py" in name}
    assert "AutoModel" in json.loads(files["config.json"])["auto_map"]
    assert ModelCard.load("me/again").text.count("trust_remote_code=True") == 3
    assert len(hub.titles("me/again")) == 2
