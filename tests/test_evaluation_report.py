"""Reports of evaluations in a card: whole, of these weights, and each with its own settings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_model_card import card_of, reloaded, report

from sam_variants.hub.evaluation_report import check_model


def changed(**settings: Any) -> dict[str, Any]:
    """A report with other settings; an image size is the model's."""
    values = report("evaluate")
    values["model"]["image_size"] = settings.pop("image_size", 320)
    values["settings"] |= settings
    return values


@pytest.mark.parametrize("other", [{"image_size": 512}, {"difficulty": 0.5}, {"difficulty": 0.5, "image_size": 512}])
def test_every_number_keeps_its_settings(tmp_path: Path, other: dict[str, Any]) -> None:
    reports = [changed(), changed(**other), report("evaluate_everything")]
    reports[1]["results"]["coins"]["model"]["all"]["box"] = 0.123
    [model] = reloaded(card_of(evaluation=reports), tmp_path).data.to_dict()["model-index"]
    found = {}
    for group in model["results"]:
        counts = Counter((metric["type"], metric["name"]) for metric in group["metrics"])
        assert set(counts.values()) == {1}
        for metric in group["metrics"]:
            if group["dataset"]["type"] == "scikit-image/coins" and metric["name"] == "mean IoU, box":
                found[metric["value"]] = group["dataset"]["args"]
    expected = {values["results"]["coins"]["model"]["all"]["box"]: values for values in reports[:2]}
    assert found == {
        value: {**values["settings"], "image_size": values["model"]["image_size"]} for value, values in expected.items()
    }


def test_the_same_evaluation_twice() -> None:
    with pytest.raises(ValueError, match=r"two evaluations with the same settings \(evaluate, 320 pixels\)"):
        card_of(evaluation=[report("evaluate"), report("evaluate")])


def coins(values: dict[str, Any]) -> dict[str, Any]:
    return values["results"]["coins"]["model"]["all"]


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "has 'good' for 'mean IoU, box'": lambda values: coins(values).update(box="good"),
    "has nan for": lambda values: coins(values).update(box=float("nan")),
    "has 75.1 for": lambda values: coins(values).update(box=75.1),
    "has True for": lambda values: coins(values).update(box=True),
    "has None for": lambda values: coins(values).update(box=None),
    "KeyError: 'objects'": lambda values: coins(values).pop("objects"),
    "objects is '24'": lambda values: coins(values).update(objects="24"),
    "model.image_size": lambda values: values["model"].update(image_size="320"),
    "model.parameters": lambda values: values["model"].update(parameters=None),
    "model.sha256": lambda values: values["model"].update(sha256={"model.safetensors": "abc"}),
    "see settings": lambda values: values.update(settings=["scenes"]),
    "see versions": lambda values: values.update(versions="torch 2"),
    "is no evaluation of a model": lambda values: values["results"].update(coins=7),
    "no evaluation of a model": lambda values: values.update(model=[1]),
}


@pytest.mark.parametrize("named", sorted(BROKEN))
def test_a_report_that_somebody_changed_is_refused(named: str) -> None:
    values = report("evaluate")
    BROKEN[named](values)
    with pytest.raises(ValueError, match=r"^the|^this") as caught:
        card_of(evaluation=json.loads(json.dumps(values)))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["evaluate_tracking", "evaluate_everything"])
def test_so_are_the_other_commands_reports(name: str) -> None:
    values = report(name)
    part = values["results"].get("session") or values["results"]["coins"]["full"]["objects"]
    part["j" if name == "evaluate_tracking" else "0.9"] = 1.5
    with pytest.raises(ValueError, match=r"has 1\.5 for"):
        card_of(evaluation={**values, "model": report("evaluate")["model"]})


def test_the_weights_that_were_measured_are_those_of_the_card() -> None:
    values = report("evaluate")
    parameters, checksums = values["model"]["parameters"], values["model"]["sha256"]
    other = {"model.safetensors": "0" * 64}
    check_model(values, parameters, [other, {"under another name.safetensors": checksums["model.safetensors"]}])
    with pytest.raises(ValueError, match=rf"sha256 {checksums['model.safetensors']}.*sha256 {'0' * 64}"):
        check_model(values, parameters, [other])


def test_all_measures_of_a_report_come_into_the_card(tmp_path: Path) -> None:
    values = report("evaluate_2")
    card = reloaded(card_of(evaluation=values), tmp_path)
    found = {(result.dataset_type, result.metric_name): result for result in card.data.eval_results}
    coins, clips = values["results"]["coins"]["model"]["all"], values["video"]["held_out_clips"]
    everything = values["everything"]["coins"]["all"]
    expected = {
        ("scikit-image/coins", "mean IoU, 5 clicks"): ("mean_iou", coins["five_clicks"]),
        ("scikit-image/coins", "clicks to an IoU of 0.90, 20 where it is never reached"): (
            "number_of_clicks",
            coins["noc_90"],
        ),
        ("scikit-image/coins", "objects without an IoU of 0.85 after 20 clicks"): ("failure_rate", coins["failed_85"]),
        ("scikit-image/coins", "everything: AR@1000"): ("average_recall", everything["ar_1000"]),
        ("sam-variants/held-out-clips", "F: contour accuracy on the frames after it"): ("boundary_f", clips["f"]),
        ("sam-variants/held-out-clips", "J&F"): ("j_and_f", clips["j_and_f"]),
    }
    for key, (kind, value) in expected.items():
        assert (found[key].metric_type, found[key].metric_value) == (kind, value)
    assert coins["noc_90"] > 1
    assert f"never reached | {coins['noc_90']:.2f} clicks | 24 objects |" in card.text
    assert f"| everything: AR@1000 | {100 * everything['ar_1000']:.1f} % | 24 objects in 1 images |" in card.text
    assert "By `sam-variants evaluate`" in card.text


def test_both_versions_stand_in_one_card() -> None:
    old, new = report("evaluate"), report("evaluate_2")
    assert len(card_of(evaluation=[old, new]).data.eval_results) == sum(
        len(card_of(evaluation=values).data.eval_results) for values in (old, new)
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 3}, "has version 3, where 2 or none is known"),
        ({"results": {}, "everything": {}, "video": {}, "speed": {}}, "is no evaluation of a model"),
        ({"video": {"held_out_clips": {"clips": 2, "objects": 7, "f": 2}}}, "has 2 for 'F: contour accuracy"),
        ({"everything": {"coins": {"images": 1, "all": {"objects": 24}}}}, "KeyError: 'found_50'"),
    ],
)
def test_a_newer_or_broken_report_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=r"^the|^this") as caught:
        card_of(evaluation=report("evaluate_2") | change)
    assert named in str(caught.value)


def test_a_report_without_a_number_for_the_card_is_refused() -> None:
    values = {
        name: part for name, part in report("evaluate_2").items() if name not in ("results", "everything", "video")
    }
    with pytest.raises(ValueError, match=r"no number for a card, such as one of speed alone: measure prompts"):
        card_of(evaluation=values)


def test_a_card_does_not_tell_the_folders_of_who_measured(tmp_path: Path) -> None:
    values = report("evaluate_2")
    values["settings"] |= {"data": "/data/somebody/photos/mine"}
    card = reloaded(card_of(evaluation=values), tmp_path)
    assert "somebody" not in str(card)
    assert card.data.eval_results[0].dataset_args["data"] == "mine"
    assert "data mine," in card.text or "data mine." in card.text
    values["settings"] |= {"data": "somebody/photos"}
    assert "data somebody/photos" in card_of(evaluation=values).text


def test_numbers_of_clicks_are_not_shares_but_not_below_0() -> None:
    values = report("evaluate_2")
    coins(values)["noc_85"] = -1.0
    with pytest.raises(ValueError, match=r"has -1\.0 for 'clicks to an IoU of 0\.85.*expected a number from 0 on"):
        card_of(evaluation=values)
