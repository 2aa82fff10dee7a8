"""What a checkpoint answers, asked through transformers alone: by the package, or by the code in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForMaskGeneration, AutoProcessor, pipeline

AUTO_CLASSES = (AutoConfig, AutoModel, AutoModelForMaskGeneration, AutoProcessor, AutoImageProcessor)
# Random weights are sure of nothing: let every point answer.
EVERYTHING = {"points_per_side": 3, "pred_iou_thresh": -10.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
POINT = {"points": [[20, 15]], "labels": [1]}


def picture(seed: int = 0) -> np.ndarray:
    """Smooth blobs, 40×56×3 uint8."""
    coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (40, 56), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).byte().numpy()


def loaded(folder: Path | str, **flags: Any) -> dict[str, Any]:
    """What each Auto class makes of the checkpoint, by its name."""
    return {kind.__name__: kind.from_pretrained(folder, **flags) for kind in AUTO_CLASSES}


def answers(folder: Path | str, parts: dict[str, Any] | None = None, **flags: Any) -> dict[str, Tensor]:
    """All kinds of outputs of a checkpoint.

    Args:
        folder: it, or a repository.
        parts: what `loaded` gave.
        flags: for `from_pretrained` and `pipeline`.
    """
    parts = loaded(folder, **flags) if parts is None else parts
    image, processor = picture(), parts["AutoProcessor"]
    inputs = processor(
        images=image, input_points=[[[20, 15], [30, 30]]], input_boxes=[[5, 6, 40, 30]], return_tensors="pt"
    )
    found = {"image_processor": parts["AutoImageProcessor"](image, return_tensors="pt")["pixel_values"]}
    found |= {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    for name in ("AutoModel", "AutoModelForMaskGeneration"):
        with torch.no_grad():
            outputs = parts[name].eval()(**inputs)
        found |= {f"{name} {key}": outputs[key] for key in ("pred_masks", "iou_scores")}
    masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    found["post_process_masks"] = masks[0]
    everything = pipeline("mask-generation", model=str(folder), **flags)(image, **EVERYTHING)
    prompted = pipeline("promptable-segmentation", model=str(folder), **flags)(image, points=[20, 15])
    for name, result in (("mask-generation", everything), ("promptable-segmentation", prompted)):
        found |= {f"{name} data": torch.as_tensor(result.data), f"{name} scores": torch.as_tensor(result.scores)}
    if parts["AutoConfig"].model_type == "sam_variants_video":
        track = pipeline("promptable-video-segmentation", model=str(folder), **flags)
        for frame in track([picture(seed) for seed in range(3)], prompts={0: {1: POINT}}):
            found[f"frame {frame.frame_index}"] = torch.as_tensor(frame.data)
        found["session"] = session_logits(parts["AutoModel"], processor)
    return found


def session_logits(model: Any, processor: Any) -> Tensor:
    """The same by transformers' names, where the processor's session meets the model."""
    session = processor.init_video_session(video=[picture(seed) for seed in range(3)])
    processor.add_inputs_to_inference_session(
        session, frame_idx=0, obj_ids=1, input_points=[[POINT["points"]]], input_labels=[[POINT["labels"]]]
    )
    with torch.no_grad():
        return torch.cat([output.pred_masks for output in model.propagate_in_video_iterator(session)])


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names of the outputs that are not equal to the last bit."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    return [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])]
