"""The card of an adapter: what it belongs to, how it is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard, ModelCardData
from peft import LoraConfig

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub.card_keeping import signed
from sam_variants.hub.model_card import PIPELINE_TAG, TAGS, hub_base, known_checkpoint

LIBRARY = "peft"
REPO = re.compile(r"[\w.-]+/[\w.-]+")
UNKNOWN_BASE = '"…"'

CARD = """
# {title}

A LoRA adapter for a promptable segmentation model of the Segment Anything family: a small addition to the weights of
its base, which is loaded first.

| | |
| --- | --- |
{facts}

## How to use it

With the package `sam-variants` and its extra `train` installed:

```python
import sam_variants
from sam_variants.training.lora import load_adapter, merge_adapter

base = sam_variants.load_checkpoint({base_code})
model = merge_adapter(load_adapter(base, "{repo}")).eval()
processor = sam_variants.processor_for(model)
```

Without `merge_adapter` the adapter stays apart, and with `load_adapter(base, …, is_trainable=True)` it is trained
further.

## Licence

{licence} The base has a licence of its own.
"""


class Base(NamedTuple):
    """What an adapter belongs to.

    Attributes:
        name: a repository on the Hub, a published file or a folder; None where there is no such name.
        code: the Python expression that `load_checkpoint` takes.
        is_public: whether others can load it too.
    """

    name: str | None
    code: str
    is_public: bool


def adapter_base(loaded_from: str | None, given: str | None = None) -> Base:
    """What an adapter belongs to.

    Args:
        loaded_from: `name_or_path` of the model.
        given: what the caller says it was instead: a repository on the Hub, a preset or a published checkpoint.

    Raises:
        ValueError: for a `given` that is none of these.
    """
    if given is not None:
        known = known_checkpoint(given)
        name = hub_base(given, known) or (known.file_name if known else given)
        return Base(name, f'"{name}"', is_public=True)
    if not loaded_from:
        return Base(None, UNKNOWN_BASE, is_public=False)
    if not Path(loaded_from).exists():
        return Base(loaded_from, f'"{loaded_from}"', is_public=REPO.fullmatch(loaded_from) is not None)
    for argument, video in (("", False), ("video=True", True)):
        if Path(loaded_from).resolve() == default_checkpoint(video).resolve():
            return Base(None, f"sam_variants.default_checkpoint({argument})", is_public=True)
    return Base(loaded_from, f'"{loaded_from}"', is_public=False)


def adapter_card(
    config: LoraConfig,
    base: Base,
    num_parameters: int,
    repo_id: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    datasets: Sequence[str] = (),
    tags: Sequence[str] = (),
    **_: Any,
) -> ModelCard:
    """Write the card of an adapter.

    Args:
        config: of the adapter.
        base: what it belongs to.
        num_parameters: of the adapter, with what was trained beside it.
        repo_id: where it will lie; None for a folder.
        license: of the adapter's weights, as the Hub writes it.
        license_name, license_link: of a licence that has no identifier there.
        datasets: what it was trained on, as repositories on the Hub.
        tags: further tags.
        _: what else earlier cards say of a checkpoint; the base says it here.

    Returns:
        The card; `card.save("README.md")` writes it.
    """
    is_on_hub = base.is_public and base.name is not None and REPO.fullmatch(base.name) is not None
    found = [*TAGS, "lora", *tags]
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=PIPELINE_TAG,
        base_model=base.name if is_on_hub else None,
        base_model_relation="adapter" if is_on_hub else None,
        license=license,
        license_name=license_name,
        license_link=license_link,
        datasets=list(datasets) or None,
        tags=list(dict.fromkeys(found)),
    )
    trained = [f"`{name}`" for name in config.modules_to_save or ()]
    facts = {
        "base": "not stated" if base.code == UNKNOWN_BASE else f"`{base.name or base.code}`",
        "rank": f"{config.r}, scaled by {config.lora_alpha / config.r:g}",
        "trained as a whole": ", ".join(trained) or "nothing",
        "parameters": f"{num_parameters:,}",
    }
    text = CARD.format(
        title=(repo_id or "adapter").split("/")[-1],
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        base_code=base.code,
        repo=repo_id or ".",
        licence=f"Licence of the adapter: `{license}`."
        if license
        else "The licence of the adapter is not stated here.",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{signed(text)}")
