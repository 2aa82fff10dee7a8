"""transformers' own `MaskGenerationPipeline` with our image processor: its masks with transformers' processor."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_models import tiny_model as tiny_checkpoint
from PIL import Image
from torch import Tensor
from transformers import MaskGenerationPipeline, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil, _rle_to_mask

from sam_variants.checkpoint_layouts.layout_transformers_sam import config_to_transformers_sam
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict
from sam_variants.decoders.prompt_encoder import PADDING_LABEL
from sam_variants.mask_generation.nms import nms
from sam_variants.mask_regions import clean_masks
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.outputs import SamVariantsOutput
from sam_variants.processing import upscaled_masks
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.mask_post_processing import upscale_logits
from sam_variants.processing.processor_for import processor_for
from sam_variants.processing.upscaled_masks import UpscaledMasks
from tests.tiny import tiny_config, tiny_model, tiny_video_model

# Whether images are padded (SAM) or stretched (SAM 2); transformers' points only fit square images in the latter case.
SIZES = {"vit": (120, 160), "hiera": (140, 140)}
each_model = pytest.mark.parametrize("name", sorted(SIZES))
OPTIONS = {"points_per_crop": 9, "output_rle_mask": True, "output_bboxes_mask": True}


class Blobs(SamVariantsModel):
    """Answers a point with three waves around it instead of what the decoder says; padding with nothing and score 0."""

    def forward(self, input_points: Tensor, input_labels: Tensor, **kwargs: Any) -> SamVariantsOutput:  # type: ignore[override]
        is_padding = (input_labels == PADDING_LABEL).all(dim=-1)
        # Points near each other give the same masks, which non-maximum suppression must find.
        centre = ((input_points[:, :, 0].float() / 10).round() * 10 / 4)[..., None, None, None, :]
        axis = torch.arange(16) + 0.5
        x, y = axis[None, :] - centre[..., 0], axis[:, None] - centre[..., 1]
        number = torch.arange(3.0)[:, None, None]
        steepness = 5 * 2 ** (centre.sum(dim=-1) % 7)
        wave = torch.sin(2 * torch.atan2(y, x + 0.01) + centre[..., 0])
        masks = steepness * (1.2 + 1.5 * number + 0.5 * wave - torch.hypot(x, y))
        scores = 0.75 + 0.25 * torch.sin(centre[..., 0, 0, 0] * 7 + 3 * centre[..., 0, 0, 1] + torch.arange(3.0))
        masks = torch.where(is_padding[..., None, None, None], -10.0, masks.clamp(-31, 32))
        return SamVariantsOutput(pred_masks=masks, iou_scores=torch.where(is_padding[..., None], 0.0, scores))


class Theirs(SamImageProcessorPil):
    """transformers' methods for mask generation behind our pixels; their suppression needs torchvision, ours not."""

    def __init__(self, ours: SamVariantsImageProcessorPil) -> None:
        super().__init__(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
        self.ours = ours

    def __call__(self, images: list[np.ndarray], **kwargs: Any) -> Any:
        return self.ours(
            [Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1))) for image in images], **kwargs
        )

    def post_process_masks(self, masks: Any, original_sizes: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        areas = {name: kwargs.pop(name) for name in ("max_hole_area", "max_sprinkle_area") if name in kwargs}
        if areas:  # called once more without: only then they are brought to the image's size
            return [clean_masks(mask, **areas, mask_threshold=kwargs["mask_threshold"]) for mask in masks]
        if self.ours.resize_mode == "square":
            return [torch.nn.functional.interpolate(masks[0], original_sizes[0], mode="bilinear")]
        return super().post_process_masks(masks, original_sizes, **kwargs)

    def post_process_for_mask_generation(self, all_masks: Any, all_scores: Any, all_boxes: Any, thresh: float) -> Any:  # type: ignore[override]
        kept = nms(all_boxes.float(), all_scores, thresh)
        rles = [all_masks[index] for index in kept]
        return [_rle_to_mask(rle) for rle in rles], all_scores[kept], rles, all_boxes[kept]


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def blobs(name: str) -> tuple[Blobs, SamVariantsImageProcessorPil]:
    model = Blobs(tiny_config(name)).eval()
    processor = processor_for(model).image_processor
    return model, processor if name == "vit" else processor.updated(resize_mode="square", size=64)


def run(model: Any, processor: Any, image: Image.Image, **options: Any) -> dict[str, Any]:
    return MaskGenerationPipeline(model=model, image_processor=processor)(image, **OPTIONS, **options)


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], at_least: int = 3) -> None:
    assert len(theirs["masks"]) >= at_least
    assert ours["rle_mask"] == theirs["rle_mask"]
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["bounding_boxes"].float(), theirs["bounding_boxes"].float())
    assert torch.equal(ours["scores"], theirs["scores"])
    for one, other in zip(ours["masks"], theirs["masks"], strict=True):
        assert one.dtype == bool
        assert np.array_equal(one, other)


@each_model
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pred_iou_thresh": 0.95, "stability_score_thresh": 0.5},
        {"pred_iou_thresh": 0, "stability_score_thresh": 0.0, "crops_nms_thresh": 0.2},
        {"pred_iou_thresh": 0.5, "stability_score_offset": 0.2, "crops_nms_thresh": 1.0},
        {"mask_threshold": 0.8, "stability_score_thresh": 0.4, "points_per_batch": 7},
        {"points_per_batch": None, "stability_score_thresh": 0.4, "max_hole_area": 3, "max_sprinkle_area": 9},
        {"crops_n_layers": 1, "crop_overlap_ratio": 0.5, "pred_iou_thresh": 0.7, "stability_score_thresh": 0.3},
        {"crops_n_layers": 2, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.3, "crops_nms_thresh": 0.9},
    ],
    ids=lambda options: " ".join(options) or "defaults",
)
def test_the_same_masks_as_with_transformers_processor(name: str, options: dict[str, Any]) -> None:
    model, processor = blobs(name)
    image = picture(SIZES[name])
    theirs = run(model, Theirs(processor), image, **options)
    assert_same(run(model, processor, image, **options), theirs)


@each_model
def test_no_mask_is_ever_upscaled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = blobs(name)
    monkeypatch.setattr(upscaled_masks, "upscale_logits", lambda *_: pytest.fail("masks were upscaled"))
    assert len(run(model, processor, picture(SIZES[name]), crops_n_layers=1, max_hole_area=2)["masks"]) > 3


THINNER = {"crops_n_layers": 1, "crop_overlap_ratio": 0.4, "crop_n_points_downscale_factor": 2}
FILTERS = {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.4, "mask_threshold": 0.0, "stability_score_offset": 0.5}


@torch.no_grad()
def crop_by_crop(
    model: Any, processor: SamVariantsImageProcessorPil, image: Image.Image, nms_thresh: float = 0.7, **filters: float
) -> dict[str, Any]:
    """Thinner grids on crops without padding: every crop on its own through transformers' filter."""
    theirs = Theirs(processor)
    boxes, points, crops, labels = processor.generate_crop_boxes(image, 64, 1, 0.4, 9, 2)
    assert (labels == 1).sum(dim=1).tolist() == [[81, 16, 16, 16, 16]]
    rles, scores, kept_boxes = [], [], []
    for index, crop in enumerate(crops):
        known = labels[0, :, index] == 1
        inputs = processor(crop, return_tensors="pt")
        outputs = model(
            image_embeddings=model.get_image_embeddings(inputs["pixel_values"]),
            input_points=points[:, known, index, None],
            input_labels=labels[:, known, index, None],
        )
        masks = theirs.post_process_masks(
            outputs.pred_masks,
            inputs["original_sizes"].tolist(),
            reshaped_input_sizes=inputs["reshaped_input_sizes"],
            binarize=False,
        )
        filtered = theirs.filter_masks(masks[0], outputs.iou_scores[0], image.size[::-1], boxes[index], **filters)
        for parts, part in zip((rles, scores, kept_boxes), filtered, strict=True):
            parts.append(part)
    result = theirs.post_process_for_mask_generation(
        [rle for part in rles for rle in part], torch.cat(scores), torch.cat(kept_boxes), nms_thresh
    )
    return dict(zip(("masks", "scores", "rle_mask", "bounding_boxes"), result, strict=True))


@each_model
@pytest.mark.parametrize("points_per_batch", [5, None])
def test_thinner_grids_on_crops(name: str, points_per_batch: int | None) -> None:
    """Where transformers fails: grids of two sizes."""
    model, processor = blobs(name)
    image = picture(SIZES[name])
    ours = run(model, processor, image, points_per_batch=points_per_batch, **THINNER, **FILTERS)
    assert_same(ours, crop_by_crop(model, processor, image, **FILTERS))


@pytest.mark.parametrize("make", [lambda: tiny_model("vit"), tiny_video_model], ids=["image", "video"])
def test_padding_of_thinner_grids_is_no_mask(make: Callable[[], Any]) -> None:
    """Even where nothing is filtered: a real model answers points that are padding with score 0 and no pixel."""
    model = make()
    processor = processor_for(model).image_processor
    filters = FILTERS | {"pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
    image = picture((60, 60))
    ours = run(model, processor, image, points_per_batch=9, crops_nms_thresh=1.0, **THINNER, **filters)
    expected = crop_by_crop(model, processor, image, nms_thresh=1.0, **filters)
    assert len(ours["scores"]) == len(expected["scores"]) > 81
    assert torch.allclose(ours["scores"], expected["scores"].float(), atol=1e-5)
    # Nearly equal scores may change places: compare how many masks each pixel lies in.
    assert np.abs(np.sum(ours["masks"], axis=0) - np.sum(expected["masks"], axis=0)).mean() < 0.1


def test_their_model_and_processor_give_our_masks() -> None:
    """Everything theirs against everything ours, the same weights and the same picture."""
    torch.manual_seed(1)
    model = tiny_checkpoint("sam")
    theirs = SamModel.from_pretrained(
        None,
        config=config_to_transformers_sam(model.config),
        state_dict=export_state_dict(model, "transformers-sam"),
    ).eval()
    processor = processor_for(model).image_processor
    filters = {"pred_iou_thresh": -1, "stability_score_thresh": 0.3, "stability_score_offset": 0.05}
    filters |= {"crops_nms_thresh": 0.95}
    image = picture((120, 160), seed=3)
    ours = run(model, processor, image, **filters)
    their_result = run(theirs, Theirs(processor), image, **filters)
    assert len(ours["masks"]) == len(their_result["masks"]) >= 2
    assert torch.allclose(ours["scores"], their_result["scores"], atol=1e-4)
    for one, other in zip(ours["masks"], their_result["masks"], strict=True):
        assert (one != other).mean() < 1e-3


def test_plain_full_size_logits_are_filtered_too() -> None:
    """Also with infinity and NaN, which are large numbers and no pixels."""
    model, processor = blobs("vit")
    _, points, _, labels = processor.generate_crop_boxes(picture((120, 160)), 64, points_per_crop=9)
    outputs = model(input_points=points[:, :, 0, None], input_labels=labels[:, :, 0, None])
    lazy = processor.post_process_masks(outputs.pred_masks, [(120, 160)], binarize=False)[0]
    limits = {"pred_iou_thresh": 0.8, "stability_score_thresh": 0.6}
    expected = processor.filter_masks(lazy, outputs.iou_scores[0], (120, 160), [0, 0, 160, 120], **limits)
    assert not lazy.is_upscaled
    plain = lazy + 0
    values = [plain, torch.where(plain > 2, torch.inf, plain), torch.where(plain < -2, torch.nan, plain)]
    for masks in values:
        result = processor.filter_masks(masks, outputs.iou_scores[0], (120, 160), [0, 0, 160, 120], **limits)
        assert result[0] == expected[0]
        assert torch.equal(result[1], expected[1])
        assert torch.equal(result[2], expected[2])
    lazy.neg_()
    negated = processor.filter_masks(lazy, outputs.iou_scores[0], (120, 160), [0, 0, 160, 120], **limits)
    assert negated[0] != expected[0]


class TestUpscaledMasks:
    """To everybody but the pipeline they are the tensors that `upscale_logits` makes."""

    sizes = ((30, 50), (38, 64), (64, 64))

    @pytest.fixture
    def expected(self) -> Tensor:
        return upscale_logits(self.logits(), *self.sizes)

    @pytest.fixture
    def masks(self) -> UpscaledMasks:
        processor = processor_for(tiny_model("vit")).image_processor
        masks = processor.post_process_masks(self.logits()[None], [self.sizes[0]], binarize=False)[0]
        assert isinstance(masks, UpscaledMasks)
        return masks

    @staticmethod
    def logits() -> Tensor:
        return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def test_shape_and_kind_cost_nothing(self, masks: UpscaledMasks) -> None:
        assert (tuple(masks.shape), masks.dtype, masks.device.type) == ((2, 3, 30, 50), torch.float32, "cpu")
        assert (masks.ndim, len(masks), masks.numel()) == (4, 2, 9000)
        assert not masks.is_upscaled

    @pytest.mark.parametrize(
        "look",
        [
            lambda x: x + 0,
            lambda x: torch.stack(list(x)),
            lambda x: torch.cat([x[:1], x[1:]]),
            lambda x: torch.from_numpy(x.numpy()),
            lambda x: torch.from_numpy(np.asarray(x)),
            lambda x: torch.from_numpy(np.array(x, dtype=np.float64)).float(),
            lambda x: torch.tensor(x.tolist()),
            lambda x: pickle.loads(pickle.dumps(x)),
            copy.deepcopy,
            torch.from_dlpack,
            lambda x: x.to(torch.float64).float().detach().clone(),
        ],
    )
    def test_values(self, look: Callable[[Tensor], Tensor], masks: UpscaledMasks, expected: Tensor) -> None:
        seen = look(masks)
        assert type(seen) is Tensor
        assert torch.equal(seen, expected)
        assert masks.is_upscaled

    def test_text(self, masks: UpscaledMasks, expected: Tensor) -> None:
        assert (repr(masks), f"{masks[0, 0, 0, 0]:.4f}") == (repr(expected), f"{expected[0, 0, 0, 0]:.4f}")

    def test_changes_in_place_stay(self, masks: UpscaledMasks, expected: Tensor) -> None:
        masks[0, 0] = 7.0
        masks.mul_(2)
        assert (masks[0, 0] == 14).all()
        assert torch.equal(masks[1], expected[1] * 2)

    def test_again_through_the_processor(self, masks: UpscaledMasks, expected: Tensor) -> None:
        processor = processor_for(tiny_model("vit")).image_processor
        assert processor.post_process_masks([masks], [(30, 50)], binarize=False)[0] is masks
        assert not masks.is_upscaled
        with pytest.raises(ValueError, match=r"brought to \(30, 50\) already: original_sizes=\(31, 50\)"):
            processor.post_process_masks([masks], [(31, 50)], binarize=False)
        with pytest.raises(ValueError, match=r"max_hole_area=3 .* need the model's pred_masks"):
            processor.post_process_masks([masks], [(30, 50)], binarize=False, max_hole_area=3)
        assert torch.equal(processor.post_process_masks([masks], [(30, 50)], mask_threshold=0.5)[0], expected > 0.5)

    def test_gradients_pass(self) -> None:
        processor = processor_for(tiny_model("vit")).image_processor
        logits = self.logits().requires_grad_()
        processor.post_process_masks(logits[None], [(30, 50)], binarize=False)[0].sum().backward()
        assert logits.grad is not None
        assert (logits.grad != 0).any()


def test_wrong_calls_are_named() -> None:
    _, processor = blobs("vit")
    image = picture((60, 60))
    with pytest.raises(ValueError, match="image must be one image, got a list of 2"):
        processor.generate_crop_boxes([image, image])
    with pytest.raises(ValueError, match=r"target_size=1024 is not this processor's 64: .*updated\(image_size=1024\)"):
        processor.generate_crop_boxes(image, 1024)
    with pytest.raises(ValueError, match=r"points_per_crop must be a whole number of at least 1.*got 0"):
        processor.generate_crop_boxes(image, points_per_crop=0)
    with pytest.raises(ValueError, match="points_per_crop=4 with crop_n_points_downscale_factor=3 leaves no points"):
        processor.generate_crop_boxes(image, 64, 2, points_per_crop=4, crop_n_points_downscale_factor=3)
    masks = torch.zeros(2, 3, 60, 60)
    with pytest.raises(ValueError, match=r"got shapes \(2, 3, 60, 60\) and \(2, 1\)"):
        processor.filter_masks(masks, torch.zeros(2, 1), (60, 60), [0, 0, 60, 60])
    with pytest.raises(ValueError, match=r"masks have size \(60, 60\), but cropped_box_image is \[0, 0, 60, 50\]"):
        processor.filter_masks(masks, torch.ones(2, 3), (60, 60), [0, 0, 60, 50])
