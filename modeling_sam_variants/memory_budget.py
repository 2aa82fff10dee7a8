"""How much memory mask generation takes above the weights, and how much of the work may be done at once for a limit."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sam_variants.encoded_image import MASK_PROMPTS_AT_ONCE, EncodedImage
from sam_variants.mask_runs import MaskGeometry
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pretrained_part import evaluating
from sam_variants.processing.image_fitting import SQUARE, height_width
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil

MEGABYTE = 10**6
# Bytes for each pixel of an image as it is held, and on top of that while it is read and while it is fitted into the
# model's input (whether it is stretched, as floating-point numbers); and of the input itself, twice.
HELD, READING, FITTING, FITTED = 3, 7, {False: 5, True: 9}, 24
# Scratch memory of the libraries, and the share by which allocators take more than they are asked for.
OVERHEAD, SLACK = 128 * MEGABYTE, 1.1
# A run of pixels is three int64. About so many masks for each point are held until duplicates are dropped.
BYTES_PER_COLUMN, MASKS_HELD = 24, 0.75
# Points that the decoder is tried with.
FEW, SEVERAL = 2, 8
# float32, and once more while the parts are joined.
BYTES_PER_LOGIT = 8


class CountedMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made under it.

    Attributes:
        peak: the most that were alive together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._known.update(leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage()) not in self._known:
                self._known.add(storage)
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes())
        self.peak = max(self.peak, self._alive)
        return made

    def _forget(self, size: int) -> None:
        self._alive -= size


@dataclass(frozen=True)
class AtOnce:
    """How much is done together.

    Attributes:
        images: images, or crops of one, that are encoded together.
        points: points that the decoder takes together.
    """

    images: int
    points: int


class MemoryNeeds:
    """What one model takes. Nothing is encoded to find out, and a few points are decoded.

    The encoder is run on tensors without content, which tells what its operations hold; the decoder, whose work depends
    on what it finds, on an empty image.

    Args:
        model: on its device.
        image_processor: the one that belongs to it.
        multimask_output: whether points get several masks each.
        use_m2m: whether masks are given back to the model.
    """

    def __init__(
        self,
        model: SamVariantsModel,
        image_processor: SamVariantsImageProcessorPil,
        multimask_output: bool = True,
        use_m2m: bool = False,
    ) -> None:
        self.multimask_output, self.use_m2m = multimask_output, use_m2m
        self.is_square = image_processor.resize_mode == SQUARE
        self.is_on_cpu = model.device.type == "cpu"
        self.input_size = height_width(image_processor.pad_size)
        with torch.no_grad(), evaluating(model):
            (one, levels), (two, _) = (self._encode(model, count) for count in (1, 2))
            self.encode_one, self.encode_more = one, max(two - one, 0)
            self.levels = sum(level.nbytes for level in levels)
            encoded = EncodedImage(model, levels, MaskGeometry(self.input_size), self.input_size)
            few, several = (self._decode(encoded, count) for count in (FEW, SEVERAL))
            self.decode_few, self.decode_more = few, max(several - few, 0) / (SEVERAL - FEW)
            self.refine = self._refine(encoded) if use_m2m else 0

    def _encode(self, model: SamVariantsModel, count: int) -> tuple[int, list[Tensor]]:
        """Peak bytes for images, and zeros like the embedding of the first."""
        # Takes half a second to import.
        from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

        fake, counted = FakeTensorMode(allow_non_fake_inputs=True), CountedMemory()
        with FakeCopyMode(fake):
            hollow = copy.deepcopy(model)  # whatever it remembers of this run is gone with it
        with fake:
            pixels = torch.empty(count, 3, *self.input_size, dtype=model.image_encoder.dtype, device=model.device)
            with counted:
                encoded = hollow.get_image_embeddings(pixels)
        levels = [encoded] if isinstance(encoded, Tensor) else encoded
        zeros = [torch.zeros(1, *level.shape[1:], dtype=level.dtype, device=model.device) for level in levels]
        return counted.peak + pixels.nbytes, zeros

    def _decode(self, encoded: EncodedImage, count: int) -> int:
        with CountedMemory() as counted:
            logits = encoded.decode(self._points(count), None, self.multimask_output).logits
        self.logits_per_point = logits.numel() // count
        return counted.peak

    def _refine(self, encoded: EncodedImage) -> int:
        points = self._points(MASK_PROMPTS_AT_ONCE)
        logits = encoded.decode(points, None, multimask_output=False).logits
        with CountedMemory() as counted:
            encoded.refine(points, logits, None)
        return counted.peak

    def _points(self, count: int) -> np.ndarray:
        height, width = self.input_size
        return np.linspace(0, 1, count)[:, None] * [width, height]

    def bytes(self, sizes: Sequence[tuple[int, int]], at_once: AtOnce, num_points: int) -> int:
        """The most that is held at any time; on a GPU, of its memory.

        Args:
            sizes: (height, width) of the images that are held together.
            at_once: what is done together.
            num_points: points of one image, in all.
        """
        encode = self.encode_one + (at_once.images - 1) * self.encode_more
        joined = at_once.points * self.logits_per_point * BYTES_PER_LOGIT
        decode = self.decode_few + max(at_once.points - FEW, 0) * self.decode_more + joined
        if self.use_m2m:
            decode += self.refine + joined
        work = len(sizes) * self.levels + max(encode, at_once.images * self.levels + decode)
        if not self.is_on_cpu:
            return round(SLACK * work) + OVERHEAD
        pixels = [height * width for height, width in sizes]
        found = num_points * MASKS_HELD * max(width for _, width in sizes) * BYTES_PER_COLUMN
        fitted = at_once.images * math.prod(self.input_size) * FITTED
        passing = max(max(READING, FITTING[self.is_square]) * max(pixels), fitted + work + found)
        return round(SLACK * (HELD * sum(pixels) + passing)) + OVERHEAD


@dataclass(frozen=True)
class Budget:
    """How much may be done at once.

    Args:
        most: without a limit.
        limit: bytes above the weights, or None.
        needs: of the model, with a limit.
        num_points: points of one image, in all.
    """

    most: AtOnce
    limit: int | None = None
    needs: MemoryNeeds | None = None
    num_points: int = 0

    def may_join(self, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether images of these sizes may be encoded together, with as many points at once as without a limit."""
        if self.limit is None or self.needs is None:
            return True
        return self.needs.bytes(sizes, AtOnce(len(sizes), self.most.points), self.num_points) <= self.limit

    def plan(self, sizes: Sequence[tuple[int, int]]) -> AtOnce:
        """How much to do at once with images of these sizes: points first, then images or crops.

        Raises:
            ValueError: when even one image and one point are too much, with what is needed.
        """
        if self.limit is None or self.needs is None:
            return self.most
        chosen = AtOnce(images=1, points=1)
        if (needed := self.needs.bytes(sizes, chosen, self.num_points)) > self.limit:
            height, width = max(sizes)
            raise ValueError(
                f"max_memory={self.limit / MEGABYTE:.0f}MB is too little: an image of width {width}, height {height} "
                f"needs {-(-needed // MEGABYTE)}MB above the weights"
            )
        for name in ("points", "images"):
            low, high = 1, getattr(self.most, name)
            while low < high:
                middle = (low + high + 1) // 2
                tried = replace(chosen, **{name: middle})
                fits = self.needs.bytes(sizes, tried, self.num_points) <= self.limit
                low, high = (middle, high) if fits else (low, middle - 1)
            chosen = replace(chosen, **{name: low})
        return chosen


def group_images(images: Iterable[np.ndarray | Exception], budget: Budget) -> Iterator[tuple[list[np.ndarray], AtOnce]]:
    """Images that are encoded together, and how much to do at once with them.

    Args:
        images: H×W×3; an error in the place of one that can't be read is raised when it would be its turn. None is
            read that isn't due: whether another one fits is told from those before.
        budget: what fits.

    Raises:
        ValueError: for an image that is too large for the budget, and what stands in the place of an image.
    """
    held: list[np.ndarray] = []
    for image in images:
        if held and (isinstance(image, Exception) or not budget.may_join(_sizes([*held, image]))):
            yield held, budget.plan(_sizes(held))
            held = []
        if isinstance(image, Exception):
            raise image
        held.append(image)
        if len(held) == budget.most.images or not budget.may_join([*_sizes(held), max(_sizes(held))]):
            yield held, budget.plan(_sizes(held))
            held = []
    if held:
        yield held, budget.plan(_sizes(held))


def _sizes(images: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    return [(image.shape[0], image.shape[1]) for image in images]
