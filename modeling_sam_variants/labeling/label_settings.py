"""What a labeling run does to an image: all that decides its masks, and nothing that only decides the speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

MODES = ("everything", "prompts")
IMAGES = ("embed", "reference")
COUNTS = ("batch_size", "rows_per_shard")
# Where the checkpoint lies may differ from machine to machine: its weights are known by their checksum.
NO_IDENTITY = ("checkpoint",)


@dataclass(frozen=True)
class LabelSettings:
    """What is done to each image; the same settings and images give the same rows, bit by bit, on one kind of machine.

    Device, threads and the limit of memory are no settings: a run may go on elsewhere.

    Args:
        checkpoint: what `load_checkpoint` takes; not part of the run's identity.
        model: what to call it, such as "embedded" or the name of a Hub repository.
        weights: sha256 of the weights file; of several files the sha256 over theirs.
        image_size: side of the model's input in pixels.
        dtype: what the image encoder computes in, by the name of PyTorch.
        quantize: how its weights are held, as `load_checkpoint` takes it; None for as they are stored.
        mode: "everything", or "prompts" for one mask per box or point that comes with the image.
        generation: the options of mask generation, all of them; empty for prompts.
        batch_size: images that are encoded together.
        rows_per_shard: images in one file of the output.
        images: "embed" puts the image files into the dataset, "reference" only their paths.

    Raises:
        ValueError: a value that can't be.
    """

    checkpoint: str
    model: str
    weights: str
    image_size: int
    dtype: str = "float32"
    quantize: str | None = None
    mode: str = "everything"
    generation: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 1
    rows_per_shard: int = 1000
    images: str = "embed"

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("images", IMAGES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}")
        for name in COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.generation and self.mode != "everything":
            raise ValueError(f"generation is for mode='everything', got {sorted(self.generation)} with {self.mode!r}")

    def to_json(self) -> dict[str, Any]:
        """All of it, as `from_json` takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LabelSettings:
        """The settings that `to_json` or `identity` gave; without a checkpoint the model's name stands for it.

        Raises:
            ValueError: for names that are unknown or missing.
        """
        given = {"checkpoint": values.get("model"), **values}
        known = {each.name for each in fields(cls)}
        needed = {"model", "weights", "image_size"}
        if set(given) - known or needed - set(given):
            raise ValueError(f"settings have the names {sorted(values)}; they need {sorted(needed)} of {sorted(known)}")
        return cls(**given)

    def identity(self) -> dict[str, Any]:
        """What must not change between the start of a run and its end, ready for JSON."""
        # Runs from before there was a choice have no word of it.
        return {name: value for name, value in self.to_json().items() if name not in NO_IDENTITY and value is not None}
