"""`sam-variants track`: what it writes, what its options mean, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import save_tiny, save_tiny_video
from track_runs import (
    FPS,
    HEIGHT,
    NUM_FRAMES,
    OPTIONS,
    PROMPTS,
    WIDTH,
    assert_one_line,
    lines_of,
    moving,
    report_of,
    run,
)
from typer.testing import CliRunner
from video_examples import write_video

import sam_variants
from sam_variants.hub_scripts import cli, track
from sam_variants.hub_scripts.prompt_options import read_video_prompts
from sam_variants.processing.video_reader import read_frames, video_info
from sam_variants.results import Masks
from sam_variants.video_pipeline import PromptableVideoSegmentationPipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_video(tmp_path_factory.mktemp("track_model") / "model", seed=3)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("track_video") / "clip.mp4", moving(NUM_FRAMES), fps=FPS)


@pytest.fixture(scope="module")
def whole(model: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    report_of(video, *OPTIONS, "--model", model, "--out", out)
    return out


def test_every_line_holds_the_masks_of_a_frame(model: Path, video: Path, whole: Path) -> None:
    header, *lines = lines_of(whole)
    assert header["video"] == "clip.mp4"
    assert (header["width"], header["height"], header["fps"]) == (WIDTH, HEIGHT, FPS)
    assert header["num_frames"] == NUM_FRAMES
    assert header["model"] == str(model)
    assert header["prompts"] == json.loads(json.dumps(PROMPTS))
    frames = list(read_frames(video))
    pipe = PromptableVideoSegmentationPipeline(model=sam_variants.load_checkpoint(model).fuse())
    for masks, line, frame in zip(pipe(video, PROMPTS), lines, frames, strict=True):
        assert (line["frame"], line["time"]) == (frame.index, frame.time)
        found = Masks.from_coco(line["objects"])
        assert found.data.equal(masks.data)
        assert found.object_ids.tolist() == masks.object_ids.tolist() == [1, 5]
        assert found.scores.equal(masks.scores)
        assert found.object_score_logits.equal(masks.object_score_logits)
        assert [entry["id"] for entry in line["objects"]] == [1 + 2 * frame.index, 2 + 2 * frame.index]
        assert {entry["image_id"] for entry in line["objects"]} == {frame.index}
    areas = [[entry["area"] for entry in line["objects"]] for line in lines]
    assert [area[1] for area in areas[:2]] == [0, 0]
    assert all(area[0] > 0 for area in areas)
    assert all(area[1] > 0 for area in areas[2:])


def test_the_overlay_shows_the_masks_in_time(video: Path, whole: Path) -> None:
    _, *lines = lines_of(whole)
    pictures = list(read_frames(whole / "clip_overlay.mp4"))
    assert [picture.time for picture in pictures] == pytest.approx([index / FPS for index in range(NUM_FRAMES)])
    for picture, frame, line in zip(pictures, read_frames(video), lines, strict=True):
        expected = np.asarray(Masks.from_coco(line["objects"]).overlay(frame.image)).astype(int)
        plain = frame.image.astype(int)
        assert np.abs(picture.image - expected).mean() < 0.7 * np.abs(picture.image - plain).mean()


def test_the_report_says_what_came_out(model: Path, video: Path, tmp_path: Path) -> None:
    options = (video, *OPTIONS[:4], "--model", model, "--out", tmp_path / "made" / "here", "--stop", 4)
    report = report_of(*options)
    assert report["frames"] == 4
    assert report["frames_resumed"] == 0
    assert report["objects"] == [{"object_id": 1, "frames_visible": 4}, {"object_id": 5, "frames_visible": 2}]
    assert {entry["object_score_logit"] for entry in lines_of(tmp_path / "made" / "here")[1]["objects"][1:]} == {-10}
    assert all(Path(path).is_file() for path in report["files"].values())
    assert set(report["seconds"]) == {"look at the video", "load the model", "track"}
    result = run(*options, "--overwrite")
    assert result.exit_code == 0, result.stderr
    for word in ("frames visible", "2 of 4", "clip_masks.jsonl", "clip_overlay.mp4", "load the model"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        (["--point", "0,3,20,20", "--point", "0,3,40,9.5,0"], {"points": [[20, 20], [40, 9.5]], "labels": [1, 0]}),
        (["--box", "0,3,10,10,40,40", "--point", "0,3,20,20"], {"points": [[20, 20]], "boxes": [10, 10, 40, 40]}),
        (["--mask", "0,3,{folder}/a, b.png"], {"mask": True}),
        (["--prompts", "{folder}/prompts.json"], {"mask": True}),
    ],
    ids=["points", "box and point", "mask", "file"],
)
def test_options_mean_the_prompts_of_the_pipeline(
    model: Path, video: Path, tmp_path: Path, options: list[str], prompts: dict[str, Any]
) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 15:50] = 255
    Image.fromarray(mask).save(tmp_path / "a, b.png")
    (tmp_path / "prompts.json").write_text(json.dumps({"0": {"3": {"mask": "a, b.png"}}}))
    given = prompts | ({"mask": mask} if "mask" in prompts else {})
    filled = [option.format(folder=tmp_path) for option in options]
    report_of(video, *filled, "--model", model, "--out", tmp_path, "--stop", 2, "--no-overlay")
    assert not (tmp_path / "clip_overlay.mp4").exists()
    header, *lines = lines_of(tmp_path)
    pipe = PromptableVideoSegmentationPipeline(model=sam_variants.load_checkpoint(model).fuse())
    for masks, line in zip(pipe(video, {0: {3: given}}), lines, strict=False):
        assert Masks.from_coco(line["objects"]).data.equal(masks.data)
    # The header's prompts can be given again.
    (tmp_path / "again.json").write_text(json.dumps(header["prompts"]))
    again = read_video_prompts([], [], [], tmp_path / "again.json")
    assert {frame: {key: prompt.for_json() for key, prompt in by.items()} for frame, by in again.items()} == {
        0: {3: header["prompts"]["0"]["3"]}
    }


def test_a_folder_of_images_and_a_part_of_it(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(moving(6)):
        Image.fromarray(frame).save(folder / f"{index}.png")
    options = (folder, "--point", "2,1,20,20", "--model", model, "--out", tmp_path)
    report = report_of(*options, "--start", 2, "--stop", 5)
    header, *lines = lines_of(tmp_path, "frames")
    assert [line["frame"] for line in lines] == [2, 3, 4]
    assert (header["fps"], header["num_frames"], report["frames"]) == (None, 6, 3)
    assert len(list(read_frames(tmp_path / "frames_overlay.mp4"))) == 3
    pipe = PromptableVideoSegmentationPipeline(model=sam_variants.load_checkpoint(model).fuse())
    for masks, line in zip(pipe(moving(6)[2:5], {0: {1: {"points": [20, 20]}}}), lines, strict=True):
        assert Masks.from_coco(line["objects"]).data.equal(masks.data)
    assert_one_line(run(*options, "--start", 3, "--overwrite"), 1, "prompts for frame 2", "3 to 5")


def test_frames_with_times_of_their_own_keep_them(model: Path, tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.5, 0.6]
    file = write_video(tmp_path / "uneven.mkv", moving(4), times=times)
    report_of(file, "--point", "0,1,20,20", "--model", model, "--out", tmp_path)
    assert [line["time"] for line in lines_of(tmp_path, "uneven")[1:]] == pytest.approx(times)
    shown = [picture.time for picture in read_frames(tmp_path / "uneven_overlay.mp4")]
    assert shown == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        ([], 2, ["--point 0,1,320,240"]),
        (["--point", "0,20,20"], 2, ["--point", "0,20,20", "frame,id,x,y"]),
        (["--point", "0,1,a,20"], 2, ["--point", "frame,id,x,y"]),
        (["--point", "0,1,20,20,3"], 2, ["--point", "label"]),
        (["--point", "0.5,1,20,20"], 2, ["whole numbers"]),
        (["--point", "0,-1,20,20"], 2, ["whole numbers"]),
        (["--box", "0,1,20,20,10,40"], 2, ["--box", "x1 < x2"]),
        (["--box", "0,1,1,1,9,9", "--box", "0,1,1,1,9,8"], 2, ["--box", "already"]),
        (["--mask", "0,1"], 2, ["--mask", "frame,id,file"]),
        (["--mask", "0,1,missing.png"], 1, ["missing.png"]),
        (["--prompts", "missing.json"], 1, ["missing.json"]),
        (["--prompts", "{folder}/list.json"], 1, ["list.json", "must map every frame"]),
        (["--prompts", "{folder}/labels.json"], 1, ["labels.json", "labels=[1, 1]"]),
        (["--prompts", "{folder}/text.json"], 1, ["text.json"]),
        (["--mask", "0,1,{folder}/small.png"], 1, ["width 3, height 2", "width 66, height 50"]),
        (["--mask", "0,1,{folder}/list.json"], 1, ["list.json", "can't be read"]),
        (["--mask", "0,1,{folder}/small.png", "--point", "0,1,2,2"], 2, ["--mask", "object 1", "frame 0"]),
        (["--point", "0,1,70,20"], 1, ["outside", "width 66"]),
        (["--point", "8,1,20,20"], 1, ["prompts for frame 8", "0 to 7"]),
        (["--point", "3,1,20,20", "--stop", "3"], 1, ["prompts for frame 3", "0 to 2"]),
        (["--point", "5,1,20,20", "--start", "5", "--stop", "5"], 2, ["--stop"]),
        (["--point", "0,1,20,20", "--resume", "--overwrite"], 2, ["--resume"]),
    ],
)
def test_mistakes_cost_no_time(
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    exit_code: int,
    words: list[str],
) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "labels.json").write_text('{"0": {"1": {"points": [1, 2], "labels": [1, 1]}}}')
    Image.new("L", (3, 2), 255).save(tmp_path / "small.png")
    monkeypatch.setattr(track, "load_tracker", lambda *given: pytest.fail("the model was loaded"))
    filled = [option.format(folder=tmp_path) for option in options]
    out = tmp_path / "out"
    assert_one_line(run(video, *filled, "--out", out), exit_code, *words)
    assert not list(tmp_path.glob("out/*"))


def test_files_that_are_no_videos(model: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "empty").mkdir()
    for name, word in (("missing.mp4", "missing.mp4"), ("noise.mp4", "noise.mp4"), ("empty", "no images")):
        result = run(tmp_path / name, "--point", "0,1,2,2", "--model", model, "--out", tmp_path / "out")
        assert_one_line(result, 1, word)


def test_prompts_behind_an_end_that_no_container_states(model: Path, tmp_path: Path) -> None:
    file = write_video(tmp_path / "short.mkv", moving(3))
    assert video_info(file).num_frames is None
    result = run(file, "--point", "0,1,20,20", "--point", "7,1,2,2", "--model", model, "--out", tmp_path)
    assert_one_line(result, 1, "ends after frame 2", "[7]", "3 frames are done")


def test_checkpoints_and_devices_that_cannot_track(video: Path, model: Path, tmp_path: Path) -> None:
    options = (video, "--point", "0,1,20,20", "--out", tmp_path / "out")
    image_model = save_tiny(tmp_path / "image")
    assert_one_line(run(*options, "--model", image_model), 1, "no memory", "--model facebook/sam2.1-hiera-tiny")
    assert_one_line(run(*options, "--model", tmp_path / "missing"), 1, "missing")
    assert_one_line(run(*options, "--model", model, "--device", "abacus"), 1, "--device abacus")
    assert not list(tmp_path.glob("out/*"))


def test_image_size_reaches_the_model(video: Path, model: Path, tmp_path: Path) -> None:
    options = (video, "--point", "0,1,20,20", "--model", model, "--stop", 1, "--no-overlay")
    report_of(*options, "--out", tmp_path / "own")
    report_of(*options, "--out", tmp_path / "larger", "--image-size", 128)
    assert lines_of(tmp_path / "own")[1] != lines_of(tmp_path / "larger")[1]


def test_help_is_listed_and_shows_examples() -> None:
    assert "track" in CliRunner().invoke(cli.app, ["--help"]).stdout
    help_text = run("--help").stdout
    for word in ("FRAME,ID,X,Y[,LABEL]", "sam-variants track clip.mp4 --point 0,1,320,240", "--resume", "--prompts"):
        assert word in help_text
