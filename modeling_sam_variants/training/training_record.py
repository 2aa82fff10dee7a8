"""What is written down of a training run, and held against one that goes on with it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

RECORD_FILE = "training.json"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass
class TrainingRecord:
    """The facts of a run, as JSON beside every checkpoint.

    Attributes:
        fixed: what decides the order of the data and the weights: a run that goes on has the same.
        facts: everything else worth knowing: what was trained on, from which checkpoint.
        metric: by which an evaluation is the best.
    """

    fixed: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    metric: str = "miou"

    def summary(self, state: TrainerState, rows_without_objects: int = 0) -> dict[str, Any]:
        """All of it, with how far the run is and its best evaluation."""
        evaluations = [metrics_of(log) for log in state.log_history if any(name.startswith("eval_") for name in log)]
        before = next((found for found in evaluations if found["step"] == 0), None)
        later = [found for found in evaluations if found["step"]]
        best = max(later, key=lambda found: found.get(self.metric, float("-inf")), default=None)
        return {
            "steps": state.global_step,
            "epochs": round(state.epoch or 0.0, 4),
            "before": before,
            "best": best,
            "evaluations": evaluations,
            "rows_without_objects": rows_without_objects,
            "arguments": self.fixed,
            **self.facts,
        }

    def write(self, folder: Path, state: TrainerState, rows_without_objects: int = 0) -> None:
        """Write `training.json`."""
        text = json.dumps(self.summary(state, rows_without_objects), indent=2, ensure_ascii=False)
        (folder / RECORD_FILE).write_text(text + "\n")

    def check(self, checkpoint: Path) -> dict[str, Any]:
        """Refuse to go on with a run that was another one.

        Returns:
            The record of the checkpoint.

        Raises:
            OSError: when the checkpoint has no record.
            ValueError: naming what differs.
        """
        path = checkpoint / RECORD_FILE
        if not path.is_file():
            raise OSError(f"{checkpoint} has no {RECORD_FILE}: resume from a folder checkpoint-N of a run of ours")
        record: dict[str, Any] = json.loads(path.read_text())
        before = record.get("arguments", {})
        now = json.loads(json.dumps(self.fixed))
        different = [
            f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if different:
            raise ValueError(
                f"{checkpoint} is of another run: {'; '.join(different)}. Resume with the same, or start a new run "
                "with --model that folder"
            )
        return record


def metrics_of(log: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's entry of the log without the prefix of its names: `step`, `miou` and so on."""
    return {
        name.removeprefix("eval_"): value for name, value in log.items() if name.startswith("eval_") or name == "step"
    }


def last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of a run; None where there is none.

    A run that was killed may have left a later one that is not complete, which transformers' own search would take.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    numbers = {int(name[1]): path for path in found if (name := CHECKPOINT_NAME.fullmatch(path.name))}
    return numbers[max(complete)] if (complete := [key for key, path in numbers.items() if is_complete(path)]) else None


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the state of the trainer is what comes last."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return True
