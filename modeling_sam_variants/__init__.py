"""Segment Anything, every variant, for transformers: importing this registers the Auto classes and pipelines.

The registration needs transformers' Auto classes and every model of ours. It happens at once, so that it doesn't matter
which of the two packages is imported first. What it doesn't need waits until it is asked for: the public names below
are found where they are defined.

One process is an exception, that of the command `sam-variants`, whose `--help` should not wait for PyTorch. There this
package is imported on the way to the command's own module, and nobody but our code can call an Auto class: the
registration happens before a subcommand runs, or when a public name is used.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Not with the others: importing the module puts it where the function of the same name belongs.
from sam_variants.default_checkpoint import default_checkpoint

if TYPE_CHECKING:
    from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
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
    from sam_variants.quantization import quantization_for
    from sam_variants.results import Masks
    from sam_variants.video_pipeline import PromptableVideoSegmentationPipeline
    from sam_variants.video_session import VideoSession

    __version__: str

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
    "quantization_for",
]

# The lines above that only type checkers read, for Python: name → the module in this package that defines it.
_DEFINED_IN = {
    "PRESETS": "configuration.presets",
    "HieraConfig": "configuration.configuration_hiera",
    "ImageEncoder": "encoders.encoder_hiera",
    "ImageEncoderViT": "encoders.encoder_vit",
    "ImageEncoderViTConfig": "configuration.configuration_vit",
    "MaskDecoder": "decoders.mask_decoder",
    "MaskDecoderConfig": "configuration.configuration_mask_decoder",
    "MaskGenerationOptions": "mask_generation.options",
    "Masks": "results",
    "MemoryAttention": "memory.memory_attention",
    "MemoryAttentionConfig": "configuration.configuration_memory",
    "MemoryEncoder": "memory.memory_encoder",
    "MemoryEncoderConfig": "configuration.configuration_memory",
    "PromptEncoder": "decoders.prompt_encoder",
    "PromptEncoderConfig": "configuration.configuration_prompt_encoder",
    "PromptableSegmentationPipeline": "pipelines",
    "PromptableVideoSegmentationPipeline": "video_pipeline",
    "SamVariantsConfig": "configuration.configuration_sam_variants",
    "SamVariantsImageProcessorPil": "processing.image_processing_sam_variants",
    "SamVariantsMaskGenerationPipeline": "mask_generation_pipeline",
    "SamVariantsModel": "modeling_sam_variants",
    "SamVariantsProcessor": "processing.processing_sam_variants",
    "SamVariantsVideoConfig": "configuration.configuration_sam_variants_video",
    "SamVariantsVideoModel": "modeling_sam_variants_video",
    "TimeSplit": "mask_generation.time_split",
    "TinyViT": "encoders.encoder_tiny_vit",
    "TinyViTConfig": "configuration.configuration_tiny_vit",
    "VideoSession": "video_session",
    "__version__": "configuration.configuration_base",
    "config_for": "configuration.presets",
    "load_checkpoint": "checkpoint_layouts.load_checkpoint",
    "processor_for": "processing.processor_for",
    "quantization_for": "quantization",
}
_COMMAND = "sam-variants"


def _runs_the_command() -> bool:
    """Whether this process was started as the installed command; on Windows that is an archive with a main module."""
    main = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    return main.name == _COMMAND or main.parent.name == f"{_COMMAND}.exe"


def _register() -> None:
    from sam_variants.registration import register

    register()


if not TYPE_CHECKING:  # for type checkers every name is imported above, and another one is a mistake

    def __getattr__(name: str) -> Any:
        """A public name, when it is first asked for."""
        if name not in _DEFINED_IN:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        _register()
        module = import_module(f"{__name__}.{_DEFINED_IN[name]}")
        found = globals()[name] = getattr(module, "PACKAGE_VERSION" if name == "__version__" else name)
        return found

    def __dir__() -> list[str]:
        return __all__


if not _runs_the_command():
    _register()
