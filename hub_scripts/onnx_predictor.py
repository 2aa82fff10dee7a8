"""Segment photos and track objects with the files of this folder: NumPy, Pillow, OpenCV and ONNX Runtime are enough.

predictor = Predictor()
photo = predictor.encode(Image.open("photo.jpg"))  # once for any number of questions
masks, scores = predictor.segment(photo, points=[[[320, 240]]])  # a list of points for each object
frames = (frame.to_image() for frame in av.open("clip.mp4").decode(video=0))
for found in predictor.track(frames, {0: {1: {"points": [[320, 240]]}}}):  # frame → object → its prompts there
    mask, score = found[1]  # of object 1 on this frame
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps


class Predictor:
    """The exported model. Points (x, y) and boxes (x1, y1, x2, y2) are in pixels of the photo or frame."""

    def __init__(self, folder: Any = Path(__file__).parent, providers: Any = ("CPUExecutionProvider",)) -> None:
        self.settings = json.loads(Path(folder, "export.json").read_text("utf-8"))
        names = self.settings["graphs"]  # each with its outputs
        self.sessions = {name: InferenceSession(Path(folder, f"{name}.onnx"), None, providers) for name in names}

    def run(self, graph: str, given: dict[str, Any]) -> dict[str, Any]:
        """The outputs of one graph by name; its inputs are among what is given."""
        inputs = {node.name: given[node.name] for node in self.sessions[graph].get_inputs()}
        return dict(zip(self.settings["graphs"][graph], self.sessions[graph].run(None, inputs), strict=True))

    def encode(self, image: Image.Image, use: str = "image") -> dict[str, Any]:
        """What the graphs take of a photo, or with `use="video"` of a frame, which some models resize differently."""
        photo, side = ImageOps.exif_transpose(image).convert("RGB"), self.settings["image_size"]
        longest = max(photo.size) * self.settings["keeps_aspect"]  # 0 where each side fills the model's input
        width, height = (max(1, int(n * (side / max(n, longest)) + 0.5)) for n in photo.size)
        mode, resample = self.settings["resize"][use]
        bands = [np.asarray(band.convert(mode).resize((width, height), resample), "f4") for band in photo.split()]
        divisor, mean, std = (np.float32(values).reshape(-1, 1, 1) for values in self.settings["normalize"])
        padding = ((0, 0), (0, side - height), (0, side - width))
        pixel_values = np.pad((np.stack(bands) / divisor - mean) / std, padding)[None]
        return self.run("image_encoder", {"pixel_values": pixel_values}) | {"original_size": np.array(photo.size[::-1])}

    def prompts(self, given: dict[str, Any]) -> dict[str, Any]:
        """What is given of points P×N×2, labels P×N, boxes P×4, mask_prompts P×cells×cells; padding for the others."""
        labels = {"labels": np.ones(np.shape(given["points"])[:-1])} if "points" in given else {}
        rows = len(next(iter(given.values())))
        absent = {name: np.full((rows, *size), float(fill)) for name, (size, fill) in self.settings["prompts"].items()}
        return {name: np.asarray(prompt, "f4")[None] for name, prompt in (absent | labels | given).items()}

    def segment(self, photo: dict[str, Any], mask_numbers: Any = (1, 2, 3), **prompts: Any) -> tuple[Any, Any]:
        """Masks P×M×height×width bool and predicted IoU P×M; 0 is the single mask, 1 to 3 are for ambiguous prompts."""
        answer = self.run("prompt_decoder", photo | self.prompts(prompts) | {"mask_numbers": np.array(mask_numbers)})
        return answer["masks"][0] > 0, answer["iou_scores"][0]

    def track(self, frames: Any, prompts: dict[int, dict[int, Any]]) -> Any:
        """Yield for every frame: object → (mask height×width bool, predicted IoU), from its first prompts on."""
        objects: dict[int, Any] = {}  # what is remembered of each, of prompted and of tracked frames
        for now, image in enumerate(frames):
            frame, asked = self.encode(image, "video"), prompts.get(now, {})
            yield {n: self.follow(frame, asked.get(n), now, *objects.setdefault(n, ({}, {}))) for n in objects | asked}

    def follow(self, frame: dict[str, Any], prompt: Any, now: int, prompted: Any, tracked: Any) -> tuple[Any, float]:
        """Find one object on a frame, with prompts (`mask`: height×width bool) or without, and remember it."""
        asked = {name: np.array([value]) for name, value in (prompt or {"labels": [-1]}).items()}  # −1: not a point
        seen = {} if prompt else self.run("memory_attention", frame | self.look_back(now, prompted, prompted | tracked))
        graph, given = ("mask_prompt", asked) if "mask" in asked else ("object_decoder", self.prompts(asked))
        answer = self.run(graph, frame | seen | given)
        _, regions, statistics, _ = cv2.connectedComponentsWithStats((answer["mask_logits"][0] <= 0).astype("u1"))
        is_hole = (regions > 0) & (statistics[regions, cv2.CC_STAT_AREA] <= self.settings["fill_hole_area"])
        filled = {"mask_logits": np.where(is_hole, np.float32(0.1), answer["mask_logits"])}
        kept = frame | answer | (filled if prompt else {}) | {"is_prompted": np.array([bool(prompt)])}
        (prompted if prompt else tracked)[now] = self.run("memory_encoder", kept)["memories"], answer["pointers"]
        tracked.pop(now - self.settings["reach"], None)
        return self.run("mask_resize", frame | filled)["masks"][0] > 0, answer["iou_scores"][0]

    def look_back(self, now: int, prompted: Any, seen: Any) -> dict[str, Any]:
        """What a frame looks at: memories of prompted and of the last frames, and object pointers of more of these."""
        last, step, limit, pointers = self.settings["look_back"]
        chosen = [*prompted][-limit:]
        places = {now - 1 if age == 1 else ((now - 2) // step - age + 2) * step: age for age in range(last, 0, -1)}
        ages = dict.fromkeys(chosen, 0) | {i: age for i, age in places.items() if i in seen and i not in chosen}
        recent = [*chosen, *(i for i in range(now - 1, now - pointers, -1) if i in seen and i not in chosen)]
        found = [np.stack([seen[i][part] for i in rows], 1) for part, rows in enumerate((ages, recent))]
        times = {"ages": np.array([[*ages.values()]]), "distances": now - np.array([recent])}
        return {"memories": found[0], "pointers": found[1]} | times
