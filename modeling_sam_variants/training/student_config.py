"""A student for a teacher: another image encoder, with everything else of the teacher's."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoModel, PreTrainedConfig

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.configuration.configuration_image_encoder import ImageEncoderConfig
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig, vision_config_from
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.preprocessing import image_processor_for
from sam_variants.training.distillation_settings import STUDENT_SIZES, TINY_VIT

SKIP_STRIDE = 16
# What lies between the image encoder and the decoder of the teacher, and has the widths of its encoder.
SKIP_LAYERS = ("mask_decoder.conv_s0.", "mask_decoder.conv_s1.")


@dataclass(frozen=True)
class StudentSource:
    """What a student's image encoder is built from.

    Attributes:
        vision_config: its configuration; the fields that follow from the teacher are still to be set.
        model: the whole checkpoint where there is one: its encoder's weights are the beginning.
        image_size: side of the student's input in pixels, None where the source doesn't say.
    """

    vision_config: ImageEncoderConfig
    model: SamVariantsModel | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Student:
    """A student that is ready to learn.

    Attributes:
        model: with a new image encoder, or that of a checkpoint; the rest is the teacher's, or with a projection the
            student's own.
        needs_projection: whether embeddings are compared behind a projection to the teacher's width.
        notes: what was decided on the way, in words.
    """

    model: SamVariantsModel
    needs_projection: bool = False
    notes: list[str] = field(default_factory=list)


def read_student(source: Any) -> StudentSource:
    """Read what a student is to be.

    Args:
        source: a name in `STUDENT_SIZES` or `PRESETS`; a configuration of a whole model or of an image encoder, also as
            a dict or a JSON file; a model, or a checkpoint of any layout.

    Raises:
        ValueError: an unknown name, or a file that is none of these.
        OSError: a checkpoint that can't be read.
        TypeError: anything else.
    """
    if isinstance(source, SamVariantsModel):
        return replace(_from_config(source.config), model=source)
    if isinstance(source, PreTrainedConfig):
        return _from_config(source)
    if isinstance(source, Mapping):
        return _from_values(dict(source), "student")
    if not isinstance(source, str | Path):
        raise TypeError(f"student must be a name, a configuration, a file, a folder or a model, got {source!r}")
    name = str(source)
    if name in STUDENT_SIZES:
        return StudentSource(vision_config_from(STUDENT_SIZES[name]))
    if name in PRESETS:
        return replace(_from_config(config_for(name)), image_size=None)
    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        try:
            values = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{name!r} is no JSON file: {error}") from error
        return _from_values(values, name)
    if not path.exists() and name.count("/") != 1:
        raise ValueError(
            f"student={name!r} is neither a size ({', '.join(STUDENT_SIZES)}), a preset ({', '.join(PRESETS)}), a JSON "
            "file with a configuration, nor a checkpoint"
        )
    model = load_checkpoint(name)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(f"student={name!r} holds a {type(model).__name__} alone, not a whole model")
    return read_student(model)


def _from_config(config: PreTrainedConfig) -> StudentSource:
    vision: Any = config.vision_config if isinstance(config, SamVariantsConfig) else config
    if not isinstance(vision, ImageEncoderConfig):
        raise TypeError(
            f"student is a {type(config).__name__}; give the configuration of an image encoder or of a model"
        )
    return StudentSource(copy.deepcopy(vision), image_size=getattr(config, "image_size", None))


def _from_values(values: Any, name: str) -> StudentSource:
    """From the content of a JSON file: a whole configuration, or that of an image encoder."""
    if not isinstance(values, dict):
        raise ValueError(f"{name!r} holds a {type(values).__name__}; a configuration is an object with fields")
    vision: Any = values.get("vision_config", values)
    if not isinstance(vision, dict) or "model_type" not in vision:
        raise ValueError(
            f"{name!r} is no configuration of an image encoder: it needs a model_type, such as "
            f'{{"model_type": "{TINY_VIT}", "embed_dims": [32, 64, 80, 160], "num_heads": [1, 2, 2, 5]}}'
        )
    size = vision.get("image_size") if values.get("image_size") is None else values["image_size"]
    return StudentSource(vision_config_from(vision), image_size=size)


def build_student(
    teacher: SamVariantsModel, student: Any, image_size: int | None = None, projection: bool = False
) -> Student:
    """Build a model with a student's image encoder and everything else of its teacher.

    Prompt encoder, mask decoder, and where there is one the memory, are copies of the teacher's. The student's image
    embedding has the teacher's width, whatever its source says. Skip connections are kept where its encoder can feed
    them; the layers that bring its maps to the decoder's widths are new where the widths differ.

    Args:
        teacher: a whole model.
        student: what `read_student` takes; of a checkpoint the encoder's weights are the beginning.
        image_size: side of the student's input in pixels; by default what the source says, else the teacher's.
        projection: keep a checkpoint's own width, prompt encoder and decoder, and compare embeddings behind a
            projection.

    Raises:
        ValueError, OSError, TypeError: a source that can't be used, a checkpoint of another width without `projection`,
            `projection` without a checkpoint, or a size that is no multiple of the stride.
    """
    source = read_student(student)
    sizes = (image_size, source.image_size, teacher.config.image_size)
    size: Any = next(size for size in sizes if size is not None)
    if projection:
        return _with_projection(source, teacher, size)
    width = teacher.config.vision_config.out_chans
    notes: list[str] = []
    if source.model is not None and source.vision_config.out_chans != width:
        raise ValueError(
            f"the student's embeddings have {source.vision_config.out_chans} channels and the teacher's {width}, so it "
            "can't take over the teacher's decoder: ask for a projection (--projection), which keeps the student's "
            "own, or give a configuration instead of a checkpoint"
        )
    vision_config = _vision_config(source, teacher.config, size, notes)
    config = copy.deepcopy(teacher.config)
    config.vision_config = vision_config
    has_skips = config.mask_decoder_config.high_resolution_channels is not None
    channels = vision_config.high_resolution_channels if has_skips else None
    config.mask_decoder_config.high_resolution_channels = None if channels is None else list(channels)
    config.image_size = size
    config.dtype, config._name_or_path = None, ""
    # by way of a dict, so that everything is checked again
    model = AutoModel.from_config(type(config).from_dict(config.to_dict()))
    _copy_weights(model, teacher, source.model, notes)
    return Student(model.eval(), notes=notes)


def _with_projection(source: StudentSource, teacher: SamVariantsModel, size: int) -> Student:
    if source.model is None:
        raise ValueError(
            "a projection is for a student with a prompt encoder and decoder of its own: give a checkpoint, or leave "
            "it out and the student takes over the teacher's"
        )
    config = copy.deepcopy(source.model.config)
    config.image_size = size
    model = type(source.model).from_pretrained(None, config=config, state_dict=source.model.state_dict())
    widths = model.config.vision_config.out_chans, teacher.config.vision_config.out_chans
    notes = [f"embeddings are compared behind a projection from {widths[0]} to {widths[1]} channels; the rest is own"]
    return Student(model.float().eval(), needs_projection=True, notes=notes)


def _vision_config(source: StudentSource, teacher: SamVariantsConfig, size: int, notes: list[str]) -> Any:
    """The student's encoder with what follows from the teacher; a checkpoint's keeps the size it was made for."""
    config: Any = source.vision_config
    values = {name: value for name, value in config.to_dict().items() if name not in ("_name_or_path", "dtype")}
    if source.model is None:
        values |= {"out_chans": teacher.vision_config.out_chans, "image_size": size}
    wants_skips = teacher.mask_decoder_config.high_resolution_channels is not None
    if "use_high_resolution_features" in values:
        gives_skips = wants_skips and config.stride == SKIP_STRIDE
        if values["use_high_resolution_features"] and not gives_skips:
            notes.append("the teacher's decoder has no skip connections: the student's finer maps are left out")
        values["use_high_resolution_features"] = gives_skips
    built = vision_config_from(values)
    if wants_skips and built.high_resolution_channels is None:
        notes.append("the student has no finer maps: the decoder does without its skip connections")
    return built


def _copy_weights(
    student: SamVariantsModel, teacher: SamVariantsModel, start: SamVariantsModel | None, notes: list[str]
) -> None:
    """The teacher's weights for everything but the image encoder; that and what follows its maps from `start`."""
    own = student.state_dict()
    weights = {
        name: tensor
        for name, tensor in teacher.state_dict().items()
        if not name.startswith("image_encoder.") and name in own and own[name].shape == tensor.shape
    }
    if start is not None:
        weights |= {
            name: tensor
            for name, tensor in start.state_dict().items()
            if name.startswith(("image_encoder.", *SKIP_LAYERS)) and name in own and own[name].shape == tensor.shape
        }
    missing, unexpected = student.load_state_dict(weights, strict=False)
    allowed = SKIP_LAYERS if start is not None else ("image_encoder.", *SKIP_LAYERS)
    unfit = [name for name in missing if not name.startswith(allowed)] + unexpected
    if unfit:
        raise ValueError(f"the student can't take over the teacher's weights {unfit[:5]}")
    if any(name.startswith(SKIP_LAYERS) for name in missing):
        notes.append("the layers behind the student's finer maps are new: its widths are not the teacher's")


def teacher_processor(teacher: SamVariantsModel, student: SamVariantsModel) -> SamVariantsImageProcessorPil:
    """Prepares images for the teacher with the student's geometry, so that their embeddings show the same places.

    SAM pads the shorter side and SAM 2 stretches it. Where the two differ the teacher sees images as the student will,
    with the teacher's size and normalisation.
    """
    own, fitted = image_processor_for(teacher.config), image_processor_for(student.config)
    if own.resize_mode == fitted.resize_mode:
        return own
    kept = ("do_rescale", "rescale_factor", "image_mean", "image_std", "resample")
    return type(own)(
        resize_mode=fitted.resize_mode,
        size=own.image_size,
        pad_size=own.image_size,
        mask_size=own.mask_size,
        **{name: getattr(own, name) for name in kept},
    )
