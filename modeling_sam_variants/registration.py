"""Makes transformers know this package: its Auto classes load our checkpoints, its `pipeline` our tasks.

Here and not where the classes are defined: the same files are remote code on the Hub, which must not stand for the
package, nor for another repository's code, in a process that has both.
"""

from __future__ import annotations

from functools import cache

import transformers.pipelines

from sam_variants.configuration.configuration_hiera import HieraConfig
from sam_variants.configuration.configuration_mask_decoder import MaskDecoderConfig
from sam_variants.configuration.configuration_memory import MemoryAttentionConfig, MemoryEncoderConfig
from sam_variants.configuration.configuration_prompt_encoder import PromptEncoderConfig
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.configuration_tiny_vit import TinyViTConfig
from sam_variants.configuration.configuration_vit import ImageEncoderViTConfig
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.decoders.prompt_encoder import PromptEncoder
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.encoders.encoder_hiera import ImageEncoder
from sam_variants.encoders.encoder_tiny_vit import TinyViT
from sam_variants.encoders.encoder_vit import ImageEncoderViT
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.memory.memory_attention import MemoryAttention
from sam_variants.memory.memory_encoder import MemoryEncoder
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.video_pipeline import PromptableVideoSegmentationPipeline

MODELS: dict[type[transformers.PreTrainedConfig], type[transformers.PreTrainedModel]] = {
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


@cache
def register() -> None:
    """Register everything, once in a process."""
    for config_class, model_class in MODELS.items():
        transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        transformers.AutoModel.register(config_class, model_class, exist_ok=True)
    for config_class in (SamVariantsConfig, SamVariantsVideoConfig):
        transformers.AutoModelForMaskGeneration.register(config_class, MODELS[config_class], exist_ok=True)
        transformers.AutoImageProcessor.register(
            config_class, image_processor_classes={"pil": SamVariantsImageProcessorPil}, exist_ok=True
        )
        transformers.AutoProcessor.register(config_class, SamVariantsProcessor, exist_ok=True)
    registry = transformers.pipelines.PIPELINE_REGISTRY
    registry.register_pipeline(
        "promptable-segmentation",
        pipeline_class=PromptableSegmentationPipeline,
        pt_model=PromptableSegmentationPipeline.model_loader,
        default={"model": (str(default_checkpoint()), "main")},
        type="image",
    )
    registry.register_pipeline(
        "promptable-video-segmentation",
        pipeline_class=PromptableVideoSegmentationPipeline,
        pt_model=PromptableVideoSegmentationPipeline.model_loader,
        default={"model": (str(default_checkpoint(video=True)), "main")},
        type="image",
    )
    # transformers' own task keeps its default model; `register_pipeline` would warn that the task exists.
    registry.supported_tasks["mask-generation"] |= {
        "impl": SamVariantsMaskGenerationPipeline,
        "pt": (SamVariantsMaskGenerationPipeline.model_loader,),
    }
