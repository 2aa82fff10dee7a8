"""What every image encoder states about itself, whatever its architecture."""

from huggingface_hub.dataclasses import strict

from sam_variants.configuration.configuration_base import FamilyConfig


@strict
class ImageEncoderConfig(FamilyConfig):
    """Common fields of the image encoders.

    Args:
        image_size: side of the square input the parameters were made for, in pixels. Other sizes whose sides are
            multiples of the stride are accepted by every encoder.
        in_chans: number of image channels.
        out_chans: channels of the image embedding.
        initializer_range: standard deviation of the normal initialisation.

    Subclasses define the property `stride` (input pixels per embedding cell) and, where the encoder has them,
    `high_resolution_channels` (channels of the features at stride/4 and stride/2, finest first).
    """

    base_config_key = "vision_config"

    image_size: int = 1024
    in_chans: int = 3
    out_chans: int = 256
    initializer_range: float | int = 0.02

    @property
    def stride(self) -> int:
        """Input pixels per cell of the image embedding."""
        raise AttributeError(f"{type(self).__name__} does not define a stride")

    @property
    def pads_images(self) -> bool:
        """Whether images are fitted into the square input with padding; else they are stretched to it."""
        return True

    @property
    def high_resolution_channels(self) -> tuple[int, int] | None:
        """Channels of the features at a quarter and half of the stride, or None when the encoder gives none."""
        return None
