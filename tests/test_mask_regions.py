"""Small regions of masks."""

from __future__ import annotations

import torch

from sam_variants.mask_regions import clean_masks, fill_holes, region_areas


def logits_with_holes() -> torch.Tensor:
    """A square with a hole of one pixel and one of four, touching at a corner only one another's diagonal; a speck."""
    logits = torch.full((2, 12, 12), -3.0)
    logits[0, 1:9, 1:9] = 5.0
    logits[0, 3, 3] = -1.0
    logits[0, 5:7, 5:7] = -1.0
    logits[0, 10, 10] = 4.0
    return logits


def test_areas_count_diagonal_neighbours() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = True
    assert region_areas(masks)[0].tolist() == [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_only_small_holes_are_filled() -> None:
    logits = logits_with_holes()
    filled = fill_holes(logits, 1)
    assert filled[0, 3, 3] == torch.tensor(0.1)
    assert torch.equal(filled[0, 5:7, 5:7], logits[0, 5:7, 5:7])
    assert (fill_holes(logits, 4)[0, 1:9, 1:9] > 0).all()
    assert (fill_holes(logits, 4)[0, 9:] == logits[0, 9:]).all()
    assert torch.equal(fill_holes(logits, 0), logits)
    assert torch.equal(fill_holes(logits[1:], 8), logits[1:])


def test_holes_and_specks_are_found_in_the_mask_as_it_comes() -> None:
    logits = logits_with_holes()
    cleaned = clean_masks(logits, max_hole_area=4, max_sprinkle_area=1)
    assert cleaned[0, 3, 3] == cleaned[0, 5, 5] == 10
    assert cleaned[0, 10, 10] == -10
    assert torch.equal(clean_masks(logits), logits)


def test_half_precision_stays() -> None:
    assert fill_holes(logits_with_holes().bfloat16(), 4).dtype == torch.bfloat16
