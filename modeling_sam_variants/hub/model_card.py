"""The model card of a checkpoint: metadata that the Hub reads, and a text with code that runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoModel

from sam_variants.configuration.known_checkpoints import CHECKPOINTS, KnownCheckpoint
from sam_variants.configuration.presets import PRESETS
from sam_variants.hub.card_keeping import EarlierResults, signed
from sam_variants.hub.card_results import eval_results, results_text
from sam_variants.hub.card_text import card_text
from sam_variants.hub.evaluation_report import check_model
from sam_variants.hub.saved_weights import weights_digest

PIPELINE_TAG = "mask-generation"
# The Hub shows how to load a repository by its library; these load with transformers' Auto classes.
LIBRARY = "transformers"
TAGS = ("segment-anything", "sam-variants")
ENCODER_TAGS = {"sam_variants_vit": "vit", "sam_variants_tiny_vit": "tiny-vit", "sam_variants_hiera": "hiera"}
VIDEO_TAG = "video-segmentation"
# Where the authors of the presets publish them on the Hub; MobileSAM's do not.
HUB_IDS = {preset: f"facebook/{preset}" for preset in PRESETS if preset.startswith("sam")}
RELATIONS = ("finetune", "adapter", "quantized", "merge")
UNKNOWN_LICENCE = "unknown"
Reports = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def model_card(
    model_or_config: Any,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    base_model: str | None = None,
    base_model_relation: str | None = None,
    datasets: Sequence[str] = (),
    tags: Sequence[str] = (),
    evaluation: Reports = None,
    earlier_results: EarlierResults | None = None,
    source: str | None = None,
    with_code: bool = False,
    num_parameters: int | None = None,
    weights: Sequence[Mapping[str, str]] = (),
) -> ModelCard:
    """Write the card of a checkpoint, from its configuration and what is known about its weights.

    Nothing is invented: without a licence the card says that none is stated, without an evaluation that nothing was
    measured.

    Args:
        model_or_config: a model, or its configuration.
        repo_id: where it will lie, for the examples; None for a folder.
        license: identifier of the weights' licence as the Hub writes it, such as "apache-2.0", or "unknown"; None takes
            that of a published `base_model`.
        license_name, license_link: of a licence that has no identifier there (`license="other"`).
        base_model: what the weights are or come from: a repository on the Hub, or a preset or published file of the
            family.
        base_model_relation: "finetune", "adapter", "quantized" or "merge". The same weights in another layout are none
            of these; then leave it out.
        datasets: what it was trained on, as repositories on the Hub.
        tags: further tags.
        evaluation: what `sam-variants evaluate --json` wrote, or a list of such reports.
        earlier_results: of an earlier card of the same weights, when there is no evaluation.
        source: what the weights were converted from, in words.
        with_code: whether the repository also holds the model's code.
        num_parameters: of the model; counted when it is not given.
        weights: file name → sha256 of the weights as they lie beside the card, then as they were in other layouts. An
            evaluation must be of one of these; without them it must be of as many parameters.

    Returns:
        The card; `card.save("README.md")` writes it.

    Raises:
        ValueError: for an unknown base model or relation, and an evaluation of other weights.
    """
    config = getattr(model_or_config, "config", model_or_config)
    if num_parameters is None:
        num_parameters = count_parameters(model_or_config)
    reports = reports_of(evaluation)
    for report in reports:
        check_model(report, num_parameters, weights)
    known = known_checkpoint(base_model)
    licence = licence_id(license, known)
    earlier = earlier_results if earlier_results and not reports else EarlierResults([], "")
    data = card_data(
        config,
        license=licence,
        license_name=license_name,
        license_link=license_link,
        base_model=hub_base(base_model, known),
        base_model_relation=checked_relation(base_model_relation),
        datasets=list(datasets) or None,
        tags=tags,
        results=eval_results(reports) or earlier.entries,
        model_name=(repo_id or "sam-variants").split("/")[-1],
    )
    text = card_text(
        config,
        repo_id,
        num_parameters,
        with_code,
        licence=licence_text(licence, license_name, license_link, known),
        origin=origin_text(base_model, known, source),
        results=results_text(reports) or earlier.text,
    )
    measured = [*weights, *(report["model"]["sha256"] for report in reports)]
    mark = weights_digest(measured[0]) if measured else None
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{signed(text, mark)}")


def card_data(
    config: Any, tags: Sequence[str], results: list[EvalResult], model_name: str, **fields: Any
) -> ModelCardData:
    """The metadata of a card; without results it names no model."""
    vision_type = config.vision_config.model_type
    found = [*TAGS, ENCODER_TAGS.get(vision_type, vision_type)]
    if hasattr(config, "memory_encoder_config"):
        found.append(VIDEO_TAG)
    return ModelCardData(
        pipeline_tag=PIPELINE_TAG,
        library_name=LIBRARY,
        tags=[*found, *(tag for tag in tags if tag not in found)],
        eval_results=results or None,
        model_name=model_name if results else None,
        **{name: value for name, value in fields.items() if value is not None},
    )


def count_parameters(model_or_config: Any) -> int:
    """The number of parameters of a model, or of one that a configuration describes."""
    if hasattr(model_or_config, "parameters"):
        return sum(parameter.numel() for parameter in model_or_config.parameters())
    with torch.device("meta"):
        blank = AutoModel.from_config(model_or_config)
    return sum(parameter.numel() for parameter in blank.parameters())


def reports_of(evaluation: Reports) -> list[Mapping[str, Any]]:
    """One report or several as a list."""
    if evaluation is None:
        return []
    return [evaluation] if isinstance(evaluation, Mapping) else list(evaluation)


def known_checkpoint(name: str | None) -> KnownCheckpoint | None:
    """The published checkpoint that a preset, a name in `CHECKPOINTS`, a file or the authors' repository stands for."""
    for key, known in CHECKPOINTS.items():
        if name is not None and name in (key, known.preset, known.file_name, HUB_IDS.get(known.preset)):
            return known
    return None


def hub_base(base_model: str | None, known: KnownCheckpoint | None) -> str | None:
    """The repository that the metadata names: the Hub takes no other names there.

    Raises:
        ValueError: for a name that is neither a repository nor published.
    """
    if known is not None:
        return HUB_IDS.get(known.preset)
    if base_model is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", base_model):
        raise ValueError(
            f"base_model={base_model!r} is neither a repository on the Hub (owner/name) nor one of {', '.join(PRESETS)}"
        )
    return base_model


def checked_relation(relation: str | None) -> str | None:
    if relation is not None and relation not in RELATIONS:
        raise ValueError(f"base_model_relation={relation!r} is unknown; choose one of {', '.join(RELATIONS)}")
    return relation


def licence_id(licence: str | None, known: KnownCheckpoint | None) -> str | None:
    """A licence's identifier in the Hub's lower case: the one given, else that of a published base."""
    if licence is None:
        return None if known is None else known.licence.lower()
    if not re.fullmatch(r"[\w.+-]+", licence):
        raise ValueError(
            f"license={licence!r} is no identifier such as apache-2.0; for a licence of another name give "
            "license='other' with license_name and license_link, and license='unknown' for one that nobody knows"
        )
    return licence.lower()


def licence_text(licence: str | None, name: str | None, link: str | None, known: KnownCheckpoint | None) -> str:
    if licence is None:
        return "The licence of the weights is not stated here: ask whoever published them before you use them."
    if licence == UNKNOWN_LICENCE:
        return "The licence of the weights is not known to whoever put them here."
    told = f"{name or 'other'} (`{licence}`)" if name else f"`{licence}`"
    told = f"[{told}]({link})" if link else told
    by = ", as the published weights that they come from" if known and licence == known.licence.lower() else ""
    return f"Licence of the weights: {told}{by}."


def origin_text(base_model: str | None, known: KnownCheckpoint | None, source: str | None) -> str:
    told = []
    if known is not None:
        told.append(f"Base: [`{known.file_name}`]({known.url}), as its authors publish it.")
    elif base_model is not None:
        told.append(f"Base: [`{base_model}`](https://huggingface.co/{base_model}).")
    if source is not None:
        told.append(f"Converted from {source} with `sam-variants`: the tensors got this package's names.")
    return " ".join(told) or "Where the weights come from is not stated here."
