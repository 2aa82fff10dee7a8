"""The image processor that belongs to a configuration."""

from __future__ import annotations

from typing import Any

from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil

# Preprocessing by the model_type of the image encoder. SAM's is the image processor's default.
SAM_PREPROCESSING: dict[str, Any] = {}
SAM2_PREPROCESSING: dict[str, Any] = {
    "resize_mode": "square",
    "do_rescale": True,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
}
PREPROCESSING: dict[str, dict[str, Any]] = {
    "sam_variants_vit": SAM_PREPROCESSING,
    "sam_variants_tiny_vit": SAM_PREPROCESSING,
    "sam_variants_hiera": SAM2_PREPROCESSING,
}


def image_processor_for(config: Any) -> SamVariantsImageProcessorPil:
    """The image processor for a configuration: its input size, normalisation, resizing and mask prompt size.

    Args:
        config: of a whole model or of an image encoder.

    Raises:
        TypeError: for anything else.
        ValueError: for an unknown image encoder.
    """
    vision_config = getattr(config, "vision_config", config)
    model_type, stride = getattr(vision_config, "model_type", None), getattr(vision_config, "stride", None)
    image_size = getattr(config, "image_size", None) or getattr(vision_config, "image_size", None)
    if stride is None or image_size is None:
        raise TypeError(f"{type(config).__name__} says neither image_size nor stride, as an image encoder's does")
    if model_type not in PREPROCESSING:
        raise ValueError(f"the image encoder {model_type!r} is not among {sorted(PREPROCESSING)}")
    return SamVariantsImageProcessorPil(
        size=image_size, pad_size=image_size, mask_size=4 * image_size // stride, **PREPROCESSING[model_type]
    )
