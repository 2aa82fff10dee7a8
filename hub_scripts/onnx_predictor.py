"""Segment photos and track objects with the files of this folder: NumPy, Pillow, OpenCV and ONNX Runtime are enough.

predictor = Predictor()
photo = predictor.encode("photo.jpg")  # once for any number of questions
masks, scores = predictor.segment(photo, points=[[[320, 240]]])  # a list of points for each object

def frames(video):
    while (read := video.read())[0]:
        yield Image.fromarray(read[1][..., ::-1])

clip = frames(cv2.VideoCapture("clip.mp4"))
for found in predictor.track(clip, {0: {1: {"points": [[320, 240]]}}}):  # frame → object → its prompts there
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

    def encode(self, image: Any, use: str = "image") -> dict[str, Any]:
        """What the graphs take of a photo (an image of Pillow's, or its file), or with `use="video"` of a frame, which
        some models resize differently. What is transparent becomes white.
        """
        image = ImageOps.exif_transpose(image if isinstance(image, Image.Image) else Image.open(image))
        if image.mode[0] in "IF":
            raise ValueError(f"the image has mode {image.mode}; give one of 8 bits per channel")
        white, side = Image.new("RGBA", image.size, "white"), self.settings["image_size"]
        photo = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        longest = max(photo.size) * self.settings["keeps_aspect"]  # 0 where each side fills the model's input
        width, height = (max(1, int(n * (side / max(n, longest)) + 0.5)) for n in photo.size)
        mode, resample = self.settings["resize"][use]
        bands = [np.asarray(band.convert(mode).resize((width, height), resample), "f4") for band in photo.split()]
        divisor, mean, std = (np.float32(values).reshape(-1, 1, 1) for values in self.settings["normalize"])
        padding = ((0, 0), (0, side - height), (0, side - width))
        pixel_values = np.pad((np.stack(bands) / divisor - mean) / std, padding)[None]
        return self.run("image_encoder", {"pixel_values": pixel_values}) | {"original_size": np.array(photo.size[::-1])}

    def prompts(self, graph: str, photo: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """What a graph takes of points P×N×2 and labels P×N (N may differ between objects), boxes P×4 (−10 for none)
        and mask_prompts P×cells×cells (logits as graphs give them, NaN for none), and padding for the others.
        """
        known = [node.name for node in self.sessions[graph].get_inputs() if node.name in self.settings["prompts"]]
        try:
            count = len(next(iter(given.values()), ()))
            if not count or not given.keys() <= {*known}:
                raise ValueError(f"give one or more of {', '.join(known)}")
            points = given.get("points", [()] * count)
            labels = given.get("labels", [[1] * len(row) for row in points])
            table = np.full((count, max([1, *map(len, points)]), 3), -10, "f4")  # x, y, label
            for place, row, marks in zip(table, points, labels, strict=True):
                place[: len(row)] = np.column_stack([np.reshape(row, (len(row), 2)), marks])
            found = {"points": np.where(table[..., 2:] < 0, -10, table[..., :2]), "labels": table[..., 2]}
            for name, (size, fill) in self.settings["prompts"].items():
                if name in known and name not in found:
                    found[name] = np.reshape(given.get(name, np.full((count, *size), float(fill))), (count, *size))
            if {*found["labels"].flat} - {1, 0, -1, -10}:
                raise ValueError("labels are 1 (on the object), 0 (off it) or -10 (padding)")
            boxes = found["boxes"][(found["boxes"] != -10).any(axis=1)]
            corners = np.concatenate([found["points"][found["labels"] >= 0], boxes.reshape(-1, 2)])
            height, width = photo["original_size"]
            if not ((corners >= 0) & (corners <= (width, height))).all() or (boxes[:, :2] >= boxes[:, 2:]).any():
                raise ValueError(f"points and boxes lie in the {width}×{height} pixels of the photo, x1 < x2, y1 < y2")
        except (TypeError, ValueError) as error:
            names = ", ".join(given) or "no prompts"
            raise ValueError(f"{names}: {error}; each is a list with an entry for every object") from error
        return {name: prompt[None].astype("f4") for name, prompt in found.items()}

    def segment(self, photo: dict[str, Any], mask_numbers: Any = (1, 2, 3), **prompts: Any) -> tuple[Any, Any]:
        """Masks P×M×height×width bool and predicted IoU P×M; 0 is the single mask, 1 to 3 are for ambiguous prompts."""
        given = self.prompts("prompt_decoder", photo, prompts) | {"mask_numbers": np.array(mask_numbers)}
        answer = self.run("prompt_decoder", photo | given)
        return answer["masks"][0] > 0, answer["iou_scores"][0]

    def track(self, frames: Any, prompts: dict[int, dict[int, Any]]) -> Any:
        """Yield for every frame: object → (mask height×width bool, predicted IoU), from its first prompts on."""
        if "memory_attention" not in self.sessions:
            raise ValueError("these graphs are for photos alone: export a checkpoint that tracks")
        objects: dict[int, Any] = {}  # what is remembered of each, of prompted and of tracked frames
        size, later = None, dict(prompts)
        for now, image in enumerate(frames):
            frame, asked = self.encode(image, "video"), later.pop(now, {})
            if (size := size or [*frame["original_size"]]) != [*frame["original_size"]]:
                raise ValueError(f"frame {now} has another size than the frames before it, {size[1]}×{size[0]}")
            yield {n: self.follow(frame, asked.get(n), now, *objects.setdefault(n, ({}, {}))) for n in objects | asked}
        if later or not objects:
            raise ValueError(f"frames whose prompts were not reached: {[*later] or 'no prompts were given'}")

    def follow(self, frame: dict[str, Any], prompt: Any, now: int, prompted: Any, tracked: Any) -> tuple[Any, float]:
        """Find one object on a frame by its prompts (or `mask` alone, height×width), else by what is remembered."""
        is_prompted, graph = prompt is not None, "object_decoder"
        asked = prompt if is_prompted else {"points": [(-10, -10)], "labels": [-1]}  # −1: not a point
        if asked.keys() == {"mask"}:
            mask = np.broadcast_to(np.array(asked["mask"], bool), (1, *frame["original_size"])).copy()
            graph, given = "mask_prompt", {"mask": mask}
        else:
            given = self.prompts(graph, frame, {name: [value] for name, value in asked.items()})
        if not is_prompted:
            given |= self.run("memory_attention", frame | self.look_back(now, prompted, prompted | tracked))
        answer = self.run(graph, frame | given)
        _, regions, statistics, _ = cv2.connectedComponentsWithStats((answer["mask_logits"][0] <= 0).astype("u1"))
        is_hole = (regions > 0) & (statistics[regions, cv2.CC_STAT_AREA] <= self.settings["fill_hole_area"])
        filled = {"mask_logits": np.where(is_hole, np.float32(0.1), answer["mask_logits"])}
        kept = frame | answer | (filled if is_prompted else {}) | {"is_prompted": np.array([is_prompted])}
        (prompted if is_prompted else tracked)[now] = self.run("memory_encoder", kept)["memories"], answer["pointers"]
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
