"""What a visitor did as a Python script that does the same with the package, to the bit.

`segment_code(loaded, photo, objects)`, `everything_code(loaded, photo, options)`, `compare_code(first, second, photo,
objects)` and `video_code(loaded, name, prompts)` return the script, or raise `gr.Error` where there is nothing yet.
`python_panel.python_panel` puts it on the page.

A script names the visitor's file and no folder: it is run beside the file. A model of the operator's goes by the name
of its folder, since where it lies is nobody's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import gradio as gr

from sam_variants.spaces_demo.everything import EverythingOptions
from sam_variants.spaces_demo.file_formats import safe_name
from sam_variants.spaces_demo.models import EMBEDDED, EMBEDDED_VIDEO, Loaded
from sam_variants.spaces_demo.photos import Photo
from sam_variants.spaces_demo.prompts import INCLUDE, ObjectPrompts
from sam_variants.spaces_demo.python_literals import STEP, Source, assignment, call
from sam_variants.spaces_demo.segmenting import answerable

FramePrompts = Mapping[int, Mapping[int, ObjectPrompts | Mapping[str, Any]]]
NO_PROMPTS = "There is nothing to reproduce yet: click on a thing, or draw a box."
NUM_CANDIDATES = 3
EMBEDDED_SOURCES = {
    EMBEDDED: Source("sam_variants.default_checkpoint()"),
    EMBEDDED_VIDEO: Source("sam_variants.default_checkpoint(video=True)"),
}
FOLDER_COMMENT = "# The folder of this model."
PIXELS_COMMENT = "# In pixels of the photo"
OBJECTS_COMMENT = ", one entry per object"
LABELS_COMMENT = "; label 1 includes, 0 excludes"
CANDIDATES_COMMENT = "# The model's three answers for each object, the best first."
FRAMES_COMMENT = "# By frame and object, in pixels of the frame; label 1 includes, 0 excludes."
SEGMENT = "segment = sam_variants.PromptableSegmentationPipeline(model)"
JOIN = """masks = sam_variants.Masks(
    torch.cat([mask.data for mask in chosen]),
    scores=torch.cat([mask.scores for mask in chosen]),
)"""
REPORT = """for name, mask in zip(names, masks):
    print(f"{name}: {int(mask.areas)} pixels, expected IoU {float(mask.scores):.2f}")"""
COMPARISON = """for name, one, other in zip(names, first.data, second.data):
    iou = (one & other).sum() / (one | other).sum()
    print(f"{name}: IoU of both masks {float(iou):.3f}")"""
TRACK = """first = min(prompts)
annotations = []
with model.start_session() as session:
    for masks in session.track(video, {first: prompts.pop(first)}):
        # Prompts on later frames correct what was tracked there.
        for object_id, given in prompts.get(masks.frame_index, {}).items():
            masks = session.add_object(object_id, **given)
        annotations += masks.to_coco(image_id=masks.frame_index)"""


def segment_code(loaded: Loaded, photo: Photo, objects: Sequence[ObjectPrompts]) -> str:
    """A script for `segment_objects`; it leaves `masks`.

    Args:
        loaded: the model.
        photo: the visitor's.
        objects: what was clicked; those that can't be answered are left out.

    Raises:
        gr.Error: where none can be answered.
    """
    objects = _answerable(objects)
    answers = _answers(objects)
    return _script(
        _imports(answers),
        [assignment("photo", photo.path.name), *_model(loaded), SEGMENT],
        answers,
        [_names(objects), REPORT, _save_labels(photo)],
    )


def everything_code(loaded: Loaded, photo: Photo, options: EverythingOptions) -> str:
    """A script for `find_everything`; it leaves `masks`."""
    return _script(
        ["import sam_variants"],
        [
            assignment("photo", photo.path.name),
            *_model(loaded),
            "find_everything = sam_variants.SamVariantsMaskGenerationPipeline(model)",
            call("masks = find_everything", [Source("photo")], options.arguments()),
        ],
        ['print(f"{len(masks)} masks")', _save_labels(photo)],
    )


def compare_code(first: Loaded, second: Loaded, photo: Photo, objects: Sequence[ObjectPrompts]) -> str:
    """A script for `comparing.compare`; it leaves the masks of both models, `first` and `second`.

    Raises:
        gr.Error: as for `segment_code`.
    """
    objects = _answerable(objects)
    answers = _answers(objects, STEP)
    function = [
        "",
        "def answer(checkpoint, **options):",
        "    model = sam_variants.load_checkpoint(checkpoint, **options).fuse()",
        f"    {SEGMENT}",
        *answers,
        "    return masks",
        "",
    ]
    return _script(
        _imports(answers),
        [assignment("photo", photo.path.name)],
        function,
        [*_loading("first = answer", first), *_loading("second = answer", second)],
        [_names(objects), COMPARISON],
    )


def video_code(loaded: Loaded, name: str, prompts: FramePrompts) -> str:
    """A script for the tracking of a video; it leaves `annotations`, COCO's, whose `image_id` is the frame.

    Args:
        loaded: a model that can track.
        name: of the video's file.
        prompts: frame → object id → its prompts, as they are or as arguments of `VideoSession.add_object`.

    Raises:
        gr.Error: where there are no prompts.
    """
    given = {
        frame: {number: _arguments(each) for number, each in sorted(by_object.items())}
        for frame, by_object in sorted(prompts.items())
        if by_object
    }
    if not given:
        raise gr.Error(NO_PROMPTS, print_exception=False)
    output = call("with open", [safe_name(Path(name).stem, "video") + "-masks.json", "w"])
    return _script(
        ["import json", "", "import sam_variants"],
        [assignment("video", name), *_model(loaded)],
        [FRAMES_COMMENT, assignment("prompts", given)],
        [TRACK],
        [f"{output} as file:", "    json.dump(annotations, file)"],
    )


def _script(*parts: Sequence[str]) -> str:
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _imports(answers: Sequence[str]) -> list[str]:
    return (
        ["import torch", "", "import sam_variants"]
        if any("torch." in line for line in answers)
        else ["import sam_variants"]
    )


def _answerable(objects: Sequence[ObjectPrompts]) -> list[ObjectPrompts]:
    kept = [item for item in objects if answerable(item)]
    if not kept:
        raise gr.Error(NO_PROMPTS, print_exception=False)
    return kept


def _model(loaded: Loaded) -> list[str]:
    return [*_loading("model = sam_variants.load_checkpoint", loaded), "model.fuse()"]


def _loading(start: str, loaded: Loaded) -> list[str]:
    """A call with the arguments of `load_checkpoint` that give this model."""
    if loaded.name in EMBEDDED_SOURCES:
        return [call(start, [EMBEDDED_SOURCES[loaded.name]])]
    if loaded.revision is not None:
        return [call(start, [loaded.source], {"revision": loaded.revision})]
    return [FOLDER_COMMENT, call(start, [Path(loaded.source).resolve().name])]


def _answers(objects: Sequence[ObjectPrompts], margin: int = 0) -> list[str]:
    """Source code that makes `masks`: from one call, or from two where candidates were chosen of some objects only."""
    space = " " * margin
    prompts, photo, given = _prompts(objects), Source("photo"), Source("**prompts")
    comment = space + PIXELS_COMMENT + OBJECTS_COMMENT * (len(objects) > 1) + LABELS_COMMENT * ("labels" in prompts)
    if all(item.candidate is None for item in objects):
        return [f"{comment}.", call("masks = segment", [photo], prompts, margin)]
    # Of an object with one click and no candidate chosen, the package takes the best of three itself.
    places = [
        NUM_CANDIDATES * index + (item.candidate or 0) if item.candidate is not None or _is_single_click(item) else None
        for index, item in enumerate(objects)
    ]
    asked = [
        f"{comment}.",
        assignment("prompts", prompts, margin),
        f"{space}{CANDIDATES_COMMENT}",
        call("answers = segment", [photo, given], {"multimask": True}, margin),
    ]
    if None not in places:
        return [*asked, assignment("chosen", places, margin), f"{space}masks = answers[chosen]"]
    chosen = [Source(f"masks[{index}]" if at is None else f"answers[{at}]") for index, at in enumerate(places)]
    return [
        *asked,
        call("masks = segment", [photo, given], indent=margin),
        assignment("chosen", chosen, margin),
        indent(JOIN, space),
    ]


def _is_single_click(item: ObjectPrompts) -> bool:
    return len(item.points) == 1 and item.box is None


def _prompts(objects: Sequence[ObjectPrompts]) -> dict[str, Any]:
    """The pipeline's arguments; of a single object without the level of the objects."""
    values: dict[str, list[Any]] = {
        "points": [item.points or None for item in objects],
        "labels": [item.labels or None for item in objects],
        "boxes": [item.box for item in objects],
    }
    if all(label == INCLUDE for item in objects for label in item.labels):
        del values["labels"]  # the default
    present = {name: value for name, value in values.items() if any(each is not None for each in value)}
    return {name: value[0] for name, value in present.items()} if len(objects) == 1 else present


def _arguments(prompts: ObjectPrompts | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(prompts, ObjectPrompts):
        prompts = {"points": prompts.points, "labels": prompts.labels, "boxes": prompts.box}
    return {name: value for name, value in prompts.items() if value}


def _names(objects: Sequence[ObjectPrompts]) -> str:
    return assignment("names", [item.name for item in objects])


def _save_labels(photo: Photo) -> str:
    return call("masks.save_png", [safe_name(photo.name, "photo") + "-labels.png"])
