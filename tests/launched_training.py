"""Calls of `sam-variants train`, one after the other in the same processes: what a launcher of several starts.

torchrun tests/launched_training.py '["DATA", "--out", "FOLDER"]' …
"""

from __future__ import annotations

import json
import sys

import torch

from sam_variants.hub_scripts.train import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    calls = [json.loads(text) for text in sys.argv[1:]]
    for call in calls:
        sys.argv = ["train", *call]
        main()
