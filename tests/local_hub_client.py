"""Points the Hub clients of this process to another server for a while: huggingface_hub, transformers, datasets."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfFileSystem, file_download, hf_api
from huggingface_hub.utils import _http, _xet

LONGEST_WAIT = 0.02
TOKEN = "hf_local"


def client_environment(url: str, home: Path, is_xet: bool) -> dict[str, str]:
    """What a process must find in its environment before it imports huggingface_hub."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_MODULES_CACHE": str(home / "modules"),
        "HF_DATASETS_CACHE": str(home / "datasets"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "0" if is_xet else "1",
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
        "HF_XET_TELEMETRY_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def constants_for(url: str, home: Path) -> dict[str, dict[str, Any]]:
    """Module → its names that tell where the Hub is: set from the environment at import, or remembered."""
    hub_cache, modules = str(home / "hub"), str(home / "modules")
    dataset_cache = home / "datasets"
    return {
        "huggingface_hub.constants": {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": hub_cache,
            "HUGGINGFACE_HUB_CACHE": hub_cache,
            "HF_XET_CACHE": str(home / "xet"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_XET": True,
        },
        "huggingface_hub.utils._cache_manager": {"HF_HUB_CACHE": hub_cache},
        "huggingface_hub.utils._cache_assets": {"HF_ASSETS_CACHE": str(home / "assets")},
        "huggingface_hub.utils.tqdm": {"HF_HUB_DISABLE_PROGRESS_BARS": True},
        "huggingface_hub.utils._git_credential": {"ENDPOINT": url},
        "transformers.utils": {"HF_MODULES_CACHE": modules},
        # One client with its address for the whole process, made when it is first needed.
        "transformers.utils.hub": {"HF_MODULES_CACHE": modules, "_hf_api": None},
        "transformers.dynamic_module_utils": {"HF_MODULES_CACHE": modules},
        "datasets.config": {
            "HF_ENDPOINT": url,
            "HUB_DATASETS_URL": url + "/datasets/{repo_id}/resolve/{revision}/{path}",
            "HF_HUB_OFFLINE": False,
            "HF_DATASETS_OFFLINE": False,
            "HF_CACHE_HOME": str(home),
            "HF_DATASETS_CACHE": dataset_cache,
            "DOWNLOADED_DATASETS_PATH": dataset_cache / "downloads",
            "EXTRACTED_DATASETS_PATH": dataset_cache / "downloads" / "extracted",
            "HF_MODULES_CACHE": Path(modules),
            "HF_UPDATE_DOWNLOAD_COUNTS": False,
            "USE_PARQUET_EXPORT": False,
        },
    }


@contextmanager
def client_pointed_at(url: str, home: Path) -> Iterator[pytest.MonkeyPatch]:
    """Every Hub client of this process talks to `url`, keeps its files below `home`, and hardly waits before retries.

    The libraries read their settings once, at import: here the copies are changed, and put back at the end; datasets,
    if it was imported meanwhile, reads its own again.

    Yields:
        What undoes the changes at the end; more may be added to it.
    """
    knew_datasets = "datasets.config" in sys.modules
    modules_before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in client_environment(url, home, is_xet=False).items():
            patch.setenv(name, value)
        for module, values in constants_for(url, home).items():
            if module.split(".")[0] in sys.modules:
                for name, value in values.items():
                    patch.setattr(importlib.import_module(module), name, value)
        patch.setattr(hf_api.api, "endpoint", url)
        hasty = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, LONGEST_WAIT))})
        for client in (_http, file_download):
            patch.setattr(client, "time", hasty)
        patch.setattr(sys, "path", list(sys.path))
        forget_connections()
        yield patch
    forget_connections()
    for name in set(sys.modules) - modules_before:
        if name.split(".")[0] == "transformers_modules":
            del sys.modules[name]
    if not knew_datasets and "datasets.config" in sys.modules:
        importlib.reload(sys.modules["datasets.config"])


def forget_connections() -> None:
    """Drop what the clients remember of a server: sessions, tokens, listings."""
    _http.close_session()
    _xet._GLOBAL_XET_HOLDER._session = None
    _xet.XET_CONNECTION_INFO_CACHE.clear()
    hf_api.api._whoami_cache.clear()
    HfFileSystem.clear_instance_cache()


def subprocess_environment(url: str, home: Path, is_xet: bool) -> dict[str, str]:
    """The environment for a process of its own, on one core."""
    wanted = {**client_environment(url, home, is_xet), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    token = os.environ.get("HF_TOKEN")
    del wanted["HF_TOKEN"]
    return {**os.environ, **wanted, **({"HF_TOKEN": token} if token else {})}
