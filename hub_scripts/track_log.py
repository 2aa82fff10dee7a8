"""The JSON lines of `sam-variants track`: a header and one line per frame, whole after any interruption."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from sam_variants.results import Masks

FORMAT = "sam-variants track 1"
SHOWN_CHARACTERS = 200


class TrackLog:
    """The masks of every frame tracked so far, in a file that grows by whole lines.

    It is a context manager: entering opens the file, behind the lines that `read_back` found, or new.

    Args:
        path: the file.
        header: what the masks are made of: the video, the model, the prompts; ready for JSON.
        first_frame: index of the first frame that is tracked.

    Attributes:
        last_frame: index of the last frame written, `first_frame` − 1 before the first.
    """

    def __init__(self, path: Path, header: dict[str, Any], first_frame: int = 0) -> None:
        self.path = path
        self.header = json.loads(json.dumps({"format": FORMAT, **header}))
        self.first_frame = first_frame
        self.last_frame = first_frame - 1
        self._length = 0
        self._file: BinaryIO | None = None

    @property
    def num_frames(self) -> int:
        """How many frames are written."""
        return self.last_frame - self.first_frame + 1

    def read_back(self) -> None:
        """Find the whole lines of an existing file, to go on behind them.

        Raises:
            ValueError: when they were made of something else, or are no such lines.
        """
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                self._check(number, line)
                self.last_frame += number > 0
                self._length += len(line)

    def write(self, frame: int, time: float | None, masks: Masks) -> None:
        """Append the masks of one frame; after the call they outlive the process.

        Args:
            frame: its index.
            time: seconds from the start of the video, None where unknown.
            masks: of all objects.
        """
        first_id = 1 + (frame - self.first_frame) * len(masks)
        self._append({"frame": frame, "time": time, "objects": masks.to_coco(frame, first_id)})
        self.last_frame = frame

    def lines(self) -> Iterator[dict[str, Any]]:
        """What is written of each frame, from the first on."""
        with self.path.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def __enter__(self) -> Self:
        self._file = self.path.open("r+b" if self._length else "wb")
        self._file.truncate(self._length)
        self._file.seek(self._length)
        if not self._length:
            self._append(self.header)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def _append(self, line: dict[str, Any]) -> None:
        if self._file is None:
            raise ValueError(f"the log {str(self.path)!r} is not open: use it in a with statement")
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _check(self, number: int, line: bytes) -> None:
        name = f"line {number + 1} of {str(self.path)!r}"
        try:
            content = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{name} is no JSON; --overwrite begins again") from error
        if number and (not isinstance(content, dict) or content.get("frame") != self.last_frame + 1):
            raise ValueError(f"{name} is not that of frame {self.last_frame + 1}; --overwrite begins again")
        if not number and (not isinstance(content, dict) or content.get("format") != FORMAT):
            raise ValueError(f"{name} is not the header of this command's files; --overwrite begins again")
        for key in () if number else self.header:
            if content.get(key) != self.header[key]:
                raise ValueError(
                    f"{str(self.path)!r} can't be resumed: its {key} is {_shown(content.get(key))}, now it is "
                    f"{_shown(self.header[key])}; --overwrite begins again"
                )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
