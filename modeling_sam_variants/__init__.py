"""Segment Anything, every variant, for transformers: importing this registers the Auto classes and pipelines."""

import transformers.pipelines

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.configuration.configuration_mask_decoder import MaskDecoderConfig
from sam_variants.configuration.configuration_prompt_encoder import PromptEncoderConfig
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_tiny_vit import TinyViTConfig
from sam_variants.configuration.configuration_vit import ImageEncoderViTConfig
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.decoders.prompt_encoder import PromptEncoder
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.encoders.encoder_vit import ImageEncoderViT
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.processor_for import processor_for
from sam_variants.results import Masks

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "ImageEncoderViT",
    "ImageEncoderViTConfig",
    "MaskDecoder",
    "MaskDecoderConfig",
    "Masks",
    "PromptEncoder",
    "PromptEncoderConfig",
    "PromptableSegmentationPipeline",
    "SamVariantsConfig",
    "SamVariantsImageProcessorPil",
    "SamVariantsModel",
    "SamVariantsProcessor",
    "TinyViT",
    "TinyViTConfig",
    "__version__",
    "config_for",
    "default_checkpoint",
    "load_checkpoint",
    "processor_for",
]

transformers.AutoImageProcessor.register(
    SamVariantsConfig, image_processor_classes={"pil": SamVariantsImageProcessorPil}, exist_ok=True
)
transformers.AutoProcessor.register(SamVariantsConfig, SamVariantsProcessor, exist_ok=True)
transformers.pipelines.PIPELINE_REGISTRY.register_pipeline(
    "promptable-segmentation",
    pipeline_class=PromptableSegmentationPipeline,
    pt_model=PromptableSegmentationPipeline.model_loader,
    default={"model": (str(default_checkpoint()), "main")},
    type="image",
)
