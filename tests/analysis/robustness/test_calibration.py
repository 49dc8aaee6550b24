"""Calibration and mistakes, against the definitions written out in loops."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from vit_jax.analysis.robustness import calibration, mistakes
from vit_jax.errors import UserError


@pytest.fixture
def data():
    """Logits and labels of 400 examples of 5 classes, overconfident by a factor of 2.5."""
    rng = np.random.default_rng(0)
    logits = 1.3 * rng.standard_normal((400, 5))
    powers = np.exp(logits)
    labels = np.array([rng.choice(5, p=row / row.sum()) for row in powers])
    return 2.5 * logits, labels


def softmax(row):
    powers = [math.exp(x - max(row)) for x in row]
    return [x / sum(powers) for x in powers]


def expected_ece(probabilities, labels, bins):
    total = 0.0
    for m in range(1, bins + 1):
        inside = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(probabilities, labels, strict=True)
            if (m - 1) / bins < max(row) <= m / bins
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = sum(value for value, _ in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


def test_the_numbers_are_their_definitions(data):
    logits, labels = data
    probabilities = [softmax(row) for row in logits.tolist()]
    found = calibration.calibration(logits, labels, bins=10)
    truth = [[float(k == label) for k in range(5)] for label in labels]
    brier = np.mean(
        [sum((p - y) ** 2 for p, y in zip(*rows, strict=True)) for rows in zip(probabilities, truth, strict=True)]
    )
    assert found.before["brier"] == pytest.approx(brier, abs=1e-12)
    nll = np.mean([-math.log(row[label]) for row, label in zip(probabilities, labels, strict=True)])
    assert found.before["nll"] == pytest.approx(nll, abs=1e-12)
    assert found.before["ece"] == pytest.approx(expected_ece(probabilities, labels, 10), abs=1e-12)
    assert found.accuracy == np.mean([row.index(max(row)) == y for row, y in zip(probabilities, labels, strict=True)])
    assert found.examples == 400


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin():
    diagram = calibration.reliability(np.array([0.0, 0.2, 0.4, 0.4 + 1e-9, 1.0]), np.array([0, 0, 1, 1, 1]), bins=5)
    assert diagram.count.tolist() == [2, 1, 1, 0, 1]
    assert np.isnan(diagram.accuracy[3])
    assert diagram.ece == pytest.approx((2 * abs(0 - 0.1) + abs(1 - 0.4) + abs(1 - 0.4) + 0) / 5, abs=1e-8)


def test_the_temperature_minimises_the_loss(data):
    logits, labels = data

    def loss(log_t):
        return np.mean([-math.log(softmax(row)[y]) for row, y in zip(logits / math.exp(log_t), labels, strict=True)])

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8})
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(math.exp(best.x), rel=1e-5)
    assert 2 < found < 3  # the factor by which the logits are too large
    logs = np.log([softmax(row) for row in logits])
    assert calibration.fit_temperature(logs, labels) == pytest.approx(found, rel=1e-7)  # log-probabilities do as well


def test_temperatures_have_limits():
    right = np.eye(3)[[0, 1, 2]]
    assert calibration.fit_temperature(right, np.array([0, 1, 2])) == pytest.approx(math.exp(-7))
    assert calibration.fit_temperature(right, np.array([1, 2, 0])) == pytest.approx(math.exp(7))


def test_no_example_is_scored_with_a_temperature_fitted_on_it(data):
    logits, labels = data
    found = calibration.calibration(logits, labels)
    losses, temperatures = [], []
    for start in (0, 1):
        temperature = calibration.fit_temperature(logits[1 - start :: 2], labels[1 - start :: 2])
        temperatures.append(temperature)
        for row, label in zip(logits[start::2] / temperature, labels[start::2], strict=True):
            losses.append(-math.log(softmax(row)[label]))
    assert found.after["nll"] == pytest.approx(np.mean(losses), abs=1e-12)
    assert found.temperature == pytest.approx(np.mean(temperatures))
    assert found.after["nll"] < found.before["nll"]
    assert found.after["ece"] < found.before["ece"]

    other = calibration.calibration(logits, labels, held_out=(logits[:50], labels[:50]))
    assert other.temperature == calibration.fit_temperature(logits[:50], labels[:50])
    with pytest.raises(UserError, match="at least two labelled examples, got 1"):
        calibration.calibration(logits[:1], labels[:1])


def test_confusion_and_mistakes():
    label, predicted = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 1, 1, 1, 0, 3])
    confusion = mistakes.confusion_matrix(label, predicted, 4)
    expected = np.zeros((4, 4), int)
    for row, column in zip(label, predicted, strict=True):
        expected[row, column] += 1
    np.testing.assert_array_equal(confusion, expected)
    np.testing.assert_array_equal(mistakes.accuracy_by_class(confusion), [1 / 3, 1 / 2, np.nan, 1])
    assert mistakes.most_confused(confusion, 5) == [(0, 1, 2), (1, 0, 1)]
    assert mistakes.most_confused(confusion, 1) == [(0, 1, 2)]


def test_the_worst_mistakes_come_first():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.99, 0.01], [0.4, 0.6]])
    rows = {"scores": np.log(probabilities), "label": np.array([1, 1, 1, 0])}
    rows |= {"id": np.array([7, 8, 9, 11]), "index": np.arange(4)}
    found = mistakes.predictions(rows)
    assert found.predicted.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(found.confidence, [0.9, 0.8, 0.99, 0.6])
    np.testing.assert_allclose(found.loss, -np.log([0.1, 0.8, 0.01, 0.4]))
    assert mistakes.worst(found, 2).tolist() == [2, 0]
    assert mistakes.worst(found, 9).tolist() == [2, 0, 3]
