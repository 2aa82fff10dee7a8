"""The functions of the page for programs: named endpoints, which are MCP tools too.

Files come in as uploads alone: no argument is a path or an address. What gradio would make of forged ones is stopped
before, by `guard`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio_client.utils import is_file_obj_with_meta

from sam_variants.spaces_demo import api_calls
from sam_variants.spaces_demo.api_calls import OVERLAY
from sam_variants.spaces_demo.background import NobodyWaitsError
from sam_variants.spaces_demo.models import EMBEDDED, EMBEDDED_VIDEO
from sam_variants.spaces_demo.shared import WORK

FAILED = "This didn't work, and it isn't your fault. Try again; if it goes on, tell whoever runs this Space."
# Callers wait for each other, and not visitors of the page for them.
CALLS: dict[str, Any] = {"concurrency_id": "api", "concurrency_limit": 1}
LONG_CALLS: dict[str, Any] = {name: WORK[name] for name in ("concurrency_id", "concurrency_limit")}

EXAMPLE_FILES = {"image": "photo.jpg", "video": "clip.mp4"}
EXAMPLE_OBJECTS = [{"points": [[155, 50]], "labels": [1]}]
EXAMPLE_PROMPTS = {"objects": EXAMPLE_OBJECTS, "prompts": [{"frame": 0, "objects": EXAMPLE_OBJECTS}]}

logger = logging.getLogger(__name__)


def add_endpoints() -> None:
    """Add the endpoints to the page that is being built; of their components nothing is shown."""
    # Name, inputs, outputs, whose turn it is.
    table: list[tuple[str, list[Component], list[Component], dict[str, Any]]]
    with gr.Column(visible=False):
        table = [
            ("models", [], [gr.JSON(label="models")], CALLS),
            (
                "segment",
                [file_input("image"), prompts_input("objects"), text("model", EMBEDDED), text("file", OVERLAY)],
                [gr.JSON(label="masks"), gr.File(label="file")],
                CALLS,
            ),
            (
                "everything",
                [
                    file_input("image"),
                    number("points_per_side", 32, precision=0),
                    number("pred_iou_thresh", None),
                    number("stability_score_thresh", None),
                    number("min_mask_region_area", 0, precision=0),
                    text("model", EMBEDDED),
                    text("file", OVERLAY),
                ],
                [gr.JSON(label="masks"), gr.File(label="file")],
                LONG_CALLS,
            ),
            (
                "track",
                [
                    file_input("video"),
                    prompts_input("prompts"),
                    text("model", EMBEDDED_VIDEO),
                    gr.Checkbox(True, label="overlay"),
                ],
                [gr.JSON(label="tracked"), gr.File(label="masks"), gr.File(label="overlay")],
                LONG_CALLS,
            ),
            (
                "compare",
                [
                    file_input("image"),
                    prompts_input("objects"),
                    text("first_model", EMBEDDED),
                    text("second_model", EMBEDDED_VIDEO),
                ],
                [gr.JSON(label="comparison")],
                CALLS,
            ),
        ]
        never_clicked = gr.Button("API")
    for name, inputs, outputs, turn in table:
        never_clicked.click(
            explained(getattr(api_calls, name)),
            inputs,
            outputs,
            api_name=name,
            api_visibility="public",
            show_progress="hidden",
            **turn,
        )


def file_input(label: str) -> Component:
    """An upload, or None for anything else that is sent.

    Gradio's own way to read one leaves an empty file behind at every call, its error for what is no upload has no text,
    and its example is an address.
    """
    component = gr.File(label=label)
    schema, example = component.api_info(), {"path": EXAMPLE_FILES[label], "meta": {"_type": "gradio.FileData"}}
    return with_own(
        component,
        data_model=None,
        preprocess=lambda sent: sent["path"] if is_file_obj_with_meta(sent) else None,
        api_info=lambda: schema,
        example_payload=lambda: example,
    )


def number(label: str, value: float | None, precision: int | None = None) -> Component:
    """A number, which the endpoint itself checks."""
    return with_own(gr.Number(value, label=label, precision=precision), preprocess=lambda sent: sent)


def prompts_input(label: str) -> Component:
    """Points and boxes. Gradio's own schema of JSON is none that MCP servers take."""
    return with_own(
        gr.JSON(label=label),
        api_info=lambda: {"type": "array", "items": {"type": "object"}},
        example_payload=lambda: EXAMPLE_PROMPTS[label],
    )


def with_own(component: Component, **attributes: Any) -> Component:
    """A component with attributes of its own; for a subclass gradio would write a stub beside this file."""
    for name, value in attributes.items():
        setattr(component, name, value)
    return component


def text(label: str, value: str) -> gr.Textbox:
    """A short text."""
    return gr.Textbox(value, label=label, max_length=200)


def explained(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose errors are all fit to be shown: what is no gr.Error is logged here and not told."""

    @wraps(fn)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise
        except NobodyWaitsError as error:
            raise gr.Error("The caller has gone.", print_exception=False) from error
        except Exception as error:
            logger.exception("%s failed", fn.__name__)
            raise gr.Error(FAILED, print_exception=False) from error

    return checked
