"""Every form of masks that datasets have gives the same objects; what can't be understood is one clear error."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List
from datasets import Image as ImageFeature
from mask_rows import HEIGHT, LEFT, RIGHT, WIDTH, flat, label_map, photo, pictures, plain_rle, truths
from PIL import Image
from torch.utils.data import DataLoader

from sam_variants.mask_codecs import encode_mask
from sam_variants.training.mask_columns import KINDS
from sam_variants.training.mask_datasets import MaskDataset, open_masks
from sam_variants.training.masked_image import MaskedImage

CODES = [encode_mask(mask) for mask in truths()]
PLAIN_CODES = [plain_rle(mask) for mask in truths()]
SEGMENTATIONS = [[flat(LEFT)], [flat(RIGHT)]]


def rows_of(**columns: Any) -> Dataset:
    """Two rows with the same values and different photos."""
    return Dataset.from_list([{"image": photo(number), **columns} for number in range(2)])


def as_rgb(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.repeat(labels[..., None], 3, axis=2))


def in_colours(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array([[0, 0, 0], [220, 20, 60], [220, 20, 61]], np.uint8)[labels])


def in_palette(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels, mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    return image


def turned_by_exif(image: Image.Image) -> dict[str, Any]:
    """A PNG whose pixels lie on their side, with the tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(stored, format="PNG", exif=exif)
    return {"bytes": stored.getvalue(), "path": None}


FORMS: dict[str, tuple[str, Any, str]] = {
    "label map": ("label", Image.fromarray(label_map()), "label_map"),
    "palette": ("annotation", in_palette(label_map()), "label_map"),
    "16 bits": ("mask", Image.fromarray(label_map().astype(np.uint16) * 200), "label_map"),
    "gray as RGB": ("segmentation", as_rgb(label_map()), "label_map"),
    "colours": ("panoptic", in_colours(label_map()), "label_map"),
    "numbers": ("label_map", label_map().tolist(), "label_map"),
    "pictures": ("masks", pictures(), "instances"),
    "planes": ("masks", truths().astype(int).tolist(), "instances"),
    "compressed codes": ("rle", CODES, "rle"),
    "plain codes": ("masks", PLAIN_CODES, "rle"),
    "dict of lists of codes": (
        "masks",
        {"size": [code["size"] for code in CODES], "counts": [code["counts"] for code in CODES]},
        "rle",
    ),
    "bare counts": ("rles", [code["counts"] for code in CODES], "rle"),
    "flat polygons": ("polygons", [flat(LEFT), flat(RIGHT)], "polygons"),
    "polygons of points": ("polygons", [LEFT, RIGHT], "polygons"),
    "lists of polygons": ("segmentation", [[LEFT], [RIGHT]], "polygons"),
    "COCO columns": ("objects", {"bbox": [[3, 4, 12, 16], [20, 6, 16, 8]], "segmentation": SEGMENTATIONS}, "objects"),
    "COCO columns of codes": ("objects", {"segmentation": CODES, "category": [1, 2]}, "objects"),
    "COCO annotations": ("annotations", [{"id": 1, "segmentation": code} for code in CODES], "objects"),
    "pictures in objects": ("objects", {"mask": pictures(), "name": ["a", "b"]}, "objects"),
    "JSON": ("annotations", json.dumps([{"segmentation": CODES[0]}, {"segmentation": SEGMENTATIONS[1]}]), "objects"),
    "JSON per object": ("annotations", [json.dumps({"segmentation": part}) for part in SEGMENTATIONS], "objects"),
    "inside a column": ("json", {"image_id": 3, "annotations": [{"segmentation": code} for code in CODES]}, "objects"),
}


@pytest.mark.parametrize(("column", "value", "kind"), FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_objects(column: str, value: Any, kind: str) -> None:
    masks = open_masks(rows_of(**{column: value}, number=5))
    assert (masks.found.image, masks.found.kind) == ("image", kind)
    assert masks.found.masks in (column, "json.annotations")
    assert len(masks) == 2
    for number, example in enumerate(masks):
        np.testing.assert_array_equal(example.image, np.asarray(photo(number)))
        np.testing.assert_array_equal(example.masks, truths())
    assert not masks.skipped
    assert f"column {masks.found.masks!r}" in masks.report()
    assert KINDS[kind] in masks.report()
    assert f"example {WIDTH}x{HEIGHT} pixels, 2 objects of 128 to 192 pixels" in masks.report()
    assert "unused  number" in masks.report()


LARGE = np.kron(label_map() > 0, np.ones((8, 8), bool))


def soft(mask: np.ndarray) -> Image.Image:
    """A white shape with soft edges, as JPEG stores it: many grays."""
    stored = io.BytesIO()
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize((mask.shape[1] // 2, mask.shape[0] // 2))
    small.resize(mask.shape[::-1], Image.Resampling.BICUBIC).save(stored, "JPEG", quality=80)
    return Image.open(stored)


BINARY = {
    "black and white": Image.fromarray(LARGE.astype(np.uint8) * 255),
    "one bit": Image.fromarray(LARGE),
    "soft edges": soft(LARGE),
    "in the transparency": Image.merge("RGBA", [Image.new("L", LARGE.shape[::-1], 9)] * 3 + [soft(LARGE)]),
}


@pytest.mark.parametrize("mask", BINARY.values(), ids=BINARY)
def test_white_is_an_object_where_there_is_only_black_and_white(mask: Image.Image) -> None:
    masks = open_masks(Dataset.from_list([{"image": photo().resize(LARGE.shape[::-1]), "mask": mask}]))
    assert (masks.found.kind, masks.found.void) == ("binary", -1)
    (found,) = masks[0].masks
    assert (found != LARGE).mean() < 0.005


def test_smoothed_edges_are_no_ids() -> None:
    """Drawn finer and averaged, an edge has a few grays, each of which would be an object of a label map."""
    fine = np.kron(LARGE, np.ones((2, 2), bool))
    fine = np.roll(fine, 1, axis=1) | np.tri(*fine.shape, k=-200, dtype=bool)
    stored = np.rint(fine.reshape(LARGE.shape[0], 2, LARGE.shape[1], 2).mean(axis=(1, 3)) * 255).astype(np.uint8)
    assert 4 <= len(np.unique(stored)) <= 5
    picture = photo().resize(LARGE.shape[::-1])
    masks = open_masks(Dataset.from_list([{"image": picture, "mask": Image.fromarray(stored)}]))
    assert masks.found.kind == "binary"
    np.testing.assert_array_equal(masks[0].masks, (stored > 127)[None])
    # Thin objects with a void border are label maps all the same.
    thin = np.zeros((HEIGHT, WIDTH), np.uint8)
    thin[3], thin[9], thin[20:] = 1, 2, 255
    assert len(open_masks(rows_of(mask=Image.fromarray(thin)))[0].masks) == 2


def test_a_label_map_after_black_and_white_is_asked_about() -> None:
    """Taken for one object, the objects of the second row would be one, or with void around them none."""
    white = pictures()[0]
    with_void = label_map()
    with_void[0] = 255
    for labels in (label_map(), with_void):
        rows = Dataset.from_list([{"image": photo(), "mask": m} for m in (white, Image.fromarray(labels))])
        with pytest.raises(ValueError, match=r"row 1, column 'mask': the mask has several values.*\"label_map\""):
            open_masks(rows)[1]
        assert len(open_masks(rows, columns={"kind": "label_map", "void": 255})[1].masks) == 2
        masks = open_masks(rows, columns={"kind": "binary"})
        assert len(masks[1].masks) == 1
        assert not masks.skipped


def test_black_and_white_may_be_taken_apart() -> None:
    white = Image.fromarray((label_map() > 0).astype(np.uint8) * 255)
    masks = open_masks(rows_of(mask=white), columns={"kind": "components"})
    assert masks.found.void == -1
    np.testing.assert_array_equal(masks[0].masks, truths())


def test_components_are_objects_where_a_value_is_a_class() -> None:
    semantic = (label_map() > 0).astype(np.uint8) * 7
    semantic[22:, :5] = 9
    semantic[0, :] = 255
    rows = rows_of(annotation=Image.fromarray(semantic))
    assert [mask.sum() for mask in open_masks(rows)[0].masks] == [320, 10]
    masks = open_masks(rows, columns={"kind": "components"})
    np.testing.assert_array_equal(masks[0].masks[:2], truths())
    assert masks[0].masks[2].sum() == 10
    assert len(masks[0].masks) == 3
    assert masks.found.void == 255
    assert "one object per connected region; 0 is background; 255 is void" in masks.report()


def test_void_is_255_in_eight_bits_and_what_the_caller_says() -> None:
    labels = label_map()
    labels[0, :10] = 255
    eight, sixteen = Image.fromarray(labels), Image.fromarray(labels.astype(np.uint16))
    assert len(open_masks(rows_of(mask=eight))[0].masks) == 2
    assert len(open_masks(rows_of(mask=sixteen))[0].masks) == 3
    assert len(open_masks(rows_of(mask=eight), columns={"void": "-1"})[0].masks) == 3
    assert len(open_masks(rows_of(mask=sixteen), columns={"void": 255})[0].masks) == 2


def test_a_label_map_of_void_alone_is_asked_about() -> None:
    only_void = Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8))
    rows = Dataset.from_list([{"image": photo(), "mask": m} for m in (Image.fromarray(label_map()), only_void)])
    with pytest.raises(ValueError, match=r"row 1, column 'mask': the label map has no value but 255.*\"void\": -1"):
        open_masks(rows)[1]
    masks = open_masks(rows, columns={"void": 255})
    assert masks[1].masks.shape == (0, HEIGHT, WIDTH)
    assert masks.skipped == {"label maps of void alone": 1}
    assert len(open_masks(rows, columns={"void": -1})[1].masks) == 1


def test_empty_rows_do_not_hide_the_form_and_come_without_objects() -> None:
    black = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8))
    white = pictures()[0]
    rows = Dataset.from_list([{"image": photo(), "mask": mask} for mask in (black, black, white)])
    masks = open_masks(rows)
    assert masks.found.kind == "binary"
    assert [len(example.masks) for example in masks] == [0, 0, 1]
    feature = Features({"image": ImageFeature(), "masks": List(ImageFeature())})
    lists = open_masks(Dataset.from_dict({"image": [photo()] * 3, "masks": [[], None, pictures()]}, features=feature))
    assert [example.masks.shape[0] for example in lists] == [0, 0, 2]
    with pytest.raises(
        ValueError, match=r"no mask in the first rows tells in which form masks are.*\"kind\".*'masks': List"
    ):
        open_masks(Dataset.from_dict({"image": [photo()], "masks": [[]]}, features=feature))
    stated = {"kind": "instances"}
    assert (
        len(open_masks(Dataset.from_dict({"image": [photo()], "masks": [[]]}, features=feature), columns=stated)) == 1
    )


def test_what_is_no_object_is_counted() -> None:
    nothing = encode_mask(np.zeros((HEIGHT, WIDTH), bool))
    dot = np.zeros((HEIGHT, WIDTH), bool)
    dot[0, 0:3] = True
    annotations = [
        {"segmentation": CODES[0], "iscrowd": 0},
        {"segmentation": CODES[1], "iscrowd": 1},
        {"segmentation": nothing, "iscrowd": 0},
        {"segmentation": encode_mask(dot), "iscrowd": 0},
        {"segmentation": [[1, 1, 5, 5], flat(RIGHT)], "iscrowd": 0},
        {"segmentation": [], "iscrowd": 0},
        {"segmentation": None, "iscrowd": 0},
    ]
    masks = open_masks(rows_of(annotations=json.dumps(annotations)), min_pixels=4)
    np.testing.assert_array_equal(masks[0].masks, truths())
    assert masks.skipped == {
        "crowd regions": 1,
        "empty masks": 1,
        "masks of less than 4 pixels": 1,
        "polygons of fewer than three points": 1,
        "objects without a mask": 2,
    }
    masks[1]
    assert masks.skipped["objects without a mask"] == 4
    of_one, of_two = masks.report().splitlines()[-2:]
    assert of_one.startswith(
        "        left out of it: 1 crowd regions, 1 polygons of fewer than three points, 2 objects wi"
    )
    assert of_two.startswith(
        "so far  left out: 2 crowd regions, 2 polygons of fewer than three points, 4 objects without"
    )


def test_at_most_so_many_objects_spread_over_the_sizes() -> None:
    planes = np.zeros((9, HEIGHT, WIDTH), np.uint8)
    for index, plane in enumerate(planes):
        plane[: index + 1, 0] = 1
    rows = rows_of(masks=[Image.fromarray(plane) for plane in planes])
    masks = open_masks(rows, max_objects=3)
    assert [mask.sum() for mask in masks[0].masks] == [1, 5, 9]
    assert masks.skipped == {"objects beyond 3 per image": 6}


def test_images_of_every_mode_are_rgb() -> None:
    for mode in ("L", "CMYK", "RGBA", "P", "1", "I;16"):
        source = photo().convert("L").convert("I").convert("I;16") if mode == "I;16" else photo().convert(mode)
        if mode == "CMYK":
            stored = io.BytesIO()
            source.save(stored, "TIFF")
            source = {"bytes": stored.getvalue(), "path": None}
        feature = Features({"img": ImageFeature(), "mask": ImageFeature()})
        rows = Dataset.from_dict({"img": [source], "mask": [Image.fromarray(label_map())]}, features=feature)
        assert open_masks(rows)[0].image.shape == (HEIGHT, WIDTH, 3)


def test_images_and_masks_are_upright() -> None:
    feature = Features({"image": ImageFeature(), "mask": ImageFeature()})
    columns = {"image": [turned_by_exif(photo())], "mask": [turned_by_exif(Image.fromarray(label_map()))]}
    example = open_masks(Dataset.from_dict(columns, features=feature))[0]
    np.testing.assert_array_equal(example.image, np.asarray(photo()))
    np.testing.assert_array_equal(example.masks, truths())


def test_paths_bytes_and_arrays_are_images_too(tmp_path: Any) -> None:
    photo().save(tmp_path / "photo.png")
    Image.fromarray(label_map()).save(tmp_path / "labels.png")
    named = {"image_path": str(tmp_path / "photo.png"), "mask_path": str(tmp_path / "labels.png")}
    stored = {
        "image": (tmp_path / "photo.png").read_bytes(),
        "mask": (tmp_path / "labels.png").read_bytes(),
    }
    numbers = {"image": np.asarray(photo()).tolist(), "mask": Image.fromarray(label_map())}
    for row in (named, stored, numbers):
        example = open_masks(Dataset.from_list([row]))[0]
        np.testing.assert_array_equal(example.image, np.asarray(photo()))
        np.testing.assert_array_equal(example.masks, truths())


def test_rows_are_numbered_selected_and_shuffled() -> None:
    rows = Dataset.from_list([{"image": photo(number), "rle": CODES, "id": f"p{number}"} for number in range(6)])
    masks = open_masks(rows)
    assert [example.name for example in masks] == [f"p{number}" for number in range(6)]
    assert masks[-1].name == "p5"
    with pytest.raises(IndexError):
        masks[6]
    assert [example.name for example in masks.select([4, 1])] == ["p4", "p1"]
    assert [example.name for example in masks.shard(1, 2)] == ["p3", "p4", "p5"]
    order = [example.name for example in masks.shuffle(seed=3)]
    assert order == [example.name for example in masks.shuffle(seed=3)]
    assert order != [example.name for example in masks]
    assert sorted(order) == [example.name for example in masks]
    with pytest.raises(TypeError, match="only a stream has a state"):
        masks.state_dict()


def first_of(examples: list[MaskedImage]) -> MaskedImage:
    return examples[0]


def test_workers_and_copies_read_the_same() -> None:
    masks = open_masks(rows_of(masks=pictures()))
    again: MaskDataset = pickle.loads(pickle.dumps(masks))
    np.testing.assert_array_equal(again[1].masks, masks[1].masks)
    loaded = list(DataLoader(masks, batch_size=1, num_workers=2, collate_fn=first_of))  # type: ignore[arg-type]
    assert len(loaded) == 2
    for number, example in enumerate(loaded):
        np.testing.assert_array_equal(example.image, np.asarray(photo(number)))
        np.testing.assert_array_equal(example.masks, truths())


def test_the_fingerprint_follows_what_is_read() -> None:
    masks = open_masks(rows_of(masks=pictures()))
    assert masks.fingerprint == open_masks(rows_of(masks=pictures())).fingerprint
    others = [
        open_masks(rows_of(masks=pictures()[::-1])),
        open_masks(rows_of(masks=pictures()), min_pixels=150),
        open_masks(rows_of(masks=pictures()), max_objects=1),
        masks.select([1]),
        masks.shuffle(1),
    ]
    assert len({masks.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_formats_and_transforms_of_the_callers_dataset_do_not_matter() -> None:
    rows = rows_of(masks=PLAIN_CODES, category=[1, 2])
    for dataset in (rows.with_format("numpy"), rows.with_format("torch", columns=["category"])):
        np.testing.assert_array_equal(open_masks(dataset)[0].masks, truths())

    def mirrored(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {
            "image": [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in batch["image"]],
            "mask": [label_map()[:, ::-1] for _ in batch["category"]],
        }

    example = open_masks(rows.with_transform(mirrored))[0]
    np.testing.assert_array_equal(example.masks, truths()[:, :, ::-1])
    np.testing.assert_array_equal(example.image, np.asarray(photo())[:, ::-1])
