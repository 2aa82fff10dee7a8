"""Run in a process of its own that has no sam_variants: loads checkpoints by their own code and reports as JSON.

    python remote_code_process.py <name of a section> <folder> <file for the report>

Each check is a generator's step or a function: its value, or the traceback of its failure, goes into the report.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from remote_code_answers import answers, differing, loaded, picture
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline


class Absent:
    """Makes modules unimportable, whatever is installed."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


torch.set_num_threads(1)
PACKAGE = Absent("sam_variants")
sys.meta_path.insert(0, PACKAGE)  # type: ignore[arg-type]
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
# What nobody writes must not happen to be right.
torch.use_deterministic_algorithms(True, warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = True

TRUST = {"trust_remote_code": True}
Checks = Iterator[tuple[str, Callable[[], Any]]]


@contextmanager
def without(*names: str) -> Iterator[None]:
    """As if libraries were not installed."""
    held = {name: module for name, module in sys.modules.items() if name.split(".")[0] in names}
    for name in held:
        del sys.modules[name]
    absent = Absent(*names)
    sys.meta_path.insert(0, absent)  # type: ignore[arg-type]
    yield
    sys.meta_path.remove(absent)  # type: ignore[arg-type]
    sys.modules.update(held)


def message_of(call: Callable[[], Any]) -> str:
    """Kind and text of the error that a call ends with."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def module_of(thing: Any) -> str:
    return type(thing).__module__


def compare(folder: Path | str, expected: Path) -> dict[str, list[str]]:
    """Which outputs differ, and the modules of the classes that made them."""
    parts = loaded(folder, **TRUST)
    found = answers(folder, parts, **TRUST)
    return {"differing": differing(found, torch.load(expected)), "modules": list(map(module_of, parts.values()))}


def save_again(folder: Path | str, target: Path) -> None:
    AutoModel.from_pretrained(folder, **TRUST).save_pretrained(target)
    AutoProcessor.from_pretrained(folder, **TRUST).save_pretrained(target)


def save_pipeline(folder: Path, target: Path) -> None:
    pipeline("mask-generation", model=str(folder), **TRUST).save_pretrained(target)


def no_video_library(folder: Path, clip: Path) -> str:
    clip.write_bytes(b"nobody gets to read it")
    tracker = pipeline("promptable-video-segmentation", model=str(folder), **TRUST)
    with without("av"):
        return message_of(lambda: list(tracker(str(clip), prompts={0: {1: {"points": [[1, 1]]}}})))


def no_contour_library(folder: Path) -> str:
    segmenter = pipeline("promptable-segmentation", model=str(folder), **TRUST)
    masks = segmenter(picture(), points=[[[4, 4]]])
    with without("cv2"):
        return message_of(masks.to_polygons)


def without_package(root: Path) -> Checks:
    repos = sorted(path for path in (root / "repos").iterdir() if path.is_dir())
    image, video = root / "repos" / "tiny_vit", root / "repos" / "video"
    yield "package", lambda: message_of(lambda: __import__("sam_variants"))
    yield "no flag: config", lambda: message_of(lambda: AutoConfig.from_pretrained(image))
    yield "no flag: pipeline", lambda: message_of(lambda: pipeline("mask-generation", model=str(image)))
    for where, repo in {"": image, "hub ": "me/tiny_vit"}.items():
        with without("pycocotools"):
            yield (
                f"{where}without pycocotools",
                lambda repo=repo: message_of(lambda: AutoModel.from_pretrained(repo, **TRUST)),
            )
    for repo in repos:
        yield f"answers {repo.name}", lambda repo=repo: compare(repo, root / "expected" / f"{repo.name}.pt")
    yield "without cv2", lambda: no_contour_library(image)
    yield "without av", lambda: no_video_library(video, root / "clip.mp4")
    yield "fused", lambda: pipeline("mask-generation", model=str(image), **TRUST).model._is_fused
    for repo in repos:
        yield (
            f"answers hub {repo.name}",
            lambda repo=repo: compare(f"me/{repo.name}", root / "expected" / f"{repo.name}.pt"),
        )
    yield "save video", lambda: save_again(video, root / "saved" / "video")
    yield "saved video", lambda: compare(root / "saved" / "video", root / "expected" / "video.pt")
    yield "save hub", lambda: save_again("me/tiny_vit", root / "saved" / "hub")
    yield "push", lambda: str(AutoModel.from_pretrained(image, **TRUST).push_to_hub("me/pushed"))
    yield "answers pushed", lambda: compare("me/pushed", root / "expected" / "tiny_vit.pt")
    yield "save pipeline", lambda: save_pipeline(image, root / "saved" / "pipeline")
    yield "package is still away", lambda: [name for name in sys.modules if name.split(".")[0] == "sam_variants"]


def afresh(root: Path) -> Checks:
    """What the first process saved; then the package arrives."""
    image = root / "repos" / "tiny_vit"
    for name, expected in {"video": "video", "hub": "tiny_vit", "pipeline": "tiny_vit"}.items():
        yield f"saved {name}", lambda n=name, e=expected: compare(root / "saved" / n, root / "expected" / f"{e}.pt")
    yield "saved package", lambda: compare(root / "saved" / "package", root / "expected" / "tiny_vit.pt")
    remote = AutoModel.from_pretrained(image, **TRUST)
    other = root / "repos" / "vit"
    yield "no flag: another repository", lambda: message_of(lambda: AutoModel.from_pretrained(other))
    sys.meta_path.remove(PACKAGE)  # type: ignore[arg-type]
    import sam_variants

    # Loaded between the package and what follows, code of a checkpoint changes nothing.
    door = "sam_variants_remote_code.SamVariantsModel"
    transformers.dynamic_module_utils.get_class_from_dynamic_module(door, str(other))
    for flags in ({}, TRUST):
        found = [module_of(part) for part in loaded(image, **flags).values()]
        found.append(module_of(pipeline("mask-generation", model=str(image), **flags)))
        yield f"classes {flags}", lambda found=found: found
    yield "is ours", lambda: isinstance(AutoModel.from_pretrained(image), sam_variants.SamVariantsModel)
    yield "remote", lambda: [module_of(remote), tuple(remote.get_image_embeddings(pixels(image)).shape)]
    yield "remote saves", lambda: remote.save_pretrained(root / "saved" / "late")
    yield "remote saved", lambda: sorted(path.name for path in (root / "saved" / "late").glob("*.py"))


def pixels(folder: Path) -> torch.Tensor:
    return AutoProcessor.from_pretrained(folder, **TRUST)(images=picture(), return_tensors="pt")["pixel_values"]


def main(section: str, root: str, report: str) -> None:
    found = {}
    for name, check in {"without_package": without_package, "afresh": afresh}[section](Path(root)):
        try:
            found[name] = {"value": check()}
        except Exception:
            found[name] = {"error": traceback.format_exc()}
    Path(report).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
