"""What `sam-variants convert` writes, and how; apart, so that `--help` tells it without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Target(StrEnum):
    """What can be written."""

    ours = "ours"
    official = "official"
    transformers = "transformers"


@dataclass(frozen=True)
class WriteOptions:
    """How it is written.

    Attributes:
        max_shard_size: weights above are split; as in `save_pretrained`.
        licence: SPDX identifier for the card; None for that of the published weights.
        with_code: put the package's code beside the weights, for `trust_remote_code`.
    """

    max_shard_size: str = "50GB"
    licence: str | None = None
    with_code: bool = False
