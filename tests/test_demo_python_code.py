"""Scripts of the Space: run beside the visitor's file, they give the Space's masks to the bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import tiny
import torch
from local_hub import LocalHub
from PIL import ExifTags, Image

import sam_variants
from sam_variants.spaces_demo.comparing import compare
from sam_variants.spaces_demo.everything import EverythingOptions, find_everything
from sam_variants.spaces_demo.models import Loaded, ModelStore, store
from sam_variants.spaces_demo.photos import Photo, open_photo
from sam_variants.spaces_demo.prompts import ObjectPrompts
from sam_variants.spaces_demo.python_code import compare_code, everything_code, segment_code, video_code
from sam_variants.spaces_demo.segmenting import segment_objects
from sam_variants.spaces_demo.video_jobs import track_video

EXAMPLES = Path(__file__).parents[1] / "spaces_demo" / "examples"
COIN = ObjectPrompts(1, "Coin", ((155, 50),), (1,))
# What is clicked: objects by the name of the case.
CASES: dict[str, list[ObjectPrompts]] = {
    "click": [COIN],
    "points": [replace(COIN, points=((155, 50), (160, 60)), labels=(1, 1))],
    "exclude": [replace(COIN, points=((155, 50), (100, 10)), labels=(1, 0))],
    "box": [replace(COIN, points=(), labels=(), box=(130, 25, 185, 80))],
    "box and points": [replace(COIN, points=((155, 50), (100, 10)), labels=(1, 0), box=(130, 25, 185, 80))],
    "candidate": [replace(COIN, candidate=1)],
    "box's candidate": [ObjectPrompts(3, "Box", box=(130, 25, 185, 80), candidate=2)],
    "several": [
        COIN,
        ObjectPrompts(4, "Two", ((210, 50), (220, 60), (100, 10)), (1, 1, 0)),
        ObjectPrompts(7, "Box", box=(30, 25, 85, 80)),
    ],
    "several candidates": [
        replace(COIN, candidate=2),
        ObjectPrompts(2, "Next", ((210, 50),), (1,)),
        ObjectPrompts(3, "Two", ((270, 45), (100, 10)), (1, 0), candidate=0),
    ],
    "some candidates": [
        ObjectPrompts(2, "Two", ((270, 45), (100, 10)), (1, 0)),
        replace(COIN, candidate=1),
        ObjectPrompts(5, "Next", ((210, 50),), (1,)),
    ],
    "many": [
        ObjectPrompts(
            number, f"Coin number {number}", tuple((20 + 7 * k, 20 * number) for k in range(number)), (1,) * number
        )
        for number in range(1, 13)
    ],
}
Run = Callable[[str], dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The visitor's, where scripts are run."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "visitor"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def photo(folder: Path) -> Photo:
    return visitors_photo(folder, "coins.jpg")


def visitors_photo(folder: Path, name: str) -> Photo:
    shutil.copy(EXAMPLES / "coins.jpg", folder / name)
    return open_photo(folder / name)


@pytest.fixture
def run() -> Run:
    """Runs a script that is laid out as black would, and returns its names."""

    def run(code: str) -> dict[str, Any]:
        laid_out = [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", "-"]
        found = subprocess.run(laid_out, input=code, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(code, "script.py", "exec"), names)
        return names

    return run


def assert_same(found: sam_variants.Masks, expected: sam_variants.Masks) -> None:
    assert torch.equal(found.data, expected.data)
    assert found.scores is not None
    assert expected.scores is not None
    assert torch.equal(found.scores, expected.scores)
    assert expected.data.any()


@pytest.mark.parametrize("case", CASES)
def test_a_script_gives_the_masks_of_the_page(case: str, photo: Photo, folder: Path, run: Run) -> None:
    loaded, objects = store().get("embedded"), CASES[case]
    expected = segment_objects(loaded, photo, objects)
    assert_same(run(segment_code(loaded, photo, objects))["masks"], expected)
    labels = np.asarray(Image.open(folder / "coins-labels.png"))
    assert np.array_equal(labels, expected.to_label_map())


def test_a_turned_transparent_photo(folder: Path, run: Run) -> None:
    turned = Image.open(EXAMPLES / "coins.jpg").convert("RGBA").transpose(Image.Transpose.ROTATE_90)
    turned.putalpha(Image.linear_gradient("L").resize(turned.size))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(folder / "turned.png", exif=exif)
    photo, loaded = open_photo(folder / "turned.png"), store().get("embedded")
    assert photo.size == (303, 384)
    assert_same(run(segment_code(loaded, photo, [COIN]))["masks"], segment_objects(loaded, photo, [COIN]))


def test_a_script_runs_alone(photo: Photo, folder: Path) -> None:
    script = folder / "script.py"
    script.write_text(segment_code(store().get("embedded"), photo, [COIN]), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Coin: ")
    assert (folder / "coins-labels.png").is_file()


def test_only_objects_that_can_be_answered_are_in_it(photo: Photo) -> None:
    loaded, excluded = store().get("embedded"), ObjectPrompts(2, "Not", ((100, 10),), (0,))
    assert segment_code(loaded, photo, [COIN, excluded]) == segment_code(loaded, photo, [COIN])
    for none in ([], [excluded]):
        with pytest.raises(gr.Error, match="click on a thing"):
            segment_code(loaded, photo, none)
        with pytest.raises(gr.Error, match="click on a thing"):
            compare_code(loaded, loaded, photo, none)


@pytest.fixture
def own_model(folder: Path) -> Loaded:
    """A model of the operator's, whose folder the visitor has too."""
    where = folder / "my model"
    tiny.tiny_model("hiera").save_pretrained(where)
    return ModelStore([where], allow_hub=False).get("my model")


def test_another_model(photo: Photo, own_model: Loaded, folder: Path, run: Run) -> None:
    for case in ("several", "some candidates"):
        code = segment_code(own_model, photo, CASES[case])
        assert str(folder) not in code
        assert '"my model"' in code
        assert_same(run(code)["masks"], segment_objects(own_model, photo, CASES[case]))


def test_a_model_of_the_hub_is_pinned(hub: LocalHub, photo: Photo, folder: Path, run: Run) -> None:
    tiny.tiny_model("tiny_vit").save_pretrained(folder / "pushed")
    hub.put("someone/model", {path.name: path.read_bytes() for path in (folder / "pushed").iterdir()})
    loaded = ModelStore().get("someone/model")
    code = segment_code(loaded, photo, [COIN])
    assert f'"someone/model", revision="{loaded.revision}"' in code
    assert_same(run(code)["masks"], segment_objects(loaded, photo, [COIN]))


@pytest.mark.parametrize(
    "options",
    [
        EverythingOptions(points_per_side=6, pred_iou_thresh=0.5, stability_score_thresh=0.5),
        EverythingOptions(
            points_per_side=5, pred_iou_thresh=0.4, stability_score_thresh=0.6, min_mask_region_area=30, preset="full"
        ),
    ],
)
def test_everything(options: EverythingOptions, photo: Photo, run: Run) -> None:
    loaded = store().get("embedded")
    expected, _ = find_everything(loaded, photo, options)
    assert len(expected) > 3
    assert_same(run(everything_code(loaded, photo, options))["masks"], expected)


@pytest.mark.parametrize("case", ["several", "some candidates"])
def test_compare(case: str, photo: Photo, own_model: Loaded, run: Run) -> None:
    embedded = store().get("embedded")
    expected = compare(embedded, own_model, photo, CASES[case])
    names = run(compare_code(embedded, own_model, photo, CASES[case]))
    assert_same(names["first"], expected.first.masks)
    assert_same(names["second"], expected.second.masks)
    assert names["iou"] == pytest.approx(expected.agreement[-1])


# On two frames: the second corrects one object and begins another.
ON_TWO_FRAMES = {
    0: {1: ObjectPrompts(1, "Ball", ((72, 132),), (1,)), 2: ObjectPrompts(2, "Box", box=(165, 10, 235, 70))},
    3: {1: ObjectPrompts(1, "Ball", ((76, 134), (20, 20)), (1, 0)), 5: ObjectPrompts(5, "Late", ((145, 130),), (1,))},
}
BEGINS_LATE = {
    2: {1: ObjectPrompts(1, "Ball", ((72, 132),), (1,))},
    4: {1: ObjectPrompts(1, "Ball", ((20, 20),), (0,))},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the example, small."""
    import av

    path = tmp_path_factory.mktemp("clip") / "toys.mp4"
    with av.open(str(EXAMPLES / "toys.mp4")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 240, 180, "yuv420p"
        for frame, _ in zip(source.decode(video=0), range(7), strict=False):
            small = frame.reformat(240, 180, "yuv420p")
            small.pts = None
            target.mux(stream.encode(small))
        target.mux(stream.encode())
    return path


@pytest.mark.parametrize("prompts", [ON_TWO_FRAMES, BEGINS_LATE])
def test_video(prompts: dict[int, dict[int, ObjectPrompts]], clip: Path, folder: Path, run: Run) -> None:
    shutil.copy(clip, folder)
    job = track_video(str(folder / "toys.mp4"), prompts)
    code = video_code(store().get("embedded-video"), "toys.mp4", prompts)
    assert code == video_code(store().get("embedded-video"), "toys.mp4", job.task().prompts)
    found: dict[int, list[Any]] = {}
    for annotation in run(code)["annotations"]:
        found.setdefault(annotation["image_id"], []).append(
            [annotation["object_id"], annotation["segmentation"], annotation["score"]]
        )
    expected = {
        frame: [[each["object_id"], each["segmentation"], each["score"]] for each in result.annotations]
        for frame, result in job.results.items()
    }
    assert {frame: found[frame] for frame in expected} == expected
    assert any(each["area"] for each in job.results[6].annotations)
    assert (folder / "toys-masks.json").is_file()


def test_hostile_names_stay_text(folder: Path, run: Run) -> None:
    names = ['"""', "a'b\"c", "\\", "x\nimport os", "\u2028print()", "{name}", "%s", "\u202etxt", "😀", "#"]
    photo = visitors_photo(folder, 'it\'s a "photo"\n; import os #\u202e.jpg')
    objects = [ObjectPrompts(number, name, ((155, 50),), (1,)) for number, name in enumerate(names, 1)]
    code = segment_code(store().get("embedded"), photo, objects)
    assert code.isascii() or set(code) - set(map(chr, range(128))) == {"😀"}
    names_found = run(code)
    assert names_found["photo"] == photo.path.name
    assert names_found["names"] == names


def test_a_thousand_points_are_laid_out(photo: Photo) -> None:
    points = tuple((k % 384, k % 303) for k in range(1000))
    code = segment_code(store().get("embedded"), photo, [replace(COIN, points=points, labels=(1,) * 999 + (0,))])
    assert max(map(len, code.splitlines())) <= 88
    compile(code, "script.py", "exec")


def test_no_prompts_on_any_frame() -> None:
    with pytest.raises(gr.Error, match="click on a thing"):
        video_code(store().get("embedded-video"), "toys.mp4", {0: {}})
