"""The other measures of `sam-variants evaluate`: everything, video, speed; on anybody's data; in pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image
from tiny import save_tiny, save_tiny_video, tiny_model
from typer.testing import CliRunner

from sam_variants.hub_scripts import cli
from sam_variants.hub_scripts.evaluate import evaluate
from sam_variants.hub_scripts.evaluation_data import (
    SetOptions,
    Source,
    built_in_sets,
    data_set,
    read_columns,
    wanted_objects,
)
from sam_variants.hub_scripts.evaluation_everything import EverythingScores, kinds_of, measure_everything
from sam_variants.hub_scripts.evaluation_plots import HUES, STYLE, figures, write_plots
from sam_variants.hub_scripts.evaluation_protocol import ModelSegmenter
from sam_variants.hub_scripts.evaluation_speed import measure_speed, times
from sam_variants.hub_scripts.mask_matching import code_ious
from sam_variants.mask_codecs import encode_mask
from sam_variants.processing.processor_for import processor_for
from sam_variants.results import Masks
from sam_variants.training.masked_image import MaskedImage

SIDE = 40
REPORTS = Path(__file__).parent / "evaluation_reports"


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    return mask


def picture(*masks: np.ndarray) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), (120, 80, 50), np.uint8)
    for index, mask in enumerate(masks):
        image[mask] = (40, 160 - 40 * index, 60)
    return image


LEFT, RIGHT = box(2, 2, 18, 18), box(22, 2, 38, 18)
EXAMPLE = MaskedImage(picture(LEFT, RIGHT), np.stack([LEFT, RIGHT]))


def test_what_masks_are() -> None:
    both, ground = LEFT | RIGHT, box(0, 20, 40, 40)
    part, off = box(2, 2, 6, 18), box(14, 2, 22, 18)
    masks = [LEFT, both, part, ground, off, box(2, 2, 18, 14)]
    codes, objects = [encode_mask(mask) for mask in masks], [encode_mask(mask) for mask in EXAMPLE.masks]
    # Both objects as one mask have an IoU of 0.5 with each of them.
    kinds = kinds_of(codes, objects, code_ious(codes, objects))
    assert kinds == ["object", "object", "part", "background", "false", "object"]
    assert kinds_of(codes[:1], [], np.zeros((1, 0))) == ["background"]
    assert kinds_of([], objects, np.zeros((0, 2))) == []


def test_scores_of_everything() -> None:
    scores = EverythingScores()
    masks = [LEFT, box(2, 2, 18, 14), box(14, 2, 22, 18)]
    scores.add([encode_mask(mask) for mask in masks], EXAMPLE, 2.0)
    scores.add([], MaskedImage(EXAMPLE.image, np.stack([box(0, 0, 36, 36)])), 1.0)
    found = scores.summary()
    assert {name: found[name] for name in ("images", "masks", "seconds")} == {"images": 2, "masks": 1.5, "seconds": 1.5}
    kinds = ("false_masks", "part_masks", "background_masks", "repeated_masks")
    assert [found[kind] for kind in kinds] == [1, 0, 0, 1]
    third = {"found_50": 0.3333, "found_75": 0.3333, "found_90": 0.3333, "ar_100": 0.3333, "ar_1000": 0.3333}
    assert found["all"] == {"objects": 3, **third}
    # 256 pixels of 1600 are large here, and small for COCO, whose small objects have at most 1024.
    assert found["large"]["objects"] == 3
    assert found["coco_small"] == {"objects": 2, **dict.fromkeys(third, 0.5)}
    assert found["coco_medium"] == {"objects": 1, **dict.fromkeys(third, 0.0)}


def test_masks_count_from_the_best_score_down() -> None:
    class Pipeline:
        def __call__(self, image: np.ndarray, points_per_side: int) -> Masks:
            assert points_per_side == 4
            decoys = [box(0, 20, 40, 22 + index % 18) for index in range(120)]
            return Masks(np.stack([*decoys, LEFT]), scores=np.array([0.5] * 120 + [self.score], np.float32))

        score = 0.9

    pipeline: Any = Pipeline()
    assert measure_everything(pipeline, [EXAMPLE], {"points_per_side": 4})["all"]["ar_100"] == 0.5
    pipeline.score = 0.1
    found = measure_everything(pipeline, [EXAMPLE], {"points_per_side": 4})["all"]
    assert (found["ar_100"], found["ar_1000"]) == (0.0, 0.5)
    assert measure_everything(pipeline, [], {}) == {}


def test_speed_is_measured_after_a_warm_up() -> None:
    assert times([0.001 * value for value in range(101)]) == {"median_ms": 50.0, "p95_ms": 95.0, "runs": 101}
    model = tiny_model("tiny_vit")
    found = measure_speed(ModelSegmenter(model, processor_for(model)), EXAMPLE.image, encode_runs=4, prompt_runs=5)
    assert (found["encode"]["runs"], found["prompt"]["runs"]) == (4, 5)
    assert found["encode"]["p95_ms"] >= found["encode"]["median_ms"] > 0
    assert found["memory"] == "resident"
    assert found["peak_memory_bytes"] is None or found["peak_memory_bytes"] >= 0
    assert (found["image_height"], found["image_width"]) == (SIDE, SIDE)


def test_objects_that_are_asked_for() -> None:
    small = box(30, 30, 32, 32)
    example = MaskedImage(EXAMPLE.image, np.stack([small, LEFT, RIGHT]), "name", np.array([2, 0, 1]))
    chosen = wanted_objects(example, SetOptions(max_objects=1, min_area=0.01))
    np.testing.assert_array_equal(chosen.masks, LEFT[None])
    assert (chosen.name, chosen.levels.tolist()) == ("name", [0])
    assert len(wanted_objects(example, SetOptions(max_objects=1, min_area=0.01), all_objects=True).masks) == 2
    assert wanted_objects(example, SetOptions()) is example


def test_built_in_sets_are_chosen_by_name() -> None:
    options = SetOptions(scenes=3, size=64, max_images=2)
    sets = built_in_sets("coins, held_out", options)
    assert {name: found.num_images for name, found in sets.items()} == {"held_out": 2, "coins": 1}
    assert len(list(sets["held_out"].images(False))) == 2
    photos = built_in_sets("photo_objects,cell", SetOptions())
    counts = {name: [len(photo.masks) for photo in found.images(False)] for name, found in photos.items()}
    assert (len(counts["photo_objects"]), sum(counts["photo_objects"]), counts["cell"]) == (4, 10, [1])
    with pytest.raises(ValueError, match=r"sets='coin'.*held_out,coins"):
        built_in_sets("coin", options)


def folder_of_images(folder: Path, count: int) -> Path:
    """images/ and masks/, a label map for each image; the second one is empty."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        Image.fromarray(EXAMPLE.image).save(folder / "images" / f"{index}.png")
        labels = np.uint8(LEFT + 2 * RIGHT) * (index != 1)
        Image.fromarray(labels).save(folder / "masks" / f"{index}.png")
    return folder


def test_anybodys_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    source = Source(str(folder_of_images(tmp_path / "mine", 5)))
    found = data_set(source, SetOptions(max_objects=1))["mine"]
    assert "5" in capsys.readouterr().err
    assert [len(example.masks) for example in found.images(False)] == [1, 0, 1, 1, 1]
    assert [len(example.masks) for example in found.images(True)] == [2, 0, 2, 2, 2]
    few = [data_set(source, SetOptions(max_images=2, seed=seed))["mine"] for seed in range(6)]
    drawn = [tuple(example.name for example in found.images(False)) for found in few]
    assert all(len(names) == 2 for names in drawn)
    assert len(set(drawn)) > 1
    assert drawn[0] == tuple(example.name for example in few[0].images(False))
    assert few[0].num_images == 2


def test_columns_of_the_data() -> None:
    assert read_columns("image=photo, masks=objects.rle") == {"image": "photo", "masks": "objects.rle"}
    assert read_columns(None) is None
    with pytest.raises(ValueError, match=r"columns='photo'.*--columns image=NAME"):
        read_columns("photo")


def test_the_command_measures_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    model = save_tiny(tmp_path / "model", "tiny_vit_with_skips")
    data, json_file = folder_of_images(tmp_path / "mine", 3), tmp_path / "report.json"
    options = {"--model": model, "--data": data, "--measure": "noc,everything,speed", "--threads": 1}
    options |= {"--points-per-side": 4, "--max-objects": 1, "--json": json_file}
    arguments = [str(part) for pair in options.items() for part in pair]
    result = CliRunner().invoke(cli.app, ["evaluate", *arguments])
    assert result.exit_code == 0, result.stderr
    report = json.loads(json_file.read_text())
    assert report["settings"]["data"] == str(data)
    found = report["results"]["mine"]["model"]
    assert found["all"]["objects"] == 2
    assert len(found["by_click"]) == 20
    assert sum(found["noc_counts"]["90"]) == 2
    assert report["everything"]["mine"]["images"] == 3
    assert report["everything"]["mine"]["all"]["objects"] == 4
    assert report["speed"]["encode"]["runs"] == 20
    for text in ("mine: mean IoU in %", "mine: number of clicks", "everything in 3 images", "95 % within"):
        assert text in result.stdout, text


def drawn(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in folder.iterdir()}


def test_reports_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STYLE, "savefig.dpi", 50)
    report = json.loads((REPORTS / "evaluate_2.json").read_text())
    written = write_plots(tmp_path / "one", report, None, {"coins": "Coins"})
    assert [path.stem for path in written] == ["clicks", "sizes", "noc", "everything", "video", "latency"]
    one = drawn(tmp_path / "one")
    blue, orange = [np.array(matplotlib.colors.to_rgb(hue[-1])) * 255 for hue in HUES]
    for pixels in one.values():
        assert (np.abs(pixels - blue).max(axis=-1) < 3).any()
        assert not (np.abs(pixels - orange).max(axis=-1) < 3).any()
    # Beside itself the same bars and curves come a second time, in the other colour.
    write_plots(tmp_path / "two", report, REPORTS / "evaluate_2.json", {})
    for name, pixels in drawn(tmp_path / "two").items():
        assert (np.abs(pixels - orange).max(axis=-1) < 3).any(), name
    # A report of the version before knows no curves and no speed.
    write_plots(tmp_path / "old", report, REPORTS / "evaluate.json", {})
    old = drawn(tmp_path / "old")
    assert (np.abs(old["sizes"] - orange).max(axis=-1) < 3).any()
    assert not (np.abs(old["latency"] - orange).max(axis=-1) < 3).any()


def test_all_of_a_legend_is_in_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single panel is narrow, and names of checkpoints are long."""
    report = json.loads((REPORTS / "evaluate_2.json").read_text())
    for section in ("results", "everything"):
        report[section] = {"coins": report[section]["coins"]}
    for name in ("short", "a-checkpoint-that-was-trained-for-long"):
        drawn_figures = dict(figures([(f"{name}, 1024 px", report)], {}))
        for title in ("sizes", "everything", "clicks"):
            figure = drawn_figures[title]
            figure.draw_without_rendering()
            (legend,) = figure.legends
            box = legend.get_window_extent()
            assert box.x0 >= 0, title
            assert box.x1 <= figure.bbox.width, title


def test_what_could_not_be_written_or_compared_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(*arguments: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("sam_variants.hub_scripts.evaluation_facts.load_model", too_late)
    given: dict[str, Any] = {"sets": "cell", "plots": tmp_path / "plots", "threads": 1}
    with pytest.raises(OSError, match=r"none\.json"):
        evaluate(**given, compare=tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"evaluate_2\.json' was measured on .*'coins'.* and not on \['cell'\]"):
        evaluate(**given, compare=REPORTS / "evaluate_2.json")
    with pytest.raises(OSError, match="can't be written: give --json a file"):
        evaluate(**given, json_file=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        evaluate(**given, json_file=tmp_path / "file" / "report.json")
    with pytest.raises(AssertionError, match="loaded"):
        evaluate(
            **(given | {"sets": "coins"}), compare=REPORTS / "evaluate_2.json", json_file=tmp_path / "new" / "a.json"
        )


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets")
    model, data = str(save_tiny(tmp_path / "model", "tiny_vit_with_skips")), folder_of_images(tmp_path / "mine", 4)
    options: dict[str, Any] = {"model": model, "data": str(data), "threads": 1, "max_objects": 1}
    report = evaluate(**options)
    assert report["left_out"] == {"mine": {"objects beyond 1 per image": 3, "images without an object": 1}}
    assert "mine: left out 3 objects beyond 1 per image, 1 images without an object" in capsys.readouterr().out
    source = data_set(Source(str(data)), SetOptions(max_objects=1))["mine"]
    for _ in range(2):  # reading anew counts anew
        assert len(list(source.images(False))) == 4
        assert source.left_out() == report["left_out"]["mine"]
    # What only scenes have is no setting of other images.
    assert set(report["settings"]) == {"measure", "data", "max_objects", "seed", "threads", "device"}
    source = data_set(Source(str(data)), SetOptions(min_area=0.5))["mine"]
    assert [len(example.masks) for example in source.images(False)] == [0] * 4
    assert source.left_out() == {"objects that are not asked for": 6, "images without an object": 4}


def test_clips_of_a_folder_like_davis(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for index in range(4):
        masks = [np.roll(LEFT, 2 * index, axis=1), box(22, 22, 38, 38)]
        for kind, pixels in (("JPEGImages", picture(*masks)), ("Annotations", np.uint8(masks[0] + 2 * masks[1]))):
            folder = tmp_path / "davis" / kind / "480p" / "walk"
            folder.mkdir(parents=True, exist_ok=True)
            if kind == "Annotations" and index == 2:
                continue  # this frame is not annotated
            name = folder / f"{index:05d}.{'jpg' if kind == 'JPEGImages' else 'png'}"
            Image.fromarray(pixels).save(name)
    model = str(save_tiny_video(tmp_path / "model"))
    report = evaluate(model=model, data=str(tmp_path / "davis"), measure="video", threads=1)
    found = report["video"]["davis"]
    assert (found["clips"], found["objects"]) == (1, 2)
    assert 0 <= found["j"] <= 1
    assert found["j_and_f"] == pytest.approx((found["j"] + found["f"]) / 2, abs=1e-4)
    assert "results" not in report


def test_held_out_clips(tmp_path: Path) -> None:
    report = evaluate(model=str(save_tiny_video(tmp_path / "model")), measure="video", clips=1, frames=2, threads=1)
    assert report["video"]["held_out_clips"]["clips"] == 1
    assert report["settings"]["frames"] == 2
    with pytest.raises(ValueError, match="which is for images"):
        evaluate(model=str(save_tiny(tmp_path / "image")), measure="video", clips=1, frames=2, threads=1)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"measure": "prompt"}, "measure='prompt' is not allowed.*prompts,noc,everything,video,speed"),
        ({"data": "somewhere", "measure": "prompts,video"}, "data='somewhere' holds either clips or images"),
        ({"compare": Path("other.json")}, "give a folder, too: --plots DIR"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_what_cannot_be_measured(given: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=named):
        evaluate(**given)


def test_plots_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"--plots needs matplotlib.*sam-variants\[train\]"):
        evaluate(plots=tmp_path)


def test_another_report_to_compare_with(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(ValueError, match=r"no\.json is no JSON"):
        write_plots(tmp_path, {"model": {"checkpoint": "a", "image_size": 64}}, tmp_path / "no.json", {})
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json: this is no evaluation"):
        write_plots(tmp_path, {"model": {"checkpoint": "a", "image_size": 64}}, tmp_path / "other.json", {})
