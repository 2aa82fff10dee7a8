"""Runs the goldens of whole models: `Sam.forward` on a ragged batch and `SamPredictor` on 8-bit images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sam_variants.decoders.prompt_encoder import PADDING_COORDINATE, PADDING_LABEL
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.coordinates import apply_boxes, apply_coords
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil


def processor_of(model: SamVariantsModel) -> SamVariantsImageProcessorPil:
    size, mask_size = model.config.image_size, model.config.prompt_encoder_config.mask_input_size
    return SamVariantsImageProcessorPil(size=size, pad_size=size, mask_size=mask_size)


def run_sam_forward(model: SamVariantsModel, case: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Three objects with two points in one image, two with box and mask in the other: one padded batch of ours."""
    processor = processor_of(model)
    batch = processor([inputs["raw0"].numpy(), inputs["raw1"].numpy()], return_tensors="pt")
    points = torch.full((2, 3, 2, 2), float(PADDING_COORDINATE))
    labels = torch.full((2, 3, 2), PADDING_LABEL)
    boxes = torch.full((2, 3, 4), float(PADDING_COORDINATE))
    masks = torch.full((2, 3, *inputs["b1_mask_inputs"].shape[-2:]), float("nan"))
    points[0], labels[0] = inputs["b0_point_coords"], inputs["b0_point_labels"]
    boxes[1, :2], masks[1, :2] = inputs["b1_boxes"], inputs["b1_mask_inputs"][:, 0]
    output = model(
        pixel_values=batch["pixel_values"],
        input_points=points,
        input_labels=labels,
        input_boxes=boxes,
        input_masks=masks,
        multimask_output=case["name"].endswith("True"),
    )
    full = processor.post_process_masks(output.pred_masks, batch["original_sizes"], batch["reshaped_input_sizes"])
    results = {
        "preprocessed": batch["pixel_values"],
        "image_embeddings": model.get_image_embeddings(batch["pixel_values"]),
    }
    for index, count in ((0, 3), (1, 2)):
        results[f"masks_{index}"] = full[index][:count]
        results[f"iou_predictions_{index}"] = output.iou_scores[index, :count]
        results[f"low_res_logits_{index}"] = output.pred_masks[index, :count]
    return results


def run_predictor(model: SamVariantsModel, case: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Tensor]:
    """`SamPredictor.set_image`, then `predict` with prompts in pixels of the original image."""
    processor = processor_of(model)
    batch = processor(inputs["raw"].numpy(), return_tensors="pt")
    sizes = (batch["original_sizes"][0], batch["reshaped_input_sizes"][0])
    prompts: dict[str, Tensor] = {}
    if "point_coords" in inputs:
        prompts["input_points"] = apply_coords(inputs["point_coords"], *sizes).float()[None, None]
        prompts["input_labels"] = inputs["point_labels"][None, None]
    if "box" in inputs:
        prompts["input_boxes"] = apply_boxes(inputs["box"], *sizes).float()[None, None]
    embeddings = model.get_image_embeddings(batch["pixel_values"])

    def predict(multimask_output: bool, **more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = model(image_embeddings=embeddings, multimask_output=multimask_output, **prompts, **more)
        logits = processor.post_process_masks(output.pred_masks, *(size[None] for size in sizes), binarize=False)
        return logits[0][0], output.iou_scores[0, 0], output.pred_masks[0, 0]

    if case["name"] != "predictor_refine_with_mask_input":
        logits, iou, low_res = predict(case["name"].endswith("True"))
        return {"mask_logits_original_size": logits, "iou": iou, "low_res_logits": low_res}
    first, first_iou, first_low_res = predict(multimask_output=True)
    best = first_low_res[first_iou.argmax()]
    torch.testing.assert_close(best, inputs["mask_input"][0], atol=1e-4, rtol=0)
    logits, iou, low_res = predict(multimask_output=False, input_masks=best[None, None])
    return {
        "first_masks": first > 0,
        "first_iou": first_iou,
        "masks": logits > 0,
        "iou": iou,
        "low_res_logits": low_res,
        "image_embedding": embeddings,
    }
