"""Label maps, PNG files, overlays and cutouts of Masks."""

import re

import numpy as np
import pytest
import torch
from mask_examples import SIZE, in_every_form, make_stack
from PIL import Image

from sam_variants.mask_drawing import distinct_colors
from sam_variants.results import Masks


def test_label_map_puts_small_masks_on_top():
    stack = np.zeros((4, *SIZE), dtype=bool)
    stack[0, 4:8, 4:8] = True
    stack[1, 2:12, 2:12] = True
    stack[2, 0:4, 20:24] = stack[3, 2:6, 20:24] = True
    labels = Masks(stack).to_label_map()
    assert labels.dtype == np.int32
    assert labels.shape == SIZE
    assert (labels[5, 5], labels[3, 3], labels[20, 30]) == (1, 2, 0)
    assert (labels[3, 21], labels[5, 21]) == (3, 4)


@pytest.mark.parametrize(("count", "mode"), [(0, "P"), (5, "P"), (255, "P"), (256, "I;16"), (300, "I;16")])
def test_png_holds_the_label_map(tmp_path, count, mode):
    stack = np.zeros((count, 20, 20), dtype=bool)
    stack.reshape(count, 400)[np.arange(count), np.arange(count)] = True
    masks = Masks(stack)
    masks.save_png(tmp_path / "labels.png")
    picture = Image.open(tmp_path / "labels.png")
    assert picture.mode == mode
    np.testing.assert_array_equal(np.asarray(picture), masks.to_label_map())
    if count == 5:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB"))[0, :5], distinct_colors(range(5)))
    with pytest.raises(ValueError, match=r"\.png"):
        masks.save_png(tmp_path / "labels.jpg")


@pytest.mark.parametrize(("count", "distance"), [(8, 60), (50, 25), (255, 10), (600, 5)])
def test_colors_are_far_apart_and_do_not_depend_on_the_count(count, distance):
    colors = distinct_colors(range(count)).astype(np.int64)
    gaps = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 999 * np.eye(count)
    assert gaps.min() >= distance
    np.testing.assert_array_equal(distinct_colors(range(count + 3))[:count], colors)


def as_images() -> dict:
    rgb = np.random.default_rng(2).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    gray = rgb[..., 0]
    return {
        "rgb": rgb,
        "float": rgb / 255,
        "gray": gray,
        "gray channel": gray[..., None],
        "uint16": gray.astype(np.uint16) * 257,
        "bool": gray > 128,
        "rgba": np.dstack([rgb, np.full(SIZE, 255, np.uint8)]),
        "PIL": Image.fromarray(rgb),
        "PIL gray": Image.fromarray(gray),
        "PIL palette": Image.fromarray(rgb).quantize(256),
        "PIL 16 bit": Image.fromarray(gray.astype(np.uint16) * 257),
        "PIL CMYK": Image.fromarray(rgb).convert("CMYK"),
    }


@pytest.mark.parametrize("kind", list(as_images()))
def test_overlay_and_cutout_take_every_image(kind):
    images, stack = as_images(), make_stack()
    masks, image = Masks(stack), images[kind]
    picture, cutout = masks.overlay(image, alpha=0.0, contour_width=0), masks.cutout(image)
    assert (picture.mode, picture.size) == ("RGB", SIZE[::-1])
    assert (cutout.mode, cutout.size) == ("RGBA", SIZE[::-1])
    if kind in ("rgb", "float", "rgba", "PIL"):
        np.testing.assert_array_equal(picture, images["rgb"])
    elif kind not in ("bool", "PIL palette", "PIL CMYK"):
        np.testing.assert_array_equal(picture, np.dstack([images["gray"]] * 3))
    np.testing.assert_array_equal(np.asarray(cutout)[..., 3], stack.any(0) * 255)
    np.testing.assert_array_equal(np.asarray(cutout)[..., :3], np.asarray(picture) * stack.any(0)[..., None])


def test_overlay_tints_and_outlines():
    mask = np.zeros((1, *SIZE), dtype=bool)
    mask[0, 4:14, 0:14] = True
    picture = np.asarray(Masks(mask).overlay(np.full(SIZE, 100, np.uint8), alpha=0.25, contour_width=2)).astype(int)
    color = distinct_colors([0])[0].astype(int)
    np.testing.assert_allclose(picture[8, 5], 75 + 0.25 * color, atol=1)
    assert (picture[20, 20] == 100).all()
    assert (picture[3, 5] == 100).all(), "the outline lies inside the mask"
    assert (picture[4, 5] == picture[5, 5]).all()
    assert (picture[4, 5] != picture[6, 5]).any()
    assert (picture[8, 0] == picture[8, 5]).all(), "no outline where the picture ends"


def test_overlay_hides_large_masks_under_small_ones():
    stack = np.zeros((2, *SIZE), dtype=bool)
    stack[0, 4:10, 4:10] = True
    stack[1, 2:20, 2:7] = stack[1, 2:20, 7:30] = True
    picture = np.asarray(Masks(stack).overlay(np.zeros(SIZE, np.uint8), alpha=1.0, contour_width=1))
    np.testing.assert_array_equal(picture[7, 7], distinct_colors([0])[0])
    np.testing.assert_array_equal(picture[15, 15], distinct_colors([1])[0])


def test_tracked_objects_keep_their_color():
    image, stack = np.zeros(SIZE, np.uint8), make_stack(2)
    both = Masks(stack, object_ids=[4, 9]).overlay(image)
    alone = Masks(stack, object_ids=[4, 9])[1].overlay(image)
    other = Masks(stack)[1].overlay(image)
    only_second = stack[1]
    assert (np.asarray(both)[only_second] == np.asarray(alone)[only_second]).all()
    assert (np.asarray(alone)[only_second] != np.asarray(other)[only_second]).any()


def test_transparent_images():
    rgba = np.zeros((*SIZE, 4), dtype=np.uint8)
    rgba[..., 3] = 51
    masks = Masks(np.ones((1, *SIZE), dtype=bool))
    assert np.asarray(masks.overlay(rgba, alpha=0.0, contour_width=0))[0, 0].tolist() == [204] * 3
    assert np.asarray(masks.cutout(rgba))[0, 0, 3] == 51


def test_cutout_of_some_masks():
    stack, image = make_stack(), np.full(SIZE, 9, np.uint8)
    for masks in in_every_form(stack):
        np.testing.assert_array_equal(np.asarray(masks.cutout(image, -1))[..., 3] > 0, stack[-1])
        np.testing.assert_array_equal(np.asarray(masks.cutout(image, [0, 2]))[..., 3] > 0, stack[0] | stack[2])
    with pytest.raises(IndexError):
        masks.cutout(image, 4)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((32, 24), np.uint8), ValueError, "image is 32x24 (height x width), the masks are 24x32"),
        (Image.new("RGB", (24, 32)), ValueError, "image is 32x24"),
        (np.zeros((*SIZE, 2), np.uint8), ValueError, "got shape (24, 32, 2)"),
        (torch.zeros(3, *SIZE), ValueError, "got shape (3, 24, 32)"),
        (np.full(SIZE, 7.0), ValueError, "0..1"),
        (np.full(SIZE, np.nan), ValueError, "0..1"),
        (np.zeros(SIZE, np.int64), TypeError, "int64"),
        (Image.new("F", SIZE[::-1]), TypeError, "'F'"),
    ],
)
def test_wrong_images_are_refused(image, error, message):
    masks = Masks(make_stack())
    for draw in (masks.overlay, masks.cutout):
        with pytest.raises(error, match=re.escape(message)):
            draw(image)


def test_wrong_overlay_options_are_refused():
    with pytest.raises(ValueError, match="alpha"):
        Masks(make_stack()).overlay(np.zeros(SIZE, np.uint8), alpha=1.5)
    with pytest.raises(ValueError, match="contour_width"):
        Masks(make_stack()).overlay(np.zeros(SIZE, np.uint8), contour_width=-1)
