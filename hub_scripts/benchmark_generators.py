"""What `sam-variants benchmark everything` compares, each run in a process of its own.

`python -m sam_variants.hub_scripts.benchmark_generators '{"generator": "ours", "model": "folder", …}'` makes the masks
of one image and prints one line of JSON: seconds, the stages they went to, the peak of the memory, the masks.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import MaskGenerationPipeline, SamModel

from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.hub_scripts.benchmark_peak import PeakMemory, limit_memory
from sam_variants.hub_scripts.benchmark_their_models import their_processor, transformers_twin
from sam_variants.mask_codecs import Rle, canonical_rle
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.time_split import DECODE, ENCODE, TimeSplit
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline

OURS, BFLOAT16, FAST, THEIRS, OFFICIAL = "ours", "ours, bfloat16", "ours, fast", "transformers", "segment-anything"
OFFICIAL_MODULE = "segment_anything"
PHOTO = Path(__file__).parent / "photos" / "coins.jpg"
# transformers' pipeline holds the three masks of each point of a batch as full-size logits, more than once for a while.
THEIR_BYTES_PER_PIXEL = 3 * 12
WARM_UP_SIDE, WARM_UP_POINTS = 64, 2
REST = "rest"
NAMES_IN_TRANSFORMERS = {"points_per_side": "points_per_crop", "crop_n_layers": "crops_n_layers"}


@dataclass(frozen=True)
class Task:
    """One run of one generator.

    Attributes:
        generator: key of `GENERATORS`.
        model: folder of the weights; transformers' `SamModel`, or one of our models.
        megapixels: size of the image.
        options: official names of mask generation options.
        device, threads: where.
        memory: bytes that transformers may need for the masks of a batch of points, which gets smaller for it.
    """

    generator: str
    model: str
    megapixels: float
    options: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    memory: float = 8e9


Found = list[Rle]
Generator = Callable[[np.ndarray, Mapping[str, Any], TimeSplit], Found]


def photo(megapixels: float) -> np.ndarray:
    """The bundled photo at a size, H×W×3 uint8."""
    image = np.asarray(Image.open(PHOTO).convert("RGB"))
    factor = (megapixels * 1e6 / (image.shape[0] * image.shape[1])) ** 0.5
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def our_generator(task: Task, dtype: torch.dtype = torch.float32, **fixed: Any) -> Generator:
    """Our pipeline, with options that a call can't change."""
    model: Any = load_checkpoint(task.model)
    nn.Module.to(model.fuse(), device=task.device).encode_in(dtype)
    pipeline = SamVariantsMaskGenerationPipeline(model=model, device=task.device)

    def generate(image: np.ndarray, options: Mapping[str, Any], times: TimeSplit) -> Found:
        masks = pipeline(Image.fromarray(image), times=times, **{**options, **fixed})
        return [annotation["segmentation"] for annotation in masks.to_coco(image_id=0)]

    return generate


@contextmanager
def timed_calls(times: TimeSplit, device: str, calls: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
    """Time methods of objects for a while: (object, name of the method, stage)."""

    def timed(call: Callable[..., Any], stage: str, *args: Any, **kwargs: Any) -> Any:
        with times.stage(stage):
            result = call(*args, **kwargs)
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)
        return result

    for owner, name, stage in calls:
        setattr(owner, name, partial(timed, getattr(owner, name), stage))
    try:
        yield
    finally:
        for owner, name, _ in calls:
            delattr(owner, name)


def their_points_per_batch(task: Task, options: Mapping[str, Any], image: np.ndarray) -> int:
    """How many points transformers takes at once for the memory of a task."""
    wanted = options.get("points_per_batch", MaskGenerationOptions().points_per_batch)
    height, width = image.shape[:2]
    return max(1, min(wanted, int(task.memory / (THEIR_BYTES_PER_PIXEL * height * width))))


def their_generator(task: Task) -> Generator:
    """transformers' pipeline, on its own model or, where it has none, on its decoder behind our image encoder."""
    if is_sam(task.model):
        model: Any = SamModel.from_pretrained(task.model)
        side = model.config.vision_config.image_size
    else:
        ours: Any = load_checkpoint(task.model)
        model, side = transformers_twin(ours), ours.config.image_size
        ours.fuse()
    nn.Module.to(model, task.device)
    processor = their_processor(side)
    pipeline = MaskGenerationPipeline(model=model, image_processor=processor, device=task.device)
    calls = [(processor, "preprocess", ENCODE), (model, "get_image_embeddings", ENCODE), (model, "forward", DECODE)]

    def generate(image: np.ndarray, options: Mapping[str, Any], times: TimeSplit) -> Found:
        named = {NAMES_IN_TRANSFORMERS.get(name, name): value for name, value in options.items()}
        named["points_per_batch"] = their_points_per_batch(task, options, image)
        with timed_calls(times, task.device, calls):
            result = pipeline(Image.fromarray(image), output_rle_mask=True, **named)
        return [canonical_rle(code) for code in result["rle_mask"]]

    return generate


def is_sam(folder: str) -> bool:
    """Whether a folder holds transformers' `SamModel`."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return bool(config["model_type"] == "sam")


def official_generator(task: Task) -> Generator:
    """segment-anything's `SamAutomaticMaskGenerator`, for SAM ViT-B."""
    # Not among our requirements; `has_official` has looked whether it is there.
    official: Any = import_module(OFFICIAL_MODULE)
    model = official.sam_model_registry["vit_b"]()
    ours: Any = load_checkpoint(task.model)
    model.load_state_dict(export_state_dict(ours, "sam"))
    del ours
    model.to(task.device).eval()

    def generate(image: np.ndarray, options: Mapping[str, Any], times: TimeSplit) -> Found:
        generator = official.SamAutomaticMaskGenerator(model, output_mode="coco_rle", **options)
        calls = [(generator.predictor, "set_image", ENCODE), (model.mask_decoder, "forward", DECODE)]
        with timed_calls(times, task.device, calls):
            found = generator.generate(image)
        return [annotation["segmentation"] for annotation in found]

    return generate


def has_official(config: Any) -> bool:
    """Whether segment-anything can be asked: it is installed, with what it needs, and has a model of these sizes."""
    vision = getattr(config, "vision_config", None)
    is_base = getattr(vision, "hidden_size", 0) == 768 and getattr(vision, "image_size", 0) == 1024
    return is_base and all(find_spec(name) is not None for name in (OFFICIAL_MODULE, "torchvision"))


GENERATORS: dict[str, Callable[[Task], Generator]] = {
    OURS: our_generator,
    BFLOAT16: partial(our_generator, dtype=torch.bfloat16),
    FAST: partial(our_generator, preset="fast"),
    THEIRS: their_generator,
    OFFICIAL: official_generator,
}


def run(task: Task) -> dict[str, Any]:
    """Make the masks of the photo once, in this process.

    Returns:
        `seconds`; `stages`, seconds of encoding, decoding and the rest; `peak_bytes` above the weights (None where the
        system doesn't tell); `masks`, run-length codes; `points_per_batch`.
    """
    generate = GENERATORS[task.generator](task)
    image = photo(task.megapixels)
    gc.collect()
    with PeakMemory(task.device) as memory:
        small = cv2.resize(image, (WARM_UP_SIDE, WARM_UP_SIDE))
        generate(small, {**task.options, "points_per_side": WARM_UP_POINTS}, TimeSplit())
        times, begin = TimeSplit(), time.perf_counter()
        found = generate(image, task.options, times)
        seconds = time.perf_counter() - begin
    stages = {stage: times.seconds[stage] for stage in (ENCODE, DECODE)}
    points = task.options.get("points_per_batch", MaskGenerationOptions().points_per_batch)
    return {
        "seconds": seconds,
        "stages": stages | {REST: seconds - sum(stages.values())},
        "peak_bytes": memory.peak_bytes,
        "points_per_batch": their_points_per_batch(task, task.options, image) if task.generator == THEIRS else points,
        "masks": found,
    }


def run_alone(task: Task) -> dict[str, Any]:
    """`run` in a process of its own.

    Returns:
        What it gives, or `failed` with what the process said last: a generator may need more memory than there is.
    """
    command = [sys.executable, "-m", "sam_variants.hub_scripts.benchmark_generators", json.dumps(asdict(task))]
    with tempfile.TemporaryFile("w+") as complaints:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=complaints, text=True, check=False)
        if not done.returncode:
            return json.loads(done.stdout.splitlines()[-1])
        complaints.seek(0)
        last = complaints.read().strip().splitlines()[-1:]
    return {"failed": " ".join(last) or f"ended with {done.returncode}"}


def main(arguments: Sequence[str]) -> None:
    """Run what the argument says."""
    task = Task(**json.loads(arguments[0]))
    limit_memory()
    torch.set_num_threads(task.threads)
    sys.stdout.write(json.dumps(run(task)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
