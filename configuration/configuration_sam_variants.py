"""The configuration that composes an image encoder, the prompt encoder and the mask decoder."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from sam_variants.configuration.configuration_base import VERSION_FIELD, FamilyConfig, upgrade_hint
from sam_variants.configuration.configuration_hiera import HieraConfig
from sam_variants.configuration.configuration_image_encoder import ImageEncoderConfig
from sam_variants.configuration.configuration_mask_decoder import MaskDecoderConfig
from sam_variants.configuration.configuration_prompt_encoder import PromptEncoderConfig
from sam_variants.configuration.configuration_tiny_vit import TinyViTConfig
from sam_variants.configuration.configuration_vit import ImageEncoderViTConfig
from sam_variants.configuration.remote_code import without_remote_code

IMAGE_MODEL_TYPE = "sam_variants"
VIDEO_MODEL_TYPE = "sam_variants_video"
# On configurations that `pipeline()` reads for itself, never in a file: nobody else holds the model that follows.
PIPELINE_MARK = "_is_for_pipeline"

VISION_CONFIGS: dict[str, type[ImageEncoderConfig]] = {
    config_class.model_type: config_class for config_class in (ImageEncoderViTConfig, TinyViTConfig, HieraConfig)
}


def vision_config_from(value: dict[str, Any] | PreTrainedConfig | None) -> Any:
    """Build the encoder's configuration from a dict with `model_type`; None gives SAM ViT-B."""
    if value is None:
        return ImageEncoderViTConfig()
    if not isinstance(value, dict):
        return value
    values = dict(value)
    model_type = values.pop("model_type", ImageEncoderViTConfig.model_type)
    if model_type not in VISION_CONFIGS:
        raise ValueError(
            f"vision_config has model_type={model_type!r}; known image encoders: {sorted(VISION_CONFIGS)}"
            f"{upgrade_hint(values.get(VERSION_FIELD))}"
        )
    return VISION_CONFIGS[model_type](**values)


@strict
class SamVariantsConfig(FamilyConfig):
    """Configuration of `SamVariantsModel`: any image encoder with prompt encoder and mask decoder.

    Args:
        vision_config: configuration of the image encoder, or a dict with its `model_type`.
        prompt_encoder_config: configuration of the prompt encoder, or a dict. Its sizes follow from `image_size`.
        mask_decoder_config: configuration of the mask decoder, or a dict.
        image_size: side of the square that images are fitted into, in pixels; None takes the encoder's own. Another
            value retargets encoder, prompts and processor together without touching a parameter.
        pad_input: False takes an input smaller than `image_size` for the upper left part of that square whose padding
            was left out: positions are those of the square. Masks then differ a little from those of the padded image,
            because the encoder no longer sees the padding.
        use_no_mem_embed: add a learned vector to the embedding of an image that stands alone, as SAM 2 does with frames
            without memory.
        mask_threshold: logit above which a pixel belongs to the mask.
        mask_generation: options of mask generation that suit the weights, such as `{"pred_iou_thresh": 0.8}`; they take
            the place of segment-anything's defaults.
        initializer_range: standard deviation of the normal initialisation.
    """

    model_type = IMAGE_MODEL_TYPE
    sub_configs = {
        "vision_config": AutoConfig,
        "prompt_encoder_config": PromptEncoderConfig,
        "mask_decoder_config": MaskDecoderConfig,
    }

    vision_config: dict | PreTrainedConfig | None = None
    prompt_encoder_config: dict | PreTrainedConfig | None = None
    mask_decoder_config: dict | PreTrainedConfig | None = None
    image_size: int | None = None
    pad_input: bool = True
    use_no_mem_embed: bool = False
    mask_threshold: float | int = 0.0
    mask_generation: dict[str, Any] | None = None
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for part in self.sub_configs:
            setattr(self, part, self.versioned(getattr(self, part)))
        self.vision_config = vision_config_from(self.vision_config)
        if self.mask_decoder_config is None or isinstance(self.mask_decoder_config, dict):
            self.mask_decoder_config = MaskDecoderConfig(**(self.mask_decoder_config or {}))
        if self.prompt_encoder_config is None or isinstance(self.prompt_encoder_config, dict):
            self.prompt_encoder_config = PromptEncoderConfig(**(self.prompt_encoder_config or {}))
        self._check_widths()
        self.image_size = self.vision_config.image_size if self.image_size is None else self.image_size
        super().__post_init__(**without_remote_code(type(self), kwargs))

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read config.json; from a video checkpoint, the image model takes what concerns images."""
        is_for_pipeline = kwargs.get("_from_pipeline") is not None
        values, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if cls.model_type == IMAGE_MODEL_TYPE and values.get("model_type") == VIDEO_MODEL_TYPE:
            own = {*cls.__dataclass_fields__, "quantization_config"} - {"model_type", "architectures"}
            values = {name: value for name, value in values.items() if name in own}
        return values | {PIPELINE_MARK: True} if is_for_pipeline else values, kwargs

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != PIPELINE_MARK}

    def _check_widths(self) -> None:
        widths = {
            "vision_config.out_chans": self.vision_config.out_chans,
            "prompt_encoder_config.embed_dim": self.prompt_encoder_config.embed_dim,
            "mask_decoder_config.transformer_dim": self.mask_decoder_config.transformer_dim,
        }
        if len(set(widths.values())) != 1:
            raise ValueError(f"encoder, prompts and decoder must share one width, got {widths}")
        offered = self.vision_config.high_resolution_channels
        wanted = self.mask_decoder_config.high_resolution_channels
        if wanted is not None and (offered is None or list(offered) != list(wanted)):
            raise ValueError(
                f"mask_decoder_config.high_resolution_channels={wanted}, but the image encoder offers {offered}"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        parts_exist = all(hasattr(self.__dict__.get(part), "to_dict") for part in self.sub_configs)
        if name in ("image_size", "pad_input") and self.__dict__.get("image_size") is not None and parts_exist:
            self._retarget_prompts(self.image_size)  # type: ignore[arg-type]

    def _retarget_prompts(self, image_size: int) -> None:
        stride = self.vision_config.stride
        if image_size <= 0 or image_size % stride:
            raise ValueError(f"image_size={image_size} must be a positive multiple of the encoder's stride {stride}")
        self.prompt_encoder_config.input_image_size = image_size
        self.prompt_encoder_config.image_embedding_size = image_size // stride
        self.prompt_encoder_config.pad_input = self.pad_input
