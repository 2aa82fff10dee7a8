"""The loss: terms against hand-computed values, and what is trained."""

from __future__ import annotations

import math

import pytest
import torch

from sam_variants.losses import (
    LossWeights,
    cross_entropy_loss,
    dice_loss,
    focal_loss,
    mask_iou,
    segmentation_loss,
)

SQUARE = torch.zeros(4, 4)
SQUARE[:2, :2] = 1
SURE = (SQUARE * 2 - 1) * 50.0


def test_a_perfect_mask_costs_nothing() -> None:
    for loss in (focal_loss, dice_loss, cross_entropy_loss):
        assert loss(SURE, SQUARE).item() == pytest.approx(0.0, abs=1e-6)


def test_terms_at_even_odds() -> None:
    even = torch.zeros(4, 4)
    assert cross_entropy_loss(even, SQUARE).item() == pytest.approx(math.log(2))
    assert cross_entropy_loss(even, SQUARE, balance=1.0).item() == pytest.approx(math.log(2))
    # probability 0.5 on 16 pixels, 4 of them right: 2 · 2 + 1 over 8 + 4 + 1
    assert dice_loss(even, SQUARE).item() == pytest.approx(1 - 5 / 13)
    # a quarter of the pixels weighs 0.25, the rest 0.75, all by 0.5² · log 2
    assert focal_loss(even, SQUARE).item() == pytest.approx((0.25 * 0.25 + 0.75 * 0.75) * 0.25 * math.log(2))


def test_balance_makes_a_missed_small_object_as_expensive_as_a_missed_background() -> None:
    nothing, everything = torch.full((4, 4), -5.0), torch.full((4, 4), 5.0)
    assert cross_entropy_loss(nothing, SQUARE) < cross_entropy_loss(everything, SQUARE)
    torch.testing.assert_close(
        cross_entropy_loss(nothing, SQUARE, balance=1.0), cross_entropy_loss(everything, SQUARE, balance=1.0)
    )


def test_iou_of_masks() -> None:
    truth = SQUARE.bool()
    shifted = torch.zeros(4, 4, dtype=torch.bool)
    shifted[:2, 1:3] = True
    assert mask_iou(truth, truth).item() == 1
    assert mask_iou(truth, shifted).item() == pytest.approx(2 / 6)
    assert mask_iou(truth, ~truth).item() == 0
    assert mask_iou(~(truth | True), ~(truth | True)).item() == 1


def test_only_the_best_of_an_objects_masks_is_trained_but_every_score() -> None:
    good, bad = SURE * 0.02, -SURE * 0.02
    logits = torch.stack([bad, good, bad])[None, None].requires_grad_()
    scores = torch.zeros(1, 1, 3, requires_grad=True)
    segmentation_loss(logits, scores, SQUARE[None, None]).backward()
    assert logits.grad is not None
    assert scores.grad is not None
    assert logits.grad[0, 0, 1].abs().sum() > 0
    assert logits.grad[0, 0, [0, 2]].abs().sum() == 0
    # the good mask is right everywhere, the others nowhere: only its score has to rise
    assert scores.grad[0, 0, 1] < 0
    assert scores.grad[0, 0, [0, 2]].abs().sum() == 0


def test_labels_of_any_size_are_averaged_down() -> None:
    large = SQUARE.repeat_interleave(4, 0).repeat_interleave(4, 1)[None, None].bool()
    logits, scores = SURE[None, None, None], torch.ones(1, 1, 1)
    assert segmentation_loss(logits, scores, large).item() == pytest.approx(0, abs=1e-6)


def test_padding_objects_are_left_out_and_none_at_all_gives_zero() -> None:
    logits = torch.stack([SURE, -SURE])[None, :, None].requires_grad_()
    scores, labels = torch.ones(1, 2, 1), SQUARE.expand(1, 2, 4, 4)
    assert segmentation_loss(logits, scores, labels, torch.tensor([[True, False]])).item() == pytest.approx(0, abs=1e-6)
    nothing = segmentation_loss(logits, scores, labels, torch.tensor([[False, False]]))
    nothing.backward()
    assert nothing.item() == 0


def test_weights_choose_the_terms() -> None:
    logits, scores = torch.zeros(1, 1, 1, 4, 4), torch.zeros(1, 1, 1)
    only_dice = LossWeights(focal=0, dice=3, iou=0)
    expected = 3 * dice_loss(logits[0, 0, 0], SQUARE).item()
    assert segmentation_loss(logits, scores, SQUARE[None, None], weights=only_dice).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 2, 4, 4), (2, 1, 4, 4)])
def test_labels_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="labels has shape"):
        segmentation_loss(torch.zeros(1, 1, 1, 4, 4), torch.zeros(1, 1, 1), torch.zeros(shape))
