"""Replays the goldens of SAM 2's video predictor: the same prompts in the same order, frame by frame."""

from __future__ import annotations

from typing import Any

import torch
from golden_memory import layer_arguments
from torch import Tensor

from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.mask_storage import upsample_logits
from sam_variants.memory.memory_bank import FrameRecord
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.results import Masks
from sam_variants.video_session import VideoSession

# Switches that have the official names; left out, they are off.
SWITCHES = (
    "no_obj_embed_spatial",
    "add_tpos_enc_to_obj_ptrs",
    "proj_tpos_enc_in_obj_ptrs",
    "use_signed_tpos_enc_to_obj_ptrs",
    "binarize_mask_from_pts_for_mem_enc",
    "add_all_frames_to_correct_as_cond",
    "clear_non_cond_mem_around_input",
    "non_overlap_masks",
    "multimask_output_for_tracking",
)
NUMBERS = (
    "num_maskmem",
    "sigmoid_scale_for_mem_enc",
    "sigmoid_bias_for_mem_enc",
    "multimask_min_pt_num",
    "multimask_max_pt_num",
    "max_cond_frames_in_attn",
    "memory_temporal_stride_for_eval",
    "max_obj_ptrs_in_encoder",
)
RECORD_FIELDS = {
    "pred_masks": "mask_logits",
    "obj_ptr": "pointer",
    "object_score_logits": "object_score_logit",
}
# Relative distance of neighbouring bfloat16 numbers, at most.
BFLOAT16_STEP = 2.0**-7


def video_config(spec: dict[str, Any], memory_dtype: str = "bfloat16") -> SamVariantsVideoConfig:
    """The configuration of an official model; its decoder's hidden widths are those of `SAM2Base`."""
    trunk, neck = spec["image_encoder"]["trunk"], spec["image_encoder"]["neck"]
    encoder, attention = spec["memory_encoder"], spec["memory_attention"]
    width = neck["d_model"]
    layer = layer_arguments(attention["layer"])
    return SamVariantsVideoConfig(
        vision_config={
            "model_type": "sam_variants_hiera",
            "image_size": spec["image_size"],
            "out_chans": width,
            **{name: value for name, value in trunk.items() if name != "_class_"},
            "fpn_interp_model": neck["fpn_interp_model"],
            "fpn_top_down_levels": neck["fpn_top_down_levels"],
        },
        prompt_encoder_config={"embed_dim": width, "pad_boxes": True},
        mask_decoder_config={
            "transformer_dim": width,
            "high_resolution_channels": [width, width],
            "sam2_transformer": True,
            "iou_prediction_use_sigmoid": spec["iou_prediction_use_sigmoid"],
            "pred_obj_scores": spec["pred_obj_scores"],
            "pred_obj_scores_mlp": spec["pred_obj_scores_mlp"],
            "use_multimask_token_for_obj_ptr": spec["use_multimask_token_for_obj_ptr"],
            **spec["sam_mask_decoder_extra_args"],
        },
        memory_attention_config={"num_layers": attention["num_layers"], **layer},
        memory_encoder_config={"in_dim": encoder["in_dim"], "out_dim": encoder["out_dim"]},
        fill_hole_area=spec.get("fill_hole_area", 0),
        memory_dtype=memory_dtype,
        **{name: spec.get(name, False) for name in SWITCHES},
        **{name: spec[name] for name in NUMBERS if name in spec},
    )


def build_video_model(spec: dict[str, Any], weights: dict[str, Tensor], memory_dtype: str) -> SamVariantsVideoModel:
    """Our model with the reference's weights, every key of which must fit."""
    model = SamVariantsVideoModel(video_config(spec, memory_dtype))
    model.load_state_dict(weights, strict=True)
    return model.eval()


def replay(
    config: dict[str, Any], weights: dict[str, Tensor], io: dict[str, Tensor], **options: Any
) -> dict[str, float]:
    """Every difference to the reference, by its name in the golden.

    Args:
        config, weights, io: of the golden.
        options: of the session.
    """
    memory_dtype = "float32" if config["run_options"].get("fp32mem") else "bfloat16"
    model = build_video_model(config["spec"], weights, memory_dtype)
    frames = io["frames_original_u8"]
    session = VideoSession(model, processor_for(model), num_frames=len(frames), keep_frames=len(frames), **options)
    for frame in frames:
        session.step(frame.numpy())
    differences: dict[str, float] = {}
    for number, (name, *arguments) in enumerate(config["ops"]):
        key = f"out/op{number}_{name}"
        if name == "prop":
            start, reverse, count = arguments
            for masks in session.propagate(start, reverse, count):
                compare(differences, f"{key}.frame{masks.frame_index}", masks, session, io)
        else:
            compare(differences, key, prompt(session, name, arguments, io), session, io)
    missing = {name for name in io if name.startswith("out/op")} - set(differences)
    assert not missing, f"never compared: {sorted(missing)}"
    return differences


def prompt(session: VideoSession, name: str, arguments: list[Any], io: dict[str, Tensor]) -> Masks | None:
    """One click, box or mask."""
    frame, object_id, value, *more = arguments
    if name == "mask":
        return session.add_object(object_id, mask=io["mask_prompt"], frame=frame)
    if name == "box":
        return session.add_object(object_id, boxes=value, frame=frame, replace=True)
    labels, clear_old_points = more
    return session.add_object(object_id, value, labels, frame=frame, replace=clear_old_points)


def compare(
    differences: dict[str, float], key: str, masks: Masks | None, session: VideoSession, io: dict[str, Tensor]
) -> None:
    """Note the differences of masks at the video's size and of what is remembered of the frame."""
    assert masks is not None
    store: Any = masks._store
    if f"{key}.video_res_masks" in io:
        ours = upsample_logits(store.logits, store.size)
        differences[f"{key}.video_res_masks"] = float((ours - io[f"{key}.video_res_masks"][:, 0]).abs().max())
    for number, tracked in enumerate(session._objects.values()):
        for kind, records in (("cond", tracked.bank.conditioning), ("noncond", tracked.bank.tracked)):
            name = f"{key}.obj{number}.{kind}"
            if f"{name}.pred_masks" not in io:
                continue
            record = records[masks.frame_index]  # type: ignore[index]
            for theirs, ours_name in RECORD_FIELDS.items():
                expected = io[f"{name}.{theirs}"].float()
                ours = getattr(record, ours_name).float()
                difference = (ours.reshape(expected.shape) - expected).abs()
                differences[f"{name}.{theirs}"] = float(difference.max())
            differences[f"{name}.maskmem_features"] = take_over_memory(record, io[f"{name}.maskmem_features"])


def take_over_memory(record: FrameRecord, expected: Tensor) -> float:
    """The difference of a mask memory, beyond the last digit of a bfloat16 where memories are held so.

    That digit depends on rounding anywhere before; the frames to come go on with the reference's.
    """
    memory: Tensor = record.memory
    theirs = expected.float().flatten(2)[0].T
    difference = (memory.float() - theirs).abs()
    if memory.dtype == torch.bfloat16:
        difference = (difference - BFLOAT16_STEP * theirs.abs()).clamp(min=0)
    record.memory = theirs.to(memory.dtype)
    return float(difference.max())
