"""What `sam-variants export` writes; apart, so that `--help` tells it without PyTorch."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """What is written."""

    onnx = "onnx"
    pt2 = "pt2"
