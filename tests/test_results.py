"""Masks: what it holds, how lazily, how it is indexed, and what it refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mask_examples import SIZE, in_every_form, make_fields, make_stack
from pycocotools import mask as mask_utils

from sam_variants.mask_storage import MaskStore
from sam_variants.results import Masks


@pytest.fixture
def no_pixels(monkeypatch):
    """Building full-size masks fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("full-size masks were built")

    monkeypatch.setattr(MaskStore, "mask", refuse)
    monkeypatch.setattr(MaskStore, "dense", refuse)
    monkeypatch.setattr(mask_utils, "decode", refuse)


# Forms and laziness


@pytest.mark.parametrize("form", [0, 1, 2])
def test_every_form_gives_the_same(form):
    stack = make_stack()
    masks = in_every_form(stack, **make_fields())[form]
    coco = Masks(stack, **make_fields()).to_coco(3)
    assert masks.to_coco(3) == coco
    np.testing.assert_array_equal(masks.to_label_map(), Masks(stack).to_label_map())
    np.testing.assert_array_equal(masks.areas, stack.sum((1, 2)))
    assert masks.data.dtype == torch.bool
    np.testing.assert_array_equal(masks.data, stack)
    np.testing.assert_array_equal(masks[[2, 0]].data, stack[[2, 0]])
    assert masks.data is masks.data


def test_rle_passes_through_undecoded(no_pixels):
    rng = np.random.default_rng(0)
    codes = [mask_utils.encode(np.asfortranarray(rng.random(SIZE) > 0.6, dtype=np.uint8)) for _ in range(3)]
    masks = Masks.from_rle(codes, scores=[0.1, 0.2, 0.3])
    annotations = masks[1:].to_coco("a")
    assert [a["segmentation"]["counts"] for a in annotations] == [code["counts"].decode() for code in codes[1:]]
    assert len(Masks.from_coco(annotations)) == 2
    assert "RLE" in repr(masks)
    with pytest.raises(AssertionError, match="were built"):
        _ = masks.data


def test_logits_stay_small_until_asked(no_pixels):
    masks = Masks.from_logits(torch.randn(3, 8, 8), (4000, 6000), scores=[0.5, 0.7, 0.9])
    assert len(masks[masks.scores > 0.6]) == 2
    assert masks.size == (4000, 6000)
    assert "4000x6000" in repr(masks)
    assert "logits" in repr(masks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_upsampled_as_sam_does(dtype):
    torch.manual_seed(0)
    logits = torch.randn(3, 8, 8).to(dtype)
    masks = Masks.from_logits(logits, (30, 41), (24, 32), 32)
    padded = F.interpolate(logits[None].float(), (32, 32), mode="bilinear", align_corners=False)
    expected = F.interpolate(padded[..., :24, :32], (30, 41), mode="bilinear", align_corners=False)[0]
    clear = expected.abs() > 1e-5
    assert clear.float().mean() > 0.99
    assert torch.equal(masks.data[clear], (expected > 0)[clear])
    straight = F.interpolate(logits[None].float(), (30, 41), mode="bilinear", align_corners=False)[0]
    assert torch.equal(Masks.from_logits(logits, (30, 41)).data, straight > 0)
    assert not torch.equal(masks.data, straight > 0)


def test_logit_threshold_is_strict_and_movable():
    logits = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    assert Masks.from_logits(logits, (2, 2)).data.tolist() == [[[False, True], [True, True]]]
    assert Masks.from_logits(logits, (2, 2), mask_threshold=2.0).data.tolist() == [[[False, False], [False, True]]]


# A sequence of masks


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (1, [1]),
        (-1, [3]),
        (np.int64(2), [2]),
        (slice(None, None, -2), [3, 1]),
        ([3, 0, 0], [3, 0, 0]),
        ([], []),
        (torch.tensor([2, -4]), [2, 0]),
        ([True, False, False, True], [0, 3]),
        (np.array([False] * 4), []),
        (torch.tensor([False, True, True, False]), [1, 2]),
    ],
)
def test_indexing(form, index, rows):
    fields = make_fields()
    chosen = in_every_form(make_stack(), **fields)[form][index]
    assert isinstance(chosen, Masks)
    np.testing.assert_array_equal(chosen.data, make_stack()[rows])
    for name, value in fields.items():
        np.testing.assert_allclose(getattr(chosen, name), value[rows], rtol=1e-6)


@pytest.mark.parametrize(
    ("index", "error"),
    [
        *[(index, IndexError) for index in (4, -5, [0, 4], [True])],
        *[(index, KeyError) for index in ("scores", "rle_mask", "mask")],
        *[(index, TypeError) for index in (1.0, (0, 1), None, True, np.zeros((2, 2), int))],
    ],
)
def test_wrong_indices_are_refused(index, error):
    with pytest.raises(error):
        Masks(make_stack())[index]


def test_iteration_and_numpy():
    stack = make_stack()
    masks = Masks(stack, scores=[0.1, 0.2, 0.3, 0.4])
    assert [round(float(mask.scores[0]), 1) for mask in masks] == [0.1, 0.2, 0.3, 0.4]
    assert all(len(mask) == 1 for mask in masks)
    np.testing.assert_array_equal(np.asarray(masks), stack)
    assert np.asarray(masks, dtype=np.float32).dtype == np.float32
    copied = np.array(masks)
    copied[:] = False
    assert masks.data.any()


def test_repr():
    text = repr(Masks(make_stack(), scores=[0.91234, 0.5, 0.25, 0.125], points=np.ones((4, 2))))
    assert text == "Masks(4 of 24x32, held as pixels, scores=[0.912, 0.5, 0.25, 0.125], points)"
    assert "object_ids=[7, 8, 9, 10, …]" in repr(Masks(make_stack(5), object_ids=range(7, 12)))


@pytest.mark.parametrize("form", [0, 1, 2])
def test_no_masks_work_everywhere(form, tmp_path):
    fields = {name: [] for name in make_fields()}
    masks = in_every_form(np.zeros((0, *SIZE), dtype=bool), **fields)[form]
    image = np.full((*SIZE, 3), 50, dtype=np.uint8)
    assert len(masks) == 0
    assert list(masks) == []
    assert masks.data.shape == (0, *SIZE)
    assert masks.boxes.shape == (0, 4)
    assert masks.areas.shape == (0,)
    assert (masks.points.shape, masks.crop_boxes.shape) == ((0, 2), (0, 4))
    assert masks.to_coco(1) == []
    assert masks.to_polygons() == []
    assert (masks.to_label_map() == 0).all()
    masks.save_png(tmp_path / "none.png")
    np.testing.assert_array_equal(masks.overlay(image), image)
    assert not np.asarray(masks.cutout(image)).any()
    assert len(masks[:]) == len(masks[[]]) == len(masks[masks.scores > 0.5]) == 0
    assert np.asarray(masks).shape == (0, *SIZE)
    assert repr(masks).startswith("Masks(0 of 24x32")


# What is refused


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (np.zeros((2, 3, 4), np.uint8), TypeError),
        (torch.zeros(2, 3, 4), TypeError),
        ([[[True]]], TypeError),
        (np.zeros((3, 4), bool), ValueError),
        (torch.zeros(1, 2, 3, 4, dtype=torch.bool), ValueError),
        (np.zeros((2, 0, 4), bool), ValueError),
    ],
)
def test_wrong_data_is_refused(data, error):
    with pytest.raises(error, match="data must be"):
        Masks(data)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scores", [0.5], "shape 4 for 4 masks"),
        ("scores", [[0.5]] * 4, "scores must have shape 4"),
        ("scores", [0.5, 0.5, float("nan"), 0.5], "finite"),
        ("stability_scores", [float("inf")] * 4, "finite"),
        ("points", np.zeros((4, 3)), "4x2 or 4xKx2"),
        ("crop_boxes", np.zeros((4, 2)), "4x4"),
        ("object_ids", [0.5] * 4, "whole numbers"),
    ],
)
def test_wrong_fields_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Masks(make_stack(), **{field: value})


def test_unknown_field_is_refused():
    with pytest.raises(TypeError, match="labels"):
        Masks(make_stack(), labels=[1] * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 1, 4, 4), (8, 8)), "Nxhxw"),
        ((torch.full((1, 4, 4), float("nan")), (8, 8)), "NaN"),
        ((torch.zeros(1, 4, 4), (8, 8), (4, 4)), "go together"),
        ((torch.zeros(1, 4, 4), (8, 8), (40, 4), 16), "inside input_size"),
        ((torch.zeros(1, 4, 4), (8, 8, 3)), "original_size"),
    ],
)
def test_wrong_logits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Masks.from_logits(*arguments)


def test_sizes_may_be_tensors():
    sizes = torch.tensor([30, 41]), torch.tensor([24, 32]), (32, 32)
    assert torch.equal(
        Masks.from_logits(torch.eye(8)[None] - 0.5, *sizes).data,
        Masks.from_logits(torch.eye(8)[None] - 0.5, (30, 41), (24, 32), 32).data,
    )
