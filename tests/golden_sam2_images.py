"""SAM 2 on images as the goldens know it: the mask decoder alone, and the image predictor."""

from __future__ import annotations

from typing import Any

import torch
from golden_video import video_config
from torch import Tensor, nn

from sam_variants.configuration.configuration_mask_decoder import MaskDecoderConfig
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.mask_regions import clean_masks, fill_holes, region_areas
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.mask_post_processing import upscale_logits
from sam_variants.processing.processor_for import processor_for

DECODER_SWITCHES = (
    "iou_prediction_use_sigmoid",
    "pred_obj_scores",
    "pred_obj_scores_mlp",
    "use_multimask_token_for_obj_ptr",
    "dynamic_multimask_via_stability",
    "dynamic_multimask_stability_delta",
    "dynamic_multimask_stability_thresh",
)
# The official predictor cuts what it returns as low-resolution logits.
LARGEST_LOGIT = 32.0


class SAM2MaskDecoder(MaskDecoder):
    """`MaskDecoder` with the official names of its arguments; ours finds out itself whether images are shared."""

    def forward(self, *, repeat_image: bool, high_res_features: Any = None, **arguments: Any) -> Any:
        return super().forward(**arguments, high_resolution_features=high_res_features)


def build_sam2_mask_decoder(spec: dict[str, Any]) -> nn.Module:
    transformer, width = spec["transformer"], spec["transformer_dim"]
    # The official skip convolutions take maps of the decoder's own width.
    skips = [width, width] if spec.get("use_high_res_features") else None
    config = MaskDecoderConfig(
        transformer_dim=width,
        num_multimask_outputs=spec.get("num_multimask_outputs", 3),
        transformer_depth=transformer["depth"],
        transformer_num_heads=transformer["num_heads"],
        transformer_mlp_dim=transformer["mlp_dim"],
        iou_head_depth=spec.get("iou_head_depth", 3),
        iou_head_hidden_dim=spec["iou_head_hidden_dim"],
        high_resolution_channels=skips,
        sam2_transformer=True,
        **{name: spec[name] for name in DECODER_SWITCHES if name in spec},
    )
    return SAM2MaskDecoder(config)


def run_skip_convolutions(module: MaskDecoder, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The 1×1 convolutions of the skip connections."""
    finest, coarser = module.project_high_resolution([inputs["x0"], inputs["x1"]])
    return {"s0": finest, "s1": coarser}


def build_sam2(spec: dict[str, Any]) -> nn.Module:
    return SamVariantsVideoModel(video_config(spec))


def run_set_image(model: SamVariantsVideoModel, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Any]:
    """`SAM2ImagePredictor.set_image`."""
    pixel_values = processor_for(model)(inputs["raw"].numpy(), return_tensors="pt")["pixel_values"]
    *skips, embedding = model.get_image_embeddings(pixel_values)
    return {"transformed": pixel_values[0], "image_embed": embedding, "high_res_feats": skips}


def run_predict(model: SamVariantsVideoModel, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`SAM2ImagePredictor.predict` on one image."""
    name, size = case["name"], inputs["raw"].shape[:2]
    prompts: dict[str, Any] = {}
    if "point_coords" in inputs:
        points = inputs["point_coords"].float()
        if "normalized" in name:
            points = points * torch.tensor([size[1], size[0]])
        labels = inputs.get("point_labels", torch.tensor([1, 0]))
        prompts |= {"input_points": points[None], "input_labels": labels[None]}
    if "box" in inputs:
        prompts["input_boxes"] = inputs["box"].reshape(-1, 4)
    processor = processor_for(model)
    batch = processor(inputs["raw"].numpy(), **prompts, return_tensors="pt")
    if "mask_input" in inputs:
        batch["input_masks"] = inputs["mask_input"][None]
    sizes = batch.pop("original_sizes"), batch.pop("reshaped_input_sizes")
    output = model(**batch, multimask_output=name.endswith("True"))
    logits = processor.post_process_masks(output.pred_masks, *sizes, binarize=False)[0]
    results = {
        "mask_logits": logits,
        "masks": (logits > 0).float(),
        "iou": output.iou_scores[0],
        "low_res": output.pred_masks[0].clamp(-LARGEST_LOGIT, LARGEST_LOGIT),
    }
    # One object comes back without the axis of objects.
    return {key: value[0] if len(value) == 1 else value for key, value in results.items()}


def run_predict_batch(model: SamVariantsVideoModel, case: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """`SAM2ImagePredictor.predict_batch`: two images of different sizes, one point each, as one batch of ours."""
    processor = processor_for(model)
    images = [inputs["raw0"].numpy(), inputs["raw1"].numpy()]
    points = [inputs["points0"][None], inputs["points1"][None]]
    batch = processor(images, input_points=points, return_tensors="pt")
    sizes = batch.pop("original_sizes"), batch.pop("reshaped_input_sizes")
    output = model(**batch)
    masks = processor.post_process_masks(output.pred_masks, *sizes, binarize=False)
    return {
        "masks": [mask[0] for mask in masks],
        "iou": [scores[0] for scores in output.iou_scores],
        "low_res": [logits[0].clamp(-LARGEST_LOGIT, LARGEST_LOGIT) for logits in output.pred_masks],
    }


def run_fill_holes(module: None, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hole filling of the video predictor ("fill_8") and of the image predictor ("postprocess_6_10"), by name."""
    mask = inputs["mask"]
    kind, *areas = case["name"].split("_")
    if kind == "areas":
        return {"area_of_background_component": region_areas(mask <= 0)}
    if kind == "fill":
        return {"y": fill_holes(mask, int(areas[0]))}
    cleaned = clean_masks(mask, *map(int, areas))
    return {"y": upscale_logits(cleaned, (50, 45), (50, 45), None)}
