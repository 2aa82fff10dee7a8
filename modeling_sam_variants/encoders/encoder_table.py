"""Which class encodes images for which configuration."""

from __future__ import annotations

from sam_variants.configuration.configuration_image_encoder import ImageEncoderConfig
from sam_variants.encoders.encoder_base import ImageEncoderBase
from sam_variants.encoders.encoder_hiera import ImageEncoder
from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.encoders.encoder_vit import ImageEncoderViT

IMAGE_ENCODERS: dict[str, type[ImageEncoderBase]] = {
    "sam_variants_vit": ImageEncoderViT,
    "sam_variants_tiny_vit": TinyViT,
    "sam_variants_hiera": ImageEncoder,
}


def build_image_encoder(config: ImageEncoderConfig) -> ImageEncoderBase:
    """The encoder that `config.model_type` names.

    Raises:
        ValueError: for an unknown type, listing the known ones.
    """
    if config.model_type not in IMAGE_ENCODERS:
        raise ValueError(
            f"vision_config.model_type={config.model_type!r}; known image encoders: {sorted(IMAGE_ENCODERS)}"
        )
    return IMAGE_ENCODERS[config.model_type](config)
