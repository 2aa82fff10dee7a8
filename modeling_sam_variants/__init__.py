"""Segment Anything, every variant, for transformers: importing this registers the Auto classes and pipelines."""

import transformers.pipelines

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.configuration.configuration_base import PACKAGE_VERSION as _PACKAGE_VERSION
from sam_variants.configuration.configuration_hiera import HieraConfig
from sam_variants.configuration.configuration_mask_decoder import MaskDecoderConfig
from sam_variants.configuration.configuration_memory import MemoryAttentionConfig, MemoryEncoderConfig
from sam_variants.configuration.configuration_prompt_encoder import PromptEncoderConfig
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.configuration_tiny_vit import TinyViTConfig
from sam_variants.configuration.configuration_vit import ImageEncoderViTConfig
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.decoders.prompt_encoder import PromptEncoder
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.encoders.encoder_hiera import ImageEncoder
from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.encoders.encoder_vit import ImageEncoderViT
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.time_split import TimeSplit
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.memory.memory_attention import MemoryAttention
from sam_variants.memory.memory_encoder import MemoryEncoder
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.processor_for import processor_for
from sam_variants.results import Masks
from sam_variants.video_pipeline import PromptableVideoSegmentationPipeline
from sam_variants.video_session import VideoSession

__version__ = _PACKAGE_VERSION

__all__ = [
    "PRESETS",
    "HieraConfig",
    "ImageEncoder",
    "ImageEncoderViT",
    "ImageEncoderViTConfig",
    "MaskDecoder",
    "MaskDecoderConfig",
    "MaskGenerationOptions",
    "Masks",
    "MemoryAttention",
    "MemoryAttentionConfig",
    "MemoryEncoder",
    "MemoryEncoderConfig",
    "PromptEncoder",
    "PromptEncoderConfig",
    "PromptableSegmentationPipeline",
    "PromptableVideoSegmentationPipeline",
    "SamVariantsConfig",
    "SamVariantsImageProcessorPil",
    "SamVariantsMaskGenerationPipeline",
    "SamVariantsModel",
    "SamVariantsProcessor",
    "SamVariantsVideoConfig",
    "SamVariantsVideoModel",
    "TimeSplit",
    "TinyViT",
    "TinyViTConfig",
    "VideoSession",
    "__version__",
    "config_for",
    "default_checkpoint",
    "load_checkpoint",
    "processor_for",
]

# Here and not where the classes are defined: the same files are remote code on the Hub, which must not stand for the
# package, nor for another repository's code, in a process that has both.
_MODELS: dict[type[transformers.PreTrainedConfig], type[transformers.PreTrainedModel]] = {
    ImageEncoderViTConfig: ImageEncoderViT,
    TinyViTConfig: TinyViT,
    HieraConfig: ImageEncoder,
    PromptEncoderConfig: PromptEncoder,
    MaskDecoderConfig: MaskDecoder,
    MemoryAttentionConfig: MemoryAttention,
    MemoryEncoderConfig: MemoryEncoder,
    SamVariantsConfig: SamVariantsModel,
    SamVariantsVideoConfig: SamVariantsVideoModel,
}
for _config_class, _model_class in _MODELS.items():
    transformers.AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    transformers.AutoModel.register(_config_class, _model_class, exist_ok=True)
for _config_class in (SamVariantsConfig, SamVariantsVideoConfig):
    transformers.AutoModelForMaskGeneration.register(_config_class, _MODELS[_config_class], exist_ok=True)
    transformers.AutoImageProcessor.register(
        _config_class, image_processor_classes={"pil": SamVariantsImageProcessorPil}, exist_ok=True
    )
    transformers.AutoProcessor.register(_config_class, SamVariantsProcessor, exist_ok=True)
transformers.pipelines.PIPELINE_REGISTRY.register_pipeline(
    "promptable-segmentation",
    pipeline_class=PromptableSegmentationPipeline,
    pt_model=PromptableSegmentationPipeline.model_loader,
    default={"model": (str(default_checkpoint()), "main")},
    type="image",
)
transformers.pipelines.PIPELINE_REGISTRY.register_pipeline(
    "promptable-video-segmentation",
    pipeline_class=PromptableVideoSegmentationPipeline,
    pt_model=PromptableVideoSegmentationPipeline.model_loader,
    default={"model": (str(default_checkpoint(video=True)), "main")},
    type="image",
)
# transformers' own task keeps its default model; `register_pipeline` would warn that the task exists.
transformers.pipelines.PIPELINE_REGISTRY.supported_tasks["mask-generation"] |= {
    "impl": SamVariantsMaskGenerationPipeline,
    "pt": (SamVariantsMaskGenerationPipeline.model_loader,),
}
