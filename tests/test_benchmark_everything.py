"""The benchmark `everything`: that both sides do the same, that what is timed adds up, and the reports."""

from __future__ import annotations

import json
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils
from tiny import save_tiny, tiny_model
from typer.testing import CliRunner

from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts import benchmark_everything, benchmark_generators, cli
from sam_variants.hub_scripts.benchmark_everything import (
    EMBEDDED,
    SAME_IOU,
    chosen_generators,
    grid_sides,
    measure_row,
    summary,
)
from sam_variants.hub_scripts.benchmark_everything_tables import everything_tables
from sam_variants.hub_scripts.benchmark_generators import (
    BFLOAT16,
    FAST,
    GENERATORS,
    OFFICIAL,
    OURS,
    REST,
    THEIRS,
    Task,
    has_official,
    photo,
    run,
    run_alone,
    their_points_per_batch,
)
from sam_variants.hub_scripts.benchmark_peak import PeakMemory
from sam_variants.hub_scripts.benchmark_settings import GENERATING, PRESET, EverythingSettings
from sam_variants.hub_scripts.benchmark_structured_sam import (
    preset_sam_config,
    small_sam_config,
    structured_sam,
)
from sam_variants.hub_scripts.benchmark_their_models import their_processor, transformers_twin
from sam_variants.hub_scripts.mask_matching import agreement, recall
from sam_variants.mask_codecs import encode_mask
from sam_variants.mask_generation.time_split import DECODE, ENCODE

SMALL_PHOTO = 0.02


@pytest.fixture(scope="module")
def small_sam(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sam")
    structured_sam(small_sam_config(128), photo(SMALL_PHOTO)).save_pretrained(folder)
    return str(folder)


def task(model: str, generator: str = OURS, **options: Any) -> Task:
    return Task(generator, model, SMALL_PHOTO, {"points_per_side": 6, **options})


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["benchmark", "everything", *map(str, arguments)], prog_name="sam-variants")


def test_random_model_makes_masks_of_many_sizes(small_sam: str) -> None:
    found = run(task(small_sam, points_per_side=12))["masks"]
    areas = mask_utils.area(found) / (SMALL_PHOTO * 1e6)
    assert len(found) > 30
    assert areas.min() < 0.1 < areas.max() < 0.7
    again = structured_sam(small_sam_config(128), photo(SMALL_PHOTO)).state_dict()
    first = load_checkpoint(small_sam).state_dict()
    assert torch.equal(first["mask_decoder.mask_tokens.weight"], again["mask_decoder.mask_tokens.weight"])


def test_both_make_the_same_masks(small_sam: str) -> None:
    ours, theirs = run(task(small_sam)), run(task(small_sam, THEIRS))
    compared = agreement(ours["masks"], theirs["masks"], SAME_IOU)
    assert compared.theirs > 10
    assert (compared.matched, compared.extra) == (compared.theirs, 0)


@pytest.mark.parametrize("encoder", ["tiny_vit", "tiny_vit_with_skips"])
@torch.no_grad()
def test_their_decoder_behind_our_encoder(encoder: str) -> None:
    ours = tiny_model(encoder)
    twin = transformers_twin(ours)
    pixels, points = torch.randn(1, 3, 64, 64), torch.tensor([[[[20.0, 30.0]], [[50.0, 8.0]]]])
    expected = ours(pixel_values=pixels, input_points=points, input_labels=torch.ones(1, 2, 1, dtype=torch.long))
    found = twin(image_embeddings=twin.get_image_embeddings(pixels), input_points=points)
    assert expected.pred_masks.std() > 0.01
    torch.testing.assert_close(found.pred_masks, expected.pred_masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.iou_scores, expected.iou_scores, atol=1e-4, rtol=1e-4)


def test_twin_of_a_model_that_it_cant_hold() -> None:
    config = tiny_model("tiny_vit").config
    config.mask_decoder_config.pred_obj_scores = True
    with pytest.raises(ValueError, match="no place for the weights of a SAM 2 decoder"):
        transformers_twin(types.SimpleNamespace(config=config))  # type: ignore[arg-type]


def test_embedded_kind_of_model(tmp_path: Path) -> None:
    """A folder of ours: transformers' pipeline runs its decoder behind our image encoder."""
    folder = str(save_tiny(tmp_path, "tiny_vit_with_skips"))
    anything = {"pred_iou_thresh": -9.0, "stability_score_offset": 0.0, "points_per_side": 4}
    ours, theirs = (run(task(folder, name, **anything)) for name in (OURS, THEIRS))
    compared = agreement(ours["masks"], theirs["masks"], SAME_IOU)
    assert compared.theirs > 0
    assert (compared.matched, compared.extra) == (compared.theirs, 0)


@pytest.mark.parametrize("generator", [OURS, BFLOAT16, FAST, THEIRS])
def test_what_a_run_tells(small_sam: str, generator: str) -> None:
    found = run(task(small_sam, generator))
    assert set(found["stages"]) == {ENCODE, DECODE, REST}
    assert min(found["stages"].values()) > 0
    assert sum(found["stages"].values()) == pytest.approx(found["seconds"])
    assert found["points_per_batch"] == 64
    assert json.dumps(found)


def test_methods_are_as_before(small_sam: str) -> None:
    processor = their_processor(128)
    model = tiny_model("tiny_vit")
    times = benchmark_generators.TimeSplit()
    with benchmark_generators.timed_calls(
        times, "cpu", [(processor, "preprocess", ENCODE), (model, "forward", DECODE)]
    ):
        processor(images=photo(SMALL_PHOTO), return_tensors="pt")
        model(pixel_values=torch.zeros(1, 3, 64, 64))
    assert times.seconds[ENCODE] > 0
    assert times.seconds[DECODE] > 0
    assert not {"preprocess", "forward"} & (set(vars(processor)) | set(vars(model)))


def test_a_run_in_a_process_of_its_own(small_sam: str) -> None:
    found = run_alone(task(small_sam))
    assert found["masks"] == run(task(small_sam))["masks"]
    assert found["peak_bytes"] is None or 10**6 < found["peak_bytes"] < 10**9


def test_last_words_of_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho first words >&2\necho last words >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(benchmark_generators.sys, "executable", str(program))
    assert run_alone(task("folder")) == {"failed": "last words"}
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    assert run_alone(task("folder")) == {"failed": "ended with -9"}


def test_peak_of_the_memory() -> None:
    with PeakMemory() as memory:
        held = np.ones(30_000_000)
        held += 1
    if memory.peak_bytes is not None:
        assert 0.9 * held.nbytes < memory.peak_bytes < 2 * held.nbytes


def test_smaller_batches_for_larger_images(small_sam: str) -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    their = task(small_sam, THEIRS)
    assert their_points_per_batch(replace(their, memory=1e12), {}, image) == 64
    assert their_points_per_batch(replace(their, memory=1e12), {"points_per_batch": 7}, image) == 7
    assert their_points_per_batch(replace(their, memory=10 * 36e6), {}, image) == 10
    assert their_points_per_batch(replace(their, memory=1.0), {}, image) == 1


def test_official_generator_gets_our_weights(monkeypatch: pytest.MonkeyPatch, small_sam: str) -> None:
    """With a stand-in: what it is called with, and that its encoder and decoder are timed."""
    expected = export_state_dict(load_checkpoint(small_sam), "sam")
    calls: list[Any] = []

    class Sam(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask_decoder = torch.nn.Identity()

        def load_state_dict(self, weights: Any) -> None:  # type: ignore[override]
            assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())

    class Generator:
        def __init__(self, model: Sam, output_mode: str, **options: Any) -> None:
            self.model, self.predictor = model, types.SimpleNamespace(set_image=calls.append)
            calls.append((output_mode, options))

        def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
            self.predictor.set_image(image)
            self.model.mask_decoder(image)
            return [{"segmentation": square(0, 0, 10)}]

    official = types.SimpleNamespace(sam_model_registry={"vit_b": Sam}, SamAutomaticMaskGenerator=Generator)
    monkeypatch.setattr(benchmark_generators, "import_module", {"segment_anything": official}.__getitem__)
    times, image = benchmark_generators.TimeSplit(), photo(SMALL_PHOTO)
    assert GENERATORS[OFFICIAL](task(small_sam))(image, {"points_per_side": 6}, times) == [square(0, 0, 10)]
    assert calls[0] == ("coco_rle", {"points_per_side": 6})
    assert calls[1] is image
    assert times.seconds[ENCODE] > 0
    assert times.seconds[DECODE] > 0


def square(x: int, y: int, side: int) -> Any:
    mask = np.zeros((50, 60), bool)
    mask[y : y + side, x : x + side] = True
    return encode_mask(mask)


def test_agreement_and_recall() -> None:
    ours = [square(0, 0, 10), square(20, 20, 10), square(40, 0, 20)]
    theirs = [square(0, 0, 10), square(21, 20, 10)]
    compared = agreement(ours, theirs, 0.99)
    assert (compared.ours, compared.theirs, compared.matched, compared.extra) == (3, 2, 1, 2)
    assert compared.least_iou == pytest.approx(90 / 110)
    assert agreement(ours, theirs, 0.8).matched == 2
    assert recall(ours, theirs, 0.9).tolist() == [True, False]
    assert agreement([], theirs).to_dict() == {"ours": 0, "theirs": 2, "matched": 0, "extra": 0, "least_iou": 0.0}
    assert agreement(ours, []).to_dict() == {"ours": 3, "theirs": 0, "matched": 0, "extra": 3, "least_iou": None}


def test_fewer_points_where_transformers_takes_too_long() -> None:
    assert grid_sides(0.5, 32, True) == [32]
    assert grid_sides(3.0, 32, True) == [32]
    assert grid_sides(12.0, 32, True) == [16, 32]
    assert grid_sides(50.0, 32, True) == [7, 32]
    assert grid_sides(50.0, 32, False) == [32]


def test_generators_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EverythingSettings()
    assert chosen_generators(settings, None) == [OURS, FAST, BFLOAT16, THEIRS]
    assert chosen_generators(replace(settings, quick=True, with_transformers=False), None) == [OURS, FAST]
    monkeypatch.setattr(benchmark_generators, "find_spec", lambda name: None)
    assert chosen_generators(settings, preset_sam_config()) == [OURS, BFLOAT16, THEIRS]
    monkeypatch.setattr(benchmark_generators, "find_spec", lambda name: name)
    assert chosen_generators(settings, preset_sam_config())[-1] == OFFICIAL
    assert not has_official(preset_sam_config(512))
    assert not has_official(small_sam_config())


def fake_run(task: Task) -> dict[str, Any]:
    """What a process would tell, at once."""
    if task.generator == THEIRS and task.megapixels > 10:
        return {"failed": "can't allocate memory"}
    seconds = {OURS: 2.0, FAST: 1.0, THEIRS: 20.0}.get(task.generator, 3.0)
    masks = [square(0, 0, 10), square(20, 20, 10)]
    return {
        "seconds": seconds,
        "stages": {ENCODE: 0.5, DECODE: 0.25, REST: seconds - 0.75},
        "peak_bytes": 10**7,
        "points_per_batch": 8 if task.generator == THEIRS else 64,
        "masks": masks[:1] if task.generator == FAST else masks,
    }


def test_runs_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(task: Task) -> dict[str, Any]:
        order.append(task.generator)
        return fake_run(task)

    monkeypatch.setattr(benchmark_everything, "run_alone", noted)
    progress: list[float] = []
    row = measure_row(task("folder"), [OURS, FAST, THEIRS], 3, progress.append)
    assert order == [OURS, FAST, THEIRS, FAST, THEIRS, OURS, THEIRS, OURS, FAST]
    assert sum(progress) == pytest.approx(1)
    assert row["times_ours"] == {FAST: 0.5, THEIRS: 10.0}
    assert row["agreement"] == {
        THEIRS: {"ours": 2, "theirs": 2, "matched": 2, "extra": 0, "least_iou": 1.0},
    }
    assert row["recall"] == {"0.75": 0.5, "0.9": 0.5}


def test_what_fails_is_told_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def failing(task: Task) -> dict[str, Any]:
        order.append(task.generator)
        return {"failed": "no memory"} if task.generator == THEIRS else fake_run(task)

    monkeypatch.setattr(benchmark_everything, "run_alone", failing)
    row = measure_row(task("folder"), [OURS, THEIRS], 3, lambda share: None)
    assert order.count(THEIRS) == 1
    assert row["generators"][THEIRS] == {"failed": "no memory"}
    assert row["times_ours"] == row["agreement"] == {}
    monkeypatch.setattr(benchmark_everything, "run_alone", lambda task: {"failed": "bad weights"})
    with pytest.raises(ValueError, match="mask generation failed: bad weights"):
        measure_row(task("folder"), [OURS], 1, lambda share: None)


def test_medians() -> None:
    runs = [fake_run(task("folder")) | {"seconds": seconds, "peak_bytes": 3} for seconds in (9.0, 1.0, 2.0)]
    assert summary(runs)["seconds"] == 2.0
    assert summary(runs)["masks"] == 2
    assert summary([*runs, runs[0] | {"peak_bytes": None}])["peak_bytes"] is None


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Task] = []

    def noted(task: Task) -> dict[str, Any]:
        tasks.append(task)
        return fake_run(task)

    monkeypatch.setattr(benchmark_everything, "run_alone", noted)
    monkeypatch.setattr(benchmark_everything, "preset_sam_config", lambda image_size: small_sam_config(128))
    result = call("--megapixels", "12,0.5", "--repeats", 1, "--json", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert list(report["models"]) == list(GENERATING)
    sizes = [(row["megapixels"], row["points_per_side"]) for row in report["models"][EMBEDDED]["rows"]]
    assert sizes == [(0.5, 32), (12.0, 16), (12.0, 32)]
    assert list(report["models"][EMBEDDED]["rows"][2]["generators"]) == [OURS]
    own = load_checkpoint(default_checkpoint()).config.mask_generation
    assert report["models"][EMBEDDED]["options"] == own
    assert all(own.items() <= task.options.items() for task in tasks if task.model.endswith("weights"))
    assert FAST not in report["models"][PRESET]["rows"][0]["generators"]
    printed = call("--megapixels", "0.5,12", "--repeats", 1, "--threads", 1)
    assert printed.exit_code == 0, printed.stderr
    for text in ("embedded, 12 MP, 16² points", "10.00×", "2/2", "took 8 points", "can't allocate", "50% at an IoU"):
        assert text in printed.stdout, text


def test_quick_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_everything, "run_alone", fake_run)
    result = call("--quick", "--skip-transformers", "--json", "--models", EMBEDDED)
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)["models"][EMBEDDED]["rows"]
    assert list(row["generators"]) == [OURS, FAST]
    assert row["points_per_side"] == 16
    (table,) = everything_tables(json.loads(result.stdout))
    assert table.row_count == 2


def test_every_generator_can_be_named() -> None:
    assert set(GENERATORS) == {OURS, BFLOAT16, FAST, THEIRS, OFFICIAL}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--megapixels", "0"], "'0' must be numbers from 0.01 to 500"),
        (["--megapixels", "large"], "'large' must be numbers"),
        (["--models", "sam"], "'sam' is none of sam-vit-base, embedded"),
        (["--device", "abacus"], "'abacus' can't be used here"),
        (["--image-size", "100"], "image_size=100 must be a multiple of 16"),
        (["--preset", "sam-vit-base"], "No such option: --preset"),
    ],
)
def test_wrong_calls(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code != 0
    (line,) = result.stderr.splitlines()
    assert message in line
