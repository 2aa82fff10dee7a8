"""The page: a photo and a model on top, what can be done with them in tabs below."""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import perf_counter
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from sam_variants.spaces_demo import limits, tab_click, tab_compare, tab_everything, tab_video
from sam_variants.spaces_demo.background import Result, in_steps
from sam_variants.spaces_demo.endpoints import add_endpoints
from sam_variants.spaces_demo.example_strip import example_strip, examples, taken
from sam_variants.spaces_demo.models import EMBEDDED, Loaded, store
from sam_variants.spaces_demo.page_parts import MARK, note, progress_bar, seconds_text
from sam_variants.spaces_demo.photos import Photo, open_photo
from sam_variants.spaces_demo.segmenting import embeddings
from sam_variants.spaces_demo.shared import MODELS, SOON, UPLOAD_ID, Shared, model_picker
from sam_variants.spaces_demo.visits import Visit

TITLE = "Segment Anything, small"
SENTENCE = "Click on a thing in a photo or a video and cut it out. No GPU needed."
HEADER = f'<header class="brand">{MARK}<div><h1>{TITLE}</h1><p>{SENTENCE}</p></div></header>'
FOOTER = (
    '<footer class="colophon"><p>Photos and prompts stay on this server for an hour at most, and only you see them. '
    "Masks can be wrong: the small model follows edges and surfaces, and knows no things.</p></footer>"
)
NO_PHOTO = note("No photo yet: open one, paste one, drop one on the canvas, or take an example.")
TABS = {
    "Click and draw": tab_click.add,
    "Everything": tab_everything.add,
    "Video": tab_video.add,
    "Compare": tab_compare.add,
}
# Enter in a gradio dropdown takes the option that is lit, "embedded-video" for a pasted "embedded": an exact name and a
# Hub id are taken as they are, which is what leaving the box does.
TAKE_WHAT_IS_TYPED = """() => {
    let typed = null;
    const box = (event) => event.target.closest?.(".model-picker input");
    const isName = (text) => text.includes("/")
        || [...document.querySelectorAll("[role=option]")].some((option) => option.ariaLabel === text);
    document.addEventListener("input", (event) => { typed = box(event) || null; }, true);
    document.addEventListener("keydown", (event) => {
        if (["ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) typed = null;
        if (event.key !== "Enter" || !typed || typed !== box(event) || !isName(typed.value.trim())) return;
        event.preventDefault();
        event.stopPropagation();
        typed.blur();
        typed = null;
    }, true);
}"""
# What takes less was in the cache.
SECONDS_TO_ENCODE = 0.002
# Encoding takes longer than a click should wait.
ENCODE: dict[str, Any] = {"concurrency_id": "encode", "concurrency_limit": 2, "api_visibility": "private"}


def build() -> gr.Blocks:
    """The page, with its queue."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(limits.CACHE_CHECK_SECONDS, limits.SESSION_SECONDS)
    ) as page:
        # First, because names of endpoints are given in order, to private events too.
        add_endpoints()
        shared, model_line, strip = _top()
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            for label, add in TABS.items():
                with gr.Tab(label, elem_id="tab-" + label.split()[0].lower(), render_children=True):
                    add(shared)
        gr.HTML(FOOTER, container=False)
        _connect(shared, model_line, strip)
        page.load(None, js=TAKE_WHAT_IS_TYPED, **SOON)
    # Not open: nobody may pass by the queue.
    return page.queue(max_size=limits.MAX_WAITING, default_concurrency_limit=1, api_open=False)


def _top() -> tuple[Shared, gr.HTML, gr.HTML]:
    """Header, model and photo: what all tabs share."""
    visit = gr.State(Visit(), time_to_live=limits.SESSION_SECONDS)
    model = gr.State(EMBEDDED)
    with gr.Row(elem_id="top"):
        gr.HTML(HEADER, container=False, elem_id="brand")
        with gr.Column(scale=0, min_width=340, elem_id="model"):
            picker = model_picker("Model", EMBEDDED, elem_id="model-picker")
            model_line = gr.HTML(described(store().get(EMBEDDED)), elem_id="model-line", container=False)
    with gr.Row(elem_id="photo-row"):
        with gr.Column(scale=0, min_width=170, elem_id=UPLOAD_ID):
            upload = gr.UploadButton("Open photo", file_types=["image"], variant="primary", size="md")
        strip = example_strip(examples(), elem_id="examples")
        status = gr.HTML(NO_PHOTO, elem_id="photo-status", container=False)
    return Shared(visit, model, picker, upload, status), model_line, strip


def _connect(shared: Shared, model_line: gr.HTML, strip: gr.HTML) -> None:
    """Events that concern all tabs."""

    def open_upload(path: str, visit: Visit) -> list[Any]:
        return start(visit, open_photo(path))

    def open_example(event: gr.EventData, visit: Visit) -> list[Any]:
        return start(visit, open_photo(taken(event, examples()).path))

    def start(visit: Visit, photo: Photo) -> list[Any]:
        visit.start(photo)
        return [visit, note(f"{title(photo)}: encoding…", "busy"), *shared.photo_updates(photo)]

    changed = [shared.visit, shared.status, *shared.outputs]
    encoding: dict[str, Any] = {
        "fn": encode,
        "inputs": [shared.visit, shared.model],
        "outputs": [shared.status],
        "show_progress": "hidden",
        **ENCODE,
    }
    for opened in (
        shared.upload.upload(open_upload, [shared.upload, shared.visit], changed, show_progress="hidden", **ENCODE),
        strip.take(open_example, [shared.visit], changed, show_progress="hidden", **ENCODE),
    ):
        opened.success(**encoding)
    shared.model.change(**encoding)
    shared.picker.input(
        load_model,
        [shared.picker, shared.model],
        [shared.model, shared.picker, model_line],
        show_progress="hidden",
        trigger_mode="always_last",
        **MODELS,
    )


def encode(visit: Visit, model: str) -> str:
    """Encode the visitor's photo, so that a click need not."""
    photo = visit.photo
    if photo is None:
        return NO_PHOTO
    start = perf_counter()
    embeddings(store().get(model), photo)
    seconds = perf_counter() - start
    known = "encoded before" if seconds < SECONDS_TO_ENCODE else f"encoded in {seconds_text(seconds)}"
    return note(f"{title(photo)}: ready, {known}.", "good")


def title(photo: Photo) -> str:
    return f"{photo.name}, {photo.width} × {photo.height} pixels"


def load_model(choice: str, model: str) -> Iterator[list[Any]]:
    """Load what the picker says, with progress; keep the model before where that fails."""
    try:
        for step in in_steps(lambda report: store().get(choice, report)):
            if isinstance(step, Result):
                yield [step.value.name, step.value.name, described(step.value)]
            else:
                yield [gr.skip(), gr.skip(), progress_bar(step.fraction, step.text)]
    except gr.Error as error:
        gr.Warning(str(error.message), title="The model stays as it was", duration=20)
        yield [gr.skip(), model, described(store().get(model))]


def described(loaded: Loaded) -> str:
    """A line about a model, as HTML."""
    millions = sum(parameter.numel() for parameter in loaded.model.parameters()) / 1e6
    parts = [f"{millions:.1f} M parameters", "photos and video" if loaded.can_track else "photos"]
    parts += [loaded.model.device.type.upper(), *(["or type a Hub id"] if store().allow_hub else [])]
    return note(" · ".join(parts))
