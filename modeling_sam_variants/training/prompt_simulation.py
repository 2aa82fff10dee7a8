"""Simulated users: clicks, corrections, boxes and mask prompts for ground-truth masks.

What is drawn is a function of numbers that the caller names: the seed, the epoch and the row of the dataset. How many
processes and workers share the rows, and in which order, changes nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_variants.training.masked_image import MaskedImage

LOGIT_LIMIT = 32.0  # mask prompts are clamped as in SAM 2's training
# Shares of a cell's weight where corrections are drawn, in whole numbers: sums of floating point would depend on the
# order in which a GPU adds.
WRONG_WEIGHT = 1_600_000
OBJECT_WEIGHT = 1_000
DRAW_BITS = 24


@dataclass(frozen=True)
class SimulatedPrompts:
    """First prompts of N objects of one image, in its own pixels.

    Attributes:
        objects: N int64, which masks; some come more than once, with other prompts, where the image has fewer than N.
        points: N×2 float32, a click (x, y) on each.
        boxes: N×4 float32 (x1, y1, x2, y2), drawn by an unsteady hand.
        use_box: N bool, whether the box or the click is the first prompt.
    """

    objects: np.ndarray
    points: np.ndarray
    boxes: np.ndarray
    use_box: np.ndarray


class PromptSampler:
    """Random numbers that belong to a seed, an epoch and a row, whoever draws them and when.

    Args:
        seed: 0 or more.

    Raises:
        ValueError: a negative seed, epoch or row.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.seed = seed

    def rng(self, epoch: int, index: int) -> np.random.Generator:
        """Random numbers for the first prompts of row `index` in `epoch`."""
        return np.random.default_rng(self._sequence(epoch, index, 0))

    def generator(self, epoch: int, index: int) -> torch.Generator:
        """The same for PyTorch, on the CPU: random numbers for all later rounds, other ones than `rng` gives."""
        state = self._sequence(epoch, index, 1).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    def correction_draws(self, epoch: int, index: int, num_rounds: int, num_objects: int) -> Tensor:
        """Uniform numbers num_rounds×num_objects×3 in 0..1 for the `draws` of `sample_corrections`, round by round."""
        return torch.rand(num_rounds, num_objects, 3, generator=self.generator(epoch, index))

    def _sequence(self, epoch: int, index: int, purpose: int) -> np.random.SeedSequence:
        if epoch < 0 or index < 0:
            raise ValueError(f"epoch and index must be 0 or more, got epoch={epoch}, index={index}")
        return np.random.SeedSequence((self.seed, epoch, index, purpose))


def example_key(example: MaskedImage) -> int:
    """A number made of the image's pixels: the `index` of examples that are streamed, which have no row."""
    return zlib.crc32(np.ascontiguousarray(example.image).data)


def simulate_prompts(
    example: MaskedImage,
    rng: np.random.Generator,
    num_objects: int,
    min_area: float = 0.0,
    box_share: float = 0.5,
    jitter: float = 0.08,
) -> SimulatedPrompts:
    """Choose objects of an image and prompt each for the first time.

    Args:
        example: the image.
        rng: random numbers, of `PromptSampler.rng`.
        num_objects: so many, without repetition as far as the image has them.
        min_area: objects below this share of the image are not asked for.
        box_share: probability that an object is prompted with its box instead of a click.
        jitter: of `jittered_box`.

    Returns:
        Prompts of `num_objects` objects; of none where no object is large enough.

    Raises:
        ValueError: `num_objects` below 1, or a share outside 0..1.
    """
    if num_objects < 1 or not 0 <= min_area <= 1 or not 0 <= box_share <= 1:
        raise ValueError(
            f"num_objects={num_objects} must be 1 or more, min_area={min_area} and box_share={box_share} in 0..1"
        )
    usable = np.flatnonzero(example.areas >= min_area)
    objects = np.resize(rng.permutation(usable), num_objects if len(usable) else 0).astype(np.int64)
    points, boxes = np.zeros((len(objects), 2), np.float32), np.zeros((len(objects), 4), np.float32)
    for row, index in enumerate(objects):
        points[row] = _click_in_pixels(example.masks[index], rng)
        boxes[row] = jittered_box(example.masks[index], rng, 1, jitter)
    return SimulatedPrompts(objects, points, boxes, rng.uniform(size=len(objects)) < box_share)


def _click_in_pixels(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A click on an H×W mask; only the part around the object is looked at, which for small objects is far faster."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    x, y = sample_click(part.astype(np.float32), rng, 1)
    return np.clip((x + columns[0], y + rows[0]), 0, (mask.shape[1] - 1, mask.shape[0] - 1))


def sample_click(coverage: np.ndarray, rng: np.random.Generator, cell: int) -> tuple[float, float]:
    """A click on an object, anywhere in it but more often away from its border.

    Args:
        coverage: h×w, the object's share of every cell, 0..1; at least one cell is above 0.
        rng: random numbers.
        cell: side of a cell in pixels.

    Returns:
        x and y in pixels.
    """
    inside = (coverage >= min(0.75, float(coverage.max()))).astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)
    depth = depth[1:-1, 1:-1].ravel()
    weight = (depth ** rng.choice([0.3, 1.0, 4.0]) * (depth > 0)).cumsum()
    index = int(np.searchsorted(weight, rng.uniform(0, weight[-1]), side="right"))
    y, x = divmod(min(index, depth.size - 1), coverage.shape[1])
    jitter = rng.uniform(0.25, 0.75, 2) * cell - 0.5
    return float(x * cell + jitter[0]), float(y * cell + jitter[1])


def central_click(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) farthest from the border of an H×W bool mask: the click that evaluations are made with."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def correction_click(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int] | None:
    """The next click (x, y, label) of an evaluation: the middle of the largest wrong region, None where all is right.

    Args:
        prediction, truth: H×W bool.
    """
    wrong = (prediction != truth).astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(wrong, connectivity=8)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y = central_click(regions == largest)
    return x, y, int(truth[y, x])


def jittered_box(coverage: np.ndarray, rng: np.random.Generator, cell: int, jitter: float = 0.08) -> np.ndarray:
    """A hand-drawn box around an object: x1, y1, x2, y2 in pixels, each side off by up to `jitter` of the extent."""
    rows, columns = np.flatnonzero(coverage.max(axis=1) > 0.25), np.flatnonzero(coverage.max(axis=0) > 0.25)
    if not len(rows) or not len(columns):
        rows, columns = np.flatnonzero(coverage.max(axis=1) > 0), np.flatnonzero(coverage.max(axis=0) > 0)
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32) * cell
    extent = np.tile(box[2:] - box[:2], 2)
    box += rng.uniform(-jitter, jitter, 4).astype(np.float32) * extent
    limit = np.tile(np.array(coverage.shape[::-1], np.float32) * cell, 2)
    return np.clip(box, 0, limit)


def mask_prompts(logits: Tensor) -> Tensor:
    """Previous mask logits as the next round's mask prompts: without gradient, clamped to what the model is used to."""
    return logits.detach().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)


def sample_corrections(
    logits: Tensor,
    targets: Tensor,
    cell: int,
    generator: torch.Generator | None = None,
    draws: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One corrective click per object, drawn from the wrong region (from the object where nothing is wrong).

    Args:
        logits: predicted mask logits N×h×w.
        targets: coverage N×h×w in [0, 1].
        cell: side of a cell in pixels.
        generator: random numbers for all objects together, by default PyTorch's own on the device of `logits`.
        draws: N×3 uniform numbers in 0..1, instead of a generator: with each object's own, as
            `PromptSampler.correction_draws` gives them, its click does not depend on what else is in the batch.

    Returns:
        Positions N×2 (x, y in pixels) and labels N (1 for missing, 0 for too much).

    Raises:
        ValueError: both `generator` and `draws`, or draws of another shape.
    """
    if draws is None:
        device = logits.device if generator is None else generator.device
        draws = torch.rand(len(logits), 3, generator=generator, device=device)
    elif generator is not None:
        raise ValueError("generator and draws both say what is random: give one of them")
    if draws.shape != (len(logits), 3):
        raise ValueError(f"draws must be {len(logits)}x3, one row per object, got {tuple(draws.shape)}")
    draws = draws.to(logits.device)
    truth = targets > 0.5
    wrong = ((logits > 0) != truth).float()
    # a wrong cell counts the more the more of its neighbours are wrong: clicks go into regions, not onto outlines
    neighbours = F.avg_pool2d(wrong[:, None], 5, 1, 2, divisor_override=1)[:, 0]  # sums of 0 and 1, exact
    weight = neighbours.square_().mul_(wrong).long().mul_(WRONG_WEIGHT)
    weight.add_((targets * OBJECT_WEIGHT).int()).add_(1)
    index = _draw_cells(weight.flatten(1), draws[:, 0])
    width = targets.shape[-1]
    labels = truth.flatten(1).gather(1, index[:, None])[:, 0].long()
    position = torch.stack([index % width, index // width], dim=-1).float()
    return (position + 0.25 + 0.5 * draws[:, 1:].to(position.dtype)) * cell - 0.5, labels


def _draw_cells(weight: Tensor, draws: Tensor) -> Tensor:
    """For N rows of K whole weights and N uniform numbers: N indices, exactly as likely as their weights say."""
    reached = weight.cumsum(dim=1)
    total = reached[:, -1]
    share = (draws.float() * 2**DRAW_BITS).long().clamp(0, 2**DRAW_BITS - 1)
    # share · total / 2^24 in two parts, because the product itself may not fit into 64 bits
    threshold = share * (total >> DRAW_BITS) + ((share * (total & (2**DRAW_BITS - 1))) >> DRAW_BITS)
    return torch.searchsorted(reached, threshold[:, None], right=True)[:, 0]
