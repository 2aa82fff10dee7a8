"""Evaluation of tracking: J on hand-made cases, every tracker on scripted models, and the whole command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import save_tiny

pytest.importorskip("skimage")

from sam_variants.hub_scripts import evaluation_facts
from sam_variants.hub_scripts.evaluate_tracking import METHODS, evaluate_tracking
from sam_variants.hub_scripts.evaluation_defaults import HELD_OUT_SEEDS
from sam_variants.hub_scripts.evaluation_facts import chosen_names
from sam_variants.hub_scripts.synthetic_clips import Clip, synthetic_clip
from sam_variants.hub_scripts.tracking_protocol import (
    BoxTracker,
    FlowTracker,
    FrozenTracker,
    ObjectClicks,
    SessionTracker,
    TrackScores,
    first_clicks,
    held_out_clips,
    measure_tracker,
    measure_trackers,
)
from sam_variants.training.mask_metrics import boundary_f

SIZE = (24, 32)


def box_mask(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


EMPTY = np.zeros(SIZE, bool)
WIDE, HALF = box_mask(4, 4, 12, 8), box_mask(4, 4, 8, 8)


def sliding_clip(num_frames: int = 5) -> Clip:
    """Two textured squares of 8 pixels on gray; the first slides right by two pixels a frame, the second stands."""
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    frames = np.full((num_frames, *SIZE, 3), 128, np.uint8)
    masks = np.zeros((num_frames, 2, *SIZE), bool)
    for index in range(num_frames):
        for number, (x, y) in enumerate([(2 + 2 * index, 2), (20, 14)]):
            frames[index, y : y + 8, x : x + 8] = texture if number == 0 else 255 - texture
            masks[index, number, y : y + 8, x : x + 8] = True
    return Clip(frames, masks, (3, 7))


class Oracle:
    """A segmenter that knows the masks of the frame it is shown, and notes the boxes it is asked with."""

    def __init__(self, clip: Clip, empty_frames: Sequence[int] = ()) -> None:
        self.clip, self.empty_frames = clip, empty_frames
        self.asked: list[list[tuple[int, int, int, int]]] = []
        self.seconds: dict[str, list[float]] = {}

    def look_at(self, image: np.ndarray) -> None:
        self.index = next(index for index, frame in enumerate(self.clip.frames) if np.array_equal(frame, image))

    def first_click(self, clicks: list) -> tuple[np.ndarray, np.ndarray]:
        truth = np.stack([self.clip.masks[self.index, self._at(x, y)] for ((x, y),) in clicks])
        return np.stack([~truth, truth], axis=1), np.ones(len(clicks), int)

    def _at(self, x: int, y: int) -> int:
        return int(np.flatnonzero(self.clip.masks[self.index, :, y, x])[0])

    def more_clicks(self, clicks: list, labels: list) -> np.ndarray:
        raise AssertionError("no tracker corrects")

    def boxes(self, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray | None:
        self.asked.append(list(boxes))
        masks = self.clip.masks[self.index].copy()
        masks[:, :] &= self.index not in self.empty_frames
        return masks


def test_j_of_hand_made_tracks() -> None:
    scores = TrackScores()
    truths = np.stack([WIDE, WIDE, EMPTY, EMPTY, WIDE])
    answers = np.stack([HALF, WIDE, EMPTY, WIDE, HALF])
    scores.add(answers, truths)
    # the first frame does not count; both empty: 1; an answer where there is nothing: 0
    assert scores.first == [pytest.approx(0.5)]
    assert scores.ious == [pytest.approx((1 + 1 + 0 + 0.5) / 4)]
    half = boundary_f(HALF, WIDE)
    assert 0 < half < 1
    assert scores.contours == [pytest.approx((1 + 1 + 0 + half) / 4)]
    assert scores.visible == [pytest.approx((1 + 0.5) / 2)]
    assert scores.reappeared == [pytest.approx(0.5)]
    assert scores.absent == [pytest.approx(0.5)]


def test_an_object_that_stays_in_sight_has_no_comeback() -> None:
    scores = TrackScores(num_clips=1)
    scores.add(np.stack([WIDE, HALF, EMPTY]), np.stack([WIDE, WIDE, WIDE]))
    scores.add(np.stack([WIDE, WIDE, WIDE]), np.stack([WIDE, WIDE, EMPTY]))
    assert scores.reappeared == []
    f = (boundary_f(HALF, WIDE) / 2 + 0.5) / 2
    assert scores.summary() == {
        "clips": 1,
        "objects": 2,
        "j_first": 1.0,
        "j": round((0.25 + 0.5) / 2, 4),
        "j_visible": round((0.25 + 1) / 2, 4),
        "j_absent": 0.0,
        "f": round(f, 4),
        "j_and_f": round((0.375 + f) / 2, 4),
        "reappearing_objects": 0,
    }


def test_clicks_are_in_the_middle_of_objects_that_show_enough() -> None:
    masks = np.stack([[WIDE, box_mask(20, 20, 22, 21), EMPTY], [EMPTY, EMPTY, WIDE]])
    clip = Clip(np.zeros((2, *SIZE, 3), np.uint8), masks, (1, 2, 3))
    clicks = first_clicks(clip, min_area=0.01)
    assert list(clicks) == [1]
    x, y = clicks[1]
    assert WIDE[y, x]
    assert 5 <= y <= 6
    assert list(first_clicks(clip, min_area=0.001)) == [1, 2]


class Replay:
    """A tracker that answers what it is given."""

    def __init__(self, answers: np.ndarray) -> None:
        self.answers = answers

    def track(self, frames: np.ndarray, clicks: ObjectClicks) -> Iterator[np.ndarray]:
        self.clicks = dict(clicks)
        yield from self.answers


def test_measuring_a_perfect_and_a_lazy_tracker() -> None:
    clip = sliding_clip()
    summaries = measure_trackers([clip], {"perfect": Replay(clip.masks), "lazy": Replay(clip.masks[[0] * 5])})
    assert summaries["perfect"]["j"] == 1
    overlaps = [48 / 80, 32 / 96, 16 / 112, 0]
    assert summaries["lazy"]["j"] == pytest.approx((np.mean(overlaps) + 1) / 2, abs=1e-4)
    assert summaries["lazy"]["objects"] == 2
    assert summaries["lazy"]["milliseconds_per_frame"] >= 0


def test_only_clicked_objects_are_scored() -> None:
    clip = sliding_clip()
    masks = clip.masks.copy()
    masks[0, 0] = False  # the first object comes later
    late = Clip(clip.frames, masks, clip.object_ids)
    tracker, scores = Replay(masks[:, 1:]), TrackScores()
    measure_tracker(tracker, late, scores)
    assert list(tracker.clicks) == [7]
    assert scores.ious == [1.0]
    nobody = Clip(clip.frames, np.zeros_like(masks), clip.object_ids)
    measure_tracker(tracker, nobody, scores)
    assert scores.num_clips == 1


def test_wrong_answers_are_named() -> None:
    clip = sliding_clip()
    with pytest.raises(ValueError, match=r"Replay answered bool \(4, 2, 24, 32\); expected bool \(5, 2, 24, 32\)"):
        measure_tracker(Replay(clip.masks[:4]), clip, TrackScores())
    with pytest.raises(ValueError, match="Replay answered uint8"):
        measure_tracker(Replay(clip.masks.astype(np.uint8)), clip, TrackScores())


def test_the_box_tracker_follows_boxes_with_a_margin() -> None:
    clip = sliding_clip()
    oracle = Oracle(clip)
    answers = list(BoxTracker(oracle, margin=0.25).track(clip.frames, first_clicks(clip, 0)))
    np.testing.assert_array_equal(np.stack(answers), clip.masks)
    # boxes of the frame before, grown by two pixels, cut at the frame
    assert oracle.asked[0] == [(0, 0, 12, 12), (18, 12, 30, 24)]
    assert oracle.asked[2] == [(4, 0, 16, 12), (18, 12, 30, 24)]


def test_the_box_tracker_keeps_the_last_box_of_a_lost_object() -> None:
    clip = sliding_clip()
    oracle = Oracle(clip, empty_frames=[1, 2])
    answers = list(BoxTracker(oracle, margin=0.0).track(clip.frames, first_clicks(clip, 0)))
    assert not answers[2].any()
    assert oracle.asked[0] == oracle.asked[1] == oracle.asked[2] == [(2, 2, 10, 10), (20, 14, 28, 22)]
    assert oracle.asked[3] == [(8, 2, 16, 10), (20, 14, 28, 22)]


def test_the_frozen_tracker_repeats_the_first_masks() -> None:
    clip = sliding_clip()
    answers = list(FrozenTracker(Oracle(clip)).track(clip.frames, first_clicks(clip, 0)))
    assert len(answers) == 5
    assert all(np.array_equal(answer, clip.masks[0]) for answer in answers)


def test_optical_flow_carries_masks_along() -> None:
    clip = synthetic_clip(2, 4, 96, difficulty=0.0)
    clicks = first_clicks(clip, 0.002)
    rows = [clip.object_ids.index(object_id) for object_id in clicks]
    perfect = Oracle(clip)
    flow, frozen = TrackScores(), TrackScores()
    measure_tracker(FlowTracker(perfect), clip, flow)
    measure_tracker(FrozenTracker(perfect), clip, frozen)
    assert len(flow.ious) == len(rows)
    assert np.mean(flow.ious) > max(np.mean(frozen.ious), 0.8)


class FakeSession:
    """A session that answers in another order than it was asked, and notes its calls."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.calls = clip, []
        self.frame_index = -1

    def add_object(self, object_id: int, **prompts: Any) -> None:
        self.calls.append(("add", object_id, prompts))

    def step(self, frame: np.ndarray) -> SimpleNamespace:
        self.frame_index += 1
        np.testing.assert_array_equal(frame, self.clip.frames[self.frame_index])
        masks = torch.from_numpy(self.clip.masks[self.frame_index])
        return SimpleNamespace(data=masks.flip(0), object_ids=torch.tensor(self.clip.object_ids[::-1]))

    def close(self) -> None:
        self.calls.append(("close",))


def test_the_session_tracker_prompts_first_and_keeps_the_order_of_objects() -> None:
    clip = sliding_clip()
    sessions = []

    def start_session(processor: Any = None) -> FakeSession:
        assert processor == "processor"
        sessions.append(FakeSession(clip))
        return sessions[-1]

    tracker = SessionTracker(SimpleNamespace(start_session=start_session), "processor")
    for _ in range(2):
        scores = TrackScores()
        measure_tracker(tracker, clip, scores)
        assert scores.ious == [1.0, 1.0]
    assert len(sessions) == 2
    (x, y), (x2, y2) = first_clicks(clip, 0).values()
    assert sessions[0].calls == [
        ("add", 3, {"points": [[x, y]], "labels": [1]}),
        ("add", 7, {"points": [[x2, y2]], "labels": [1]}),
        ("close",),
    ]


def test_held_out_clips_are_of_their_own() -> None:
    one, two = (list(held_out_clips(2, 3, 48)) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(one[1].frames, synthetic_clip(HELD_OUT_SEEDS + 1, 3, 48, "held_out").frames)
    assert not np.array_equal(one[0].frames, synthetic_clip(HELD_OUT_SEEDS, 3, 48, "train").frames)
    with pytest.raises(ValueError, match="first_seed=5 is a training clip's"):
        next(held_out_clips(1, 3, 48, first_seed=5))


def test_methods_are_chosen_by_name() -> None:
    assert chosen_names("methods", "frozen, box", tuple(METHODS)) == ["box", "frozen"]
    for wrong in ("", "box,frozzen"):
        with pytest.raises(ValueError, match="session,box,flow,frozen"):
            chosen_names("methods", wrong, tuple(METHODS))


def test_the_whole_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(save_tiny(tmp_path / "model", "tiny_vit_with_skips"))
    json_file = tmp_path / "reports" / "tracking.json"
    threads = torch.get_num_threads()
    report = evaluate_tracking(
        image_model=checkpoint, methods="box,flow,frozen", clips=2, frames=3, size=64, threads=1, json_file=json_file
    )
    assert torch.get_num_threads() == threads
    assert json.loads(json_file.read_text()) == report
    assert report["image_model"]["checkpoint"] == checkpoint
    assert "model" not in report
    assert report["settings"]["first_seed"] == HELD_OUT_SEEDS
    results = report["results"]
    assert list(results) == ["box", "flow", "frozen"]
    assert len({summary["objects"] for summary in results.values()}) == 1
    assert len({summary["j_first"] for summary in results.values()}) == 1
    assert all(0 <= value <= 1 for summary in results.values() for name, value in summary.items() if name[0] == "j")
    printed = capsys.readouterr().out
    assert "2 held-out clips" in printed
    assert "frozen mask" in printed


def test_a_session_is_measured_beside_the_baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = str(save_tiny(tmp_path / "model"))
    clip = synthetic_clip(HELD_OUT_SEEDS, 3, 64, "held_out")
    load = evaluation_facts.load_model

    def load_with_session(path: str, image_size: int | None) -> tuple[Any, dict[str, Any]]:
        model, about = load(path, image_size)
        model.start_session = lambda processor: FakeSession(clip)
        return model, about

    monkeypatch.setattr(evaluation_facts, "load_model", load_with_session)
    report = evaluate_tracking(
        checkpoint, checkpoint, methods="session,frozen", clips=1, frames=3, size=64, image_size=96, threads=1
    )
    assert report["model"]["image_size"] == 96
    assert report["image_model"]["image_size"] == 64
    assert report["results"]["session"]["j"] == 1
    assert report["results"]["frozen"]["j"] < 1


def test_an_image_model_cannot_track(tmp_path: Path) -> None:
    checkpoint = str(save_tiny(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"which is for images; .* --methods box,flow,frozen"):
        evaluate_tracking(checkpoint, methods="session", clips=1, frames=2, size=64, threads=1)
