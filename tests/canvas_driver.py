"""A page with a canvas of each mode before a server that answers with plain shapes, and a hand to drive them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from playwright.sync_api import Page

from sam_variants import Masks
from sam_variants.spaces_demo.canvas import as_png, canvas, mask_props

# The original is larger than the picture that is shown of it, and its sides are no multiples.
WIDTH, HEIGHT, SHOWN = 1601, 907, (800, 453)
PHOTO = {"id": "a", "width": WIDTH, "height": HEIGHT}
RADIUS = 60
GIVEN = {"id": 7, "name": "Seven", "points": [[300, 300]], "labels": [1], "box": None, "candidate": None}


def discs(value: dict[str, Any]) -> gr.HTML:
    """For each object a disc around its first include point, or its box."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ids, found = [], []
    for item in value["objects"]:
        included = [point for point, label in zip(item["points"], item["labels"], strict=True) if label]
        if included:
            found.append((x - included[0][0]) ** 2 + (y - included[0][1]) ** 2 < RADIUS**2)
        elif item["box"]:
            x1, y1, x2, y2 = item["box"]
            found.append((x >= x1) & (x < x2) & (y >= y1) & (y < y2))
        else:
            continue
        ids.append(item["id"])
    masks = Masks(
        torch.from_numpy(np.array(found, dtype=bool).reshape(len(found), HEIGHT, WIDTH)), scores=[0.9] * len(ids)
    )
    answer = mask_props(masks, ids, photo=value["photo"], version=value["version"], size=(HEIGHT, WIDTH))
    return gr.HTML(masks=answer)


def two_masks() -> gr.HTML:
    """A large mask and a small one inside it."""
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 100:800, 200:1400] = True
    masks[1, 300:500, 600:900] = True
    return gr.HTML(masks=mask_props(Masks(torch.from_numpy(masks)), [1, 2], photo="a", version=0, size=(HEIGHT, WIDTH)))


def shapes_page(url: str) -> gr.Blocks:
    """The page.

    Args:
        url: of the picture that is shown of the photo.
    """
    photo = PHOTO | {"url": url}
    with gr.Blocks() as page:
        main = canvas("Photo to click on", elem_id="main", upload_id="opener")
        gr.HTML("<p id='received'></p>")
        received = gr.Textbox(elem_id="heard", label="Heard")
        with gr.Column(elem_id="opener"):
            upload = gr.UploadButton("Open")
        picker = canvas("Masks to choose", elem_id="picker", mode="pick")
        viewer = canvas("To look at", elem_id="viewer", mode="view")
        show, other, late = gr.Button("Show"), gr.Button("Other"), gr.Button("Late")
        show.click(
            lambda: (gr.HTML(photo=photo, max_objects=4), gr.HTML(photo=photo), gr.HTML(photo=photo, prompts=[GIVEN])),
            None,
            [main, picker, viewer],
        ).then(two_masks, None, picker)
        other.click(lambda: gr.HTML(photo=photo | {"id": "b", "objects": [GIVEN]}), None, main)
        old = {
            "id": 1,
            "x": 0,
            "y": 0,
            "width": 9,
            "height": 9,
            "area": 81,
            "score": 0.5,
            "png": as_png(np.ones((9, 9), bool), 1),
        }
        late.click(lambda: gr.HTML(masks={"photo": "a", "version": 1, "objects": [old]}), None, main)
        main.prompt(discs, main, main, trigger_mode="always_last", show_progress="hidden")
        upload.upload(lambda path: Path(path).name, upload, received)

        def picked(event: gr.EventData) -> str:
            return str(event.id)

        picker.pick(picked, None, received)
    return page.queue()


class Driven:
    """A canvas of an open page, driven by pixels of the original."""

    def __init__(self, page: Page, name: str = "main") -> None:
        self.page, self.name = page, name
        self.surface = page.locator(f"#{name} canvas")
        self.sent: list[dict[str, Any]] = []
        page.on("request", self._request)

    def _request(self, request: Any) -> None:
        if "queue/join" in request.url:
            data = request.post_data_json["data"]
            if data and isinstance(data[0], dict) and "objects" in data[0]:
                self.sent.append(data[0])

    def read(self, attribute: str) -> str:
        return self.page.locator(f"#{self.name} .canvas").get_attribute(f"data-{attribute}") or ""

    def button(self, name: str) -> Any:
        return self.page.locator(f"#{self.name}").get_by_role("button", name=name)

    @property
    def status(self) -> str:
        return self.page.locator(f"#{self.name} [role=status]").inner_text()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where the middle of a pixel is on the screen while the whole photo is shown."""
        self.surface.scroll_into_view_if_needed()
        box = self.surface.bounding_box()
        scale = min(box["width"] / WIDTH, box["height"] / HEIGHT)
        left, top = (box["width"] - WIDTH * scale) / 2, (box["height"] - HEIGHT * scale) / 2
        return box["x"] + left + (x + 0.5) * scale, box["y"] + top + (y + 0.5) * scale

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=4)
        self.page.mouse.up()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What the server heard last."""
        return self.sent[-1]["objects"]

    def wait(self, condition: Callable[[], Any]) -> None:
        for _ in range(500):
            if self.sent and condition():
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"{condition.__code__.co_names} did not come true; sent: {self.sent[-1:]}")

    def wait_for_answer(self) -> None:
        """Until the masks on the screen answer the latest prompts."""
        self.wait(lambda: self.read("version") == str(self.sent[-1]["version"]))

    def wait_for_masks(self, ids: str) -> None:
        self.page.wait_for_function(
            "([name, ids]) => document.querySelector(`#${name} .canvas`).dataset.masks === ids", arg=[self.name, ids]
        )
