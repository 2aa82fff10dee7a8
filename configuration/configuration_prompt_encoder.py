"""Configuration of the prompt encoder."""

from typing import Any

from huggingface_hub.dataclasses import strict

from sam_variants.configuration.configuration_base import FamilyConfig


@strict
class PromptEncoderConfig(FamilyConfig):
    """Configuration of `PromptEncoder`.

    Args:
        embed_dim: width of the prompt embeddings.
        image_embedding_size: side of the image embedding in cells.
        input_image_size: side of the model's square input in pixels.
        pad_input: False when images may come without the padding that fills that square: positions are still those of
            the whole square.
        mask_in_chans: hidden channels of the mask prompt's convolutions.
        positional_scale: scale of the random Fourier features (drawn at construction, then loaded with the weights).
        pad_boxes: let a not-a-point token follow boxes too, as SAM 2 does; SAM has it only behind points without a box.
        hidden_act: activation of the mask prompt's convolutions.
        layer_norm_eps: epsilon of its layer norms.
        initializer_range: standard deviation of the normal initialisation.
    """

    base_config_key = "prompt_encoder_config"
    model_type = "sam_variants_prompt_encoder"
    attribute_map = {"hidden_size": "embed_dim"}

    embed_dim: int = 256
    image_embedding_size: int = 64
    input_image_size: int = 1024
    pad_input: bool = True
    mask_in_chans: int = 16
    positional_scale: float | int = 1.0
    pad_boxes: bool = False
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-6
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.embed_dim % 2:
            raise ValueError(f"embed_dim={self.embed_dim} must be even: half sine, half cosine")
        if self.mask_in_chans % 4:
            raise ValueError(f"mask_in_chans={self.mask_in_chans} must be a multiple of 4")
        super().__post_init__(**kwargs)

    @property
    def mask_input_size(self) -> int:
        """Side of a mask prompt in cells: four per cell of the image embedding."""
        return 4 * self.image_embedding_size
