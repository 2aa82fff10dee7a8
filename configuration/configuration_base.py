"""What all configurations of this package share: nothing in a config.json is silently ignored."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import transformers
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2CLS
from transformers.utils import logging

PACKAGE_VERSION = "0.1.0"
VERSION_FIELD = "sam_variants_version"
FAMILY = "sam_variants"
WHOLE_MODEL_TYPES = ("sam_variants", "sam_variants_video")

# What transformers itself writes, reads or hands on beside the fields of its base class.
COMMON_FIELDS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "distributed_config",
    "experts_implementation",
    "fusion_config",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "tie_last_hidden_states",
    "tie_word_embeddings",
    "torch_dtype",
    "torchscript",
    "use_cache",
}
# What transformers would follow to another file than the one that was checked.
REFUSED_FIELDS = {"transformers_weights"}
# Larger than in any model; a file that says more would only fill the memory.
MAX_SIZE = 2**16
MAX_BLOCKS = 1000
BLOCK_FIELDS = {
    *("depth", "depths", "stages", "num_layers", "transformer_depth", "iou_head_depth", "num_maskmem"),
    "num_multimask_outputs",
}
UNBOUNDED_FIELDS = {"fill_hole_area", "rope_theta"}
POSITIVE_FIELDS = {
    *("patch_size", "embed_dim", "embed_dims", "in_chans", "out_chans", "mask_in_chans", "transformer_dim"),
    *("transformer_mlp_dim", "iou_head_hidden_dim", "num_heads", "transformer_num_heads", "attention_downsample_rate"),
    *("mlp_ratio", "mbconv_expand_ratio", "dim_mul", "head_mul", "local_conv_size", "image_embedding_size"),
}
ACTIVATION_FIELDS = {"hidden_act", "transformer_act", "activation"}
DTYPES = ("float64", "float32", "float16", "bfloat16")
# How much alike two names are, of 1, that are one name and a slip of the keyboard.
SLIP = 0.8

logger = logging.get_logger(__name__)


@strict
class FamilyConfig(PreTrainedConfig):
    """Base of every configuration of this package.

    Args:
        sam_variants_version: version of this package that wrote the file; None in one from before it was recorded.
    """

    sam_variants_version: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**self._checked_fields(kwargs))

    def __setattr__(self, name: str, value: Any) -> None:
        field = self.attribute_map.get(name, name)
        if field in self.__dataclass_fields__ or field in COMMON_FIELDS:
            check_value(type(self).__name__, field, value)
        elif "_post_init_done" in self.__dict__ and not hasattr(self, name) and not self._is_common(name):
            self._refuse_slips([name])
        super().__setattr__(name, value)

    def _is_common(self, name: str) -> bool:
        return name.startswith("_") or name in COMMON_FIELDS or name in self.attribute_map

    def _refuse_slips(self, unknown: Iterable[str]) -> None:
        if meant := similar(unknown, self.__dataclass_fields__):
            raise ValueError(f"{type(self).__name__} has no {', '.join(map(repr, unknown))}{meant}")

    def _checked_fields(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The fields beside the configuration's own: transformers' and the user's; a warning names what nothing reads.

        Raises:
            ValueError: for a field that looks like a slip of the keyboard, has the name of a method, comes from a newer
                version of this package, or names other weights.
        """
        unknown = [name for name in extra if not self._is_common(name)]
        if not unknown:
            return dict(extra)
        told = f"{type(self).__name__} has no {', '.join(map(repr, unknown))}"
        if refused := REFUSED_FIELDS.intersection(unknown):
            raise ValueError(f"{type(self).__name__}: {refused.pop()!r} names other weights, and they are not read")
        if hint := upgrade_hint(self.sam_variants_version):
            raise ValueError(f"{told}{hint}")
        if is_newer(self.transformers_version, transformers.__version__):
            logger.warning(
                f"{told}; it is ignored, because the configuration was written with transformers "
                f"{self.transformers_version} and this is {transformers.__version__}"
            )
            return {name: value for name, value in extra.items() if name not in unknown}
        self._refuse_slips(unknown)
        if any(hasattr(type(self), name) for name in unknown):
            raise ValueError(f"{told}, and a method or property has that name")
        logger.warning(f"{told}; it is kept as an attribute of your own, which nothing here reads")
        return dict(extra)

    def versioned(self, part: Any) -> Any:
        """The fields of a part, with the versions that the file of the whole states."""
        if not isinstance(part, dict):
            return part
        return {"transformers_version": self.transformers_version, VERSION_FIELD: self.sam_variants_version} | part

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read config.json, which must be one of this family."""
        source = f"config.json of {str(pretrained_model_name_or_path)!r}"
        try:
            values, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (RecursionError, AttributeError, TypeError) as error:  # nested too deeply, or no JSON object
            raise ValueError(f"{source} does not hold a configuration ({error})") from error
        check_values(values, source)
        if values["model_type"] not in (cls.model_type, *WHOLE_MODEL_TYPES):
            raise ValueError(
                f"{source} has model_type={values['model_type']!r}, where {cls.model_type!r} is needed"
                f"{upgrade_hint(values.get(VERSION_FIELD))}"
            )
        return values, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the configuration from the content of a config.json.

        Raises:
            ValueError: for a field of the wrong type and for one that names code to run, beside what the configuration
                itself refuses.
        """
        refuse_kernels(config_dict, "the configuration")
        try:
            return super().from_dict(config_dict, **kwargs)
        except (StrictDataclassError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
            raise ValueError(f"{cls.__name__}: a field has the wrong type ({' '.join(str(error).split())})") from error

    def to_dict(self) -> dict[str, Any]:
        """All fields, with the version of this package beside transformers'."""
        values: dict[str, Any] = super().to_dict()
        for name in self.sub_configs:
            if isinstance(values.get(name), dict):
                values[name].pop(VERSION_FIELD, None)
        return values | {VERSION_FIELD: PACKAGE_VERSION}


def check_values(values: Mapping[str, Any], source: str) -> None:
    """Raise for a config.json of another family, and for one that names code to run.

    Args:
        values: its content.
        source: where it comes from, for messages.

    Raises:
        ValueError: naming what it is.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source} must hold a JSON object, found {type(values).__name__}")
    model_type = values.get("model_type")
    if not str(model_type).startswith(FAMILY):
        raise ValueError(
            f"{source} has model_type={model_type!r}, which is not of this package; sam_variants.load_checkpoint reads "
            "SAM, MobileSAM and SAM 2 in other layouts"
        )
    refuse_kernels(values, source)


def refuse_kernels(values: Mapping[str, Any], source: str) -> None:
    """Raise for a configuration that names an attention kernel on the Hub: that is code."""
    parts = [values, *(part for part in values.values() if isinstance(part, dict))]
    for part in parts:
        for name in ("attn_implementation", "_attn_implementation"):
            if "/" in str(part.get(name)):
                raise ValueError(
                    f"{source} asks for the attention kernel {part[name]!r}, which is code from the Hub; if you trust "
                    "it, remove the line and pass attn_implementation= yourself"
                )


def check_value(owner: str, name: str, value: Any) -> None:
    """Raise for what a field can't be in any model, before something is built from it.

    Args:
        owner: name of the configuration's class.
        name: the field.
        value: what it is going to be.
    """
    if name in ACTIVATION_FIELDS and isinstance(value, str) and value not in ACT2CLS:
        raise ValueError(f"{owner}: {name}={value[:40]!r} must be one of {', '.join(sorted(ACT2CLS))}")
    if name == "dtype" and isinstance(value, str | int | list) and value not in DTYPES:
        raise ValueError(f"{owner}: {name}={str(value)[:40]!r} must be one of {', '.join(DTYPES)}")
    entries = value if isinstance(value, list | tuple) else [value]
    if len(entries) > MAX_BLOCKS:
        raise ValueError(f"{owner}: {name} has {len(entries)} entries; at most {MAX_BLOCKS} are allowed")
    limit = MAX_BLOCKS if name in BLOCK_FIELDS else MAX_SIZE
    numbers = [entry for entry in entries if isinstance(entry, int | float)]
    if any(not math.isfinite(number) or abs(number) > limit for number in numbers) and name not in UNBOUNDED_FIELDS:
        raise ValueError(f"{owner}: {name}={str(value)[:40]} is out of range; at most {limit} is allowed")
    if name in POSITIVE_FIELDS and any(number <= 0 for number in numbers):
        raise ValueError(f"{owner}: {name}={str(value)[:40]} must be positive")


def upgrade_hint(version: str | None) -> str:
    """What to say of a configuration that a later version of this package wrote; empty for one of this version."""
    if not is_newer(version, PACKAGE_VERSION):
        return ""
    return (
        f"; the configuration was written by version {version} of this package, and this is {PACKAGE_VERSION}: "
        "pip install --upgrade sam-variants"
    )


def is_newer(version: str | None, than: str) -> bool:
    """Whether a version is a later one; unknown versions are not."""
    return version is not None and release(version) > release(than)


def release(version: str) -> list[int]:
    """The first three numbers of a version."""
    return [int(number) for number in re.findall(r"\d+", str(version))[:3]]


def similar(unknown: Iterable[str], known: Iterable[str]) -> str:
    """What was perhaps meant, as the end of a sentence."""
    known = list(known)
    meant = [name for field in unknown for name in difflib.get_close_matches(field, known, 1, SLIP)]
    return f"; did you mean {', '.join(meant)}?" if meant else ""
