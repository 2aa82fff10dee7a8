"""A session saved and loaded goes on exactly as the one that was not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_video_model

from sam_variants.session_state import load_session, save_session

HEIGHT, WIDTH = 48, 64
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[8:30, 20:60] = True


def frame(index: int) -> np.ndarray:
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return np.roll(picture, 2 * index, axis=1)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_video_model("vit", seed=3)


def begun(model: Any, num_frames: int) -> Any:
    """Objects of every kind of prompt, one of them corrected, one removed, one that has not come yet."""
    session = model.start_session()
    session.add_object(4, points=[20, 20])
    session.add_object(1, boxes=[10, 10, 40, 40], frame=2)
    session.add_object(9, mask=MASK, frame=3)
    session.add_object(7, points=[30, 30], frame=1)
    session.add_object(4, points=[50, 30], labels=[0], frame=4)
    for index in range(num_frames):
        session.step(frame(index))
        if index == 3:
            session.remove_object(7)
    session.add_object(2, points=[9, 9], frame=30)
    return session


@pytest.mark.parametrize("num_frames", [5, 20])
def test_what_comes_is_the_same(model: Any, tmp_path: Path, num_frames: int) -> None:
    session, again = begun(model, num_frames), model.start_session()
    save_session(session, tmp_path / "state")
    load_session(again, tmp_path / "state")
    assert (again.frame_index, again.frame_size) == (num_frames - 1, (HEIGHT, WIDTH))
    assert again.object_ids == session.object_ids == [4, 1, 9, 2]
    for later in (session, again):
        later.add_object(1, points=[15, 15], frame=num_frames + 1)
    for index in range(num_frames, num_frames + 4):
        one, other = session.step(frame(index)), again.step(frame(index))
        assert one.frame_index == other.frame_index == index
        assert one.data.equal(other.data)
        assert one.scores.equal(other.scores)
        assert one.object_score_logits.equal(other.object_score_logits)
        assert one.data[:3].flatten(1).any(dim=1).all()


def test_the_file_does_not_grow(model: Any, tmp_path: Path) -> None:
    session = model.start_session()
    session.add_object(1, points=[20, 20])
    sizes = []
    for index in range(40):
        session.step(frame(index))
        if index in (20, 39):
            save_session(session, tmp_path / "state")
            sizes.append(os.path.getsize(tmp_path / "state"))
    assert abs(sizes[1] - sizes[0]) < 100
    memory = 4 * 4 * 16 * 2  # cells × memory width × bytes of bfloat16
    assert sizes[0] < 8 * memory + 40_000


def test_a_new_session_can_be_saved(model: Any, tmp_path: Path) -> None:
    save_session(model.start_session(), tmp_path / "state")
    again = model.start_session()
    load_session(again, tmp_path / "state")
    assert (again.frame_index, again.frame_size, again.object_ids) == (-1, None, [])


def test_a_failed_write_leaves_the_file_before(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun(model, 5)
    save_session(session, tmp_path / "state")
    before = (tmp_path / "state").read_bytes()

    def broken(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:9])
        raise OSError("disk full")

    session.step(frame(5))
    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        save_session(session, tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == before
    monkeypatch.undo()
    with pytest.raises(OSError, match="state"):
        save_session(session, tmp_path / "missing" / "state")


def test_wrong_calls_are_refused(model: Any, tmp_path: Path) -> None:
    session = begun(model, 5)
    session.add_object(4, points=[22, 22])
    with pytest.raises(ValueError, match=r"save it after step\(\)"):
        save_session(session, tmp_path / "state")
    session.step(frame(5))
    save_session(session, tmp_path / "state")
    with pytest.raises(ValueError, match="the session is not new"):
        load_session(session, tmp_path / "state")
    with pytest.raises(FileNotFoundError):
        load_session(model.start_session(), tmp_path / "missing")
    (tmp_path / "text").write_text("no state")
    save_file({"weight": torch.ones(1)}, tmp_path / "weights")
    for name in ("text", "weights"):
        with pytest.raises(ValueError, match=f"{name}.* is no state of a video session"):
            load_session(model.start_session(), tmp_path / name)
    # Earlier frames are out of reach, and the session says so.
    again = model.start_session()
    load_session(again, tmp_path / "state")
    with pytest.raises(ValueError, match="frame 5 is out of reach"):
        again.add_object(4, points=[22, 22], frame=5)
    assert again.step(frame(6)).frame_index == 6
