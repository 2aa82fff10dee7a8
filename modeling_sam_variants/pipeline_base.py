"""What the pipelines of this package share: how a model is taken, fused, and written again."""

from __future__ import annotations

from os import PathLike
from typing import Any, TypeVar

from torch import Tensor
from transformers import AutoModelForMaskGeneration, PreTrainedModel
from transformers.pipelines.base import Pipeline

from sam_variants.configuration.configuration_sam_variants import IMAGE_MODEL_TYPE, PIPELINE_MARK, VIDEO_MODEL_TYPE
from sam_variants.hub.quantized_weights import rebuilt
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor, hub_options, may_have_processor
from sam_variants.processing.processor_for import fitting_processor


def is_ours(model: Any) -> bool:
    """Whether a model is one of this package, for images or for video."""
    return getattr(getattr(model, "config", None), "model_type", None) in (IMAGE_MODEL_TYPE, VIDEO_MODEL_TYPE)


class PipelineOwnedModel(AutoModelForMaskGeneration):
    """How `pipeline(task, model="a name")` loads a model: ours is marked, because nobody else holds it.

    With a checkpoint's own code, its configuration marks it, because pipelines from there can't say how to load.
    """

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> PreTrainedModel:
        model = super().from_pretrained(*args, **kwargs)
        if is_ours(model):
            model.config.__dict__[PIPELINE_MARK] = hub_options(kwargs)
        return model


def saved_processor(model: SamVariantsModel) -> SamVariantsProcessor | None:
    """The processor beside a model that its pipeline loaded itself, which goes on without one that it can't load.

    Returns:
        None where there is none, and for a model of the user's.

    Raises:
        OSError, ValueError: saying why it can't be loaded.
    """
    options = model.config.__dict__.get(PIPELINE_MARK)
    if not isinstance(options, dict) or not may_have_processor(model.name_or_path, options):
        return None
    return SamVariantsProcessor.from_pretrained(model.name_or_path, **options)


def fuse_if_owned(model: SamVariantsModel) -> dict[str, Tensor] | None:
    """Fuse a model that its pipeline loaded itself, and return the weights that it had; None for one of the user's."""
    is_owned = model.config.__dict__.pop(PIPELINE_MARK, None) is not None
    if not is_owned or getattr(model, "hf_device_map", None) is not None:
        return None
    weights = model.state_dict()
    model.fuse()
    return weights


class SamVariantsPipeline(Pipeline):
    """A pipeline of transformers over a model of this package.

    A model that the pipeline loaded itself is fused for inference; one that was passed as an object stays as it is.

    Args:
        model: of this package.
        processor: the `SamVariantsProcessor` for this model; None makes the one that belongs to it.
        kwargs: as for every pipeline of transformers.

    Raises:
        OSError: when a processor lies beside the model and can't be read.
        ValueError: for a processor that doesn't fit the model.
    """

    model: Any
    processor: SamVariantsProcessor
    model_loader = PipelineOwnedModel
    # transformers: True = must be there, None = may be there, False = is not looked for.
    _load_processor: bool | None = None  # type: ignore[assignment]
    _load_image_processor: bool | None = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    def __init__(self, model: SamVariantsModel, processor: SamVariantsProcessor | None = None, **kwargs: Any) -> None:
        processor = saved_processor(model) if processor is None else processor
        super().__init__(model=model, processor=fitting_processor(model, processor), **kwargs)
        self._weights_before_fusing = fuse_if_owned(model)

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """Write model and processor, from which `pipeline(task, model=folder)` comes back.

        Args:
            save_directory: folder; made if needed.
            kwargs: for the `save_pretrained` of the model and of the processor.
        """
        model, weights = self.model, self._weights_before_fusing
        if weights is not None:
            model = rebuilt(model, model.config, weights)
        model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


AnyPipeline = TypeVar("AnyPipeline", bound=SamVariantsPipeline)


def pipeline_for(
    kind: type[AnyPipeline], model: SamVariantsModel, processor: SamVariantsProcessor, device: str | None
) -> AnyPipeline:
    """A pipeline with a model and processor of `load_whole`.

    Args:
        kind: the pipeline's class.
        model, processor: what it gets.
        device: name of a torch device, or None for the best there is.

    Raises:
        ValueError: for a device that can't be used.
    """
    try:
        return kind(model=model, processor=processor, device=device)
    except (RuntimeError, AssertionError) as error:
        if device is None:
            raise
        raise ValueError(f"--device {device} can't be used: {error}") from error
