"""What all configurations of this package share: nothing in a config.json is silently ignored."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import transformers
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
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
# Larger than in any model; a file that says more would only fill the memory.
MAX_SIZE = 2**16
MAX_BLOCKS = 1000
BLOCK_FIELDS = {"depth", "depths", "stages", "num_layers", "transformer_depth", "iou_head_depth", "num_maskmem"}
UNBOUNDED_FIELDS = {"fill_hole_area"}

logger = logging.get_logger(__name__)


@strict
class FamilyConfig(PreTrainedConfig):
    """Base of every configuration of this package.

    Args:
        sam_variants_version: version of this package that wrote the file; None in one from before it was recorded.
    """

    sam_variants_version: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_fields(kwargs)
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        check_size(type(self).__name__, name, value)
        super().__setattr__(name, value)

    def _check_fields(self, extra: Mapping[str, Any]) -> None:
        """Raise for fields that nothing reads; warn when a newer transformers may have written them."""
        known = {*COMMON_FIELDS, *self.attribute_map}
        unknown = [name for name in extra if name not in known and not name.startswith("_")]
        if not unknown:
            return
        told = f"{type(self).__name__} has no {', '.join(map(repr, unknown))}"
        if hint := upgrade_hint(self.sam_variants_version):
            raise ValueError(f"{told}{hint}")
        if is_newer(self.transformers_version, transformers.__version__):
            logger.warning(
                f"{told}; it is ignored, because the configuration was written with transformers "
                f"{self.transformers_version} and this is {transformers.__version__}"
            )
            return
        raise ValueError(f"{told}{similar(unknown, self.__dataclass_fields__)}")

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
            ValueError: for a field of the wrong type, beside what the configuration itself refuses.
        """
        try:
            return super().from_dict(config_dict, **kwargs)
        except (StrictDataclassError, TypeError) as error:
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
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source} must hold a JSON object, found {type(values).__name__}")
    model_type = values.get("model_type")
    if not str(model_type).startswith(FAMILY):
        raise ValueError(
            f"{source} has model_type={model_type!r}, which is not of this package; sam_variants.load_checkpoint reads "
            "SAM, MobileSAM and SAM 2 in other layouts"
        )
    parts = [values, *(part for part in values.values() if isinstance(part, dict))]
    for part in parts:
        for name in ("attn_implementation", "_attn_implementation"):
            if "/" in str(part.get(name)):
                raise ValueError(
                    f"{source} asks for the attention kernel {part[name]!r}, which is code from the Hub; if you trust "
                    "it, remove the line and pass attn_implementation= yourself"
                )


def check_size(owner: str, name: str, value: Any) -> None:
    """Raise for a number or list that is larger than in any model."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if len(numbers) > MAX_BLOCKS:
        raise ValueError(f"{owner}: {name} has {len(numbers)} entries; at most {MAX_BLOCKS} are allowed")
    limit = MAX_BLOCKS if name in BLOCK_FIELDS else MAX_SIZE
    if name not in UNBOUNDED_FIELDS and any(isinstance(number, int) and abs(number) > limit for number in numbers):
        raise ValueError(f"{owner}: {name}={str(value)[:40]} is out of range; at most {limit} is allowed")


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
    meant = [name for field in unknown for name in difflib.get_close_matches(field, known, 1)]
    return f"; did you mean {', '.join(meant)}?" if meant else ""
