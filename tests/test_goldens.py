"""Parity with the official implementations on random weights: every golden that is present, every case."""

from __future__ import annotations

import pytest
from golden_builders import BUILDERS, WHOLE_MODELS, reference_class
from golden_cases import GOLDENS, case_differences, golden_names, load_golden
from golden_video import replay

VIDEOS = [name for name in golden_names() if "ops" in load_golden(name).config]
CASES = [(name, case["name"]) for name in golden_names() for case in load_golden(name).config["cases"]]


@pytest.mark.parametrize(("name", "case_name"), CASES, ids=[f"{name}-{case}" for name, case in CASES])
def test_case_equals_reference(name: str, case_name: str) -> None:
    golden = load_golden(name)
    differences = case_differences(golden, golden.case(case_name))
    too_large = {what: value for what, value in differences.items() if not value <= golden.tolerance}
    assert not too_large, f"largest absolute differences above {golden.tolerance}: {too_large}"


@pytest.mark.parametrize("objects_per_pass", [16, 1])
@pytest.mark.parametrize("name", VIDEOS)
def test_video_equals_reference(name: str, objects_per_pass: int) -> None:
    golden = load_golden(name)
    differences = replay(golden.config, golden.weights, golden.io, objects_per_pass=objects_per_pass)
    too_large = {what: value for what, value in differences.items() if not value <= 1e-4}
    assert not too_large, f"largest absolute differences above 1e-4: {too_large}"


def test_every_golden_is_tested() -> None:
    untested = [
        name
        for name in golden_names()
        if name not in VIDEOS
        and (reference := reference_class(load_golden(name).config["spec"])) is not None
        and reference not in BUILDERS
        and reference not in WHOLE_MODELS
    ]
    assert not untested, f"no builder for these goldens: {untested}"
    # The runs of mask generation are tables of their own: test_mask_generation_goldens.py replays them.
    replayed_elsewhere = {*VIDEOS, "sam_amg"}
    without_cases = [
        name for name in golden_names() if name not in replayed_elsewhere and not load_golden(name).config["cases"]
    ]
    assert not without_cases, f"these goldens have no case: {without_cases}"
    assert golden_names() == sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())
