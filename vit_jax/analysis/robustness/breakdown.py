"""What a total hides: accuracy by class, which classes are confused, and whether probabilities can be believed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.analysis.robustness.calibration import Reliability, reliability

_WIDEST = 16  # classes up to which the confusion matrix is printed as a matrix
_MOST = 20  # pairs of confused classes that are printed otherwise


class Breakdown:
    """Counts of labels and predictions, collected from the columns of `Classification.record`.

    Examples without a label are left out. An example with several labels counts for each of them, and as correct if one
    of them is predicted.

    Attributes:
      confusion: How often examples with a label (first) were predicted as a class (second), by their names.
      examples, correct: By class.
    """

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self.confusion: Counter[tuple[str, str]] = Counter()
        self.examples: Counter[str] = Counter()
        self.correct: Counter[str] = Counter()
        self._confidence: list[float] = []
        self._hits: list[bool] = []

    def add(self, columns: Mapping[str, Any]) -> None:
        """Adds the examples of a batch."""
        wanted = ("label", "correct", "classes", "probabilities")
        for label, correct, classes, probabilities in zip(*(columns[name] for name in wanted), strict=True):
            if correct is None:
                continue
            for each in label if isinstance(label, list) else [label]:
                self.examples[each] += 1
                self.correct[each] += correct
                self.confusion[each, classes[0]] += 1
            self._confidence.append(probabilities[0])
            self._hits.append(correct)

    def accuracy(self) -> dict[str, float]:
        """Returns the accuracy by class, for the classes that have examples."""
        return {name: self.correct[name] / self.examples[name] for name in self.labels if self.examples[name]}

    def reliability(self) -> Reliability:
        """Returns the reliability diagram; the confidence is the probability of the most probable class."""
        return reliability(self._confidence, self._hits)

    def as_json(self) -> dict[str, Any]:
        """Returns everything as JSON-compatible values; `confusion` lists label, prediction and count."""
        classes = {
            name: {"accuracy": value, "correct": self.correct[name], "examples": self.examples[name]}
            for name, value in self.accuracy().items()
        }
        confusion = [[label, found, count] for (label, found), count in sorted(self.confusion.items())]
        diagram = self.reliability()
        calibration = {"ece": diagram.ece, "bins": diagram.filled()}
        return {"classes": classes, "confusion": confusion, "calibration": calibration}

    def lines(self) -> list[str]:
        """Returns what people read: the three parts as aligned text."""
        return [*self._by_class(), "", *self._confused(), "", *self._calibrated()]

    def _by_class(self) -> list[str]:
        width = max([len("class"), *map(len, self.labels)])
        lines = [f"{'class':<{width}}  accuracy  correct  examples"]
        for name, value in self.accuracy().items():
            lines.append(f"{name:<{width}}  {value:8.4f}  {self.correct[name]:7,}  {self.examples[name]:8,}")
        return lines

    def _confused(self) -> list[str]:
        if len(self.labels) <= _WIDEST:
            width = max(map(len, (*self.labels, *(f"{count:,}" for count in self.confusion.values()))), default=1)
            rows = [[f"{self.confusion[label, found]:,}" for found in self.labels] for label in self.labels]
            lines = ["confusion matrix: a row for each label, a column for each prediction"]
            for name, cells in [("", list(self.labels)), *zip(self.labels, rows, strict=True)]:
                lines.append(" ".join(f"{cell:>{width}}" for cell in (name, *cells)))
            return lines
        wrong = Counter({pair: count for pair, count in self.confusion.items() if pair[0] != pair[1]})
        lines = ["most frequent confusions: label, prediction, examples"]
        return lines + [f"{label}  {found}  {count:,}" for (label, found), count in wrong.most_common(_MOST)]

    def _calibrated(self) -> list[str]:
        diagram = self.reliability()
        lines = [f"expected calibration error {diagram.ece:.4f}", "confidence  accuracy  examples"]
        return lines + [f"{b['confidence']:10.4f}  {b['accuracy']:8.4f}  {b['examples']:8,}" for b in diagram.filled()]
