"""Prompts: every form of the depth rule, ragged padding, mask prompts, and errors that name the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sam_variants.processing.coordinates import apply_boxes, apply_coords, invert_boxes, invert_coords
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor

SIZE_A, SIZE_B = (48, 64), (30, 20)  # (height, width)
P, Q, R, S = (10, 20), (3, 4), (15.5, 0), (20, 30)
BOX, OTHER_BOX = (1, 2, 13, 14), (0, 0, 20, 30)


def processor() -> SamVariantsProcessor:
    return SamVariantsProcessor(SamVariantsImageProcessorPil(image_size=64))


def prompts(count: int, **arguments: Any) -> dict[str, Any]:
    """What the processor makes of prompts for one or both of the two sizes."""
    return dict(processor()(original_sizes=[SIZE_A, SIZE_B][:count], return_tensors="np", **arguments))


def points_in_pixels(arrays: dict[str, Any]) -> list[Any]:
    """Images, objects, (x, y, label): the points without padding, back in original pixels."""
    result = []
    for index in range(len(arrays["original_sizes"])):
        back = invert_coords(
            arrays["input_points"][index].astype(float),
            arrays["original_sizes"][index],
            arrays["reshaped_input_sizes"][index],
        )
        labels = arrays["input_labels"][index]
        objects = [
            [(*map(float, point.round(3)), int(label)) for point, label in zip(*pair, strict=True) if label != -10]
            for pair in zip(back, labels, strict=True)
        ]
        result.append(objects)
    return result


def fg(*points: tuple[float, float]) -> list[tuple[float, float, int]]:
    return [(float(x), float(y), 1) for x, y in points]


@pytest.mark.parametrize(
    ("count", "points", "expected"),
    [
        (1, P, [[fg(P)]]),
        (1, np.array(P), [[fg(P)]]),
        (1, torch.tensor(P), [[fg(P)]]),
        (1, [torch.tensor(10), np.float32(20)], [[fg(P)]]),
        (1, [P], [[fg(P)]]),
        (1, [P, Q], [[fg(P, Q)]]),
        (1, torch.tensor([P, Q], dtype=torch.bfloat16), [[fg(P, Q)]]),
        (1, [[P], [Q]], [[fg(P), fg(Q)]]),
        (1, [[P, Q], [R]], [[fg(P, Q), fg(R)]]),
        (1, [[P, Q], R], [[fg(P, Q), fg(R)]]),
        (1, [np.array([P, Q]), torch.tensor([R])], [[fg(P, Q), fg(R)]]),
        (1, [[P, Q], None], [[fg(P, Q), []]]),
        (1, [[[P, Q], [R]]], [[fg(P, Q), fg(R)]]),
        (1, np.array([[[P, Q], [R, S]]]), [[fg(P, Q), fg(R, S)]]),
        (2, [P, Q], [[fg(P)], [fg(Q)]]),
        (
            2,
            [P, [Q, R]],
            [
                [
                    fg(P),
                ],
                [fg(Q, R)],
            ],
        ),
        (2, [[P, Q], [R]], [[fg(P, Q)], [fg(R)]]),
        (2, np.array([[P, Q], [R, S]]), [[fg(P, Q)], [fg(R, S)]]),
        (2, [[[P, Q]], [[R], [S]]], [[fg(P, Q), []], [fg(R), fg(S)]]),
        (2, [[[P, Q], None], [R]], [[fg(P, Q), []], [fg(R), []]]),
        (2, [None, P], [[[]], [fg(P)]]),
        (2, torch.tensor([[[P], [Q]], [[R], [S]]]), [[fg(P), fg(Q)], [fg(R), fg(S)]]),
    ],
)
def test_points_in_every_form(count: int, points: Any, expected: list[Any]) -> None:
    assert points_in_pixels(prompts(count, input_points=points)) == expected


@pytest.mark.parametrize(
    ("count", "points", "labels", "expected"),
    [
        (1, P, 0, [[[0]]]),
        (1, P, [0], [[[0]]]),
        (1, [P, Q], [1, 0], [[[1, 0]]]),
        (1, [P, Q], np.array([True, False]), [[[1, 0]]]),
        (1, [P, Q], [-1, -10], [[[-1, -10]]]),
        (1, [P, Q], [None, 0], [[[1, 0]]]),
        (1, [[P, Q], R], [[1, 0], 0], [[[1, 0], [0, -10]]]),
        (1, [[P, Q], [R]], [None, [0]], [[[1, 1], [0, -10]]]),
        (1, [[P, Q], None], [[0, 0], None], [[[0, 0], [-10, -10]]]),
        (1, [[[P], [Q]]], torch.tensor([[[1], [0]]]), [[[1], [0]]]),
        (2, [P, Q], [0, 1], [[[0]], [[1]]]),
        (2, [[P, Q], [R]], [[0, 1.0], [0]], [[[0, 1]], [[0, -10]]]),
        (2, [None, P], [None, 0], [[[-10]], [[0]]]),
        (2, [[[P], [Q]], R], [[[0], [1]], 0], [[[0], [1]], [[0], [-10]]]),
    ],
)
def test_labels_follow_the_points(count: int, points: Any, labels: Any, expected: list[Any]) -> None:
    arrays = prompts(count, input_points=points, input_labels=labels)
    assert arrays["input_labels"].tolist() == expected
    assert arrays["input_labels"].dtype == np.int64
    padding = arrays["input_labels"] == -10
    assert (arrays["input_points"][padding] == -10).all()
    assert (arrays["input_points"][~padding] >= 0).all()


ABSENT = [-10.0] * 4


@pytest.mark.parametrize(
    ("count", "boxes", "expected"),
    [
        (1, BOX, [[BOX]]),
        (1, [BOX], [[BOX]]),
        (1, np.array([BOX, OTHER_BOX]), [[BOX, OTHER_BOX]]),
        (1, [BOX, None, torch.tensor(OTHER_BOX)], [[BOX, ABSENT, OTHER_BOX]]),
        (1, [[BOX, OTHER_BOX]], [[BOX, OTHER_BOX]]),
        (1, torch.tensor([ABSENT, BOX]), [[ABSENT, BOX]]),
        (2, [BOX, OTHER_BOX], [[BOX], [OTHER_BOX]]),
        (2, [None, OTHER_BOX], [[ABSENT], [OTHER_BOX]]),
        (2, [[BOX, OTHER_BOX], [BOX]], [[BOX, OTHER_BOX], [BOX, ABSENT]]),
        (2, [[None, BOX], OTHER_BOX], [[ABSENT, BOX], [OTHER_BOX, ABSENT]]),
    ],
)
def test_boxes_in_every_form(count: int, boxes: Any, expected: list[Any]) -> None:
    arrays = prompts(count, input_boxes=boxes)
    assert set(arrays) == {"original_sizes", "reshaped_input_sizes", "input_boxes"}
    assert arrays["input_boxes"].dtype == np.float32
    for index, objects in enumerate(expected):
        sizes = arrays["original_sizes"][index], arrays["reshaped_input_sizes"][index]
        for box, wanted in zip(arrays["input_boxes"][index], objects, strict=True):
            same = list(wanted) == ABSENT
            back = box if same else invert_boxes(box, *sizes)
            np.testing.assert_allclose(back, wanted, atol=1e-4)


def test_mask_prompts_follow_the_image_geometry() -> None:
    mask = np.zeros(SIZE_A, bool)
    mask[8:24, 16:48] = True
    expected = np.full((16, 16), -10.0)
    expected[2:6, 4:12] = 10.0  # 4 input pixels to a cell, and the 48 rows of the image fill 12 of the 16
    forms = [mask, mask[None], [mask], mask.astype(np.uint8) * 255, torch.from_numpy(mask), Image.fromarray(mask)]
    for form in [*forms, mask.tolist(), [[mask]]]:
        logits = prompts(1, input_masks=form)["input_masks"]
        assert logits.shape == (1, 1, 16, 16)
        assert logits.min() >= -10
        assert logits.max() <= 10
        inner = np.abs(np.abs(logits[0, 0]) - 10) < 1e-4
        np.testing.assert_allclose(logits[0, 0][inner], expected[inner], atol=1e-4)
        assert ((logits[0, 0] > 0) == (expected > 0)).all()
        assert inner.mean() > 0.8
    assert prompts(2, input_masks=[mask, None])["input_masks"].shape == (2, 1, 16, 16)
    everything = prompts(2, input_masks=[None, [np.ones(SIZE_B, int), np.ones(SIZE_B, bool)]])["input_masks"]
    assert everything.shape == (2, 2, 16, 16)
    # 20 of 30 columns, and 64 rows: 43 columns of 64 are image, the rest is padding.
    assert (everything[1, :, :, :10] > 9.9).all()
    assert (everything[1, :, :, 12:] < -9.9).all()


def test_mask_logits_pass_unchanged() -> None:
    logits = torch.randn(2, 16, 16)
    np.testing.assert_array_equal(prompts(1, input_masks=logits)["input_masks"][0], logits.numpy())
    batched = torch.stack([logits, torch.full_like(logits, torch.nan)])
    np.testing.assert_array_equal(prompts(2, input_masks=batched)["input_masks"], batched.numpy())
    square = SamVariantsProcessor(SamVariantsImageProcessorPil(image_size=64, resize_mode="square"))
    stretched = square(original_sizes=[SIZE_B], input_masks=np.ones(SIZE_B, bool))["input_masks"]
    assert (stretched == 10).all()


NAN = float("nan")
MASK = np.ones(SIZE_A, bool)


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (
            2,
            {"input_points": [[[P]], [[Q, R, (21, 20)]]]},
            r"input_points\[1\]\[0\]\[2\] = \(21, 20\) lies outside image 1 of width 20, height 30",
        ),
        (1, {"input_points": (64, 48.5)}, r"input_points = \(64, 48.5\) lies outside image 0"),
        (1, {"input_points": [P, (-1, 3)]}, r"input_points\[1\] = \(-1, 3\) lies outside"),
        (1, {"input_points": [P, (NAN, 3)]}, r"input_points\[1\] = \(nan, 3\) must be finite"),
        (1, {"input_points": np.array([[1, np.inf]])}, r"input_points\[0\] = \(1, inf\) must be finite"),
        (1, {"input_points": (1, 2, 3)}, r"input_points = \[1, 2, 3\] must be a point"),
        (1, {"input_points": np.ones((4, 3))}, r"input_points\[0\] = .* must be a point"),
        (1, {"input_points": 3}, "input_points = 3 must be a point"),
        (1, {"input_points": [P, None]}, r"input_points\[1\] = None must be a point"),
        (1, {"input_points": [1, None]}, r"input_points = \[1, None\] must be a point"),
        (1, {"input_points": [True, False]}, "must be a point"),
        (1, {"input_points": (10**400, 2)}, "too large"),
        (1, {"input_points": []}, "input_points is empty"),
        (1, {"input_points": [[P], []]}, r"input_points\[1\] is empty"),
        (1, {"input_points": torch.zeros(0, 2)}, "input_points is empty"),
        (1, {"input_points": [[[[[1, 2]]]]]}, "input_points has 5 levels; at most 4"),
        (1, {"input_points": "1,2"}, "input_points is of type str"),
        (1, {"input_points": np.array(["a", "b"])}, "input_points has dtype"),
        (1, {"input_points": [[P], [Q]], "input_boxes": [BOX]}, r"image 0.*input_points 2, input_boxes 1"),
        (
            1,
            {"input_points": [[[[1, 2]]], [[[1, 2]]]]},
            "input_points has entries for 2 images, but the number of images is 1",
        ),
        (2, {"input_points": P}, "input_points has entries for 2 images|input_points is one prompt"),
        (2, {"input_points": [P]}, "input_points has entries for 1 images, but the number of images is 2"),
        (2, {"input_boxes": BOX}, "input_boxes is one prompt, but 2 images"),
        (2, {"input_boxes": [None]}, "input_boxes has entries for 1 images"),
        (1, {"input_points": P, "input_labels": 2}, "input_labels = 2 must be 1"),
        (1, {"input_points": [P, Q], "input_labels": [1, 0.5]}, r"input_labels\[1\] = 0.5 must be"),
        (1, {"input_points": [P, Q], "input_labels": [1]}, "object 0 of image 0: input_labels has 1 labels for 2"),
        (1, {"input_points": [[P], [Q]], "input_labels": [1, 0]}, "input_labels describes 1 objects, input_points 2"),
        (2, {"input_points": [P, None], "input_labels": [1, 0]}, "labels for image 1, which has no points"),
        (1, {"input_points": [[P], None], "input_labels": [[1], [1]]}, "object 1 .* 1 labels for 0"),
        (1, {"input_labels": 1}, "input_labels was given without input_points"),
        (1, {"input_boxes": (5, 5, 5, 9)}, r"input_boxes = \(5, 5, 5, 9\) must have x1 < x2"),
        (1, {"input_boxes": [BOX, (5, 9, 7, 6)]}, r"input_boxes\[1\] .* y1 < y2"),
        (1, {"input_boxes": [BOX, (5, 9, 70, 16)]}, r"input_boxes\[1\] = \(5, 9, 70, 16\) lies outside image 0"),
        (1, {"input_boxes": [1, 2, 3]}, "input_boxes .* must be a box"),
        (1, {"input_boxes": [[[[1, 2, 3, 4]]]]}, "input_boxes has 4 levels; at most 3"),
        (1, {"input_masks": ~MASK}, "input_masks is empty"),
        (1, {"input_masks": [MASK, MASK[:-1]]}, r"input_masks\[1\] has shape \(47, 64\).*\(48, 64\)"),
        (1, {"input_masks": MASK.astype(float)}, r"input_masks is floating point.*\(16, 16\)"),
        (1, {"input_masks": MASK * np.arange(64)}, "input_masks holds 63 different labels"),
        (1, {"input_masks": np.where(np.eye(16) > 0, NAN, 1.0)}, "input_masks holds NaN"),
        (1, {"input_masks": Image.new("RGB", (64, 48))}, "input_masks is an image of mode RGB"),
        (1, {"input_masks": [MASK, MASK], "input_boxes": BOX}, "input_boxes 1, input_masks 2"),
        (1, {"image_size": 65}, "multiple"),
        (1, {"imge_size": 64}, "imge_size"),
        (1, {"input_masks": MASK, "do_pad": False}, "do_pad=False"),
    ],
)
def test_errors_name_the_prompt(count: int, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        prompts(count, **arguments)


COUNTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=2, max_size=4)
SIDES = st.integers(8, 3000)


@settings(deadline=None, max_examples=50)
@given(counts=COUNTS, data=st.data())
def test_ragged_prompts_are_padded_and_come_back(counts: list[list[int]], data: st.DataObject) -> None:
    """`counts`: points of every object of every image; an object without points is None and has a box instead."""
    sizes = [data.draw(st.tuples(SIDES, SIDES)) for _ in counts]
    share = st.floats(0, 1)
    points = [
        [[(data.draw(share) * width, data.draw(share) * height) for _ in range(count)] or None for count in objects]
        for objects, (height, width) in zip(counts, sizes, strict=True)
    ]
    boxes = [
        [None if count else (0, 0, width, height / 2) for count in objects]
        for objects, (height, width) in zip(counts, sizes, strict=True)
    ]
    arrays = processor()(original_sizes=sizes, input_points=points, input_boxes=boxes, return_tensors="np")
    num_objects = max(map(len, counts))
    flat = [count for objects in counts for count in objects]
    assert ("input_points" in arrays) == any(flat)
    assert ("input_boxes" in arrays) == (not all(flat))
    for index, (size, objects) in enumerate(zip(sizes, counts, strict=True)):
        reshaped = arrays["reshaped_input_sizes"][index]
        for place in range(num_objects):
            own = points[index][place] if place < len(objects) else None
            if any(flat):
                assert arrays["input_points"].shape == (len(counts), num_objects, max(flat), 2)
                num_own = len(own or [])
                labels, coords = arrays["input_labels"][index, place], arrays["input_points"][index, place]
                assert labels.tolist() == [1] * num_own + [-10] * (max(flat) - num_own)
                assert (coords[num_own:] == -10).all()
                if own:
                    expected = apply_coords(np.array(own), size, reshaped)
                    np.testing.assert_allclose(coords[:num_own], expected, rtol=1e-6, atol=1e-5)
            if not all(flat):
                box = boxes[index][place] if place < len(objects) else None
                expected = np.full(4, -10.0) if box is None else apply_boxes(np.array(box), size, reshaped)
                np.testing.assert_allclose(arrays["input_boxes"][index, place], expected, rtol=1e-6, atol=1e-5)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.sampled_from([np.float32(1), np.zeros((2, 0)), np.ones((2, 2)), np.ones((16, 16)), np.array(["x"]), object()])
    | st.sampled_from([torch.ones(2), torch.zeros(0), torch.tensor(1j), torch.ones(1, 1, 1, 4), {1: 2}, {1, 2}, 1j])
    | st.sampled_from([Image.new("L", (3, 3)), Image.new("RGB", (0, 0)), P, BOX])
)
GARBAGE = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner), max_leaves=12)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 2), values=st.tuples(GARBAGE, GARBAGE, GARBAGE, GARBAGE))
def test_garbage_is_refused_with_a_plain_error(count: int, values: tuple[Any, ...]) -> None:
    names = ("input_points", "input_labels", "input_boxes", "input_masks")
    for arguments in [
        *({name: value} for name, value in zip(names, values, strict=True)),
        dict(zip(names, values, strict=True)),
    ]:
        try:
            arrays = prompts(count, **arguments)
        except (ValueError, TypeError) as error:
            assert str(error)  # noqa: PT017 - both outcomes are fine
            continue
        for name, axes in (("input_points", 4), ("input_labels", 3), ("input_boxes", 3), ("input_masks", 4)):
            assert name not in arrays or (arrays[name].ndim == axes and len(arrays[name]) == count)


def test_a_list_within_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for name in ("input_points", "input_masks"):
        with pytest.raises(ValueError, match="nested too deep"):
            prompts(1, **{name: endless})
