"""Folders and files of clips on this machine, found and listed without reading a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam_variants.processing.video_reader import IMAGE_SUFFIXES, natural_order
from sam_variants.training.clip_sources import NO_VOID, ClipSource, FolderClip, TrackedClip, void_of

# Folders of frames beside folders of label maps: DAVIS, YouTube-VOS and MOSE have the first names.
FOLDER_PAIRS = (("JPEGImages", "Annotations"), ("frames", "masks"), ("images", "masks"))
USUAL_RESOLUTION = "480p"
TRACK_FORMAT = "sam-variants track"
TRACK_SUFFIX = "_masks.jsonl"
LAYOUTS = """clips may be: JPEGImages/<clip>/*.jpg beside Annotations/<clip>/*.png (DAVIS, YouTube-VOS, MOSE; also
frames/ or images/ beside masks/); or <video>_masks.jsonl, as `sam-variants track` writes them, beside the videos"""
# Label maps that are looked at to tell whether 255 is an object or void.
LABELS_TO_LOOK_AT = 16


@dataclass(frozen=True)
class OpenedClips:
    """Clips that were found, and what is to be said about them.

    Attributes:
        clips: the clips.
        frames, masks: where both are and in which form.
        left_out: clips or files that are not among them, with the reason.
    """

    clips: Sequence[ClipSource]
    frames: str
    masks: str
    left_out: list[str] = field(default_factory=list)


def looks_like_clips(source: Any) -> bool:
    """Whether a path holds clips in one of the known layouts; of other sources nothing can be said without reading."""
    path = Path(source) if isinstance(source, str | Path) else None
    if path is None or not path.exists():
        return False
    return path.name.endswith(TRACK_SUFFIX) if path.is_file() else bool(_tracks_in(path) or _splits_in(path))


def open_clip_folder(
    path: Path, split: str | None = None, void: int | None = None, videos: Path | None = None
) -> OpenedClips:
    """List the clips of a folder or file.

    Args:
        path: one of `LAYOUTS`.
        split: of several folders, or a list of clips in `ImageSets`.
        void: value of label maps that is no object, −1 for none; None finds out whether 255 is one.
        videos: the folder of the videos that tracked masks are of, or the one video.

    Raises:
        ValueError: no known layout, no clip, no such split or several and none named; pictures that fit together badly.
        OSError: a video that isn't there.
    """
    if path.is_file() or _tracks_in(path):
        if split is not None:
            raise ValueError(f"{path} holds tracked masks, which have no splits, got split={split!r}")
        return _open_tracks([path] if path.is_file() else _tracks_in(path), videos)
    if videos is not None:
        raise ValueError(f"videos={str(videos)!r} is for tracked masks (*{TRACK_SUFFIX}); {path} has none")
    return _open_pairs(path, split, void)


def _tracks_in(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{TRACK_SUFFIX}"), key=natural_order)


def _pair_in(folder: Path) -> tuple[Path, Path] | None:
    """Folders of frames and of label maps with a folder for every clip."""
    for names in FOLDER_PAIRS:
        frames, masks = (folder / name for name in names)
        if frames.is_dir() and masks.is_dir() and _folders_in(frames):
            return frames, masks
    return None


def _folders_in(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."), key=natural_order)


def _splits_in(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The folder itself as "", or those of its folders that are like it."""
    if pair := _pair_in(folder):
        return {"": pair}
    pairs = {entry.name: _pair_in(entry) for entry in _folders_in(folder)}
    return {name: pair for name, pair in pairs.items() if pair}


def _open_pairs(path: Path, split: str | None, void: int | None) -> OpenedClips:
    splits = _splits_in(path)
    if not splits:
        raise ValueError(f"{path} has no clips: {LAYOUTS}")
    listed: set[str] | None = None
    if "" in splits:
        frames, masks = splits[""]
        listed = None if split is None else _image_set(path, split)
    elif split is None and len(splits) > 1:
        raise ValueError(f"{path} has the splits {sorted(splits)}: name one, such as split={sorted(splits)[0]!r}")
    elif split is not None and split not in splits:
        raise ValueError(f"{path} has no split {split!r}; there are {sorted(splits)}")
    else:
        frames, masks = splits[split or next(iter(splits))]
    resolution = _resolution(frames)
    frames, masks = frames / resolution, masks / resolution
    return _paired_clips(path, frames, masks, listed, void)


def _image_set(path: Path, split: str) -> set[str]:
    """The clips of a list in `ImageSets`; of several of one name the last, which in DAVIS is the later edition."""
    sets = path / "ImageSets"
    lists = sorted(sets.rglob("*.txt")) if sets.is_dir() else []
    found = [file for file in lists if file.stem == split]
    if not found:
        names = sorted({file.stem for file in lists})
        raise ValueError(f"{path} has no split {split!r}; {f'{sets} lists {names}' if names else 'leave it out'}")
    lines = [line.split()[0] for line in found[-1].read_text(encoding="utf-8").splitlines() if line.strip()]
    return {line.strip("/").split("/")[-2] if "/" in line.strip("/") else line for line in lines}


def _resolution(frames: Path) -> str:
    """The folder between JPEGImages and the clips, "" where there is none."""
    inner = _folders_in(frames)
    if any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in inner[0].iterdir()):
        return ""
    names = [entry.name for entry in inner]
    if len(names) > 1 and USUAL_RESOLUTION not in names:
        raise ValueError(f"{frames} has no pictures in {names}: expected a folder of pictures for every clip")
    return USUAL_RESOLUTION if USUAL_RESOLUTION in names else names[0]


def _paired_clips(path: Path, frames: Path, masks: Path, listed: set[str] | None, void: int | None) -> OpenedClips:
    pictures: dict[str, list[Path]] = {}
    left_out = []
    for folder in _folders_in(frames):
        if listed is None or folder.name in listed:
            found = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
            pictures[folder.name] = sorted(found, key=natural_order)
    if absent := sorted((listed or set()) - set(pictures)):
        raise ValueError(f"{len(absent)} clips of the split aren't in {frames}: {_some(absent)}")
    labels = {name: _labels_of(masks / name, files) for name, files in pictures.items()}
    for problem, names in (
        (f"clips without a picture in {frames.name}", [name for name, files in pictures.items() if not files]),
        (f"clips without a label map in {masks}", [name for name in pictures if pictures[name] and not labels[name]]),
    ):
        if names:
            left_out.append(f"{len(names)} {problem}: {_some(names)}")
    usable = [name for name in pictures if labels[name]]
    if not usable:
        raise ValueError(f"{path} has no clip with label maps; left out: {'; '.join(left_out) or 'nothing'}")
    if void is None:
        void = void_of(str(next(iter(labels[name].values()))) for name in usable[:LABELS_TO_LOOK_AT])
    clips: list[ClipSource] = [FolderClip(name, tuple(pictures[name]), labels[name], void) for name in usable]
    void_text = "" if void == NO_VOID else f"; {void} is void"
    return OpenedClips(
        clips,
        f"{frames.relative_to(path)}/<clip>/*{pictures[usable[0]][0].suffix}",
        f"{masks.relative_to(path)}/<clip>/*.png: label maps, one object per value; 0 is background{void_text}",
        left_out,
    )


def _labels_of(folder: Path, pictures: list[Path]) -> dict[int, Path]:
    """The label maps of a clip by index of the frame of the same name."""
    numbers = {picture.stem: index for index, picture in enumerate(pictures)}
    files = [file for file in folder.iterdir() if file.suffix.lower() == ".png"] if folder.is_dir() else []
    stray = sorted(file.name for file in files if file.stem not in numbers)
    if stray:
        raise ValueError(f"{len(stray)} label maps in {folder} have no frame of their name: {_some(stray)}")
    return dict(sorted((numbers[file.stem], file) for file in files))


def _open_tracks(files: list[Path], videos: Path | None) -> OpenedClips:
    clips: list[ClipSource] = []
    left_out = []
    for file in files:
        clip = _tracked_clip(file, videos)
        if clip.offsets:
            clips.append(clip)
        else:
            left_out.append(f"{file.name}, which has no frames yet")
    if not clips:
        raise ValueError(f"there is no frame with masks in {_some([str(file) for file in files])}")
    return OpenedClips(clips, "the videos that the masks name", "run-length codes of tracked objects", left_out)


def _tracked_clip(file: Path, videos: Path | None) -> TrackedClip:
    """What one file of masks is about; a line that an interrupted run left unfinished is no frame."""
    with file.open("rb") as lines:
        header = _header(file, lines.readline())
        offsets = []
        position = lines.tell()
        for line in lines:
            if not line.endswith(b"\n"):
                break
            offsets.append(position)
            position += len(line)
    size = (header["height"], header["width"])
    video = _video_of(file, header, videos)
    return TrackedClip(Path(header["video"]).stem, video, file, size, header["start"], tuple(offsets))


def _header(file: Path, line: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or not str(header.get("format", "")).startswith(TRACK_FORMAT):
        raise ValueError(f"{file} does not begin with the header that `sam-variants track` writes")
    return header


def _video_of(file: Path, header: Mapping[str, Any], videos: Path | None) -> Path:
    name = header["video"]
    places = [file.parent, file.parent.parent] if videos is None else [videos]
    tried = [place if place.name == name else place / name for place in places]
    for video in tried:
        if video.exists():
            return video
    raise FileNotFoundError(
        f"{file.name} is of the video {name!r}, which is not at {_some([str(video) for video in tried])}: put it "
        'there, or name its folder (videos="clips")'
    )


def _some(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(name) for name in names[:count]) + more
