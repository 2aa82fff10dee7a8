"""One run of `sam-variants track`: frame after frame, kept on disk as it goes, and taken up again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlparse

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from sam_variants.hub_scripts.prompt_options import VideoPrompts
from sam_variants.hub_scripts.track_log import TrackLog
from sam_variants.processing.video_decoding import URL_MARK
from sam_variants.processing.video_reader import VideoFrame, VideoInfo, read_frames
from sam_variants.processing.video_writer import VideoWriter
from sam_variants.results import Masks
from sam_variants.session_state import load_session, save_session
from sam_variants.video_session import VideoSession

# What a killed run tracks again at most when it is resumed.
SECONDS_BETWEEN_STATES = 5.0
# Of overlays for videos without a known rate, such as folders of images.
USUAL_FPS = Fraction(30)
# Frames closer together than this are shown one frame period apart.
SHORTEST_SECONDS = 1e-3
INTERRUPTED = 130


@dataclass(frozen=True)
class Files:
    """What a run writes.

    Attributes:
        masks: the JSON lines.
        overlay: the video with the masks drawn in.
        state: what the session remembers; there only as long as the run is not complete.
    """

    masks: Path
    overlay: Path
    state: Path

    @classmethod
    def of(cls, video: str, out: Path) -> Self:
        """The files for a video in a folder."""
        stem = Path(urlparse(video).path if URL_MARK in video else video).stem or "video"
        return cls(out / f"{stem}_masks.jsonl", out / f"{stem}_overlay.mp4", out / f"{stem}_state.safetensors")


class TrackingRun:
    """Tracks through one video and writes as it goes; a later run takes up what an interrupted one left.

    Resumed, it gives what it would have given without the interruption: the session's memory comes from the state
    file, which is at most seconds old, the frames since are tracked again without being written, and the overlay of
    the frames that were done is drawn again from their lines.

    Args:
        video: what `read_frames` reads.
        info: of the video.
        prompts: for its frames.
        files: to be written.
        source: the model and its options, for the header.
        start, stop: the frames to track; None for the end.
        with_overlay: whether to write the overlay.

    Attributes:
        end: the frame behind the last one, as far as the container knows.
        is_complete: whether there is nothing left to do.
        num_resumed: how many frames were done before.
    """

    def __init__(
        self,
        video: str,
        info: VideoInfo,
        prompts: VideoPrompts,
        files: Files,
        source: dict[str, Any],
        start: int = 0,
        stop: int | None = None,
        with_overlay: bool = True,
    ) -> None:
        self.video = video
        self.info = info
        self.prompts = prompts
        self.files = files
        self.start = start
        self.stop = stop
        self.end = min((number for number in (stop, info.num_frames) if number is not None), default=None)
        self.with_overlay = with_overlay
        self.is_complete = False
        self.num_resumed = 0
        self.log = TrackLog(files.masks, self._header() | source, start)

    def look_back(self, resume: bool, overwrite: bool) -> None:
        """Find out what an earlier run has left.

        Raises:
            ValueError: when there are results and neither `resume` nor `overwrite`, or they can't be resumed.
        """
        if not self.files.masks.exists() or overwrite:
            return
        if not resume:
            raise ValueError(
                f"{str(self.files.masks)!r} exists: --resume goes on with it, --overwrite begins again, --out names "
                "another folder"
            )
        self.log.read_back()
        self.num_resumed = self.log.num_frames
        has_overlay = self.files.overlay.exists() or not self.with_overlay
        self.is_complete = self.num_resumed > 0 and has_overlay and not self.files.state.exists()

    def track(self, session: VideoSession, console: Console) -> None:
        """Track the frames that are left.

        Raises:
            ValueError: for a video that can't be read to its end or prompts behind it; what was done is kept.
            typer.Exit: after Ctrl-C, likewise.
        """
        try:
            if self.num_resumed and self.files.state.exists():
                load_session(session, self.files.state)
                if session.frame_index >= self.num_resumed:
                    raise ValueError(f"{str(self.files.state)!r} is of other masks; --overwrite begins again")
            else:
                save_session(session, self.files.state)
            self._add_prompts(session)
            with ExitStack() as stack:
                stack.enter_context(self.log)
                advance = stack.enter_context(self._progress(console))
                overlay = None
                if self.with_overlay:
                    overlay = stack.enter_context(Overlay(self.files.overlay, self.info.fps or USUAL_FPS))
                self._track(session, overlay, advance)
            self._check_reached()
        except KeyboardInterrupt:
            typer.echo(f"sam-variants track: interrupted, {self._kept()}", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise ValueError(f"{str(error).rstrip('.')}; {self._kept()}") from error
        self.files.state.unlink()

    def report(self) -> dict[str, Any]:
        """What there is now; ready for JSON."""
        visible = dict.fromkeys(sorted({object_id for frame in self.prompts.values() for object_id in frame}), 0)
        for line in self.log.lines():
            for entry in line["objects"]:
                visible[entry["object_id"]] += entry["object_score_logit"] > 0
        overlay = {"overlay": str(self.files.overlay)} if self.with_overlay else {}
        return {
            "frames": self.log.num_frames,
            "frames_resumed": self.num_resumed,
            "objects": [{"object_id": object_id, "frames_visible": count} for object_id, count in visible.items()],
            "files": {"masks": str(self.files.masks), **overlay},
        }

    def _header(self) -> dict[str, Any]:
        return {
            "video": Path(self.video).name,
            "width": self.info.width,
            "height": self.info.height,
            "fps": None if self.info.fps is None else float(self.info.fps),
            "num_frames": self.info.num_frames,
            "start": self.start,
            "stop": self.stop,
            "prompts": {
                str(frame): {str(object_id): prompt.for_json() for object_id, prompt in by_object.items()}
                for frame, by_object in self.prompts.items()
            },
        }

    def _add_prompts(self, session: VideoSession) -> None:
        """Those of frames to come; the objects in ascending order."""
        given = [
            (object_id, frame - self.start, prompt)
            for frame, by_object in self.prompts.items()
            for object_id, prompt in by_object.items()
        ]
        for object_id, index, prompt in sorted(given, key=lambda entry: entry[:2]):
            if index > session.frame_index:
                session.add_object(object_id, frame=index, **prompt.arguments())

    def _track(self, session: VideoSession, overlay: Overlay | None, advance: Callable[[int], None]) -> None:
        """Frames whose lines are there are tracked if the session is behind, and drawn from their lines."""
        num_known = session.frame_index + 1
        first = self.start if overlay is not None else self.start + num_known
        advance(first - self.start)
        earlier = self.log.lines()
        saved = time.monotonic()
        for frame in read_frames(self.video, start=first, stop=self.stop):
            is_written = frame.index <= self.log.last_frame
            if frame.index - self.start > session.frame_index:
                masks = session.step(frame.image)
            if not is_written:
                self.log.write(frame.index, frame.time, masks)
            elif overlay is not None:
                masks = Masks.from_coco(next(earlier)["objects"], (self.info.height, self.info.width))
            if overlay is not None:
                overlay.add(frame, masks)
            if time.monotonic() - saved >= SECONDS_BETWEEN_STATES:
                save_session(session, self.files.state)  # behind the line, so that no line is missing for it
                saved = time.monotonic()
            advance(1)

    def _check_reached(self) -> None:
        missed = [frame for frame in self.prompts if frame > self.log.last_frame]
        if missed:
            raise ValueError(f"the video ends after frame {self.log.last_frame}, but there are prompts for {missed}")

    def _kept(self) -> str:
        return f"{self.log.num_frames} frames are done and kept in {str(self.files.masks)!r}; --resume goes on there"

    @contextmanager
    def _progress(self, console: Console) -> Iterator[Callable[[int], None]]:
        """A bar with frames per second, where a person can see it; gives what counts frames."""
        columns = (TextColumn("track"), BarColumn(), MofNCompleteColumn(), FramesPerSecond(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("track", total=None if self.end is None else self.end - self.start)
            yield lambda count: progress.advance(task, count)


class Overlay:
    """The overlay video; frames keep their times as far as they increase.

    Args:
        path: the file; replaced with the first frame.
        fps: rate of frames without a time.
    """

    def __init__(self, path: Path, fps: Fraction) -> None:
        self._writer = VideoWriter(path, fps)
        self._begin: float | None = None
        self._last = -SHORTEST_SECONDS

    def add(self, frame: VideoFrame, masks: Masks) -> None:
        """Draw the masks into the frame and append it."""
        shown = None
        if frame.time is not None:
            self._begin = frame.time if self._begin is None else self._begin
            shown = frame.time - self._begin
        if shown is None or shown < self._last + SHORTEST_SECONDS:
            shown = None if self._writer.num_frames else 0.0
        self._writer.write(masks.overlay(frame.image), shown)
        self._last = self._last + float(1 / self._writer.fps) if shown is None else shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()


class FramesPerSecond(ProgressColumn):
    """How fast it goes."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} frames/s")
