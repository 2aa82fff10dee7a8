"""The card of a labeled dataset: what the Hub reads, and what people need to know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

CARD_FILE, SHEET_FILE = "README.md", "contact_sheet.jpg"
TAGS = ["segment-anything", "sam-variants", "instance-segmentation", "machine-generated"]
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
BAR = 40
# The list of errors is no configuration: a repository's files are read by one builder.
CONFIG = {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}], "default": True}

UNFINISHED = """
# {name}

Images with masks, being made by `sam-variants label`: what is finished can be loaded already, with `streaming=True` or
`download_mode="force_redownload"` (otherwise `datasets` gives again what it found the first time). The command writes
the rest of this page at the end; stopped, it goes on when it is run again with the same arguments.
"""

FINISHED = """
# {name}

{images} images with {masks} masks, made by `sam-variants label` with {model}.
{kept}

{sheet}| | |
| --- | --- |
{facts}

## Masks per image

```
{histogram}
```

## Load it

`DIR` is this folder, or the dataset's name on the Hub.

```python
from datasets import load_dataset

rows = load_dataset("DIR", split="train")                  # or streaming=True, which downloads as it goes
row = rows[0]
row["image"]                                               # PIL image
row["objects"][0]["segmentation"]                          # COCO's run-length code: size, counts
```

The masks as an object that draws, decodes and converts:

```python
from sam_variants.results import Masks

masks = Masks.from_coco(row["objects"], size=(row["height"], row["width"]))
masks.overlay(row["image"]).show()
masks.data                                                 # N×height×width, bool
```

Train on it, and look at it:

```sh
sam-variants train DIR --eval-share 0.1 --out trained
sam-variants browse DIR
```

## Columns

| column | what it holds |
| --- | --- |
| `image` | {image_column} |
| `key` | {key_column} |
| `width`, `height` | in pixels, as the image is shown: turned as its EXIF orientation says |
| `objects` | a list, one entry for each mask |
| `….segmentation` | `size` [height, width] and `counts`, COCO's compressed run-length code |
| `….bbox`, `….area` | [x, y, width, height] and number of pixels |
| `….score`, `….stability_score` | what the model thinks its IoU is; how steady the mask is when its threshold moves |
| `….point_coords`, `….point_labels`, `….prompt_box`, `….category` | what was asked; null where it was not |
| `….crop_box` | the part of the image that was looked at |

{others}

## How it was made

| setting | value |
| --- | --- |
{settings}

The masks come from a model and were not corrected by people. Masks, scores and categories may be wrong; the license of
the images is that of their source.
"""


def first_card(identity: Mapping[str, Any]) -> str:
    """The card of a run that has just begun: enough to load what is finished."""
    return _card(UNFINISHED.format(name=_name(identity)), None, CONFIG)


def finished_card(
    out: Path,
    identity: Mapping[str, Any],
    totals: Mapping[str, int],
    num_bytes: int,
    histogram: Sequence[int],
    digest: str,
) -> str:
    """The card of a finished dataset.

    Args:
        out: its folder, where the contact sheet and the COCO file lie by now.
        identity: settings and source.
        totals: `shards`, `rows`, `masks`, `errors`.
        num_bytes: of all shards.
        histogram: how many images have 0, 1, 2–3, 4–7, 8–15, … masks.
        digest: of the shards.
    """
    rows, errors, settings = totals["rows"], totals["errors"], identity["settings"]
    facts = {
        "images": f"{rows:,}",
        "masks": f"{totals['masks']:,}",
        "masks per image": f"{totals['masks'] / rows:.1f}" if rows else "none",
        "images without a mask": f"{histogram[0] if histogram else 0:,}",
        "images that failed": f"{errors:,}" + (", listed in `errors.jsonl`" if errors else ""),
        "files": f"{totals['shards']:,} in `data`, {_size(num_bytes)}",
    }
    others = ["`manifest.json` has the sha256 of every file, `label.json` the settings and the source."]
    if (out / "instances.json").is_file():
        others.append("`instances.json` is the same as a COCO file; `file_name` is the `key`.")
    if errors:
        others.append("`errors.jsonl` has a line for each image that failed: `key`, `part` and `row` in it, `error`.")
    is_embedded = settings["images"] == "embed"
    text = FINISHED.format(
        name=_name(identity),
        images=f"{rows:,}",
        masks=f"{totals['masks']:,}",
        model=f"the model `{settings['model']}`" if settings.get("model") else "a model",
        kept="The image files are in it." if is_embedded else "The images stay where they were; the rows name them.",
        sheet=f"![Some of the images with their masks]({SHEET_FILE})\n\n" if (out / SHEET_FILE).is_file() else "",
        facts=_table(facts),
        histogram=histogram_text(histogram),
        key_column="what the source calls the image" + ("" if "key_column" in identity["source"] else ", unique"),
        image_column="the image file as it was" if is_embedded else "the path or URL of the image file",
        others=" ".join(others),
        settings=_table(_settings(identity)),
    )
    # `datasets` caches a local folder by what its card says: without this, it would go on giving what was there before
    return _card(text, rows, {**CONFIG, "description": f"{rows} images, sha256 of the list of files {digest}"})


def histogram_text(histogram: Sequence[int]) -> str:
    """A line with a bar for 0, 1, 2–3, 4–7, 8–15, … masks."""
    most = max(histogram, default=0)
    lines = ["  masks      images"]
    for place, count in enumerate(histogram):
        first, last = (2 ** (place - 1), 2**place - 1) if place else (0, 0)
        label = str(first) if first == last else f"{first}–{last}"
        bar = "█" * max(round(BAR * count / most), 1) if count else ""
        lines.append(f"{label:>7} {count:>11,}  {bar}".rstrip())
    return "\n".join(lines)


def size_category(rows: int) -> str:
    """The Hub's name for a dataset of so many rows."""
    return SIZES[sum(rows >= 10**power for power in range(3, 3 + len(SIZES) - 1))]


def _card(text: str, rows: int | None, config: Mapping[str, Any]) -> str:
    data = DatasetCardData(
        annotations_creators=["machine-generated"],
        task_categories=["image-segmentation"],
        size_categories=None if rows is None else [size_category(rows)],
        tags=TAGS,
        configs=[config],
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n"


def _name(identity: Mapping[str, Any]) -> str:
    """What the dataset is called: that its folder has another name on another machine changes nothing."""
    name = identity["source"].get("name")
    return f"{name}, with masks" if name else "Images with masks"


def _settings(identity: Mapping[str, Any]) -> dict[str, str]:
    told = {"package": f"sam-variants {identity['version']}"}
    for title, values in (("", identity["settings"]), ("source: ", identity["source"])):
        for name, value in values.items():
            for inner, number in value.items() if isinstance(value, dict) else [("", value)]:
                text = number if isinstance(number, str) else json.dumps(number, ensure_ascii=False)
                told[f"{title}{name}{f'.{inner}' if inner else ''}"] = f"`{_shortened(text)}`"
    return told


def _shortened(text: str, length: int = 100) -> str:
    text = " ".join(text.replace("`", "'").replace("|", "¦").split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:,.0f} {unit}" if unit == "bytes" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError
