"""COCO files as rows: images, and the boxes that a detector found in them."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from sam_variants.labeling.dataset_source import Opening
from sam_variants.training.mask_files import coco_dataset


@dataclass(frozen=True)
class CocoOpening(Opening):
    """A COCO file; its rows have the columns image (a path), file_name and objects (as JSON: bbox, category)."""

    def rows(self) -> Dataset:
        """All images in the file's order. Raises: ValueError, OSError."""
        listed, _ = coco_dataset(Path(self.path))
        content = json.loads(Path(self.path).read_bytes())
        names = {category["id"]: category.get("name") for category in content.get("categories", ())}
        objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            if "bbox" in annotation:
                number = annotation.get("category_id")
                objects[annotation["image_id"]].append(
                    {"bbox": annotation["bbox"], "category": names.get(number, number)}
                )
        paths = listed.with_format("arrow")[:]["image"].combine_chunks().field("path")
        columns = {
            "image": paths.to_pylist(),
            "file_name": [entry["file_name"] for entry in content["images"]],
            "objects": [json.dumps(objects[entry["id"]]) for entry in content["images"]],
        }
        return Dataset.from_dict(columns)
