"""What a video session remembers, as a file, so that a later process goes on exactly where one stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sam_variants.memory.memory_bank import FrameRecord
from sam_variants.video_session import VideoSession

# What frames to come look at, of a record.
RECORD_TENSORS = ("pointer", "object_score_logit", "iou_score", "memory")
KINDS = ("conditioning", "tracked")
METADATA_KEY = "session"


def save_session(session: VideoSession, path: str | os.PathLike[str]) -> None:
    """Write what frames to come can look at: the objects and their memories.

    The file replaces an earlier one in one step, so that there is a whole one at any time. Per object it holds the
    memories of its prompted frames and of the few last ones, however long the video is: with SAM 2 at 1024 pixels
    0.5 MB each, about 4 MB. Frames themselves are not held: after loading, the session goes on with `step`, and frames
    before can't be corrected.

    Args:
        session: after a `step`, or new. Prompts that wait for frames to come are not saved; give them again.
        path: a safetensors file.

    Raises:
        ValueError: when prompts were given on the last frame since it was stepped.
        OSError: when the file can't be written.
    """
    if any(tracked.pending for tracked in session._objects.values()):
        raise ValueError("the session has prompts that no step has taken in; save it after step()")
    tensors: dict[str, Tensor] = {}
    objects = []
    for number, (object_id, tracked) in enumerate(session._objects.items()):
        entry: dict[str, Any] = {"id": object_id}
        for kind in KINDS:
            records = getattr(tracked.bank, kind)
            entry[kind] = {frame: record.is_prompted for frame, record in records.items()}
            for frame, record in records.items():
                for name in RECORD_TENSORS:
                    value = getattr(record, name)
                    if value is not None:
                        tensors[f"{number}.{kind}.{frame}.{name}"] = value.detach().clone().contiguous()
        objects.append(entry)
    state = {"frame_index": session.frame_index, "frame_size": session.frame_size, "objects": objects}
    target = Path(path)
    unfinished = target.with_name(target.name + ".part")
    try:
        # Not with save_file, whose own unfinished file of another name would be left by a process that is killed.
        unfinished.write_bytes(save(tensors, {METADATA_KEY: json.dumps(state)}))
    except OSError as error:
        raise OSError(f"the state can't be written to {str(unfinished)!r}: {error}") from error
    os.replace(unfinished, target)


def load_session(session: VideoSession, path: str | os.PathLike[str]) -> None:
    """Bring a new session to where the saved one was.

    Args:
        session: a new one of the same model.
        path: what `save_session` wrote.

    Raises:
        ValueError: for a session that is not new, or a file that `save_session` did not write.
        FileNotFoundError: when there is no file.
    """
    if session.frame_index >= 0 or session.object_ids:
        raise ValueError("the session is not new; load into what model.start_session() gives")
    device = session.model.device
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{os.fspath(path)!r} is no state of a video session: {error}") from error
    for number, entry in enumerate(state["objects"]):
        tracked = session._objects[entry["id"]] = session._new_object()
        for kind in KINDS:
            for frame, is_prompted in entry[kind].items():
                values = {name: tensors.get(f"{number}.{kind}.{frame}.{name}") for name in RECORD_TENSORS}
                getattr(tracked.bank, kind)[int(frame)] = FrameRecord(**values, is_prompted=is_prompted)
    session.frame_index = state["frame_index"]
    session.frame_size = None if state["frame_size"] is None else tuple(state["frame_size"])
