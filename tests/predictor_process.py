"""Run in a process of its own that has no torch, no transformers and no sam_variants: the predictor of an export.

python predictor_process.py <exported folder> <picture or video> <file of prompts as JSON> <file for the answers>
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


class Absent:
    """Makes modules unimportable, whatever is installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in ("torch", "transformers", "sam_variants", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(folder: Path, source: Path, prompts: Any, out: Path) -> None:
    """Segment a picture, or track through a video, and write masks and scores."""
    sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
    spec: Any = importlib.util.spec_from_file_location("predictor", folder / "predictor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    predictor = module.Predictor()
    if source.suffix == ".mp4":
        asked = {int(frame): {int(name): given for name, given in by.items()} for frame, by in prompts.items()}
        for given in (given for by in asked.values() for given in by.values() if "mask" in given):
            given["mask"] = np.array(given["mask"], dtype=bool)
        frames = (frame.to_image() for frame in av.open(str(source)).decode(video=0))
        found = list(predictor.track(frames, asked))
        masks = np.stack([[mask for mask, _ in answers.values()] for answers in found])
        scores = np.array([[score for _, score in answers.values()] for answers in found])
    else:
        masks, scores = predictor.segment(predictor.encode(Image.open(source)), **prompts)
    assert not {"torch", "transformers", "sam_variants"} & set(sys.modules)
    np.savez(out, masks=masks, scores=scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text("utf-8")), Path(sys.argv[4]))
