"""What is summed up of an evaluation with prompts: means by size of object, and numbers of clicks."""

from __future__ import annotations

import numpy as np

from sam_variants.hub_scripts.evaluation_scores import Scores


def test_summary_splits_objects_by_size() -> None:
    ious = {"click": [0.1, 0.2, 0.4, 0.9], "level": [np.nan, 0.5, np.nan, np.nan]}
    scores = Scores([0.005, 0.05, 0.02, 0.3], ious, [np.array([value, value]) for value in ious["click"]])
    scores.seconds = {"prompt": [0.001, 0.002, 0.009]}
    assert scores.summary() == {
        "all": {"objects": 4, "click": 0.4, "level": 0.5},
        "small": {"objects": 1, "click": 0.1},
        "medium": {"objects": 2, "click": 0.3, "level": 0.5},
        "large": {"objects": 1, "click": 0.9},
        "by_click": [0.4, 0.4],
        "milliseconds": {"prompt": 2.0},
    }
    assert scores.first(2).summary()["all"] == {"objects": 2, "click": 0.15, "level": 0.5}
    assert "large" not in scores.first(2).summary()


def test_numbers_of_clicks_in_a_summary() -> None:
    by_click = np.full((3, 20), 0.5)
    by_click[0, 1:] = 0.95  # both at the second click
    by_click[1, 2:] = 0.87  # 0.85 at the third, never 0.90
    found = Scores([0.05] * 3, {"click": [0.5] * 3}, list(by_click)).summary()
    assert found["all"] == {
        "objects": 3,
        "click": 0.5,
        "noc_85": round((2 + 3 + 20) / 3, 4),
        "failed_85": round(1 / 3, 4),
        "noc_90": 14.0,
        "failed_90": round(2 / 3, 4),
    }
    assert found["noc_counts"]["90"] == [0, 1, *[0] * 18, 2]
    assert found["noc_counts"]["85"] == [0, 1, 1, *[0] * 17, 1]
    assert found["by_click"][:3] == [0.5, 0.65, 0.7733]
