"""Where the work is done: here, or on a GPU that a Space borrows for one call (ZeroGPU)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

# The package is there where Hugging Face runs the Space; it must be imported before CUDA is used.
_SPACES: Any = import_module("spaces") if find_spec("spaces") else None


def gpu(duration: int) -> Callable[[Function], Function]:
    """Decorate a function that needs a GPU; elsewhere than on ZeroGPU it stays as it is.

    There it runs in another process: arguments and results are pickled, and what it changes is lost.

    Args:
        duration: seconds that a call takes at most.
    """

    def decorate(function: Function) -> Function:
        return function if _SPACES is None else _SPACES.GPU(duration=duration)(function)

    return decorate


def device() -> torch.device:
    """Where models live. On ZeroGPU, CUDA can be named at any time and used in decorated functions."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
