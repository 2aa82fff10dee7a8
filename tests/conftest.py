"""What every test gets: no network, few threads, fixed seeds; and a trap for uninitialised memory."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Read once, when huggingface_hub is imported. A test marked `hub` is run with HF_HUB_OFFLINE=0 in the environment.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from local_hub import LocalHub, local_hub

if TYPE_CHECKING:
    from browser import Pages, Served
    from playwright.sync_api import Browser


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors are slower on many threads, and pytest-xdist already uses the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def imports_are_no_garbage() -> None:
    """A run of transformers' Trainer collects garbage, which takes longer than the run where half a million objects of
    imported modules are looked at.
    """
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test draws the same numbers, alone or in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def poison_empty() -> Iterator[None]:
    """Fill what `torch.empty` and its relatives return with NaN (integers: the largest value).

    A test that loads or builds a model under it fails when a tensor was never written. The fixture stands on
    `torch.utils.deterministic.fill_uninitialized_memory`, which acts in deterministic mode only.
    """
    mode = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_deterministic_debug_mode(mode)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    """A Hub on this machine that the real clients talk to while the test runs; local_hub.py tells what it can do."""
    with local_hub(tmp_path / "huggingface") as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium, one for all tests of a process."""
    from browser import chromium  # gradio and Playwright take seconds to import

    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Pages]:
    """Opens pages; fails the test for errors in the console and for requests that leave this machine."""
    from browser import Pages

    pages = Pages(browser)
    yield pages
    pages.close()
    assert pages.problems == []


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serves `gr.Blocks` on loopback from this process, and returns the address.

    Each has a cache of its own: a server that ends deletes what it wrote, and others write the same names.
    """
    from browser import Served

    cache = str(tmp_path_factory.mktemp("gradio"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", cache)
        patch.setattr("gradio.mcp.DEFAULT_TEMP_DIR", cache)
        served = Served()
        yield served
        served.close()
