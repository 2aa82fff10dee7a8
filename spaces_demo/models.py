"""The models that visitors choose from: embedded ones, the operator's folders, and repositories on the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

from sam_variants import (
    SamVariantsMaskGenerationPipeline,
    SamVariantsModel,
    SamVariantsProcessor,
    SamVariantsVideoModel,
    default_checkpoint,
    load_checkpoint,
    processor_for,
)
from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.caches import BoundedCache
from sam_variants.spaces_demo.gpu import device
from sam_variants.spaces_demo.model_downloads import REPO_ID, download, told

EMBEDDED, EMBEDDED_VIDEO = "embedded", "embedded-video"
MODELS_VARIABLE = "SAM_VARIANTS_DEMO_MODELS"
HUB_VARIABLE = "SAM_VARIANTS_DEMO_HUB"

Progress = Callable[[float, str], Any]

_SERIALS = count()
# torch has one default dtype for all threads, which transformers changes while it loads: two at once may leave it so.
_LOADING = Lock()


@dataclass(eq=False)
class Loaded:
    """A model that is ready to be asked. Pickled or copied, it stands for the one of the same name.

    Attributes:
        name: the choice.
        model: fused, on its device.
        processor: the one that belongs to it.
        source: what `sam_variants.load_checkpoint` takes to get the same.
        revision: commit of a Hub repository.
        serial: another one for every model that was loaded.
    """

    name: str
    model: SamVariantsModel
    processor: SamVariantsProcessor
    source: str
    revision: str | None
    serial: int

    @property
    def can_track(self) -> bool:
        """Whether it follows objects through a video."""
        return isinstance(self.model, SamVariantsVideoModel)

    @cached_property
    def generator(self) -> SamVariantsMaskGenerationPipeline:
        """The mask-generation pipeline of this model."""
        return SamVariantsMaskGenerationPipeline(model=self.model, processor=self.processor, device=self.model.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return loaded_model, (self.name,)


class ModelStore:
    """Loads models when they are asked for, each once, and keeps the latest.

    Args:
        folders: checkpoints of the operator's: folders or files that `load_checkpoint` takes.
        allow_hub: whether visitors may name repositories on the Hub.
        hub_ids: repositories that are offered by name.

    Raises:
        ValueError: for a folder that doesn't exist, or two of one name.
    """

    def __init__(self, folders: Sequence[Path | str] = (), allow_hub: bool = True, hub_ids: Sequence[str] = ()) -> None:
        self.allow_hub, self.hub_ids = allow_hub, tuple(hub_ids)
        self._folders = {EMBEDDED: default_checkpoint(), EMBEDDED_VIDEO: default_checkpoint(video=True)}
        for path in map(Path, folders):
            if not path.exists():
                raise ValueError(f"there is no checkpoint {str(path)!r}")
            name = path.resolve().name
            if name in self._folders:
                raise ValueError(f"two checkpoints are called {name!r}; rename the folder {str(path)!r}")
            self._folders[name] = path
        if unfit := [name for name in self.hub_ids if not REPO_ID.fullmatch(name)]:
            raise ValueError(f"{unfit[0]!r} is no repository on the Hub: owner/name")
        # The embedded ones are small and stay.
        self._embedded = BoundedCache[Loaded](2, lambda loaded: 1)
        self._others = BoundedCache[Loaded](limits.MAX_MODELS, lambda loaded: 1)

    def choices(self) -> list[str]:
        """What can be chosen by name; any other Hub repository too where `allow_hub`."""
        return [*self._folders, *self.hub_ids]

    def get(self, choice: str, progress: Progress | None = None) -> Loaded:
        """The model of a choice, loaded if needed.

        Args:
            choice: one of `choices()`, or a repository on the Hub such as "facebook/sam2.1-hiera-tiny".
            progress: called with a fraction and what is going on.

        Raises:
            gr.Error: saying why it can't be had, and what to do.
        """
        choice = self._checked(choice)
        cache = self._embedded if choice in (EMBEDDED, EMBEDDED_VIDEO) else self._others
        return cache.get(choice, lambda: self._load(choice, progress or (lambda fraction, text: None)))

    def _checked(self, choice: Any) -> str:
        if isinstance(choice, str):
            choice = choice.strip()
            if choice in self._folders or choice in self.hub_ids:
                return choice
            if self.allow_hub and REPO_ID.fullmatch(choice):
                return choice
        hub = ", or name a model on the Hub as owner/name" if self.allow_hub else ""
        raise gr.Error(f"This model isn't offered. Choose one of {', '.join(self.choices())}{hub}.")

    def _load(self, choice: str, progress: Progress) -> Loaded:
        is_offered = choice in self.choices()
        revision: str | None = None
        if choice in self._folders:
            path, source = self._folders[choice], str(self._folders[choice])
        else:
            (path, revision), source = download(choice, progress, is_offered), choice
        progress(1.0, f"Loading {choice}")
        try:
            with _LOADING:
                model: Any = load_checkpoint(path)
            processor = processor_for(model)
        except Exception as error:  # a file from the Hub can be anything
            raise gr.Error(told(choice, error)) from error
        if not is_offered and model.config.image_size > limits.MAX_MODEL_SIDE:
            raise gr.Error(
                f"{choice} works on images of {model.config.image_size} pixels; at most {limits.MAX_MODEL_SIDE} are "
                "possible here. Choose another model."
            )
        return Loaded(choice, model.fuse().to(device()), processor, source, revision, next(_SERIALS))


_store: ModelStore | None = None
_store_lock = Lock()


def store() -> ModelStore:
    """The models of this process: as `configure` said, else the environment."""
    global _store
    with _store_lock:
        if _store is None:
            folders = [Path(part) for part in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep) if part]
            _store = ModelStore(folders, allow_hub=os.environ.get(HUB_VARIABLE, "1") != "0")
        return _store


def configure(folders: Sequence[Path | str] = (), allow_hub: bool = True, hub_ids: Sequence[str] = ()) -> ModelStore:
    """Set the models of this process.

    Args:
        folders, allow_hub, hub_ids: as for `ModelStore`.
    """
    global _store
    with _store_lock:
        _store = ModelStore(folders, allow_hub, hub_ids)
        return _store


def loaded_model(name: str) -> Loaded:
    """The model of a name in this process's store."""
    return store().get(name)
