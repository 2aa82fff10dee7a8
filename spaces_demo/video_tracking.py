"""The work of tracking, in functions that may run in another process: they take and give nothing but plain values.

What a frame shows is a function of the video, the model and the prompts alone. Every frame is stepped first; prompts on
it are given behind that, as corrections of what was tracked there (an object that is new there begins with them). So
the state before frame n depends on the prompts of earlier frames only, and states that are kept, in memory or on disk,
are found again by what was given before them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sam_variants import Masks, VideoSession
from sam_variants.processing.video_reader import read_frames
from sam_variants.session_state import load_session, save_session
from sam_variants.spaces_demo.gpu import gpu
from sam_variants.spaces_demo.limits import HELD_SESSIONS, STATE_BYTES, TRACK_SECONDS
from sam_variants.spaces_demo.models import store

# Frame → object id → the arguments of `VideoSession.add_object`.
FramePrompts = Mapping[int, Mapping[int, Mapping[str, Any]]]
STATES_PER_VIDEO = 12
MIN_STATE_DISTANCE = 8  # frames


@dataclass(frozen=True)
class Tracking:
    """What there is to track.

    Attributes:
        path: the video.
        num_frames: its length.
        choice: of the model, for `ModelStore.get`.
        prompts: for its frames.
        folder: where states are kept.
    """

    path: str
    num_frames: int
    choice: str
    prompts: FramePrompts
    folder: str

    @property
    def first(self) -> int:
        """The first frame with prompts, where tracking begins."""
        return min(self.prompts)

    def history(self, frame: int) -> str:
        """A name for all that the state before the prompts of a frame depends on."""
        return self._digest({index: given for index, given in self.prompts.items() if index < frame})

    def result_key(self, frame: int) -> str:
        """A name for all that the masks of a frame depend on."""
        return self._digest({index: given for index, given in self.prompts.items() if index <= frame})

    def _digest(self, prompts: FramePrompts) -> str:
        return hashlib.sha256(json.dumps([self.choice, prompts], sort_keys=True).encode()).hexdigest()[:16]


class Answer(NamedTuple):
    """One frame that was stepped: its time in seconds and COCO annotations, None for a frame known before."""

    frame: int
    time: float | None
    annotations: list[dict[str, Any]] | None


class Held(NamedTuple):
    """A session right after the step of a frame, before the prompts there, and what that step found."""

    frame: int
    session: VideoSession
    masks: Masks
    time: float | None


class HeldSessions:
    """The sessions of the last few videos that were worked on, so that prompts are answered at once."""

    def __init__(self, capacity: int = HELD_SESSIONS) -> None:
        self._capacity = capacity
        self._held: OrderedDict[str, tuple[str, Held]] = OrderedDict()
        # Taken again where it is held: any line may be the one at which Python frees a job, whose end forgets here.
        self._lock = threading.RLock()

    def get(self, task: Tracking, frame: int) -> Held | None:
        """A copy to go on with, if the one held leads to a frame."""
        with self._lock:
            history, held = self._held.get(task.folder, ("", None))
            if held is None or held.frame > frame or history != task.history(held.frame):
                return None
            self._held.move_to_end(task.folder)
        return held._replace(session=_fork(held.session))

    def put(self, task: Tracking, held: Held) -> None:
        with self._lock:
            self._held[task.folder] = (task.history(held.frame), held)
            self._held.move_to_end(task.folder)
            while len(self._held) > self._capacity:
                self._held.popitem(last=False)

    def forget(self, folder: str) -> None:
        with self._lock:
            self._held.pop(folder, None)


HELD = HeldSessions()


@gpu(TRACK_SECONDS)
def answer_frame(task: Tracking, frame: int) -> Answer:
    """The masks of one frame with its prompts; what is known of earlier frames is used.

    Args:
        task: its prompts up to this frame count.
        frame: which one, from the first prompted one on.
    """
    *_, answer = _walk(task, frame, frame)
    return answer


@gpu(TRACK_SECONDS)
def track_frames(task: Tracking, start: int) -> Generator[Answer]:
    """Track from a frame to the end of the video; closing the iterator stops it.

    Args:
        task: what to track.
        start: the first frame to answer, from the first prompted one on. Frames between the nearest kept state and it
            are stepped too, and come without annotations.
    """
    yield from _walk(task, start, task.num_frames - 1)


def _walk(task: Tracking, start: int, last: int) -> Iterator[Answer]:
    before = HELD.get(task, start)
    session, position = (before.session, before.frame) if before else _restored(task, start)
    try:
        if before:
            HELD.put(task, before._replace(session=_fork(session)))
            yield _answered(task, session, before, start)
        for frame in read_frames(task.path, start=position + 1, stop=last + 1):
            masks = session.step(frame.image)
            _keep_state(task, session, frame.index)
            before = Held(frame.index, session, masks, frame.time)
            if frame.index in task.prompts or frame.index == last:
                HELD.put(task, before._replace(session=_fork(session)))
            yield _answered(task, session, before, start)
    finally:
        if before is not None and before.frame not in task.prompts and before.frame < last:
            HELD.put(task, before)


def _answered(task: Tracking, session: VideoSession, before: Held, start: int) -> Answer:
    """Give the prompts of the frame that was just stepped; all at once for an object, so that no order matters."""
    masks = before.masks
    for object_id, arguments in sorted(task.prompts.get(before.frame, {}).items()):
        answer = session.add_object(object_id, **arguments)
        masks = masks if answer is None else answer
    known = None if before.frame < start else masks.to_coco(before.frame)
    return Answer(before.frame, before.time, known)


def _fork(session: VideoSession) -> VideoSession:
    shared = (session.model, session.processor)
    return copy.deepcopy(session, {id(part): part for part in shared})


def _restored(task: Tracking, start: int) -> tuple[VideoSession, int]:
    """A session of the nearest state on disk that leads to a frame, and its position; or a new one."""
    loaded = store().get(task.choice)
    model: Any = loaded.model
    session = model.start_session(loaded.processor)
    # A loaded session has no frame to correct: the state must lie before `start`, and on a frame without prompts.
    for frame in range(start - 1, task.first, -1):
        path = _state_path(task, frame)
        if frame not in task.prompts and path.exists():
            load_session(session, path)
            return session, frame
    return session, task.first - 1


def _keep_state(task: Tracking, session: VideoSession, frame: int) -> None:
    distance = max(MIN_STATE_DISTANCE, -(-task.num_frames // STATES_PER_VIDEO))
    if frame == task.first or frame % distance or frame in task.prompts:
        return
    path = _state_path(task, frame)
    if path.exists():
        return
    save_session(session, path)
    room = STATE_BYTES
    for state in sorted(Path(task.folder).glob("state*"), key=lambda state: state.stat().st_mtime_ns, reverse=True):
        room -= state.stat().st_size
        if room < 0:
            state.unlink(missing_ok=True)


def _state_path(task: Tracking, frame: int) -> Path:
    return Path(task.folder) / f"state{frame:06d}-{task.history(frame)}.safetensors"
