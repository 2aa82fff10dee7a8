"""`Masks`: the one result object of every task, from a single click to segment-everything and video."""

from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from typing import Any, Unpack, overload

import numpy as np
from PIL import Image
from torch import Tensor

from sam_variants.mask_codecs import (
    PADDING_COORDINATE,
    Polygon,
    Rle,
    canonical_rle,
    check_size,
    common_size,
    mask_to_polygons,
    pad_points,
    read_coco_field,
    segmentation_to_rle,
    to_xywh,
)
from sam_variants.mask_drawing import (
    BoxedMask,
    cut_out,
    distinct_colors,
    image_to_rgba,
    label_image,
    paint_label_map,
    paint_overlay,
)
from sam_variants.mask_fields import FIELD_SHAPES, MaskFields, check_field
from sam_variants.mask_storage import LogitStore, MaskStore, PixelStore, RleStore, check_pixels, to_indices
from sam_variants.result_keys import ResultKeys

Index = int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor


class Masks(ResultKeys):
    """N masks of one image, with what is known about each.

    Inside there may be pixels, run-length codes or the decoder's small logits; full-size pixels are built when they
    are asked for and then kept, so treat every array you get as read-only.

    Args:
        data: N×H×W bool (torch or numpy).
        scores: N predicted qualities (the model's IoU estimate), float32.
        stability_scores: N, float32.
        points: The points that prompted each mask, N×2 or N×K×2 (x, y) in original-image pixels; rows of −10 are
            padding.
        crop_boxes: N×4 xyxy, the part of the image each mask was found in.
        object_ids: N whole numbers, the tracked object behind each mask.
        object_score_logits: N, above 0 where the object is visible.

    Attributes:
        size: (height, width) in pixels.
        data: N×H×W bool tensor on the CPU.
        boxes: N×4 int64 tensor xyxy in pixels, half-open: x2 is the last column plus one, so
            `image[y1:y2, x1:x2]` is the box; zeros for an empty mask.
        areas: N int64 tensor, pixels.
        frame_index: The frame of a video that the masks belong to, or None.

    Indexing with a number, a slice, a list or array of numbers, or one of N bools gives a `Masks`; iterating gives
    N `Masks` of one mask each. The keys of transformers' mask generation ("masks", "scores", …) give what they give
    there, see `ResultKeys`.

    Raises:
        TypeError: `data` is not bool.
        ValueError: a shape that doesn't fit, or a score, point or crop box that is not finite.
    """

    scores: Tensor | None
    stability_scores: Tensor | None
    points: Tensor | None
    crop_boxes: Tensor | None
    object_ids: Tensor | None
    object_score_logits: Tensor | None
    frame_index: int | None = None

    def __init__(self, data: Tensor | np.ndarray | MaskStore, **fields: Unpack[MaskFields]) -> None:
        self._store = data if isinstance(data, MaskStore) else PixelStore(check_pixels(data))
        self._boxes: Tensor | None = None
        self._areas: Tensor | None = None
        unknown = sorted(set(fields) - set(FIELD_SHAPES))
        if unknown:
            raise TypeError(f"Masks got unknown {unknown}; it takes {list(FIELD_SHAPES)}")
        for name in FIELD_SHAPES:
            setattr(self, name, check_field(name, fields.get(name), len(self._store)))

    @classmethod
    def from_logits(
        cls,
        logits: Tensor,
        original_size: Sequence[int] | Tensor,
        reshaped_input_size: Sequence[int] | Tensor | None = None,
        input_size: int | Sequence[int] | Tensor | None = None,
        mask_threshold: float = 0.0,
        **fields: Unpack[MaskFields],
    ) -> "Masks":
        """Keep the mask decoder's logits and make full-size masks of them only when asked.

        Args:
            logits: N×h×w, on any device (they stay there).
            original_size: (height, width) of the image.
            reshaped_input_size: (height, width) of the resized image inside the padded model input (SAM). None when
                the image was stretched over the whole input (SAM 2): logits then go straight to the original size.
            input_size: Side or (height, width) of the padded model input (1024 for SAM), with `reshaped_input_size`.
            mask_threshold: A pixel belongs to the mask when its logit is above.
            fields: `scores`, `object_ids` and the others, as for `Masks`.

        Raises:
            ValueError: a shape that doesn't fit, NaN in `logits`, or only one of the two input sizes.
        """
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise TypeError(f"logits must be a floating-point tensor, got {type(logits).__name__}")
        if logits.ndim != 3:
            raise ValueError(f"logits must be Nxhxw, got shape {tuple(logits.shape)}")
        if logits.isnan().any():
            raise ValueError("logits hold NaN")
        if (reshaped_input_size is None) != (input_size is None):
            raise ValueError(
                "reshaped_input_size and input_size go together (SAM: both, SAM 2: neither), "
                f"got {reshaped_input_size!r} and {input_size!r}"
            )
        reshaped = padded = None
        if reshaped_input_size is not None and input_size is not None:
            reshaped = check_size("reshaped_input_size", reshaped_input_size)
            padded = check_size("input_size", (input_size, input_size) if np.ndim(input_size) == 0 else input_size)
            if reshaped[0] > padded[0] or reshaped[1] > padded[1]:
                raise ValueError(f"reshaped_input_size {reshaped} must lie inside input_size {padded}")
        size = check_size("original_size", original_size)
        return cls(LogitStore(logits.detach(), size, reshaped, padded, mask_threshold), **fields)

    @classmethod
    def from_rle(cls, rles: Sequence[Rle], size: Sequence[int] | None = None, **fields: Unpack[MaskFields]) -> "Masks":
        """Keep COCO run-length codes (compressed or plain), checked but not decoded.

        Args:
            rles: N dicts of `size` (height, width) and `counts`.
            size: (height, width); needed only when there are no codes.
            fields: As for `Masks`.

        Raises:
            ValueError: codes of different sizes, a code that doesn't cover its size, or no code and no `size`.
        """
        codes = [canonical_rle(rle, f"rles[{index}]") for index, rle in enumerate(rles)]
        return cls(RleStore(codes, common_size(codes, size, "rles")), **fields)

    @classmethod
    def from_coco(cls, annotations: Sequence[dict[str, Any]], size: Sequence[int] | None = None) -> "Masks":
        """Read the COCO annotations of one image: ours, segment-anything's, SA-1B's, or hand-made polygons.

        `score` (or `predicted_iou`), `stability_score`, `point_coords`, `crop_box`, `object_id` and
        `object_score_logit` are read when every annotation has them. Boxes and areas come from the masks, not from
        `bbox` and `area`; categories are not kept.

        Args:
            annotations: With `segmentation` as RLE or polygons.
            size: (height, width); needed for polygons, or when there are no annotations.

        Raises:
            ValueError: an annotation without masks, annotations of several images or sizes, a field that only some
                have, or no way to know the size.
        """
        for index, annotation in enumerate(annotations):
            if not isinstance(annotation, dict) or "segmentation" not in annotation:
                raise ValueError(f'annotations[{index}] must be a dict with "segmentation", got {annotation!r:.80}')
        images = {annotation.get("image_id") for annotation in annotations}
        if len(images) > 1:
            raise ValueError(f"annotations must be of one image, got image_id {sorted(map(str, images))}")
        known = None if size is None else check_size("size", size)
        codes = [
            segmentation_to_rle(annotation["segmentation"], known, f"annotations[{index}] segmentation")
            for index, annotation in enumerate(annotations)
        ]
        crop_boxes = read_coco_field(annotations, "crop_box")
        points = read_coco_field(annotations, "point_coords")
        return cls(
            RleStore(codes, common_size(codes, size, "annotations")),
            scores=read_coco_field(annotations, "score", "predicted_iou"),
            stability_scores=read_coco_field(annotations, "stability_score"),
            points=None if points is None else pad_points(points),
            crop_boxes=None if crop_boxes is None else [[x, y, x + w, y + h] for x, y, w, h in crop_boxes],
            object_ids=read_coco_field(annotations, "object_id"),
            object_score_logits=read_coco_field(annotations, "object_score_logit"),
        )

    @property
    def size(self) -> tuple[int, int]:
        return self._store.size

    @property
    def data(self) -> Tensor:
        return self._store.dense()

    @property
    def areas(self) -> Tensor:
        if self._areas is None:
            self._areas = self._store.areas()
        return self._areas

    @property
    def boxes(self) -> Tensor:
        if self._boxes is None:
            self._boxes = self._store.boxes()
        return self._boxes

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, index: str) -> Any: ...

    @overload
    def __getitem__(self, index: Index) -> "Masks": ...

    def __getitem__(self, index: Index | str) -> Any:
        if isinstance(index, str):
            return self.value_of_key(index)
        indices = to_indices(index, len(self))
        fields = {name: getattr(self, name) for name in FIELD_SHAPES}
        chosen = {name: None if value is None else value[indices] for name, value in fields.items()}
        masks = Masks(self._store.select(indices), **chosen)  # type: ignore[arg-type]
        masks.frame_index, masks.optional_keys = self.frame_index, self.optional_keys
        return masks

    def __iter__(self) -> Iterator["Masks"]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.data.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"Masks are bool: an array of {np.dtype(dtype)} cannot be had without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        height, width = self.size
        parts = [f"{len(self)} of {height}x{width}", f"held as {self._store.form}"]
        for name in FIELD_SHAPES:
            value = getattr(self, name)
            if value is None:
                continue
            if value.ndim == 1 and len(value):
                shown = ", ".join(
                    f"{number:.3g}" if value.is_floating_point() else str(number) for number in value[:4].tolist()
                )
                parts.append(f"{name}=[{shown}{', …' if len(value) > 4 else ''}]")
            else:
                parts.append(name)
        return f"Masks({', '.join(parts)})"

    def to_coco(self, image_id: int | str, first_annotation_id: int = 1) -> list[dict[str, Any]]:
        """Return COCO annotations that `json.dumps` takes; masks held as RLE are passed on without decoding.

        Each has `id` (counting from `first_annotation_id`), `image_id`, `category_id` 1, `iscrowd` 0, `segmentation`
        (compressed RLE, `counts` as str), `bbox` (xywh), `area` and, where known, segment-anything's
        `score`, `stability_score`, `point_coords` ([[x, y], …]) and `crop_box` (xywh), and `object_id` and
        `object_score_logit`.
        """
        boxes, areas = self.boxes.tolist(), self.areas.tolist()
        annotations = []
        for index, rle in enumerate(self._store.rles()):
            annotation: dict[str, Any] = {
                "id": first_annotation_id + index,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"]},
                "bbox": to_xywh(boxes[index]),
                "area": areas[index],
            }
            annotations.append(annotation | self._coco_extras(index))
        return annotations

    def _rles(self) -> list[Rle]:
        return self._store.rles()

    def _coco_extras(self, index: int) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if self.scores is not None:
            extras["score"] = float(self.scores[index])
        if self.stability_scores is not None:
            extras["stability_score"] = float(self.stability_scores[index])
        if self.points is not None:
            points = self.points[index].reshape(-1, 2)
            extras["point_coords"] = points[(points != PADDING_COORDINATE).any(dim=1)].tolist()
        if self.crop_boxes is not None:
            extras["crop_box"] = to_xywh(self.crop_boxes[index].tolist())
        if self.object_ids is not None:
            extras["object_id"] = int(self.object_ids[index])
        if self.object_score_logits is not None:
            extras["object_score_logit"] = float(self.object_score_logits[index])
        return extras

    def to_polygons(self) -> list[list[Polygon]]:
        """Return, for every mask, its 4-connected regions, each `[exterior, hole, hole, …]` of K×2 int32 (x, y).

        Rings follow pixel edges (pixel (x, y) covers x..x+1, y..y+1), clockwise on the screen for exteriors and
        counter-clockwise for holes: filling them gives back exactly the mask, down to single pixels. An empty mask
        has no regions.
        """
        return [mask_to_polygons(self._store.mask(index)) for index in range(len(self))]

    def to_label_map(self) -> np.ndarray:
        """Return H×W int32: 0 background, i+1 for mask i. Where masks overlap, the one of smaller area is on top
        (of equal ones the earlier)."""
        return paint_label_map(self._paint_order(), self.size)

    def save_png(self, path: str | PathLike[str]) -> None:
        """Write the label map as PNG: a palette image in the overlay's colours for up to 255 masks, 16-bit grey above.

        Either way the pixel value is the label, which `np.asarray(Image.open(path))` gives back.

        Raises:
            ValueError: `path` doesn't end in .png, or more than 65535 masks.
        """
        if not fspath(path).lower().endswith(".png"):
            raise ValueError(f"path must end in .png, got {fspath(path)!r}")
        label_image(self.to_label_map(), self._colors()).save(path, format="PNG")

    def overlay(self, image: Any, alpha: float = 0.5, contour_width: int | None = None) -> Image.Image:
        """Return an RGB picture with the masks tinted and outlined, smaller masks on top.

        Colours are far apart and fixed by position, or by `object_ids` where there are some, so that a tracked
        object keeps its colour.

        Args:
            image: The image the masks belong to: PIL (any 8- or 16-bit mode) or array H×W, H×W×1, H×W×3 or H×W×4 of
                bool, uint8, uint16 or float in 0..1. Transparent parts are shown on white.
            alpha: Opacity of the tint, 0..1.
            contour_width: Pixels, 0 for no outline; by default it grows with the image.

        Raises:
            ValueError: an image of another size or shape, or an option out of range.
            TypeError: an image of another dtype.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in 0..1, got {alpha}")
        if contour_width is None:
            contour_width = max(1, round(min(self.size) / 250))
        if contour_width < 0:
            raise ValueError(f"contour_width must be 0 or more pixels, got {contour_width}")
        rgba = image_to_rgba(image, self.size)
        return paint_overlay(rgba, self._paint_order(), self._colors(), alpha, contour_width)

    def cutout(self, image: Any, index: Index | None = None) -> Image.Image:
        """Return the image as RGBA at full size, transparent outside the masks.

        Args:
            image: As for `overlay`. Its own transparency is kept.
            index: Which masks (anything indexing takes); their union is cut out. All by default.

        Raises:
            ValueError: an image of another size or shape.
            IndexError: no such mask.
        """
        chosen = range(len(self)) if index is None else to_indices(index, len(self))
        union = np.zeros(self.size, dtype=bool)
        for number in chosen:
            union |= self._store.mask(number)
        return cut_out(image_to_rgba(image, self.size), union)

    def _paint_order(self) -> Iterator[BoxedMask]:
        """Masks from large to small, of equal ones the later first; built one at a time."""
        areas, boxes = self.areas.tolist(), self.boxes.tolist()
        order = sorted(range(len(self)), key=lambda index: (areas[index], index), reverse=True)
        return ((index, tuple(boxes[index]), self._store.mask(index)) for index in order)

    def _colors(self) -> np.ndarray:
        return distinct_colors(range(len(self)) if self.object_ids is None else self.object_ids.tolist())
