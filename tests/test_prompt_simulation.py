"""Simulated prompts: the same numbers give the same prompts, whoever draws them, and they lie where they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sam_variants.training.masked_image import MaskedImage
from sam_variants.training.prompt_simulation import (
    LOGIT_LIMIT,
    PromptSampler,
    SimulatedPrompts,
    example_key,
    mask_prompts,
    sample_corrections,
    simulate_prompts,
)

SIZE = (48, 64)


def example(number: int = 0) -> MaskedImage:
    """Three objects of 6×8, 12×10 and 20×24 pixels, elsewhere for every number."""
    rng = np.random.default_rng(number)
    masks = np.zeros((3, *SIZE), bool)
    for mask, (height, width) in zip(masks, ((6, 8), (12, 10), (20, 24)), strict=True):
        top, left = rng.integers(0, SIZE[0] - height), rng.integers(0, SIZE[1] - width)
        mask[top : top + height, left : left + width] = True
    return MaskedImage(rng.integers(0, 256, (*SIZE, 3), np.uint8), masks)


class Prompted(torch.utils.data.Dataset):
    """What a trainer's workers do: prompts for row `index` of one epoch, with the corrections' numbers."""

    def __init__(self, seed: int, epoch: int = 0) -> None:
        self.sampler, self.epoch = PromptSampler(seed), epoch

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> list[Tensor]:
        prompts = simulate_prompts(example(index), self.sampler.rng(self.epoch, index), num_objects=4)
        draws = self.sampler.correction_draws(self.epoch, index, num_rounds=2, num_objects=4)
        arrays = (prompts.objects, prompts.points, prompts.boxes, prompts.use_box, draws)
        return [torch.as_tensor(array) for array in arrays]


def epoch_of(dataset: Prompted, order: list[int] | None = None, **options: int) -> list[list[Tensor]]:
    rows = list(DataLoader(dataset, batch_size=None, sampler=order, **options))
    order = order or list(range(len(dataset)))
    return [rows[order.index(index)] for index in range(len(dataset))]


def same(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    return all(torch.equal(a, b) for row, twin in zip(one, other, strict=True) for a, b in zip(row, twin, strict=True))


def test_prompts_are_a_function_of_seed_epoch_and_row() -> None:
    run = epoch_of(Prompted(7))
    assert same(run, epoch_of(Prompted(7)))
    assert same(run, epoch_of(Prompted(7), num_workers=2))
    assert same(run, epoch_of(Prompted(7), order=[4, 0, 5, 2, 1, 3]))
    for other in (Prompted(8), Prompted(7, epoch=1)):
        changed = [
            not torch.equal(a, b)
            for row, twin in zip(run, epoch_of(other), strict=True)
            for a, b in zip(row[1:3] + row[4:], twin[1:3] + twin[4:], strict=True)
        ]
        assert all(changed)


def test_rounds_draw_other_numbers_than_the_first_prompts_and_negative_numbers_are_refused() -> None:
    sampler = PromptSampler(3)
    assert sampler.rng(0, 0).random() != sampler.rng(0, 1).random()
    assert sampler.generator(1, 2).initial_seed() == PromptSampler(3).generator(1, 2).initial_seed()
    assert sampler.generator(1, 2).initial_seed() != sampler.generator(2, 1).initial_seed()
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        PromptSampler(-1)
    with pytest.raises(ValueError, match="index=-2"):
        sampler.rng(0, -2)


def test_first_prompts_lie_on_their_objects() -> None:
    shown, rng = example(1), np.random.default_rng(0)
    prompts = simulate_prompts(shown, rng, num_objects=3, jitter=0.0)
    assert sorted(prompts.objects) == [0, 1, 2]
    for index, (x, y), box in zip(prompts.objects, prompts.points, prompts.boxes, strict=True):
        assert shown.masks[index, round(float(y)), round(float(x))]
        rows, columns = np.nonzero(shown.masks[index])
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert prompts.points.dtype == prompts.boxes.dtype == np.float32


def test_clicks_come_anywhere_but_more_often_near_the_middle() -> None:
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 4:36, 4:36] = True
    shown = MaskedImage(np.zeros((40, 40, 3), np.uint8), mask)
    clicks = simulate_prompts(shown, np.random.default_rng(0), num_objects=600).points
    from_middle = np.abs(clicks - 19.5).max(axis=1)  # evenly spread clicks would have a quarter below 8
    assert (from_middle < 8).mean() > 0.4
    assert from_middle.max() > 14
    assert (clicks >= 3.5).all()
    assert (clicks <= 35.5).all()


def test_few_objects_repeat_with_other_prompts_and_small_ones_are_not_asked_for() -> None:
    prompts = simulate_prompts(example(), np.random.default_rng(0), num_objects=7, min_area=100 / (48 * 64))
    assert sorted(prompts.objects) in ([1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2, 2])
    assert len(np.unique(prompts.points, axis=0)) == 7
    assert len(np.unique(prompts.boxes, axis=0)) == 7
    nothing = simulate_prompts(example(), np.random.default_rng(0), num_objects=7, min_area=0.9)
    assert [len(part) for part in (nothing.objects, nothing.points, nothing.boxes, nothing.use_box)] == [0, 0, 0, 0]
    empty = MaskedImage(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8), bool))
    assert isinstance(simulate_prompts(empty, np.random.default_rng(0), 2), SimulatedPrompts)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 200)])
def test_boxes_are_used_as_often_as_asked(share: float, expected: int) -> None:
    assert simulate_prompts(example(), np.random.default_rng(0), 200, box_share=share).use_box.sum() == expected
    assert 60 < simulate_prompts(example(), np.random.default_rng(0), 200, box_share=0.5).use_box.sum() < 140


@pytest.mark.parametrize(
    "wrong", [{"num_objects": 0}, {"num_objects": 1, "min_area": 2}, {"num_objects": 1, "box_share": -1}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        simulate_prompts(example(), np.random.default_rng(0), **wrong)


def missing_and_too_much() -> tuple[Tensor, Tensor]:
    """Two objects of 16×16 cells: one predicted without its right half, one with a second square that isn't there."""
    targets, logits = torch.zeros(2, 16, 16), torch.full((2, 16, 16), -3.0)
    targets[0, 2:8, 2:14] = targets[1, 2:8, 2:8] = 1
    logits[0, 2:8, 2:8] = logits[1, 2:8, 2:8] = logits[1, 10:14, 10:14] = 3
    return logits, targets


def test_corrections_go_into_wrong_regions_and_do_not_depend_on_the_batch() -> None:
    logits, targets = missing_and_too_much()
    draws = PromptSampler(0).correction_draws(0, 0, num_rounds=50, num_objects=2)
    for numbers in draws:
        where, labels = sample_corrections(logits, targets, 4, draws=numbers)
        (x0, y0), (x1, y1) = ((where + 0.5) // 4).long().tolist()
        assert labels.tolist() == [1, 0]
        assert 8 <= x0 < 14
        assert 2 <= y0 < 8
        assert 10 <= x1 < 14
        assert 10 <= y1 < 14
        alone, label = sample_corrections(logits[1:], targets[1:], 4, draws=numbers[1:])
        assert torch.equal(alone[0], where[1])
        assert label[0] == labels[1]


def test_corrections_draw_cells_as_their_weights_say() -> None:
    """A wrong square counts with the squares of its wrong neighbours; the middle of 5×5 with 625 of the sum."""
    targets, logits = torch.zeros(1, 9, 9), torch.full((1, 9, 9), -1.0)
    targets[0, 2:7, 2:7] = 1
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, 3, generator=generator)
    where, _ = sample_corrections(logits.expand(4000, -1, -1), targets.expand(4000, -1, -1), 1, draws=draws)
    middle = ((where - 4).abs() <= 0.5).all(dim=1).float().mean().item()
    ring = np.array([3, 4, 5, 4, 3])
    expected = 625 / (np.outer(ring, ring) ** 2).sum()
    assert middle == pytest.approx(expected, abs=0.02)


def test_where_nothing_is_wrong_the_object_is_clicked() -> None:
    _, targets = missing_and_too_much()
    for _ in range(20):
        where, labels = sample_corrections(targets - 0.5, targets, 1, torch.Generator().manual_seed(1))
        cells = where.round().long()
        assert labels.tolist() == [1, 1]
        assert (targets[torch.arange(2), cells[:, 1], cells[:, 0]] == 1).all()


def test_a_generator_gives_the_same_corrections_again() -> None:
    logits, targets = missing_and_too_much()
    first = sample_corrections(logits, targets, 4, PromptSampler(5).generator(0, 1))[0]
    assert torch.equal(first, sample_corrections(logits, targets, 4, PromptSampler(5).generator(0, 1))[0])
    assert not torch.equal(first, sample_corrections(logits, targets, 4, PromptSampler(5).generator(0, 2))[0])
    with pytest.raises(ValueError, match="one of them"):
        sample_corrections(logits, targets, 4, torch.Generator(), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"draws must be 2x3.*got \(3, 3\)"):
        sample_corrections(logits, targets, 4, draws=torch.zeros(3, 3))


def test_draws_at_their_ends_stay_inside() -> None:
    logits, targets = missing_and_too_much()
    for value in (0.0, 1.0):
        where, _ = sample_corrections(logits, targets, 1, draws=torch.full((2, 3), value))
        assert ((where >= -0.5) & (where <= 15.5)).all()


def test_mask_prompts_are_previous_logits_without_gradient() -> None:
    logits = torch.tensor([-100.0, 0.5, 40.0], requires_grad=True)
    prompts = mask_prompts(logits)
    assert prompts.tolist() == [-LOGIT_LIMIT, 0.5, LOGIT_LIMIT]
    assert not prompts.requires_grad


def test_streamed_examples_are_known_by_their_pixels() -> None:
    assert example_key(example(1)) == example_key(example(1))
    assert example_key(example(1)) != example_key(example(2))
    flipped = MaskedImage(example(1).image[:, ::-1], example(1).masks)
    assert example_key(flipped) != example_key(example(1))
