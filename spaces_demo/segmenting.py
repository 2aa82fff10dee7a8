"""From prompts to masks: the photo is encoded once, and every answer costs only a decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sam_variants import Masks
from sam_variants.processing.image_fitting import SQUARE
from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.caches import BoundedCache
from sam_variants.spaces_demo.gpu import gpu
from sam_variants.spaces_demo.models import Loaded
from sam_variants.spaces_demo.photos import Photo
from sam_variants.spaces_demo.prompts import INCLUDE, ObjectPrompts

# What `get_image_embeddings` returns, on the CPU: handed between processes, and bounded as host memory.
Levels = list[Tensor]

_EMBEDDINGS: BoundedCache[Levels] = BoundedCache(
    limits.EMBEDDING_BYTES, lambda levels: sum(level.nbytes for level in levels)
)


def answerable(prompts: ObjectPrompts) -> bool:
    """Whether an object says where it is: by a box or by a point on it."""
    return prompts.box is not None or INCLUDE in prompts.labels


def embeddings(loaded: Loaded, photo: Photo) -> Levels:
    """A photo as the model sees it: encoded when it is asked for first, kept while there is room.

    Returns:
        The levels of `get_image_embeddings`, finest first, on the CPU.

    Raises:
        gr.Error: when the upload was deleted meanwhile.
    """

    def encode() -> Levels:
        return _encode(loaded, loaded.processor(images=photo.image(), return_tensors="pt")["pixel_values"])

    return _EMBEDDINGS.get((photo.digest, loaded.serial), encode)


def segment_objects(
    loaded: Loaded, photo: Photo, objects: Sequence[ObjectPrompts], size: tuple[int, int] | None = None
) -> Masks:
    """One mask for each object: what `pipeline("promptable-segmentation")` answers, or the candidate that was chosen.

    Args:
        loaded: the model.
        photo: the photo.
        objects: `answerable` ones, in pixels of the original.
        size: (height, width) of the masks; that of the original by default.

    Returns:
        Masks in the order of the objects, with `object_ids` and `scores`; pixels are made when they are asked for.

    Raises:
        gr.Error: when the upload was deleted meanwhile.
    """
    size = photo.size if size is None else size
    if not objects:
        return Masks(torch.zeros(0, *size, dtype=torch.bool), scores=[], object_ids=[])
    image_processor = loaded.processor.image_processor
    is_padded = image_processor.resize_mode != SQUARE
    logits, scores = _decode(loaded, embeddings(loaded, photo), objects, photo.size)
    return Masks.from_logits(
        logits,
        size,
        image_processor.reshaped_size(*photo.size) if is_padded else None,
        image_processor.image_size if is_padded else None,
        loaded.model.config.mask_threshold,
        scores=scores,
        object_ids=[item.id for item in objects],
    )


@gpu(duration=limits.ENCODE_SECONDS)
@torch.inference_mode()
def _encode(loaded: Loaded, pixel_values: Tensor) -> Levels:
    model = loaded.model
    levels = model.get_image_embeddings(pixel_values.to(model.device, model.image_encoder.dtype))
    return [level.cpu() for level in ([levels] if isinstance(levels, Tensor) else levels)]


@gpu(duration=limits.PROMPT_SECONDS)
@torch.inference_mode()
def _decode(
    loaded: Loaded, levels: Levels, objects: Sequence[ObjectPrompts], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Logits N×h×w and scores N of N objects, on the CPU."""
    levels = [level.to(loaded.model.device) for level in levels]
    passes = _passes(objects)
    answers = [_answers(loaded, levels, [objects[index] for index in indices], size) for indices in passes]
    logits, scores = (torch.cat(tensors).cpu() for tensors in zip(*answers, strict=True))
    place = torch.tensor([index for indices in passes for index in indices]).argsort()
    return logits[place], scores[place]


def _passes(objects: Sequence[ObjectPrompts]) -> list[list[int]]:
    """Which objects are decoded together: all, as the pipeline does it, unless padding them would cost seconds.

    Then those with about as many points; their masks differ from the pipeline's by rounding alone.
    """
    sizes = [len(item.points) + 2 for item in objects]
    passes: list[list[int]] = [[]]
    if len(sizes) * max(sizes) <= limits.TOKENS_PER_PASS:
        return [list(range(len(sizes)))]
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        if passes[-1] and (len(passes[-1]) + 1) * sizes[index] > limits.TOKENS_PER_PASS:
            passes.append([])
        passes[-1].append(index)
    return passes


def _prompts(loaded: Loaded, objects: Sequence[ObjectPrompts], size: tuple[int, int]) -> dict[str, Tensor]:
    """The model's arguments for all objects of one image."""
    points: list[Any] = [list(item.points) or None for item in objects]
    labels: list[Any] = [list(item.labels) or None for item in objects]
    boxes: list[Any] = [item.box for item in objects]
    inputs = loaded.processor(
        original_sizes=[size],
        input_points=points if any(points) else None,
        input_labels=labels if any(labels) else None,
        input_boxes=boxes if any(boxes) else None,
        return_tensors="pt",
        device=loaded.model.device,
    )
    return {name: tensor for name, tensor in inputs.items() if name.startswith("input_")}


def _answers(
    loaded: Loaded, levels: Levels, objects: Sequence[ObjectPrompts], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The package's rule: a single click may mean a part or the whole, so the best of three answers it."""
    prompts = _prompts(loaded, objects, size)
    is_multiple = [item.candidate is not None or _is_single_click(item) for item in objects]
    if not any(is_multiple):
        return _ask(loaded, levels, prompts, multimask_output=False)
    ranks = [item.candidate or 0 for item in objects]
    logits, scores = _ask(loaded, levels, prompts, multimask_output=True, ranks=ranks)
    if all(is_multiple):
        return logits, scores
    single_logits, single_scores = _ask(loaded, levels, prompts, multimask_output=False)
    chosen = torch.tensor(is_multiple, device=logits.device)
    return torch.where(chosen[:, None, None], logits, single_logits), torch.where(chosen, scores, single_scores)


def _ask(
    loaded: Loaded,
    levels: Levels,
    prompts: Mapping[str, Tensor],
    multimask_output: bool,
    ranks: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits N×h×w and scores N: of each object's candidates the one of its rank by score, the best by default."""
    embeddings = levels if len(levels) > 1 else levels[0]
    outputs = loaded.model(image_embeddings=embeddings, multimask_output=multimask_output, **prompts)
    logits, scores = outputs.pred_masks[0], outputs.iou_scores[0]
    order = scores.argsort(dim=-1, descending=True)
    ranks = [0] * len(scores) if ranks is None else ranks
    chosen = order.gather(1, torch.tensor(ranks, device=order.device)[:, None])
    return logits.take_along_dim(chosen[..., None, None], dim=1)[:, 0], scores.take_along_dim(chosen, dim=1)[:, 0]


def _is_single_click(prompts: ObjectPrompts) -> bool:
    return len(prompts.points) == 1 and prompts.box is None
