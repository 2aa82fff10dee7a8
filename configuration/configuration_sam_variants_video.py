"""Configuration of the model that tracks objects through video."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from sam_variants.configuration.configuration_memory import MemoryAttentionConfig, MemoryEncoderConfig
from sam_variants.configuration.configuration_sam_variants import VIDEO_MODEL_TYPE, SamVariantsConfig

MEMORY_DTYPES = ("bfloat16", "float16", "float32")


@strict
class SamVariantsVideoConfig(SamVariantsConfig):
    """Configuration of `SamVariantsVideoModel`: the image model's, with a memory; the defaults are SAM 2.1's.

    The names are the official ones of SAM 2, apart from `memory_dtype`.

    Args:
        memory_attention_config: configuration of the memory attention, or a dict.
        memory_encoder_config: configuration of the memory encoder, or a dict.
        num_maskmem: mask memories that a frame looks at: conditioning frames count as one, then the last frames.
        max_cond_frames_in_attn: prompted frames that a frame looks at; −1 for all of them.
        memory_temporal_stride_for_eval: take every that-many-th of the last frames, beside the last one.
        max_obj_ptrs_in_encoder: object pointers that a frame looks at.
        sigmoid_scale_for_mem_enc, sigmoid_bias_for_mem_enc: what mask probabilities are multiplied with and shifted by
            before they are remembered.
        binarize_mask_from_pts_for_mem_enc: remember prompted masks as 0 or 1 instead of as probabilities.
        multimask_output_for_tracking: choose among several masks on frames without a prompt too.
        multimask_min_pt_num, multimask_max_pt_num: numbers of points for which one of several masks is chosen.
        no_obj_embed_spatial: add a learned vector to the memory of frames on which the object is not visible.
        add_tpos_enc_to_obj_ptrs: encode how long ago an object pointer was made.
        proj_tpos_enc_in_obj_ptrs: project that encoding with a linear layer.
        use_signed_tpos_enc_to_obj_ptrs: tell pointers of earlier frames from those of later ones.
        add_all_frames_to_correct_as_cond: every prompted frame becomes a conditioning frame. With False (as in the
            official code) a correction on a frame that was tracked already is lost when the frame is tracked again.
        clear_non_cond_mem_around_input: forget the tracked frames around a prompted one.
        non_overlap_masks: give each pixel to one object, the one with the highest logit.
        fill_hole_area: holes of at most so many cells of the mask logits are filled.
        memory_dtype: how mask memories are kept: "bfloat16" (as the official code does), "float16" or "float32".
        **kwargs: as for `SamVariantsConfig`.
    """

    model_type = VIDEO_MODEL_TYPE
    sub_configs = SamVariantsConfig.sub_configs | {
        "memory_attention_config": MemoryAttentionConfig,
        "memory_encoder_config": MemoryEncoderConfig,
    }

    memory_attention_config: dict | PreTrainedConfig | None = None
    memory_encoder_config: dict | PreTrainedConfig | None = None
    use_no_mem_embed: bool = True
    num_maskmem: int = 7
    max_cond_frames_in_attn: int = -1
    memory_temporal_stride_for_eval: int = 1
    max_obj_ptrs_in_encoder: int = 16
    sigmoid_scale_for_mem_enc: float | int = 20.0
    sigmoid_bias_for_mem_enc: float | int = -10.0
    binarize_mask_from_pts_for_mem_enc: bool = True
    multimask_output_for_tracking: bool = True
    multimask_min_pt_num: int = 0
    multimask_max_pt_num: int = 1
    no_obj_embed_spatial: bool = True
    add_tpos_enc_to_obj_ptrs: bool = True
    proj_tpos_enc_in_obj_ptrs: bool = True
    use_signed_tpos_enc_to_obj_ptrs: bool = True
    add_all_frames_to_correct_as_cond: bool = True
    clear_non_cond_mem_around_input: bool = False
    non_overlap_masks: bool = False
    fill_hole_area: int = 8
    memory_dtype: str = "bfloat16"

    def __post_init__(self, **kwargs: Any) -> None:
        for name, config_class in (
            ("memory_attention_config", MemoryAttentionConfig),
            ("memory_encoder_config", MemoryEncoderConfig),
        ):
            value = self.versioned(getattr(self, name))
            if value is None or isinstance(value, dict):
                setattr(self, name, config_class(**(value or {})))
        self._check_memory()
        super().__post_init__(**kwargs)

    def _check_memory(self) -> None:
        if self.num_maskmem < 1 or self.memory_temporal_stride_for_eval < 1 or self.max_obj_ptrs_in_encoder < 1:
            raise ValueError(
                f"num_maskmem={self.num_maskmem}, memory_temporal_stride_for_eval="
                f"{self.memory_temporal_stride_for_eval} and max_obj_ptrs_in_encoder={self.max_obj_ptrs_in_encoder} "
                "must be at least 1"
            )
        if self.max_cond_frames_in_attn != -1 and self.max_cond_frames_in_attn < 2:
            raise ValueError(
                f"max_cond_frames_in_attn={self.max_cond_frames_in_attn} must be -1 (all) or at least 2: the nearest "
                "prompted frames before and after"
            )
        if not self.pad_input:
            raise ValueError("pad_input=False is for images: a memory refers to places in the padded frame")
        if self.memory_dtype not in MEMORY_DTYPES:
            raise ValueError(f"memory_dtype={self.memory_dtype!r} must be one of {', '.join(MEMORY_DTYPES)}")
        if self.proj_tpos_enc_in_obj_ptrs and not self.add_tpos_enc_to_obj_ptrs:
            raise ValueError("proj_tpos_enc_in_obj_ptrs=True needs add_tpos_enc_to_obj_ptrs=True")

    def _check_widths(self) -> None:
        super()._check_widths()
        widths = {
            "vision_config.out_chans": self.vision_config.out_chans,
            "memory_attention_config.d_model": self.memory_attention_config.d_model,
            "memory_encoder_config.in_dim": self.memory_encoder_config.in_dim,
        }
        if len(set(widths.values())) != 1:
            raise ValueError(f"image embedding and memory must share one width, got {widths}")
        memory_widths = {
            "memory_attention_config.kv_in_dim": self.memory_attention_config.kv_in_dim,
            "memory_encoder_config.out_dim": self.memory_encoder_config.out_dim,
        }
        if len(set(memory_widths.values())) != 1:
            raise ValueError(f"memories must have one width, got {memory_widths}")
        if self.vision_config.out_chans % self.memory_encoder_config.out_dim:
            raise ValueError(
                f"memory_encoder_config.out_dim={self.memory_encoder_config.out_dim} must divide the image embedding's "
                f"width {self.vision_config.out_chans}: object pointers are cut into such pieces"
            )
