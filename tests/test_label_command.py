"""`sam-variants label`: what it finds, what becomes of images that fail, and how it stops and goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from labeling_runs import StandIn, digests, errors_of, rows_of, stand_in_job, write_photos
from test_cli import assert_one_line, run
from tiny import save_tiny

from sam_variants.labeling import write_behind
from sam_variants.labeling.image_labeler import ImageLabeler
from sam_variants.labeling.items import Item
from sam_variants.labeling.label_part import label_part
from sam_variants.labeling.label_progress import RunProgress, duration
from sam_variants.labeling.label_run import run_local
from sam_variants.labeling.write_behind import BatchDone

LOOSE = {"points_per_side": 2, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
OPTIONS = [part for name, value in LOOSE.items() for part in (f"--{name.replace('_', '-')}", str(value))]
STAGES = {"read", "decode files", "wait for images", "encode", "decode", "post-processing", "write"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_tiny(tmp_path_factory.mktemp("label") / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 7)


def label(*arguments: Any) -> Any:
    return run("label", *arguments)


def report_of(*arguments: Any, exit_code: int = 0) -> dict[str, Any]:
    result = label(*arguments, "--json")
    assert result.exit_code == exit_code, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("options", [[], ["--crop-n-layers", "1", "--crop-nms-thresh", "1", "--batch-size", "2"]])
def test_it_finds_what_everything_finds(model: Path, photos: Path, tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "made" / "here"
    report = report_of(photos, "--out", out, "--model", model, "--rows-per-shard", 4, *OPTIONS, *options)
    result = run("everything", photos, "--out", tmp_path / "everything", "--model", model, *OPTIONS, *options)
    assert result.exit_code == 0, result.stderr
    found, expected = (json.loads((folder / "instances.json").read_text()) for folder in (out, tmp_path / "everything"))
    assert len(expected["annotations"]) == report["masks"] > 7
    assert [image["file_name"] for image in found["images"]] == [image["file_name"] for image in expected["images"]]
    assert found["annotations"] == expected["annotations"]
    assert [row["key"] for row in rows_of(out)] == [f"{index:04d}.png" for index in range(7)]
    assert (report["is_done"], report["images"], report["errors"]) == (True, 7, 0)
    assert (report["parts"], report["parts_done"]) == (2, 2)
    assert report["this_run"]["images"] == 7
    assert set(report["this_run"]["time_split"]) == STAGES
    assert report["settings"]["model"] == "model"


def test_images_that_fail_are_listed_and_the_others_done(model: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 6, broken=[0, 4])
    (photos / "0002.png").write_bytes(b"")
    result = label(photos, "--out", tmp_path / "out", "--model", model, *OPTIONS)
    assert result.exit_code == 0, result.stderr
    assert "3 images" in result.stdout
    assert "3 images failed" in result.stdout
    assert "images/s" in result.stdout
    first, second, _ = result.stderr.splitlines()
    assert first == "sam-variants: 0000.png: it is no image of a known kind"
    assert second == "sam-variants: 0002.png: the file is empty"
    assert [error["key"] for error in errors_of(tmp_path / "out")] == ["0000.png", "0002.png", "0004.png"]
    assert [row["key"] for row in rows_of(tmp_path / "out")] == ["0001.png", "0003.png", "0005.png"]


def test_a_run_in_which_every_image_failed_has_failed(model: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2, broken=[0, 1])
    report = report_of(photos, "--out", tmp_path / "out", "--model", model, exit_code=1)
    assert (report["images"], report["errors"], report["is_done"]) == (0, 2, True)


def test_a_file_that_vanishes_is_an_error_of_its_image(photos: Path, tmp_path: Path) -> None:
    job = stand_in_job(photos, tmp_path / "out")
    (photos / "0003.png").unlink()
    totals = run_local(job, labeler=StandIn())
    assert (totals.rows, totals.errors) == (6, 1)
    (error,) = errors_of(tmp_path / "out")
    assert error["key"] == "0003.png"
    assert "No such file" in error["error"]


def test_boxes_of_any_detector_become_masks(model: Path, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.iterdir())[:3]
    boxes = [[[5, 5, 20, 20], [10, 8, 30, 30]], [], [[1, 1, 40, 40]]]
    table = pa.table(
        {
            "image": [file.read_bytes() for file in files],
            "found": pa.array(boxes, pa.list_(pa.list_(pa.float32()))),
            "what": [["cat", "dog"], [], ["cat"]],
        }
    )
    pq.write_table(table, tmp_path / "detections.parquet")
    call = (tmp_path / "detections.parquet", "--boxes-column", "found", "--box-format", "xywh")
    report = report_of(*call, "--category-column", "what", "--out", tmp_path / "out", "--model", model)
    assert (report["images"], report["masks"]) == (3, 3)
    assert report["settings"]["mode"] == "prompts"
    objects = [row["objects"] for row in rows_of(tmp_path / "out")]
    assert [[each["category"] for each in found] for found in objects] == [["cat", "dog"], [], ["cat"]]
    assert objects[0][1]["prompt_box"] == [10, 8, 30, 30]
    assert all(each["stability_score"] is not None and each["score"] is not None for each in objects[0])
    result = label(*call, "--out", tmp_path / "other", "--model", model, "--points-per-side", 3)
    assert_one_line(result, 1, "['points_per_side'] are options of everything mode")


@contextmanager
def interrupting(monkeypatch: pytest.MonkeyPatch, number: int, at_call: int) -> Iterator[list[int]]:
    """Send this process a signal in the middle of a call of the labeler."""
    calls: list[int] = []
    original = ImageLabeler.__call__

    def call(self: ImageLabeler, items: Sequence[Item], pixels: Sequence[Any]) -> Any:
        calls.append(len(items))
        if len(calls) == at_call:
            os.kill(os.getpid(), number)
        return original(self, items, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(ImageLabeler, "__call__", call)
        yield calls


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_and_the_same_command_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, exit_code: int
) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    command = (photos, "--model", model, "--rows-per-shard", 6, *OPTIONS)
    report_of(*command, "--out", tmp_path / "undisturbed")
    handler = signal.getsignal(number)
    with interrupting(monkeypatch, number, at_call=8) as calls:
        stopped = label(*command, "--out", tmp_path / "out")
        assert stopped.exit_code == exit_code, stopped.stderr
    assert signal.getsignal(number) is handler
    assert 8 <= len(calls) < 20
    assert "1 of 4 parts done" in stopped.stdout
    assert "the same command goes on from there" in stopped.stdout
    report = report_of(*command, "--out", tmp_path / "out")
    assert report["is_done"]
    # What had been begun was recorded.
    assert report["this_run"]["images"] == 20 - len(calls)
    assert report["this_run"]["resumed"] == len(calls)
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")
    again = report_of(*command, "--out", tmp_path / "out")
    assert (again["this_run"]["images"], again["images"]) == (0, 20)
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


def test_another_setting_or_source_is_refused_with_what_differs(model: Path, photos: Path, tmp_path: Path) -> None:
    command = (photos, "--out", tmp_path / "out", "--model", model, *OPTIONS)
    report_of(*command, "--batch-size", 2)
    before = digests(tmp_path / "out")
    assert report_of(*command)["settings"]["batch_size"] == 2  # what isn't said is as it was
    for change, words in {
        ("--pred-iou-thresh", "0.5"): "settings.generation.pred_iou_thresh was -9.0, is 0.5",
        ("--batch-size", "4"): "settings.batch_size was 2, is 4",
        ("--dtype", "bfloat16"): "settings.dtype was 'float32', is 'bfloat16'",
        ("--images", "reference"): "settings.images was 'embed', is 'reference'",
    }.items():
        assert_one_line(label(*command, *change), 1, "was begun with something else", words)
    write_photos(photos, 8)
    assert_one_line(label(*command), 1, "1 added")
    assert digests(tmp_path / "out") == before


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file may become larger, as the system sees to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_it_and_it_goes_on_when_there_is_room(model: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 16)
    command = (photos, "--model", model, "--rows-per-shard", 8, *OPTIONS)
    report_of(*command, "--out", tmp_path / "undisturbed")
    with full_disk(30_000):
        result = label(*command, "--out", tmp_path / "out")
    assert_one_line(result, 1, "File too large", "are safe: the same command goes on from there")
    report = report_of(*command, "--out", tmp_path / "out")
    assert report["is_done"]
    assert 0 < report["this_run"]["images"] < 16
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


def test_an_output_folder_that_cannot_be_written_is_named(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = label(photos, "--out", tmp_path / "file" / "out", "--model", model)
    assert_one_line(result, 1, "Not a directory", str(tmp_path / "file" / "out"))
    assert_one_line(label(photos, "--out", photos, "--model", model), 1, "--out")


def test_an_error_behind_the_model_stops_the_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, labeler = stand_in_job(photos, tmp_path / "out"), StandIn()

    def refuse(part: int, batch: Sequence[Any]) -> BatchDone:
        raise ZeroDivisionError("of the listener")

    monkeypatch.setattr(write_behind, "_count", refuse)
    with pytest.raises(ZeroDivisionError, match="of the listener"):
        run_local(job, labeler=labeler)
    assert len(labeler.asked) < 7
    monkeypatch.undo()
    assert run_local(job, labeler=labeler).rows == 7


def test_a_model_that_breaks_down_stops_the_run_and_what_was_done_stays(photos: Path, tmp_path: Path) -> None:
    class Breaking(StandIn):
        def __call__(self, items: Sequence[Item], pixels: Sequence[Any]) -> Any:
            if len(self.asked) == 4:
                raise RuntimeError("the device is lost")
            return super().__call__(items, pixels)

    job = stand_in_job(photos, tmp_path / "out")
    with pytest.raises(RuntimeError, match="the device is lost"):
        run_local(job, labeler=Breaking())
    labeler = StandIn()
    assert run_local(job, labeler=labeler).rows == 7
    assert [keys for (keys,) in labeler.asked] == [f"{index:04d}.png" for index in range(4, 7)]
    with pytest.raises(ValueError, match="one result per image, got 0 for 1"):
        run_local(stand_in_job(photos, tmp_path / "short"), labeler=lambda items, pixels: [])


def test_several_jobs_leave_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    class Uneven(StandIn):
        """The later an image comes, the sooner it is done."""

        def __call__(self, items: Sequence[Item], pixels: Sequence[Any]) -> Any:
            self.seconds = 0.02 if int(items[0].key[:4]) % 4 == 0 else 0.001
            return super().__call__(items, pixels)

    photos = write_photos(tmp_path / "photos", 24, broken=[5])
    run_local(stand_in_job(photos, tmp_path / "one", batch_size=2), labeler=Uneven())
    run_local(stand_in_job(photos, tmp_path / "four", batch_size=2), labeler=Uneven(jobs=4))
    assert digests(tmp_path / "four") == digests(tmp_path / "one")


def test_processes_share_the_parts_and_the_last_one_finishes(photos: Path, tmp_path: Path) -> None:
    job = stand_in_job(photos, tmp_path / "out", rows_per_shard=2)
    first, second = StandIn(), StandIn()
    totals = run_local(job, 0, 2, labeler=first)
    assert (totals.parts_done, len(first.asked)) == (2, 4)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run_local(job, 1, 2, labeler=second).parts_done == 4
    assert (tmp_path / "out" / "manifest.json").exists()
    run_local(stand_in_job(photos, tmp_path / "alone", rows_per_shard=2), labeler=StandIn())
    assert digests(tmp_path / "out") == digests(tmp_path / "alone")


def test_what_is_recorded_is_told_with_what_was_there(photos: Path, tmp_path: Path) -> None:
    job = stand_in_job(photos, tmp_path / "out", batch_size=2, rows_per_shard=7)
    with job.open().writer(0) as writer:
        items = list(job.source.read(0, 0))[:2]
        arrays = [np.full((4, 4, 3), 200, dtype=np.uint8)] * 2
        writer.add(StandIn()(items, arrays))
    told: list[BatchDone] = []
    assert label_part(job, 0, StandIn(), told.append)
    assert told == [BatchDone(0, 2, 0, 0, True), *(BatchDone(0, count, 2 * count, 0) for count in (2, 2, 1))]
    assert label_part(job, 0, StandIn(), told.append)  # done already
    assert len(told) == 4


def test_progress_tells_rates_and_time_left() -> None:
    progress = RunProgress(total=100, done=20)
    with progress:
        progress.add(BatchDone(0, 10, 0, 0, is_resumed=True))
        assert progress.line() == "30 of 100 images"
        progress.add(BatchDone(0, 20, 60, 1))
        line = progress.line()
    assert line.startswith("50 of 100 images, ")
    assert "images/s" in line
    assert "masks/s" in line
    assert line.endswith("left")
    assert "1 failed" in line
    report = progress.report()
    assert (report["images"], report["masks"], report["errors"], report["resumed"]) == (20, 60, 1, 30)
    assert report["masks_per_second"] == pytest.approx(3 * report["images_per_second"], rel=0.01)
    assert [duration(seconds) for seconds in (3, 600, 10_000, 400_000)] == ["3 s", "10 min", "2.8 h", "4.6 days"]


def test_references_hold_no_image(model: Path, photos: Path, tmp_path: Path) -> None:
    report_of(photos, "--out", tmp_path / "out", "--model", model, "--images", "reference", "--no-coco", *OPTIONS)
    (shard,) = (tmp_path / "out" / "data").glob("*.parquet")
    images = pq.read_table(shard)["image"].to_pylist()
    assert [image["bytes"] for image in images] == [None] * 7
    assert images[0]["path"] == str(photos / "0000.png")
    assert not (tmp_path / "out" / "instances.json").exists()


BAD_CALLS: dict[str, tuple[list[str], int, str]] = {
    "no output": (["{photos}"], 2, "--out"),
    "no source": (["--out", "{folder}/out"], 2, "SOURCE"),
    "a missing source": (["{folder}/missing.png", "--out", "{folder}/out"], 1, "missing.png"),
    "an option of generation": (["{photos}", "--out", "{folder}/out", "--preset", "slow"], 1, "preset"),
    "ray's option": (["{photos}", "--out", "{folder}/out", "--workers", "2"], 2, "--workers"),
    "another folder": (["{photos}", "--out", "{folder}/full"], 1, "holds something else"),
    "memory": (["{photos}", "--out", "{folder}/out", "--max-memory", "1MB"], 1, "max_memory=1MB is too little"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_one_line(model: Path, photos: Path, tmp_path: Path, case: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "novel.txt").write_text("once")
    arguments, exit_code, words = BAD_CALLS[case]
    given = [argument.format(photos=photos, folder=tmp_path) for argument in arguments]
    assert_one_line(label(*given, "--model", model), exit_code, words)
    assert not (tmp_path / "out").exists()
