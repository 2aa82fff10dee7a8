"""Cards that somebody wrote are kept; generated ones are written anew."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard
from test_model_card import EMBEDDED, report
from tiny import tiny_config

from sam_variants.hub.card_keeping import choose_card, is_untouched, read_card
from sam_variants.hub.model_card import model_card

MAKE = partial(model_card, tiny_config("tiny_vit"), "me/tiny", num_parameters=EMBEDDED)
WEIGHTS = report("evaluate")["model"]["sha256"]
WRITTEN = "---\nlicense: mit\nlanguage: en\n---\n# Mine\n\nMy own words.\n"


def parsed(content: str) -> ModelCard:
    return read_card(content.encode(), "README.md")


def test_a_change_of_the_text_is_noticed_and_nothing_else() -> None:
    content = str(MAKE(license="mit"))
    assert is_untouched(parsed(content))
    assert is_untouched(parsed(content.replace("\n", "\r\n")))
    assert is_untouched(parsed(content.replace("license: mit", "license: mit\nlanguage: en")))
    assert not is_untouched(parsed(content.replace("no classes", "two classes")))
    assert not is_untouched(parsed(WRITTEN))


@pytest.mark.parametrize("place", ["own", "remote"])
def test_written_text_is_kept_and_metadata_is_filled_in(place: str) -> None:
    card = choose_card(MAKE, {"datasets": ["me/scenes"]}, **{place: parsed(WRITTEN)})
    assert card.text == "# Mine\n\nMy own words.\n"
    values = card.data.to_dict()
    assert values["license"] == "mit"
    assert values["language"] == "en"
    assert values["pipeline_tag"] == "mask-generation"
    assert values["datasets"] == ["me/scenes"]
    assert str(card).startswith("---\nlicense: mit\nlanguage: en\n")


def test_what_is_asked_for_beats_what_a_card_says() -> None:
    written = parsed(WRITTEN.replace("mit", "other\nlicense_name: terms"))
    card = choose_card(MAKE, {"license": "apache-2.0"}, own=written)
    assert card.data.license == "apache-2.0"
    assert "license_name" not in card.data.to_dict()
    assert choose_card(MAKE, {}, own=parsed(WRITTEN)).data.license == "mit"


def test_a_card_that_lacks_nothing_stays_to_the_byte() -> None:
    content = str(choose_card(MAKE, {}, own=parsed(WRITTEN))).replace("language: en", "language:    'en'  # spoken")
    card = parsed(content)
    assert choose_card(MAKE, {}, remote=card) is card


def test_the_folders_text_goes_before_the_repositorys() -> None:
    other = parsed(WRITTEN.replace("My own", "Older"))
    assert "My own words" in choose_card(MAKE, {}, own=parsed(WRITTEN), remote=other).text
    # A generated card in the folder is nobody's text.
    assert "Older words" in choose_card(MAKE, {}, own=MAKE(), remote=other).text


def test_new_leaves_every_earlier_card_out() -> None:
    card = choose_card(MAKE, {"license": "mit"}, own=parsed(WRITTEN), remote=parsed(WRITTEN), new=True)
    assert str(card) == str(MAKE(license="mit"))


def test_a_generated_card_remembers_what_it_was_told() -> None:
    first = MAKE(
        license="other",
        license_name="terms",
        license_link="https://example.com",
        base_model="mobile-sam",
        datasets=["me/scenes"],
        tags=["coins"],
        source="`mobile_sam.pt`",
    )
    content = str(first).replace("---\n", "---\nlanguage: en\n", 1).replace("- coins", "- coins\n- added-by-hand")
    again = choose_card(MAKE, {}, remote=parsed(content))
    assert again.data.to_dict() == {
        **first.data.to_dict(),
        "language": "en",
        "tags": [*first.data.tags, "added-by-hand"],
    }
    assert again.text.strip() == first.text.strip()
    changed = choose_card(MAKE, {"license": "mit"}, remote=parsed(content))
    assert "Licence of the weights: `mit`" in changed.text
    assert not {"license_name", "license_link"} & changed.data.to_dict().keys()


def test_numbers_stay_with_the_weights_they_were_measured_on() -> None:
    measured = parsed(str(MAKE(evaluation=report("evaluate"))))
    same = choose_card(MAKE, {}, remote=measured, weights=[WEIGHTS])
    assert str(same).strip() == str(measured).strip()
    others = choose_card(MAKE, {}, remote=measured, weights=[{"model.safetensors": "0" * 64}])
    assert others.data.eval_results is None
    assert "## Measured\n\nNothing" in others.text
    newer = report("evaluate")
    newer["results"]["coins"]["model"]["all"]["box"] = 0.5
    again = choose_card(MAKE, {"evaluation": newer}, remote=measured, weights=[WEIGHTS])
    assert len(again.data.eval_results) == len(measured.data.eval_results)
    assert "| mean IoU, box | 50.0 % |" in again.text


def test_somebodys_own_numbers_are_added_to() -> None:
    own: dict[str, Any] = {"task_type": "mask-generation", "dataset_type": "me/coins", "dataset_name": "My coins"}
    card = MAKE()
    card.data.eval_results = [EvalResult(metric_type="mean_iou", metric_value=0.7, **own)]
    card.data.model_name = "mine"
    written = parsed(str(card).replace("no classes", "two classes"))
    kept = choose_card(MAKE, {}, remote=written)
    assert kept is written
    for _ in range(2):
        written = choose_card(MAKE, {"evaluation": report("evaluate")}, remote=written)
        assert written.data.eval_results[0].metric_value == 0.7
        assert len(written.data.eval_results) == 9


def test_other_settings_are_no_entries_of_the_same_group() -> None:
    written = parsed(str(MAKE(evaluation=report("evaluate"))).replace("no classes", "two classes"))
    other = report("evaluate")
    other["settings"]["difficulty"] = 0.5
    del other["results"]["coins"]["model"]["all"]["box"]
    for content in (written, parsed(str(choose_card(MAKE, {"evaluation": other}, remote=written)))):
        kept = choose_card(MAKE, {"evaluation": other}, remote=content)
        entries = parsed(str(kept)).data.eval_results
        assert {entry.dataset_args["difficulty"] for entry in entries} == {0.5}
        assert len(entries) == 7


def test_tags_add_up_and_what_was_chosen_on_the_hub_stays() -> None:
    content = str(MAKE(tags=["coins"])).replace("pipeline_tag: mask-generation", "pipeline_tag: image-segmentation")
    card = choose_card(
        MAKE, {"tags": ["scenes"]}, remote=parsed(content.replace("transformers\n", "sam-variants\n", 1))
    )
    assert card.data.tags[-2:] == ["coins", "scenes"]
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.library_name == "sam-variants"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"license": "mit", "license_name": "Terms"}, r"license_name='Terms' is for license='other'"),
        ({"license_link": "https://example.com"}, r"license_link=.* is for license='other', and the licence is None"),
        ({"license": "Other"}, "license_name and its license_link"),
        ({"license": "other", "license_name": "x", "license_link": "see the site"}, "neither an http"),
        ({"license": "other", "license_name": "x", "license_link": "../LICENSE"}, "neither an http"),
        ({"license": "other", "license_name": "x", "license_link": "ftp://example.com"}, "neither an http"),
        ({"datasets": ["me/scenes", "not a dataset"]}, "'not a dataset', which is no data set"),
    ],
)
@pytest.mark.parametrize("new", [False, True])
def test_what_says_nothing_is_refused(given: dict[str, Any], named: str, new: bool) -> None:
    with pytest.raises(ValueError, match=named):
        choose_card(MAKE, given, new=new)


@pytest.mark.parametrize("link", ["https://example.com/terms", "LICENSE", "docs/LICENSE.md"])
def test_a_licence_of_another_name(link: str) -> None:
    card = choose_card(MAKE, {"license": "other", "license_name": "terms", "license_link": link})
    assert card.data.to_dict()["license_link"] == link
    later = choose_card(MAKE, {"license_name": "new-terms"}, remote=parsed(str(card)))
    assert later.data.to_dict()["license_name"] == "new-terms"


@pytest.mark.parametrize("content", [b"---\ntags: [a\n---\n", b"---\n- a list\n---\n", b"\xff\xfe\x00text"])
def test_metadata_that_cannot_be_read_is_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"README\.md of 'me/tiny'"):
        read_card(content, "README.md of 'me/tiny'")
