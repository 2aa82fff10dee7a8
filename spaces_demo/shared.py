"""What the tabs of the page share: the visitor's photo, the model, and what happens when one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from sam_variants.spaces_demo.models import store
from sam_variants.spaces_demo.photos import GONE, Photo
from sam_variants.spaces_demo.prompts import ObjectPrompts, read_value
from sam_variants.spaces_demo.segmenting import answerable
from sam_variants.spaces_demo.visits import Visit

# Each takes its turn: prompts are short and come often, work takes seconds, models may have to be fetched.
PROMPT: dict[str, Any] = {"concurrency_id": "prompt", "concurrency_limit": 2, "api_visibility": "private"}
WORK: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": 1, "api_visibility": "private"}
COMPARE: dict[str, Any] = {"concurrency_id": "compare", "concurrency_limit": 1, "api_visibility": "private"}
MODELS: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1, "api_visibility": "private"}
# Without waiting for a place: what costs nothing.
SOON: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

UPLOAD_ID = "photo-upload"
NO_PHOTO_YET = "There is no photo yet. Open one, or take one of the examples."

PhotoUpdates = Callable[[Photo | None], Sequence[Any]]


@dataclass
class Shared:
    """The parts of the page that every tab may use.

    Attributes:
        visit: the visitor's state, a `Visit`.
        model: the choice that is loaded (`ModelStore.get` takes it).
        picker: where a visitor chooses a model; its value may not be loaded yet.
        upload: takes a photo, for all tabs but the video's.
        status: one line about the photo.
        outputs: what a new photo changes, in the tabs' order.
        updates: for each tab what a new photo gives its outputs.
    """

    visit: gr.State
    model: gr.State
    picker: gr.Dropdown
    upload: gr.UploadButton
    status: gr.HTML
    outputs: list[Component] = field(default_factory=list)
    updates: list[PhotoUpdates] = field(default_factory=list)

    def on_photo(self, outputs: Sequence[Component], updates: PhotoUpdates) -> None:
        """Have components set by each new photo.

        Args:
            outputs: the components.
            updates: called with the photo; returns one update for each of them.
        """
        self.outputs += outputs
        self.updates.append(updates)

    def photo_updates(self, photo: Photo | None) -> list[Any]:
        """What a new photo gives all the `outputs`."""
        given = [update for updates in self.updates for update in updates(photo)]
        return [_complete(output, update) for output, update in zip(self.outputs, given, strict=True)]


def _complete(output: Component, update: Any) -> Any:
    """An update with all properties of its component: in a tab that was never open, it takes the place of them."""
    if isinstance(output, gr.HTML) and isinstance(update, gr.HTML):
        return gr.HTML(**(output.props | update.props))
    return update


def model_picker(label: str, value: str, *, elem_id: str) -> gr.Dropdown:
    """A list of the models that are offered; where the Hub is allowed, its ids (owner/name) can be typed."""
    models = store()
    return gr.Dropdown(
        models.choices(),
        value=value,
        label=label,
        allow_custom_value=models.allow_hub,
        elem_id=elem_id,
        elem_classes=["model-picker"],
        min_width=240,
    )


def about_photo(value: Any, photo: Photo) -> bool:
    """Whether a canvas speaks of this photo, and not of one before it."""
    return isinstance(value, Mapping) and value.get("photo") == photo.id


def say_if_gone(value: Any, visit: Visit) -> None:
    """Nothing, unless a canvas shows a photo that the server no longer has.

    Raises:
        gr.Error: then.
    """
    if visit.photo is None and isinstance(value, Mapping) and value.get("photo") is not None:
        raise gr.Error(GONE, print_exception=False)


def asked_about(value: Any, visit: Visit) -> tuple[Photo, list[ObjectPrompts]]:
    """The photo, and the objects that can be answered.

    Raises:
        gr.Error: without a photo.
    """
    if visit.photo is None or not about_photo(value, visit.photo):
        say_if_gone(value, visit)
        raise gr.Error(NO_PHOTO_YET, print_exception=False)
    return visit.photo, [item for item in read_value(value, visit.photo) if answerable(item)]
