"""How long a model takes for an image and for a prompt, and how much memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from sam_variants.hub_scripts.benchmark_peak import PeakMemory
from sam_variants.hub_scripts.evaluation_protocol import ModelSegmenter

ENCODE_RUNS, PROMPT_RUNS, WARM_UP_RUNS = 20, 100, 3


def measure_speed(
    segmenter: ModelSegmenter, image: np.ndarray, encode_runs: int = ENCODE_RUNS, prompt_runs: int = PROMPT_RUNS
) -> dict[str, Any]:
    """Encode one image again and again, then click into its middle again and again.

    Encoding begins with the array and ends with the embeddings; a prompt ends with three masks of the image's size.

    Args:
        segmenter: the model.
        image: H×W×3 uint8.
        encode_runs, prompt_runs: how often.

    Returns:
        `encode` and `prompt`: each `median_ms`, `p95_ms` (95 % take no longer) and `runs`, after a few that do not
        count; `peak_memory_bytes`, above what is taken with the model alone (None where the system doesn't tell), and
        `memory`, where that is: "cuda" or "resident"; `image_height` and `image_width`.
    """
    height, width = image.shape[:2]
    device = segmenter.model.device
    middle = [[(width // 2, height // 2)]]
    segmenter.seconds.clear()
    with PeakMemory(str(device)) as memory:
        for _ in range(WARM_UP_RUNS + encode_runs):
            segmenter.look_at(image)
        for _ in range(WARM_UP_RUNS + prompt_runs):
            segmenter.first_click(middle)
    return {
        **{kind: times(seconds[WARM_UP_RUNS:]) for kind, seconds in segmenter.seconds.items()},
        "peak_memory_bytes": memory.peak_bytes,
        "memory": "cuda" if device.type == "cuda" else "resident",
        "image_height": height,
        "image_width": width,
    }


def times(seconds: list[float]) -> dict[str, Any]:
    """Median and 95th percentile in milliseconds."""
    median, most = 1000 * np.percentile(seconds, [50, 95])
    return {"median_ms": round(float(median), 3), "p95_ms": round(float(most), 3), "runs": len(seconds)}
