"""What a classifier confuses: confusion matrix, accuracy by class, and its most confident mistakes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions for the labelled examples of a split.

    Attributes:
      label, predicted: Classes, `(examples,)`.
      confidence: Probability of the predicted class, `(examples,)`.
      loss: -log of the probability of the label, in nats, `(examples,)`.
      id, index: Id, and position in the source, of each example.
    """

    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    id: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def predictions(rows: dict[str, np.ndarray]) -> Predictions:
    """Returns the predictions from the rows of `calibration.scores_of`."""
    scores = np.asarray(rows["scores"], np.float64)
    label = rows["label"]
    return Predictions(
        label=label,
        predicted=scores.argmax(-1),
        confidence=np.exp(scores.max(-1)),
        loss=-scores[np.arange(len(label)), label],
        id=rows["id"],
        index=rows["index"],
    )


def confusion_matrix(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Returns the number of examples of each label (row) and prediction (column), `(classes, classes)`."""
    return np.bincount(classes * np.asarray(label, np.int64) + predicted, minlength=classes**2).reshape(classes, -1)


def accuracy_by_class(confusion: np.ndarray) -> np.ndarray:
    """Returns the share of each class's examples that are right, `(classes,)`; NaN for a class without examples."""
    with np.errstate(invalid="ignore"):
        return np.diag(confusion) / confusion.sum(axis=1)


def worst(found: Predictions, count: int) -> np.ndarray:
    """Returns the positions of the mistakes with the highest losses, at most `count`, worst first."""
    wrong = np.flatnonzero(found.label != found.predicted)
    return wrong[np.argsort(-found.loss[wrong], kind="stable")][:count]


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Returns (label, prediction, number of examples) of the most frequent mistakes, at most `count`."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(confusion)) for place in order]
    return [(label, other, int(wrong[label, other])) for label, other in pairs if wrong[label, other]]
