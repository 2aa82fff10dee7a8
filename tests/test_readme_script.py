"""The script of the README that fine-tunes the embedded checkpoint: shortened here, whole with the marker slow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
SHORTER = {"heaps(0, 60,": "heaps(0, 2,", "heaps(1, 10,": "heaps(1, 1,", "num_train_epochs=4": "max_steps=1"}


def readme_script() -> str:
    text = README.read_text(encoding="utf-8")
    return next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "train_masks" in block)


def measured(script: str, folder: Path) -> dict[str, tuple[float, float]]:
    """What the script prints: per prompt the mean IoU before and after."""
    run = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = re.findall(r"mean IoU with (.*): ([\d.]+) before, ([\d.]+) after", run.stdout)
    return {prompt: (float(before), float(after)) for prompt, before, after in lines}


def test_the_script_runs_and_fits_into_sixty_lines(tmp_path: Path) -> None:
    script = readme_script()
    assert len(script.splitlines()) <= 60
    for long, short in SHORTER.items():
        assert long in script
        script = script.replace(long, short)
    assert measured(script, tmp_path).keys() == {"one click", "a box"}
    assert (tmp_path / "coins" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_script_improves_the_checkpoint(tmp_path: Path) -> None:
    for before, after in measured(readme_script(), tmp_path).values():
        assert after > before + 0.02
