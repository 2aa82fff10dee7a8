"""Tests that change the process they run in, or need another one, run in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def assert_checks_pass(file: str, *paths: Path) -> None:
    """Run a file of tests by pytest in another process, and see that all pass.

    Args:
        file: its name in this folder.
        paths: folders from which it may import too.
    """
    # What pytest and its workers tell their children is not for this one.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    path = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(TESTS / file)]
    run = subprocess.run(
        command, cwd=TESTS.parent, env=own | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "passed" in run.stdout
