"""Accuracy by class, confusion and calibration, counted by hand."""

import pytest

from vit_jax.analysis.robustness.breakdown import Breakdown
from vit_jax.analysis.robustness.calibration import reliability

FIRST = {
    "label": ["a", "a", "b"],
    "correct": [True, False, True],
    "classes": [["a", "b"], ["b", "a"], ["b", "c"]],
    "probabilities": [[0.9, 0.1], [0.6, 0.4], [0.61, 0.3]],
}
SECOND = {"label": ["c", "a"], "correct": [None, True], "classes": [["c"], ["a"]], "probabilities": [[1.0], [1.0]]}


@pytest.fixture
def breakdown():
    breakdown = Breakdown(("a", "b", "c"))
    for columns in (FIRST, SECOND):
        breakdown.add(columns)
    return breakdown


def test_every_labelled_example_is_counted_once(breakdown):
    assert breakdown.accuracy() == {"a": 2 / 3, "b": 1.0}  # the example of c has no label
    assert breakdown.confusion == {("a", "a"): 2, ("a", "b"): 1, ("b", "b"): 1}


def test_the_calibration_is_that_of_the_analysis(breakdown):
    # bins of 1/15: (0.533, 0.6] has 0.6 (wrong), (0.6, 0.667] has 0.61 (right), (0.867, 0.933] has 0.9, the last 1.0
    found = breakdown.as_json()["calibration"]
    diagram = reliability([0.9, 0.6, 0.61, 1.0], [True, False, True, True])
    assert found["ece"] == diagram.ece == pytest.approx((0.6 + 0.39 + 0.1 + 0) / 4)
    assert [(each["examples"], each["accuracy"]) for each in found["bins"]] == [(1, 0), (1, 1), (1, 1), (1, 1)]
    assert [each["confidence"] for each in found["bins"]] == [0.6, 0.61, 0.9, 1.0]


def test_a_split_without_labels_has_no_bins():
    breakdown = Breakdown(("a", "b", "c"))
    breakdown.add({"label": [None], "correct": [None], "classes": [["a"]], "probabilities": [[0.5]]})
    assert breakdown.as_json()["calibration"] == {"ece": 0.0, "bins": []}


def test_an_example_with_several_labels_counts_for_each():
    breakdown = Breakdown(("a", "b", "c"))
    breakdown.add({"label": [["a", "b"]], "correct": [True], "classes": [["b"]], "probabilities": [[0.5]]})
    assert breakdown.accuracy() == {"a": 1.0, "b": 1.0}


def test_the_text_has_the_matrix_of_few_classes_and_the_confusions_of_many(breakdown):
    lines = breakdown.lines()
    assert "a        0.6667        2         3" in lines
    assert lines[lines.index("confusion matrix: a row for each label, a column for each prediction") + 2] == "a 2 1 0"
    many = Breakdown(tuple(map(str, range(30))))
    many.add({"label": ["3", "3"], "correct": [False, False], "classes": [["7"], ["7"]], "probabilities": [[0.5]] * 2})
    assert "3  7  2" in many.lines()
