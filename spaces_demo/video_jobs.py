"""One visitor's video: its prompts, what was tracked so far, and what a correction leaves of it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from sam_variants import Masks
from sam_variants.spaces_demo.background import end_of_patience
from sam_variants.spaces_demo.limits import (
    MAX_OPEN_VIDEOS,
    MAX_POINTS,
    MAX_VIDEO_OBJECTS,
    MAX_VIDEO_PROMPTS,
    SESSION_SECONDS,
)
from sam_variants.spaces_demo.models import store
from sam_variants.spaces_demo.prompts import ObjectPrompts
from sam_variants.spaces_demo.video_files import VideoFile, read_header, scan
from sam_variants.spaces_demo.video_tracking import HELD, Answer, Tracking, answer_frame, track_frames

FOLDER_PREFIX = "sam_variants_video_"
CLOSED = "This video was put away to make room for others. Upload it again."
TOO_MANY_PROMPTS = (
    f"{MAX_VIDEO_PROMPTS} prompts are the most in a video, counted by object and frame. Clear some frames first."
)
UNREACHED = "This frame is not tracked yet. Track up to it first, then correct it."


@dataclass(frozen=True)
class FrameResult:
    """The masks of one frame.

    Attributes:
        key: what they depend on, see `Tracking.result_key`; they are outdated once the prompts give another one.
        time: of the frame in seconds, None where unknown.
        annotations: COCO annotations with compressed RLE and `object_id`.
    """

    key: str
    time: float | None
    annotations: list[dict[str, Any]]


class Progress(NamedTuple):
    """How far tracking is: the frame just done, the frames of the video, frames per second, and whether the masks are
    new (while a state is being restored they are not)."""

    frame: int
    num_frames: int
    speed: float
    is_new: bool


class Used(NamedTuple):
    """A job, and when it was used last."""

    job: weakref.ref[VideoJob]
    time: float


class OpenJobs:
    """The jobs of all visitors, the one longest unused first; their folders are what the disk must bear."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Used] = OrderedDict()
        self._lock = threading.RLock()

    def use(self, job: VideoJob) -> None:
        """Note that a job is used; the oldest idle ones beyond the limit are put away."""
        with self._lock:
            self._jobs[job.folder] = Used(weakref.ref(job), time.monotonic())
            self._jobs.move_to_end(job.folder)
            idle = [other for other in self._open() if other is not job and not other.is_tracking]
            self._put_away(idle[: max(0, len(self._jobs) - MAX_OPEN_VIDEOS)])

    def put_old_away(self) -> None:
        """Put away what was not used for as long as visits are remembered."""
        oldest = time.monotonic() - SESSION_SECONDS
        with self._lock:
            idle = [job for job in self._open() if not job.is_tracking and self._jobs[job.folder].time < oldest]
            self._put_away(idle)

    def _open(self) -> list[VideoJob]:
        jobs = {folder: used.job() for folder, used in self._jobs.items()}
        for folder in [folder for folder, job in jobs.items() if job is None or not job.close.alive]:
            del self._jobs[folder]
        return [job for folder, job in jobs.items() if job is not None and folder in self._jobs]

    def _put_away(self, jobs: Sequence[VideoJob]) -> None:
        for job in jobs:
            job.close()
            del self._jobs[job.folder]


OPEN_JOBS = OpenJobs()


class VideoJob:
    """A video with prompts on any of its frames and the masks tracked from them.

    A correction makes the frames behind it outdated, and undoing it makes them good again; `track` does only what is
    missing. Masks are kept as run-length codes; pictures and tracking states lie in a folder that goes with the job.

    Args:
        path: the upload.
        name: the visitor's name for it; by default that of the file.

    Attributes:
        video: the file as far as it was read; complete when `reading` has ended.
        choice: of the model.
        names: of all objects, by id.
        results: by frame; some may be outdated.
        is_tracking: whether `track` runs.
        num_views: how often frames of it were shown.

    Raises:
        gr.Error: for a file that is no video or beyond the limits.
    """

    def __init__(self, path: str, name: str | None = None, choice: str = "embedded-video") -> None:
        header = read_header(path)
        self.choice = choice
        self.names: dict[int, str] = {}
        self.results: dict[int, FrameResult] = {}
        self.is_tracking = False
        self.num_views = 0
        self.folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
        self.close = weakref.finalize(self, _discard, self.folder, self.results)
        # Those of deleted objects too, for a visitor who undoes the deletion on whatever frame.
        self._given: dict[int, dict[int, ObjectPrompts]] = {}
        self._stopping = threading.Event()
        self._scan = scan(path, name or Path(path).name, header, self.folder)
        OPEN_JOBS.use(self)
        self.video: VideoFile = next(self._scan)

    @property
    def id(self) -> str:
        """Its name among all."""
        return Path(self.folder).name.removeprefix(FOLDER_PREFIX)

    def check_open(self) -> None:
        """Note that the job is used.

        Raises:
            gr.Error: when it was put away.
        """
        if not self.close.alive:
            raise gr.Error(CLOSED)
        OPEN_JOBS.use(self)

    def reading(self) -> Iterator[int]:
        """Read the rest of the video; gives the number of frames so far after each.

        Raises:
            gr.Error: when it can't be read to its end.
        """
        for video in self._scan:
            self.video = video
            yield video.num_frames

    def read(self) -> VideoJob:
        """The job, with its video read."""
        for _ in self.reading():
            pass
        return self

    def set_prompts(self, frame: int, objects: Sequence[ObjectPrompts], names: Mapping[int, str]) -> None:
        """Replace the prompts of one frame.

        Args:
            frame: its index.
            objects: those with prompts on it.
            names: all objects that there are; the others are forgotten on every frame.

        Raises:
            gr.Error: for too many objects or points, or a frame that tracking has not reached.
        """
        self.check_open()
        if self.is_tracking:
            raise gr.Error("Tracking is running. Stop it first, then correct.")
        if not 0 <= frame < self.video.num_frames:
            raise gr.Error(f"There is no frame {frame}: this video has {self.video.num_frames}.")
        if len(names) > MAX_VIDEO_OBJECTS:
            raise gr.Error(f"At most {MAX_VIDEO_OBJECTS} objects are tracked. Delete some first.")
        others = [given for index, by_object in self.prompts.items() for given in by_object.values() if index != frame]
        if sum(len(given.points) for given in (*others, *objects)) > MAX_POINTS:
            raise gr.Error(f"At most {MAX_POINTS} points are taken for a video. Clear some frames first.")
        if len(others) + len(objects) > MAX_VIDEO_PROMPTS:
            raise gr.Error(TOO_MANY_PROMPTS)
        if objects and not self.can_prompt(frame):
            raise gr.Error(UNREACHED)
        for object_id in set(self.names) - set(names):
            self.forget(object_id)
        self.names = dict(names)
        deleted = {key: given for key, given in self._given.get(frame, {}).items() if key not in names}
        self._given[frame] = deleted | {given.id: given for given in objects}

    @property
    def prompts(self) -> dict[int, dict[int, ObjectPrompts]]:
        """Frame → object id → prompts, without what is empty."""
        return {
            frame: kept
            for frame, by_object in sorted(self._given.items())
            if (kept := {key: given for key, given in by_object.items() if key in self.names})
        }

    def can_prompt(self, frame: int) -> bool:
        """Whether all frames before that depend on prompts are up to date, so that a prompt is answered at once."""
        task = self.task()
        return not task.prompts or frame <= task.first or self.next_frame() >= frame

    def forget(self, object_id: int) -> None:
        """Delete an object on every frame. Objects are tracked apart, so the masks of the others stay."""
        current = [frame for frame in self.results if self.is_current(frame)]
        gone = {key for by_object in self._given.values() for key in by_object if key not in self.names}
        if len(gone) >= MAX_VIDEO_OBJECTS:
            self._given = {frame: dict(by_object) for frame, by_object in self.prompts.items()}
        self.names.pop(object_id, None)
        task = self.task()
        for frame in current:
            old = self.results[frame]
            kept_annotations = [entry for entry in old.annotations if entry["object_id"] != object_id]
            self.results[frame] = FrameResult(task.result_key(frame), old.time, kept_annotations)

    def task(self) -> Tracking:
        """What there is to track; an object begins where something is known of it, not only what it is not."""
        prompts: dict[int, dict[int, dict[str, Any]]] = {}
        begun: set[int] = set()
        for frame, by_object in self.prompts.items():
            for object_id, given in sorted(by_object.items()):
                if object_id in begun or given.box is not None or 1 in given.labels:
                    begun.add(object_id)
                    prompts.setdefault(frame, {})[object_id] = prompt_arguments(given)
        return Tracking(self.video.path, self.video.num_frames, self.choice, prompts, self.folder)

    def is_current(self, frame: int) -> bool:
        """Whether there are masks of a frame that follow from the prompts as they are."""
        result = self.results.get(frame)
        return result is not None and bool(self.prompts) and result.key == self.task().result_key(frame)

    def next_frame(self) -> int:
        """The first frame that is to be tracked; the number of frames when all is done.

        Raises:
            gr.Error: when there are no prompts.
        """
        task = self.task()
        if not task.prompts:
            raise gr.Error("Say what to track first: click on something in the first frame.")
        for begin, end in pairwise([*sorted(task.prompts), task.num_frames]):
            key = task.result_key(begin)  # another one at prompted frames only
            for frame in range(begin, end):
                if frame not in self.results or self.results[frame].key != key:
                    return frame
        return task.num_frames

    def masks(self, frame: int) -> Masks | None:
        """The masks of a frame, also outdated ones; None where nothing was tracked."""
        result = self.results.get(frame)
        if result is None:
            return None
        return Masks.from_coco(result.annotations, (self.video.height, self.video.width))

    def answer(self, frame: int) -> Masks:
        """Answer the prompts of one frame at once.

        Returns:
            The masks of all objects that are known there; none without any prompts up to it.

        Raises:
            gr.Error: for a frame that tracking has not reached, or a model that can't track.
        """
        self.check_open()
        task = self.task()
        if not task.prompts or frame < task.first:
            self.results.pop(frame, None)
            return Masks.from_rle([], (self.video.height, self.video.width), object_ids=[])
        if not self.is_current(frame):
            if not self.can_prompt(frame):
                raise gr.Error(UNREACHED)
            self._check_model()
            self._keep(task, answer_frame(task, frame))
        masks = self.masks(frame)
        assert masks is not None
        return masks

    def track(self) -> Iterator[Progress]:
        """Track what is missing, up to the end or until `stop`; what was done is kept however it ends.

        Raises:
            gr.Error: without prompts, for a model that can't track, while it runs already, or when it takes too long.
        """
        self.check_open()
        start, task = self.next_frame(), self.task()
        self._check_model()
        with self._running():
            if start >= self.video.num_frames or self._stopping.is_set():
                return
            begin, steps, check = time.monotonic(), 0, end_of_patience()
            with closing(track_frames(task, start)) as answers:
                for steps, answer in enumerate(answers, 1):
                    self._keep(task, answer)
                    speed = steps / max(time.monotonic() - begin, 1e-6)
                    yield Progress(answer.frame, self.video.num_frames, speed, answer.annotations is not None)
                    if self._stopping.is_set():
                        break
                    check()

    def allow(self) -> None:
        """Forget an earlier `stop`; a later one holds for a `track` that has not begun yet too."""
        self._stopping.clear()

    def stop(self) -> None:
        """Let `track` end behind the frame it is at."""
        self._stopping.set()

    @contextmanager
    def _running(self) -> Iterator[None]:
        if self.is_tracking:
            raise gr.Error("Tracking is running already. Stop it first.")
        self.is_tracking = True
        try:
            yield
        finally:
            self.is_tracking = False
            self._stopping.clear()

    def _keep(self, task: Tracking, answer: Answer) -> None:
        if answer.annotations is not None:
            key = task.result_key(answer.frame)
            self.results[answer.frame] = FrameResult(key, answer.time, answer.annotations)

    def _check_model(self) -> None:
        loaded = store().get(self.choice)
        if not loaded.can_track:
            raise gr.Error(f"{loaded.name} is for photos and can't track. Choose a SAM 2 model.")


def track_video(
    path: str,
    prompts: Mapping[int, Mapping[int, ObjectPrompts]],
    choice: str = "embedded-video",
    progress: Callable[[Progress], None] | None = None,
    name: str | None = None,
) -> VideoJob:
    """Track a whole video without a page.

    Args:
        path: the upload.
        prompts: frame → object id → prompts. On frames behind an object's first they correct what was tracked there.
        choice: of the model.
        progress: called after every frame.
        name: of the video; by default that of the file.

    Returns:
        The job, with the masks of every frame from the first prompted one on; `video_output` writes its files.

    Raises:
        gr.Error: for a video, prompts or model that can't be used.
    """
    job = VideoJob(path, name, choice).read()
    job.names = {given.id: given.name for by_object in prompts.values() for given in by_object.values()}
    late = [frame for frame in prompts if not 0 <= frame < job.video.num_frames]
    if late:
        raise gr.Error(f"There is no frame {late[0]}: this video has {job.video.num_frames}.")
    job._given = {frame: dict(by_object) for frame, by_object in prompts.items()}
    for step in job.track():
        if progress is not None:
            progress(step)
    return job


def prompt_arguments(given: ObjectPrompts) -> dict[str, Any]:
    """An object's prompts as the arguments of `VideoSession.add_object`."""
    arguments: dict[str, Any] = {}
    if given.points:
        arguments |= {"points": [list(point) for point in given.points], "labels": list(given.labels)}
    if given.box is not None:
        arguments["boxes"] = list(given.box)
    return arguments


def _discard(folder: str, results: dict[int, FrameResult]) -> None:
    HELD.forget(folder)
    results.clear()
    shutil.rmtree(folder, ignore_errors=True)
