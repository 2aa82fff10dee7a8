"""The one contract of all image encoders."""

from torch import Tensor

from sam_variants.configuration.configuration_image_encoder import ImageEncoderConfig
from sam_variants.pretrained_part import PretrainedPart, other_parts


class ImageEncoderBase(PretrainedPart):
    """An image encoder: `forward(pixel_values, frame_size=None)` → `ImageEncoderOutput`.

    With `frame_size`, (height, width) in pixels, the images are the upper left part of a larger one whose rest is only
    padding: they get the positions that they have there.

    Loads alone, or out of a whole checkpoint, whose other parts are left aside.
    """

    config: ImageEncoderConfig
    base_model_prefix = "image_encoder"
    _keys_to_ignore_on_load_unexpected = other_parts("image_encoder")

    def check_pixel_values(self, pixel_values: Tensor | None, frame_size: tuple[int, int] | None = None) -> Tensor:
        """Check shape and size of the input.

        Raises:
            ValueError: when the input is missing, is not B×in_chans×H×W, has a side that the stride doesn't divide, or
                is larger than its frame.
        """
        if pixel_values is None:
            raise ValueError("pixel_values is missing: pass a tensor of shape batch×channels×height×width")
        channels, stride = self.config.in_chans, self.config.stride
        shape = tuple(pixel_values.shape)
        if pixel_values.ndim != 4 or shape[1] != channels:
            raise ValueError(f"pixel_values has shape {shape}, expected batch×{channels}×height×width")
        if shape[2] == 0 or shape[3] == 0 or shape[2] % stride or shape[3] % stride:
            raise ValueError(f"pixel_values has shape {shape}: height and width must be positive multiples of {stride}")
        if frame_size is not None and (
            shape[2] > frame_size[0] or shape[3] > frame_size[1] or frame_size[0] % stride or frame_size[1] % stride
        ):
            raise ValueError(
                f"pixel_values has shape {shape}: height and width must be at most those of frame_size="
                f"{tuple(frame_size)}, which must be multiples of {stride}"
            )
        return pixel_values
