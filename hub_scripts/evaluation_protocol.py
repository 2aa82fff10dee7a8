"""How an evaluation asks: simulated users click, correct and draw boxes, and every answer is held against the truth."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sam_variants.hub_scripts.baselines import flood_fill_mask, grabcut_mask
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.training.mask_metrics import mask_ious
from sam_variants.training.masked_image import NUM_LEVELS, MaskedImage
from sam_variants.training.prompt_simulation import central_click, correction_click

NUM_CLICKS = 5
"""Of every object that is corrected until nothing is wrong."""
ENOUGH = 0.9
"""With this IoU an object gets no more clicks than those."""
OBJECTS_AT_ONCE = 16
LOGIT_LIMIT = 32.0  # mask prompts are clamped as in SAM 2's training

Clicks = list[list[tuple[int, int]]]
ClickLabels = list[list[int]]


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of an H×W bool mask with a pixel or more; x2 and y2 are the last column and row plus one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class Segmenter(Protocol):
    """What an evaluation asks about one image at a time; seconds are noted under "encode" and "prompt" (one object).

    Attributes:
        seconds: how long each answer took.
    """

    seconds: dict[str, list[float]]

    def look_at(self, image: np.ndarray) -> None:
        """Take an H×W×3 uint8 RGB image; all questions up to the next are about it."""

    def first_click(self, clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
        """For N objects with a click each: candidate masks N×M×H×W bool, and which of the M is preferred, N ints."""

    def more_clicks(self, clicks: Clicks, labels: ClickLabels, rows: np.ndarray) -> np.ndarray:
        """For some of the same objects all clicks, in the order they were made: masks len(rows)×H×W bool.

        `rows` says which of the objects of `first_click` they are.
        """

    def boxes(self, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray | None:
        """For N objects with a box each: masks N×H×W bool; None if boxes are beyond the method."""


class ModelSegmenter:
    """A promptable model: images are encoded once, all objects of an image are asked for together.

    The first click takes the best of three masks by predicted IoU; from the second click on there is one mask, and the
    previous one's small logits are given back, as segment-anything's predictor does.

    Args:
        model: in evaluation mode.
        processor: the one that belongs to it.
    """

    def __init__(self, model: SamVariantsModel, processor: SamVariantsProcessor) -> None:
        self.model, self.processor = model, processor
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @torch.inference_mode()
    def look_at(self, image: np.ndarray) -> None:
        start = time.perf_counter()
        inputs = self.processor(images=image, return_tensors="pt")
        self.original_sizes, self.reshaped_sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        self.embeddings = self.model.get_image_embeddings(inputs["pixel_values"].to(self.model.device))
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        self.seconds["encode"].append(time.perf_counter() - start)

    def first_click(self, clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
        masks, logits, scores = self._ask(multimask_output=True, input_points=[clicks])
        best = scores.argmax(dim=-1)
        self.logits = logits[torch.arange(len(best), device=best.device), best]
        return masks, best.cpu().numpy()

    def more_clicks(self, clicks: Clicks, labels: ClickLabels, rows: np.ndarray) -> np.ndarray:
        masks, logits, _ = self._ask(self.logits[rows], input_points=[clicks], input_labels=[labels])
        self.logits[rows] = logits[:, 0]
        return masks[:, 0]

    def boxes(self, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
        return self._ask(input_boxes=[list(boxes)])[0][:, 0]

    @torch.inference_mode()
    def _ask(
        self, previous: Tensor | None = None, multimask_output: bool = False, **prompts: list
    ) -> tuple[np.ndarray, Tensor, Tensor]:
        """Masks N×M×H×W bool, their logits N×M×h×w and predicted IoU N×M."""
        start = time.perf_counter()
        inputs = self.processor(original_sizes=self.original_sizes, return_tensors="pt", **prompts)
        names = ("input_points", "input_labels", "input_boxes")
        tensors = {name: inputs[name].to(self.model.device) for name in names if name in inputs}
        if previous is not None:
            tensors["input_masks"] = previous[None].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        outputs = self.model(image_embeddings=self.embeddings, multimask_output=multimask_output, **tensors)
        masks = self.processor.post_process_masks(
            outputs.pred_masks, self.original_sizes, self.reshaped_sizes, self.model.config.mask_threshold
        )[0].cpu()
        self.seconds["prompt"].append((time.perf_counter() - start) / len(masks))
        return masks.numpy(), outputs.pred_masks[0], outputs.iou_scores[0]


class BaselineSegmenter:
    """A method of `baselines.py` for all objects of an image.

    Args:
        answer: (image, points, labels, box) → H×W bool; box is None for clicks, points and labels are for boxes.
        takes_boxes: whether it can be asked with a box.
        threads: objects that are worked on at the same time.
    """

    def __init__(self, answer: Callable[..., np.ndarray], takes_boxes: bool, threads: int) -> None:
        self.answer, self.takes_boxes, self.threads = answer, takes_boxes, threads
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def look_at(self, image: np.ndarray) -> None:
        self.image = image

    def first_click(self, clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
        masks = self.more_clicks(clicks, [[1]] * len(clicks), np.arange(len(clicks)))
        return masks[:, None], np.zeros(len(masks), int)

    def more_clicks(self, clicks: Clicks, labels: ClickLabels, rows: np.ndarray) -> np.ndarray:
        return self._ask(clicks, labels, [None] * len(clicks))

    def boxes(self, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray | None:
        nothing: list[None] = [None] * len(boxes)
        return self._ask(nothing, nothing, boxes) if self.takes_boxes else None

    def _ask(self, *prompts: Sequence) -> np.ndarray:
        def timed(*prompt: object) -> np.ndarray:
            start = time.perf_counter()
            mask = self.answer(self.image, *prompt)
            self.seconds["prompt"].append(time.perf_counter() - start)
            return mask

        with ThreadPoolExecutor(self.threads) as pool:
            return np.stack(list(pool.map(timed, *prompts)))


def flood_fill_segmenter(threads: int) -> BaselineSegmenter:
    """Flood fill, which knows no boxes."""
    return BaselineSegmenter(lambda image, points, labels, _: flood_fill_mask(image, points, labels), False, threads)


def grabcut_segmenter(threads: int) -> BaselineSegmenter:
    """GrabCut, from clicks or from a box."""
    return BaselineSegmenter(grabcut_mask, True, threads)


@dataclass(frozen=True)
class Answers:
    """How good the answers about N objects were.

    Attributes:
        ious: N numbers under each of "click"; "best_of_3" (the best of several candidates at one click, if there are
            several); "level" (the candidate of the object's level at one click, if image and method know levels); and
            "box" (if the method takes boxes).
        by_click: N×K, after one click, two, … K.
    """

    ious: dict[str, np.ndarray]
    by_click: np.ndarray


def measure(segmenter: Segmenter, example: MaskedImage, num_clicks: int = NUM_CLICKS) -> Answers:
    """Ask for every object of an image with a click, with corrections, and with a box.

    The first click is the pixel deepest inside the object, each further one the deepest of the largest region where
    the answer so far is wrong. An answer that is right everywhere is kept; so is one with an IoU of `ENOUGH` after
    `NUM_CLICKS` clicks. The box is the object's own.

    Args:
        segmenter: the method.
        example: with one object or more.
        num_clicks: how many clicks an object gets at most.

    Returns:
        IoU with the truth at the image's full size.
    """
    segmenter.look_at(example.image)
    parts = []
    for start in range(0, len(example.masks), OBJECTS_AT_ONCE):
        chosen = np.s_[start : start + OBJECTS_AT_ONCE]
        levels = None if example.levels is None else example.levels[chosen]
        parts.append(measure_objects(segmenter, example.masks[chosen], levels, num_clicks))
    ious = {name: np.concatenate([part.ious[name] for part in parts]) for name in parts[0].ious}
    return Answers(ious, np.concatenate([part.by_click for part in parts]))


def measure_objects(segmenter: Segmenter, truths: np.ndarray, levels: np.ndarray | None, num_clicks: int) -> Answers:
    """The same for N×H×W objects, all at once, of the image that the method looks at."""
    clicks: Clicks = [[central_click(truth)] for truth in truths]
    candidates, preferred = segmenter.first_click(clicks)
    candidate_ious = mask_ious(candidates, truths[:, None])
    objects = np.arange(len(truths))
    ious = {"click": candidate_ious[objects, preferred]}
    if candidates.shape[1] > 1:
        ious["best_of_3"] = candidate_ious.max(axis=1)
    if candidates.shape[1] == NUM_LEVELS and levels is not None:
        ious["level"] = candidate_ious[objects, levels]
    by_click = click_on(segmenter, clicks, candidates[objects, preferred], truths, num_clicks)
    boxed = segmenter.boxes([tight_box(truth) for truth in truths])
    if boxed is not None:
        ious["box"] = mask_ious(boxed, truths)
    return Answers(ious, by_click)


def click_on(
    segmenter: Segmenter, clicks: Clicks, answers: np.ndarray, truths: np.ndarray, num_clicks: int
) -> np.ndarray:
    """Correct the answers to first clicks; the IoUs after every click, N×num_clicks."""
    labels: ClickLabels = [[1] for _ in truths]
    ious = mask_ious(answers, truths)
    by_click = [ious]
    answers = answers.copy()
    for turn in range(1, num_clicks):
        is_open = ious < ENOUGH if turn >= NUM_CLICKS else np.ones(len(truths), bool)
        rows = np.flatnonzero(add_corrections(clicks, labels, answers, truths, is_open))
        if len(rows):
            answers[rows] = segmenter.more_clicks([clicks[row] for row in rows], [labels[row] for row in rows], rows)
            ious = ious.copy()
            ious[rows] = mask_ious(answers[rows], truths[rows])
        by_click.append(ious)
    return np.stack(by_click, axis=1)


def add_corrections(
    clicks: Clicks, labels: ClickLabels, answers: np.ndarray, truths: np.ndarray, is_open: np.ndarray
) -> np.ndarray:
    """Append the next click of every open object whose answer is not all right; returns which these are, N bool."""
    wrong = np.zeros(len(truths), bool)
    for index in np.flatnonzero(is_open):
        correction = correction_click(answers[index], truths[index])
        if correction is not None:
            x, y, label = correction
            clicks[index].append((x, y))
            labels[index].append(label)
            wrong[index] = True
    return wrong
