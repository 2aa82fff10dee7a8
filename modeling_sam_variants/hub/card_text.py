"""The text of a model card, from a configuration."""

from __future__ import annotations

from functools import cache
from typing import Any

from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.hub.quantized_weights import INSTALL as INSTALL_TORCHAO
from sam_variants.hub.quantized_weights import says_quantized

ENCODERS = {"sam_variants_vit": "ViT", "sam_variants_tiny_vit": "TinyViT", "sam_variants_hiera": "Hiera"}

INTRODUCTION = """
# {title}

A promptable segmentation model of the Segment Anything family: points, boxes or rough masks in, masks with a predicted
quality out.{video}

| | |
| --- | --- |
{facts}

## How to use it

{install}

{examples}

Prompts are pixels of the original image, x then y. `input_boxes`, `input_masks`, several points for one object and
several objects for one image work too, and so does a list of images.
"""

VIDEO_SENTENCE = " It also follows objects through a video, in constant memory."
INSTALL = {
    False: "With the package `sam-variants` installed:",
    True: (
        "The code comes with the weights. `trust_remote_code=True` runs it: read it first, or install the package\n"
        "`sam-variants`, put `import sam_variants` on top and leave the argument out."
    ),
}

QUANTIZED = f"quantised by torchao, which reads them: `{INSTALL_TORCHAO}`"

IMAGE_EXAMPLE = """
```python
{imports}import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo}"{trust}).eval()
processor = AutoProcessor.from_pretrained("{repo}"{trust})

image = Image.open("photo.jpg")
inputs = processor(images=image, input_points=[[320, 240]], input_labels=[1], return_tensors="pt")
with torch.inference_mode():
    outputs = model(**inputs)
masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
best = outputs.iou_scores[0, 0].argmax()
mask = masks[0][0, best]  # height×width, True inside
```
"""

VIDEO_EXAMPLE = """
In a video, frame by frame:

```python
{imports}from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo}"{trust}).eval()
processor = AutoProcessor.from_pretrained("{repo}"{trust})

session = model.start_session(processor=processor)
session.add_object(1, points=[[320, 240]], labels=[1])
for masks in session.track("video.mp4"):
    print(masks.object_ids, masks.boxes, masks.areas)
```
"""

LIMITATIONS = """
## Limitations

- It outlines what it is pointed at and gives it no name: there are no classes.
- Images are fitted into {size}×{size} pixels, and masks are predicted at {mask_size}×{mask_size} before they are
  enlarged: thinner structures are lost.
- The predicted quality (`iou_scores`) is the model's own estimate, no measurement.
- How good it is on your images, only a measurement there can tell.
"""


def card_text(
    config: Any, repo_id: str | None, num_parameters: int, with_code: bool, licence: str, origin: str, results: str
) -> str:
    """The body of a card.

    Args:
        config: the model's configuration.
        repo_id: what the examples load; None for the folder that holds the card.
        num_parameters: of the model.
        with_code: whether the repository holds the model's code.
        licence, origin: Markdown about the licence and the source of the weights.
        results: Markdown of what was measured; empty when nothing was.
    """
    is_video = hasattr(config, "memory_encoder_config")
    repo = repo_id or "."
    values = {
        "repo": repo,
        "trust": ", trust_remote_code=True" if with_code else "",
        "imports": "" if with_code else "import sam_variants  # tells transformers about the model\n",
    }
    examples = [IMAGE_EXAMPLE, VIDEO_EXAMPLE] if is_video else [IMAGE_EXAMPLE]
    introduction = INTRODUCTION.format(
        title=repo.split("/")[-1] if repo_id else "sam-variants " + encoder_name(config),
        video=VIDEO_SENTENCE if is_video else "",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts(config, num_parameters).items()),
        install=INSTALL[with_code],
        examples="\n\n".join(example.strip().format(**values) for example in examples),
    )
    stride = config.vision_config.stride
    limits = LIMITATIONS.format(size=config.image_size, mask_size=4 * config.image_size // stride)
    measured = results or "Nothing: no evaluation came with these weights."
    sections = [
        introduction,
        f"## Licence and source of the weights\n\n{licence}\n\n{origin}",
        f"## Measured\n\n{measured}",
        limits,
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def facts(config: Any, num_parameters: int) -> dict[str, str]:
    """What there is to say about an architecture, by heading."""
    vision: Any = config.vision_config
    preset = preset_of(config)
    known = {"architecture": f"that of `{preset}`"} if preset else {}
    return {
        **known,
        "image encoder": f"{encoder_name(config)}, {encoder_size(vision)}",
        "parameters": f"{num_parameters:,}",
        "input": f"{config.image_size}×{config.image_size} pixels",
        "image embedding": f"{vision.out_chans} channels, 1 cell for {vision.stride}×{vision.stride} pixels",
        "for": "images and video" if hasattr(config, "memory_encoder_config") else "images",
        **({"weights": QUANTIZED} if says_quantized(vars(config)) else {}),
        "classes": f"`{type(config).__name__.removesuffix('Config')}Model`, by `AutoModel`",
    }


def encoder_name(config: Any) -> str:
    """The name of a configuration's image encoder, for people."""
    model_type = config.vision_config.model_type
    return ENCODERS.get(model_type, model_type.removeprefix("sam_variants_"))


def encoder_size(vision: Any) -> str:
    """How wide and deep an image encoder is."""
    if hasattr(vision, "embed_dims"):
        return f"stages {', '.join(map(str, vision.embed_dims))} wide with {', '.join(map(str, vision.depths))} blocks"
    if hasattr(vision, "stages"):
        return f"{vision.embed_dim} wide at first, stages of {', '.join(map(str, vision.stages))} blocks"
    return f"{vision.embed_dim} wide, {vision.depth} blocks"


def preset_of(config: Any) -> str | None:
    """The published variant with exactly this architecture."""
    own = architecture(config)
    return next((name for name, published in architectures().items() if published == own), None)


@cache
def architectures() -> dict[str, Any]:
    """What `architecture` says of every preset."""
    return {name: architecture(config_for(name)) for name in PRESETS}


# What a saved configuration says of its file or of how it is used, instead of the network.
NOT_ARCHITECTURE = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "initializer_range",
    "mask_generation",
    "mask_threshold",
    "quantization_config",
    "transformers_version",
}


def architecture(values: Any) -> Any:
    """The fields of a configuration that make its network."""
    if hasattr(values, "to_dict"):
        values = values.to_dict()
    if isinstance(values, dict):
        return {name: architecture(value) for name, value in values.items() if name not in NOT_ARCHITECTURE}
    return list(values) if isinstance(values, tuple) else values
