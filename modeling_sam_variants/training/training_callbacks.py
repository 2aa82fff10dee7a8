"""What a training run shows: a bar with the time left, and one readable line per report."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

# What the logs call it → what a line says, in the order of the line.
LINE = {
    "loss": "loss {:.4f}",
    "learning_rate": "learning rate {:.1e}",
    "eval_miou": "mIoU {:.4f}",
    "eval_iou_click": "one click {:.4f}",
    "eval_iou_box": "box {:.4f}",
    "eval_j_and_f": "J&F {:.4f}",
    "eval_j": "J {:.4f}",
    "eval_f": "F {:.4f}",
}


class TrainingProgress(ProgressCallback):
    """A bar where somebody is watching, and a line per report on stderr; nothing with `disable_tqdm`.

    Replaces the dictionaries that transformers prints.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun, self._first_step = 0.0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.current_step = self._first_step = state.global_step
        self._begun = time.monotonic()
        if state.is_world_process_zero:
            hidden = bool(args.disable_tqdm) or not sys.stderr.isatty()
            self.training_bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True, disable=hidden
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or args.disable_tqdm:
            return
        parts = [text.format(logs[key]) for key, text in LINE.items() if logs and key in logs]
        if parts:
            line = f"step {state.global_step}/{state.max_steps}: {', '.join(parts)}{self._time_left(state)}"
            tqdm.write(line, file=sys.stderr)

    def _time_left(self, state: TrainerState) -> str:
        done, left = state.global_step - self._first_step, state.max_steps - state.global_step
        if done <= 0 or left <= 0:
            return ""
        return f"; {duration((time.monotonic() - self._begun) / done * left)} left"


def duration(seconds: float) -> str:
    """A time span for people: "45 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
