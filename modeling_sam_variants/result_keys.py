"""`Masks` under the keys of the dict that transformers' `MaskGenerationPipeline` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sam_variants.mask_codecs import Rle, rle_runs

# Key → the option of the pipeline that asks for it; None for those that are always there.
RESULT_KEYS: dict[str, str | None] = {
    "masks": None,
    "scores": None,
    "rle_mask": "output_rle_mask",
    "bounding_boxes": "output_bboxes_mask",
}


class ResultKeys:
    """Answers a mask-generation result's keys, with the values that transformers has there.

    `masks`: a list of H×W bool arrays; `scores`: N float32; `rle_mask`: a list of `size` and `counts`, the run lengths
    as numbers; `bounding_boxes`: N×4 int64 xyxy whose last column and row belong to the box, zeros for an empty mask.
    The last two are there when the call asked for them.

    Attributes:
        optional_keys: which of the last two were asked for.
    """

    optional_keys: tuple[str, ...] = ()
    data: Any
    scores: Tensor | None
    boxes: Any

    def _rles(self) -> list[Rle]:
        raise NotImplementedError

    def keys(self) -> list[str]:
        """The keys that the result has."""
        there = [key for key, option in RESULT_KEYS.items() if option is None or key in self.optional_keys]
        return [key for key in there if key != "scores" or self.scores is not None]

    def value_of_key(self, key: str) -> Any:
        """The value under one of `keys()`.

        Raises:
            KeyError: for another key, with the call that gives it.
        """
        if key in self.keys():
            return _VALUES[key](self)
        option = RESULT_KEYS.get(key)
        if option is not None:
            raise KeyError(f"{key!r} was not asked for: pipe(image, {option}=True) gives it")
        raise KeyError(f"masks have no {key!r}; there are {self.keys()}, and attributes such as masks.boxes")

    def get(self, key: str, default: Any = None) -> Any:
        """The value under a key, or the default where it is not there."""
        return self.value_of_key(key) if key in self.keys() else default

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def _inclusive_boxes(self) -> Tensor:
        boxes = self.boxes.clone()
        boxes[boxes[:, 2] > boxes[:, 0], 2:] -= 1
        return boxes


_VALUES: dict[str, Callable[[ResultKeys], Any]] = {
    "masks": lambda masks: list(masks.data.numpy()),
    "scores": lambda masks: masks.scores,
    "rle_mask": lambda masks: [
        {"size": list(rle["size"]), "counts": rle_runs(rle["counts"]).tolist()} for rle in masks._rles()
    ],
    "bounding_boxes": ResultKeys._inclusive_boxes,
}
