"""Configuration of the mask decoder."""

from typing import Any

from huggingface_hub.dataclasses import strict

from sam_variants.configuration.configuration_base import FamilyConfig


@strict
class MaskDecoderConfig(FamilyConfig):
    """Configuration of `MaskDecoder` with its two-way transformer.

    Args:
        transformer_dim: width of tokens and image embedding.
        num_multimask_outputs: masks for an ambiguous prompt, beside the single mask.
        transformer_depth: two-way blocks.
        transformer_num_heads: attention heads.
        transformer_mlp_dim: hidden width of the tokens' MLP.
        attention_downsample_rate: factor by which the cross-attentions are narrower than `transformer_dim`.
        iou_head_depth, iou_head_hidden_dim: the MLP that predicts each mask's IoU.
        high_resolution_channels: channels of the encoder's features at a quarter and half of the stride, which are
            added while upscaling as in SAM 2; None for the SAM form without skip connections.
        sam2_transformer: two-way blocks with SAM 2's parameter names (their MLP is an `MLP`, SAM's an `MLPBlock`).
        iou_prediction_use_sigmoid: bound the predicted IoU to 0–1.
        pred_obj_scores: one more token and a head for a score of whether the object is visible at all.
        pred_obj_scores_mlp: that head is an MLP of three layers instead of one linear layer.
        use_multimask_token_for_obj_ptr: describe an object by the tokens of the masks that were asked for; False takes
            the single mask's token always.
        dynamic_multimask_via_stability: in eval mode, answer a request for one mask with the best of the several where
            the single one is not stable.
        dynamic_multimask_stability_delta: mask logits are compared at plus and minus this value.
        dynamic_multimask_stability_thresh: smallest IoU of the two that counts as stable.
        hidden_act: activation of the upscaling.
        transformer_act: activation of the tokens' MLP.
        layer_norm_eps: epsilon of the transformer's layer norms (the upscaling's has 1e-6).
        initializer_range: standard deviation of the normal initialisation.
    """

    base_config_key = "mask_decoder_config"
    model_type = "sam_variants_mask_decoder"
    attribute_map = {
        "hidden_size": "transformer_dim",
        "num_hidden_layers": "transformer_depth",
        "num_attention_heads": "transformer_num_heads",
    }

    transformer_dim: int = 256
    num_multimask_outputs: int = 3
    transformer_depth: int = 2
    transformer_num_heads: int = 8
    transformer_mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    high_resolution_channels: list[int] | tuple[int, ...] | None = None
    sam2_transformer: bool = False
    iou_prediction_use_sigmoid: bool = False
    pred_obj_scores: bool = False
    pred_obj_scores_mlp: bool = False
    use_multimask_token_for_obj_ptr: bool = False
    dynamic_multimask_via_stability: bool = False
    dynamic_multimask_stability_delta: float | int = 0.05
    dynamic_multimask_stability_thresh: float | int = 0.98
    hidden_act: str = "gelu"
    transformer_act: str = "relu"
    layer_norm_eps: float | int = 1e-5
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.transformer_dim % 8:
            raise ValueError(
                f"transformer_dim={self.transformer_dim} must be a multiple of 8: masks have an eighth of it"
            )
        if self.high_resolution_channels is not None and len(self.high_resolution_channels) != 2:
            raise ValueError(
                f"high_resolution_channels={self.high_resolution_channels} must hold two widths, finest first"
            )
        super().__post_init__(**kwargs)
