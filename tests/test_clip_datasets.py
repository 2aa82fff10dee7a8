"""Clips from every source that is read, as windows."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_examples import SIZE, label_map, moving_squares, save_palette, write_clip, write_clips
from datasets import Dataset, Features, Image, List, Value, Video
from PIL import Image as PillowImage

from sam_variants.hub_scripts.track_log import TrackLog
from sam_variants.mask_codecs import encode_mask
from sam_variants.processing.video_writer import VideoWriter
from sam_variants.results import Masks
from sam_variants.training.clip_datasets import ClipDataset, open_clips
from sam_variants.training.clip_folders import looks_like_clips
from sam_variants.training.masked_clip import MaskedClip

RNG = np.random.default_rng


def assert_same(found: MaskedClip, clip: MaskedClip) -> None:
    """The frames of a whole clip as they were written, and its masks where they are annotated."""
    np.testing.assert_array_equal(found.frames, clip.frames[list(found.indices)])
    np.testing.assert_array_equal(found.masks, clip.masks[:, list(found.indices)] & found.annotated[:, None, None])
    assert found.object_ids == clip.object_ids
    assert found.name == clip.name


@pytest.mark.parametrize("folders", [("JPEGImages", "Annotations"), ("frames", "masks"), ("images", "masks")])
def test_folders_of_pictures(tmp_path: Path, folders: tuple[str, str]) -> None:
    clip = moving_squares()
    write_clip(tmp_path, clip, folders=folders)
    dataset = open_clips(tmp_path, frames=None)
    assert len(dataset) == 1
    assert looks_like_clips(tmp_path)
    assert_same(dataset.whole(0), clip)
    assert_same(pickle.loads(pickle.dumps(dataset)).whole(0), clip)


def test_frames_without_a_label_map_are_not_annotated(tmp_path: Path) -> None:
    clip = moving_squares(8)
    write_clip(tmp_path, clip, annotated=[1, 4])
    found = open_clips(tmp_path).whole(0)
    assert found.indices == tuple(range(1, 8))
    assert np.flatnonzero(found.annotated).tolist() == [0, 3]
    assert_same(found, clip)
    for seed in range(20):
        window = open_clips(tmp_path, frames=3).draw(0, RNG(seed), reverse=0.5)
        assert window.annotated[0]
        assert window.indices[0] in (1, 4)
        assert len(window) == 3


def test_davis_with_its_resolution_and_lists(tmp_path: Path) -> None:
    for name in ("bear", "goat"):
        write_clip(tmp_path, moving_squares(name=name), folders=("JPEGImages/480p", "Annotations/480p"))
    for year, names in (("2016", "bear\ngoat\n"), ("2017", "goat\n")):
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / "train.txt").write_text(names)
    assert len(open_clips(tmp_path)) == 2
    chosen = open_clips(tmp_path, split="train")
    assert [clip.name for clip in chosen] == ["goat"]
    assert "JPEGImages/480p" in chosen.report()
    with pytest.raises(ValueError, match=r"no split 'test'.*\['train'\]"):
        open_clips(tmp_path, split="test")


def test_splits_as_folders(tmp_path: Path) -> None:
    write_clips(tmp_path / "train", 2)
    write_clips(tmp_path / "valid", 1)
    assert len(open_clips(tmp_path, split="valid")) == 1
    with pytest.raises(ValueError, match=r"has the splits \['train', 'valid'\]: name one"):
        open_clips(tmp_path)
    with pytest.raises(ValueError, match="no split 'test'"):
        open_clips(tmp_path, split="test")


def test_white_alone_is_an_object_and_else_void(tmp_path: Path) -> None:
    clip = moving_squares(3, num_objects=1)
    for name, with_void in (("alone", False), ("beside", True)):
        write_clip(tmp_path / name, clip)
        for index in range(3):
            labels = label_map(clip, index) * (1 if with_void else 255)
            if with_void:
                labels[-3:] = 255
            PillowImage.fromarray(labels).save(tmp_path / name / "Annotations" / "squares" / f"{index:05d}.png")
    assert open_clips(tmp_path / "alone").whole(0).object_ids == (255,)
    dataset = open_clips(tmp_path / "beside")
    assert dataset.whole(0).object_ids == (1,)
    assert "255 is void" in dataset.report()
    assert open_clips(tmp_path / "beside", void=-1).whole(0).object_ids == (1, 255)


def write_tracked(folder: Path, clip: MaskedClip, start: int = 0) -> Path:
    """A video and the masks of its frames from `start` on, as `sam-variants track` writes them."""
    with VideoWriter(folder / "clip.mp4", 10) as video:
        for frame in clip.frames:
            video.write(frame)
    header = {"video": "clip.mp4", "width": SIZE[1], "height": SIZE[0], "start": start, "stop": None}
    with TrackLog(folder / "clip_masks.jsonl", header, start) as log:
        for index in range(start, len(clip)):
            masks = Masks(clip.masks[:, index], object_ids=list(clip.object_ids), object_score_logits=[1.0, 1.0])
            log.write(index, None, masks)
    return folder / "clip_masks.jsonl"


def test_a_video_with_the_masks_of_the_track_command(tmp_path: Path) -> None:
    clip = moving_squares(6)
    masks = write_tracked(tmp_path, clip, start=2)
    for source in (tmp_path, masks):
        found = open_clips(source).whole(0)
        assert (found.object_ids, found.name) == (clip.object_ids, "clip")
        np.testing.assert_array_equal(found.masks, clip.masks[:, 2:])
        difference = np.abs(found.frames.astype(int) - clip.frames[2:])
        assert difference.mean() < 15  # of H.264; the next frame is farther away
        assert found.frames.shape == (4, *SIZE, 3)
    with masks.open("ab") as file:
        file.write(b'{"frame": 6, "obj')  # an interrupted run
    backwards = open_clips(masks, frames=3).draw(0, RNG(0), reverse=1.0)
    first, _, last = backwards.indices
    assert first - last == 2
    np.testing.assert_array_equal(backwards.masks, clip.masks[:, [2 + index for index in backwards.indices]])


def test_tracked_masks_without_their_video(tmp_path: Path) -> None:
    masks = write_tracked(tmp_path, moving_squares())
    (tmp_path / "videos").mkdir()
    (tmp_path / "clip.mp4").rename(tmp_path / "videos" / "clip.mp4")
    with pytest.raises(FileNotFoundError, match=r"'clip\.mp4', which is not at .*videos="):
        open_clips(masks)
    assert len(open_clips(masks, videos=tmp_path / "videos").whole(0)) == 6
    (tmp_path / "other_masks.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="does not begin with the header"):
        open_clips(tmp_path / "other_masks.jsonl")


def frames_of(clip: MaskedClip) -> list[PillowImage.Image]:
    return [PillowImage.fromarray(frame) for frame in clip.frames]


def labels_as_pictures(clip: MaskedClip) -> dict[str, Any]:
    pictures = [PillowImage.fromarray(label_map(clip, index)) for index in range(len(clip))]
    features = Features({"frames": List(Image()), "masks": List(Image()), "name": Value("string")})
    row = {"frames": [frames_of(clip)], "masks": [pictures], "name": [clip.name]}
    return {"source": Dataset.from_dict(row, features=features)}


def annotations_in_other_columns(clip: MaskedClip) -> dict[str, Any]:
    annotated = [
        [
            {"track_id": key, "segmentation": encode_mask(mask)}
            for key, mask in zip(clip.object_ids, clip.masks[:, index], strict=True)
        ]
        for index in range(len(clip))
    ]
    row = {"pictures": [frames_of(clip)], "truth": [annotated], "title": [clip.name]}
    return {"source": Dataset.from_dict(row), "columns": {"frames": "pictures", "masks": "truth", "name": "title"}}


def codes_as_json(clip: MaskedClip) -> dict[str, Any]:
    codes = [[encode_mask(mask) for mask in clip.masks[:, index]] for index in range(len(clip))]
    row = {"frames": [frames_of(clip)], "rles": [json.dumps(codes)], "id": [clip.name]}
    return {"source": Dataset.from_dict(row)}


def clips_in_memory(clip: MaskedClip) -> dict[str, Any]:
    return {"source": [clip]}


@pytest.mark.parametrize(
    "make",
    [labels_as_pictures, annotations_in_other_columns, codes_as_json, clips_in_memory],
    ids=lambda make: make.__name__,
)
def test_rows_of_datasets(make: Callable[[MaskedClip], dict[str, Any]]) -> None:
    clip = moving_squares()
    dataset = open_clips(**make(clip))
    assert_same(dataset.whole(0), clip)
    assert "1 clips" in dataset.report()


def test_rows_with_a_video_and_frames_that_are_not_annotated(tmp_path: Path) -> None:
    clip = moving_squares(5)
    write_tracked(tmp_path, clip)
    masks = [json.dumps({str(key): encode_mask(mask) for key, mask in zip((4, 9), clip.masks[:, index], strict=True)})
             for index in range(5)]  # fmt: skip
    masks[1] = None  # type: ignore[call-overload]
    rows = Dataset.from_dict({"video": [str(tmp_path / "clip.mp4")], "masks": [masks]})
    for source in (rows, rows.cast_column("video", Video())):
        found = open_clips(source).whole(0)
        assert found.object_ids == (4, 9)
        assert found.annotated.tolist() == [True, False, True, True, True]
        np.testing.assert_array_equal(found.masks[:, 2], clip.masks[:, 2])


def test_a_folder_that_save_to_disk_wrote(tmp_path: Path) -> None:
    clip = moving_squares()
    labels_as_pictures(clip)["source"].save_to_disk(tmp_path / "saved")
    assert_same(open_clips(tmp_path / "saved").whole(0), clip)
    assert not looks_like_clips(tmp_path / "saved")


def test_windows_are_a_function_of_seed_and_row(tmp_path: Path) -> None:
    write_clips(tmp_path, 2, num_frames=12)
    dataset = open_clips(tmp_path, frames=3, stride=range(1, 5), seed=3)
    again = open_clips(tmp_path, frames=3, stride=range(1, 5), seed=3)
    for row in (1, 0):
        assert_same(again[row], moving_squares(12, seed=row, name=f"clip{row}"))
        assert again[row].indices == dataset[row].indices
    drawn = [dataset.draw(0, RNG(seed)).indices for seed in range(60)]
    assert {steps[1] - steps[0] for steps in drawn} == {1, 2, 3, 4}
    assert all(len(set(np.diff(steps))) == 1 and max(steps) < 12 for steps in drawn)
    assert {steps[0] for steps in drawn} >= set(range(6))


def test_windows_backwards_mirrored_and_with_fewer_objects() -> None:
    clip = moving_squares(10, num_objects=3)
    dataset = open_clips([clip], frames=4)
    window = dataset.draw(0, RNG(0), reverse=1.0)
    assert np.diff(window.indices).tolist() == [-1, -1, -1]
    assert_same(window, clip)
    mirrored = dataset.draw(0, RNG(0), reverse=1.0, mirror=1.0)
    np.testing.assert_array_equal(mirrored.frames, window.frames[:, :, ::-1])
    np.testing.assert_array_equal(mirrored.masks, window.masks[..., ::-1])
    chosen = [dataset.draw(0, RNG(seed), max_objects=2).object_ids for seed in range(20)]
    assert set(chosen) == {(1, 2), (1, 3), (2, 3)}


def test_windows_begin_where_an_object_is_large_enough() -> None:
    clip = moving_squares(8)
    masks = clip.masks.copy()
    masks[0, :5] = False
    masks[1, :, :, ::2] = False  # half as large
    dataset = open_clips([MaskedClip(clip.frames, masks, (1, 2), "half")], frames=3)
    for seed in range(10):
        window = dataset.draw(0, RNG(seed), min_area=100 / (SIZE[0] * SIZE[1]))
        assert (window.indices, window.object_ids) == ((5, 6, 7), (1,))
    assert dataset.draw(0, RNG(0), min_area=0.5).object_ids == ()
    assert dataset.draw(0, RNG(0), min_area=0.5).masks.shape == (0, 3, *SIZE)


def test_clips_that_are_shorter_than_windows() -> None:
    dataset = open_clips([moving_squares(5)], frames=8, stride=3)
    for seed in range(5):
        assert dataset.draw(0, RNG(seed)).indices == (0, 1, 2, 3, 4)
    last_only = MaskedClip(*(getattr(moving_squares(5), name) for name in ("frames", "masks", "object_ids")), "last")
    last_only.annotated[:4] = False
    assert open_clips([last_only], frames=8).draw(0, RNG(0)).indices == (4, 3, 2, 1, 0)


def test_some_of_the_clips(tmp_path: Path) -> None:
    dataset = open_clips(write_clips(tmp_path, 3)).select([2, 0])
    assert [clip.name for clip in dataset] == ["clip2", "clip0"]
    assert [clip.name for clip in dataset.select([1])] == ["clip0"]


def test_the_report_says_what_was_found_and_left_out(tmp_path: Path) -> None:
    write_clips(tmp_path, 2)
    (tmp_path / "JPEGImages" / "bare").mkdir()
    save_palette(np.zeros(SIZE), tmp_path / "JPEGImages" / "bare" / "00000.png")
    report = open_clips(tmp_path, frames=4, stride=range(1, 3)).report()
    for part in ("2 clips of 6 to 6 frames, 12 in all, 12 annotated", "56x40 pixels", "2 objects of 132 to 132 pixels",
                 "1 clips without a label map", "'bare'", "4 frames, stride 1 to 2"):  # fmt: skip
        assert part in report


def spoil_label_size(root: Path) -> None:
    save_palette(np.ones((10, 10)), root / "Annotations" / "clip1" / "00002.png")


def spoil_frame_size(root: Path) -> None:
    save_palette(np.ones((10, 10)), root / "JPEGImages" / "clip1" / "00002.png")


def spoil_frame_file(root: Path) -> None:
    (root / "JPEGImages" / "clip1" / "00002.png").write_bytes(b"no picture")


def spoil_label_file(root: Path) -> None:
    (root / "Annotations" / "clip1" / "00002.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (spoil_label_size, "the label map is 10x10 pixels .*, the frame 56x40"),
        (spoil_frame_size, "frame 2 is 10×10 pixels"),
        (spoil_frame_file, "can't be opened as an image"),
        (spoil_label_file, "can't be opened as an image"),
    ],
)
def test_one_bad_frame_is_named(tmp_path: Path, spoil: Callable[[Path], None], problem: str) -> None:
    root = write_clips(tmp_path / "data", 2)
    spoil(root)
    dataset = open_clips(root)
    assert dataset.whole(0).name == "clip0"
    with pytest.raises(ValueError, match=rf"data: clip 'clip1', frame 2 \(00002\.png.*{problem}"):
        dataset.whole(1)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no clips: clips may be: JPEGImages"):
        open_clips(tmp_path)
    write_clip(tmp_path / "stray", moving_squares())
    save_palette(np.zeros(SIZE), tmp_path / "stray" / "Annotations" / "squares" / "00099.png")
    with pytest.raises(ValueError, match=r"have no frame of their name: '00099\.png'"):
        open_clips(tmp_path / "stray")
    write_clip(tmp_path / "short", moving_squares(1))
    with pytest.raises(ValueError, match="clip 'squares' has 1 frame; a clip has two"):
        open_clips(tmp_path / "short").whole(0)


def two_masks_of_one_object(clip: MaskedClip) -> dict[str, Any]:
    code = {"object_id": 1, "segmentation": encode_mask(clip.masks[0, 0])}
    return {"frames": [frames_of(clip)], "masks": [[[code, code]] * len(clip)]}


def no_id(clip: MaskedClip) -> dict[str, Any]:
    return {"frames": [frames_of(clip)], "masks": [[[{"segmentation": encode_mask(clip.masks[0, 0])}]] * len(clip)]}


def too_few_masks(clip: MaskedClip) -> dict[str, Any]:
    return {"frames": [frames_of(clip)], "masks": [[[encode_mask(clip.masks[0, 0])]] * 2]}


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (two_masks_of_one_object, "clip 'row 0', frame 0: object 1 has two masks"),
        (no_id, "frame 0: annotation 1 has none of .*which object is it"),
        (too_few_masks, "clip 0: column 'masks' must have an entry for every frame .* got 2 entries for 3 frames"),
    ],
)
def test_bad_rows(make: Callable[[MaskedClip], dict[str, Any]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        open_clips(Dataset.from_dict(make(moving_squares(3)))).whole(0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"frames": 1}, "frames=1 must be 2 or more"),
        ({"stride": 0}, "stride=0 must be 1 or more"),
        ({"stride": range(3, 3)}, r"stride=range\(3, 3\)"),
        ({"columns": {"frames": "a"}}, "has no column 'a' for frames"),
        ({"columns": {"picture": "a"}}, r"unknown \['picture'\]"),
        ({"videos": "here"}, "videos='here' is for tracked masks"),
    ],
)
def test_bad_options(options: dict[str, Any], problem: str) -> None:
    source = labels_as_pictures(moving_squares())["source"]
    with pytest.raises(ValueError, match=problem):
        open_clips(source, **options)


def test_streams_are_refused() -> None:
    with pytest.raises(TypeError, match="is a stream, but clips are read by number"):
        open_clips(labels_as_pictures(moving_squares())["source"].to_iterable_dataset())


def test_clips_check_their_arrays() -> None:
    clip = moving_squares()
    with pytest.raises(ValueError, match=r"masks is bool .*allowed: bool"):
        MaskedClip(clip.frames, clip.masks[:, :2], clip.object_ids)
    with pytest.raises(ValueError, match="frames is float32"):
        MaskedClip(clip.frames.astype(np.float32), clip.masks, clip.object_ids)
    with pytest.raises(ValueError, match="of 6 frames"):
        MaskedClip(clip.frames, clip.masks, clip.object_ids, annotated=np.ones(2, bool))
    assert isinstance(open_clips([clip]), ClipDataset)
