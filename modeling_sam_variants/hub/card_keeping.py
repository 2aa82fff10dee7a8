"""Which card a checkpoint gets: one that somebody wrote is kept, a generated one is written anew."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sam_variants.hub.card_checks import check_given
from sam_variants.hub.saved_weights import weights_digest

MARK = "<!-- Written by sam-variants. Change the text above and it is kept from then on. {digest}{weights} -->"
MARK_PATTERN = re.compile(
    re.escape(MARK).replace(r"\{digest\}", "([0-9a-f]{16})").replace(r"\{weights\}", "(?: weights ([0-9a-f]{16}))?")
)
# Sentences of the generated text that the metadata has no room for.
BASE_PATTERN = re.compile(r"^Base: \[`(.+?)`\]", re.MULTILINE)
SOURCE_PATTERN = re.compile(r"Converted from (.+?) with `sam-variants`:")
RESULTS_PATTERN = re.compile(r"^## Measured\n\n(.+?)\n\n## Limitations$", re.MULTILINE | re.DOTALL)
# What `model_card` is given → what its metadata calls it.
FIELDS = {
    "license": "license",
    "license_name": "license_name",
    "license_link": "license_link",
    "base_model": "base_model",
    "base_model_relation": "base_model_relation",
    "datasets": "datasets",
    "evaluation": "model-index",
}
# What no longer holds when something else is said of a field.
DEPENDENTS = {"license": ("license_name", "license_link"), "base_model": ("base_model_relation", "source")}
# Always written, and kept when somebody chose another value.
CHOSEN_FIELDS = ("pipeline_tag", "library_name")
GENERATED_FIELDS = (*CHOSEN_FIELDS, "model-index", *FIELDS.values())


@dataclass(frozen=True)
class EarlierResults:
    """What an earlier card of the same weights says was measured: entries of its metadata, and their text."""

    entries: list[EvalResult]
    text: str


def choose_card(
    make: Callable[..., ModelCard],
    given: Mapping[str, Any],
    own: ModelCard | None = None,
    remote: ModelCard | None = None,
    weights: Sequence[Mapping[str, str]] = (),
    new: bool = False,
) -> ModelCard:
    """The card of a folder that goes to a repository.

    Text that somebody wrote is kept: that of the folder, else that of the repository; metadata that it lacks is filled
    in. Generated text is generated again, from what is given now and what the earlier cards say.

    Args:
        make: `model_card` for this checkpoint; takes `given`, `weights` and what earlier cards say.
        given: what the caller asked for, which beats what the cards say.
        own: the folder's card.
        remote: the repository's card.
        weights: file name → sha256 of this checkpoint's weights, also in layouts that they had before. Numbers of an
            earlier card that was generated for others are dropped.
        new: whether to leave the earlier cards out.

    Returns:
        The card; one that is kept and lacks nothing is unchanged to the byte.
    """
    given = {name: value for name, value in given.items() if value}
    make = partial(make, weights=weights)
    if new:
        check_given(given, {})
        return make(**given)
    earlier = [card for card in (remote, own) if card is not None]
    said = [said_by(card) for card in earlier]
    known: dict[str, Any] = {}
    for values in said:
        known |= values
    for name, dependents in DEPENDENTS.items():
        if name in given:
            known = {field: value for field, value in known.items() if field not in dependents}
    check_given(given, known)
    digests = {weights_digest(checksums) for checksums in weights}
    valid = [found for card in reversed(earlier) if (found := results_of(card, digests)) is not None]
    if valid and "evaluation" not in given:
        known["earlier_results"] = valid[0]
    tags = [tag for values in [*said, given] for tag in values.get("tags", [])]
    fresh = make(**{**known, **given, "tags": list(dict.fromkeys(tags))})
    kept = next((card for card in reversed(earlier) if not is_untouched(card)), None)
    asked = {FIELDS[name] for name in given if name in FIELDS}
    if kept is None:
        return with_additions(fresh, earlier)
    return completed(kept, fresh, asked, given.get("tags") or [])


def signed(text: str, weights: str | None = None) -> str:
    """A generated text with a mark (a comment that pages don't show) by which a later change is noticed.

    Args:
        text: of the card.
        weights: the `weights_digest` of what it is about.
    """
    text = text.strip()
    mark = MARK.format(digest=digest_of(text), weights=f" weights {weights}" if weights else "")
    return f"{text}\n\n{mark}\n"


def is_untouched(card: ModelCard) -> bool:
    """Whether a card's text is as it was generated; its metadata may have been changed."""
    found = MARK_PATTERN.search(card.text)
    return found is not None and digest_of(card.text[: found.start()] + card.text[found.end() :]) == found[1]


def digest_of(text: str) -> str:
    """Sixteen digits that tell texts apart; line ends and blank margins don't count."""
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def read_card(content: bytes, where: str) -> ModelCard:
    """Parse a README.md.

    Args:
        content: of the file.
        where: what messages call it.

    Raises:
        ValueError: when it is no UTF-8, or its metadata can't be read.
    """
    try:
        card = ModelCard(content.decode("utf-8-sig"))
        str(card)  # puts the metadata in the order of the file
        return card
    except Exception as error:  # the YAML parser's errors share no type with others
        problem = " ".join(str(error).split())
        raise ValueError(f"the metadata at the top of {where} can't be read: {problem}") from error


def said_by(card: ModelCard) -> dict[str, Any]:
    """What a card says, as arguments of `model_card`."""
    values = card.data.to_dict()
    said = {name: values[field] for name, field in FIELDS.items() if field in values and name != "evaluation"}
    said["datasets"] = listed(said.get("datasets"))
    said["tags"] = listed(values.get("tags"))
    # Several bases or licences have no place in a generated text; as metadata they are kept.
    said = {name: value for name, value in said.items() if name in ("datasets", "tags") or isinstance(value, str)}
    if is_untouched(card):
        if found := BASE_PATTERN.search(card.text):
            said["base_model"] = found[1]
        if found := SOURCE_PATTERN.search(card.text):
            said["source"] = found[1]
    return {name: value for name, value in said.items() if value}


def results_of(card: ModelCard, digests: Collection[str]) -> EarlierResults | None:
    """The numbers of a generated card; None when it has none, is of other weights, or somebody changed its text."""
    found, mark = RESULTS_PATTERN.search(card.text.replace("\r\n", "\n")), MARK_PATTERN.search(card.text)
    entries = results_in(card)
    if found is None or mark is None or mark[2] not in digests or not entries or not is_untouched(card):
        return None
    return EarlierResults(entries, found[1])


def completed(card: ModelCard, fresh: ModelCard, asked: set[str], tags: Sequence[str]) -> ModelCard:
    """Somebody's card with the metadata that it lacks; its text stays as it is.

    Args:
        card: what is kept.
        fresh: the card as it would be generated.
        asked: fields of the metadata that are taken from `fresh` even where the card has others.
        tags: those that are added to the card's own.
    """
    values, offered = card.data.to_dict(), fresh.data.to_dict()
    # Numbers in another's card are that person's: they are added to when asked for, never swept away.
    offered.pop("model-index", None)
    outdated = {field for name in asked for field in DEPENDENTS.get(name, ())}
    kept = {name: value for name, value in values.items() if name not in outdated}
    merged = {**offered, **kept, **{name: offered[name] for name in asked if name in offered}}
    merged["tags"] = list(dict.fromkeys([*(listed(values.get("tags")) or offered["tags"]), *tags]))
    entries = results_in(card)
    if "model-index" in asked:
        entries = newer_results(entries, results_in(fresh))
    if merged == values and entries == results_in(card):
        return card
    merged.pop("model-index", None)
    name = card.data.get("model_name") or fresh.data.get("model_name")
    return with_data(merged, card.text, entries, name, order=[*values])


def results_in(card: ModelCard) -> list[EvalResult]:
    """The results in a card's metadata."""
    data: Any = card.data
    return list(data.eval_results or [])


def newer_results(old: list[EvalResult], new: list[EvalResult]) -> list[EvalResult]:
    """New results, behind the old ones of which there is no new version.

    The file has one group of settings for each task, data set and its configuration: old results under other settings
    can't stay in a group of the new.
    """
    settings = {result.unique_identifier: result.dataset_args for result in new}

    def place(result: EvalResult) -> tuple[Any, ...]:
        return result.task_type, result.dataset_type, result.dataset_config, result.metric_type, result.metric_name

    replaced = {place(result) for result in new}
    kept = [
        result
        for result in old
        if place(result) not in replaced
        and settings.get(result.unique_identifier, result.dataset_args) == result.dataset_args
    ]
    return [*kept, *new]


def with_additions(fresh: ModelCard, earlier: list[ModelCard]) -> ModelCard:
    """A generated card with the metadata that somebody added to earlier ones."""
    added: dict[str, Any] = {}
    for card in earlier:
        added |= {
            name: value
            for name, value in card.data.to_dict().items()
            if name in CHOSEN_FIELDS
            or (name not in fresh.data.to_dict() and (name not in GENERATED_FIELDS or isinstance(value, list)))
        }
    added.pop("model-index", None)
    if not added:
        return fresh
    values = fresh.data.to_dict()
    values.pop("model-index", None)
    return with_data({**values, **added}, fresh.text, results_in(fresh), fresh.data.get("model_name"), order=[*values])


def with_data(
    values: dict[str, Any], text: str, entries: list[EvalResult], model_name: str | None, order: list[str]
) -> ModelCard:
    """A card of this metadata, in an order, and this text."""
    if entries:
        values = {**values, "eval_results": entries, "model_name": model_name or "model"}
    line_break = "\r\n" if "\r\n" in text else "\n"
    data = ModelCardData(**values).to_yaml(line_break=line_break, original_order=[*order, *values])
    return ModelCard(f"---{line_break}{data}{line_break}---{line_break}{text}")


def listed(value: Any) -> list[str]:
    """A field that may hold a name or a list of them, as a list."""
    return [value] if isinstance(value, str) else list(value or [])
