"""Few-shot linear evaluation: what a linear classifier makes of frozen features and a few labelled examples.

Regularised least squares from features onto targets of -1 and 1, in closed form (ViT, section 4.1 and Table 8).
Computed in float64 on the host.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax.errors import UserError
from vit_jax.tasks.classification import Classification

L2_GRID = tuple(2.0**power for power in range(-10, 21))


def few_shot(
    train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray], num_classes: int, l2: float | None = None
) -> dict[str, float]:
    """Fits a linear classifier to the examples of `train` and scores it on every one of `test`.

    Both hold `features` and `label`, a row an example, as `extract` returns them; `choose_examples` says which belong
    into `train`. Returns `top1`, `examples` (of `test`), `labelled` (of `train`) and `l2`. Where `test` has several
    labels an example, any of them is right, and examples without are left out (ReaL, arXiv:2006.07159).
    """
    classifier = fit_linear(train["features"], train["label"], num_classes, l2)
    rows = {"label": test["label"], "logits": classifier.scores(test["features"]), "id": np.arange(len(test["label"]))}
    score = Classification(num_classes).score(rows)
    counts = {"examples": score["examples"], "labelled": len(train["label"])}
    return {"top1": score["top1"], **counts, "l2": classifier.l2}


@dataclasses.dataclass(frozen=True)
class LinearClassifier:
    """Class scores `(features - mean) / scale @ weights + bias`; `l2` is what the weights were regularised with."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    l2: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns scores `(examples, classes)` of features `(examples, feature_dim)`."""
        return (np.asarray(features, np.float64) - self.mean) / self.scale @ self.weights + self.bias


def choose_examples(labels: np.ndarray, shots: int, names: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """Returns the indices of `shots` examples of each class, class after class.

    The examples are the first of each class in an order drawn from `seed`, as in big_vision: more shots include fewer.

    Raises:
      UserError: A class has fewer; all such are named. Or examples have several labels.
    """
    if labels.ndim != 1:
        raise UserError("few-shot evaluation needs examples with one label each to learn from")
    rng = np.random.default_rng(seed)
    classes = [rng.permutation(np.flatnonzero(labels == index)) for index in range(len(names))]
    if few := [f"{name!r} ({len(found)})" for name, found in zip(names, classes, strict=True) if len(found) < shots]:
        raise UserError(f"{shots} examples of each class are asked for, and fewer are there of {', '.join(few)}")
    return np.concatenate([found[:shots] for found in classes])


def fit_linear(features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float | None = None) -> LinearClassifier:
    """Fits the classifier that minimises `|scores - targets|^2 + l2 |weights|^2` over the examples.

    As in google-research/big_vision features are standardised with the mean and deviation of these examples. Without
    `l2`, that of `L2_GRID` is taken whose squared error is least when each example is predicted by the others
    (leave-one-out, in closed form): no other example is looked at.
    Deviations from big_vision: it fixes l2 at 2**10; and its bias is regularised, if hardly, which as classes come
    equally often moves all scores alike.

    Args:
      features: `(examples, feature_dim)`; there may be more features than examples.
      labels: ints `(examples,)`.
    """
    x = np.asarray(features, np.float64)
    mean, scale = x.mean(0), x.std(0) + 1e-5
    targets = 2.0 * np.eye(num_classes)[labels] - 1.0
    bias = targets.mean(0)
    left, singular, right = np.linalg.svd((x - mean) / scale, full_matrices=False)
    rotated = left.T @ (targets - bias)

    def error_of_left_out(l2: float) -> float:
        shrinkage = singular**2 / (singular**2 + l2)
        residuals = targets - bias - left @ (shrinkage[:, None] * rotated)
        leverage = left**2 @ shrinkage + 1 / len(x)
        return float(np.mean((residuals / (1 - leverage)[:, None]) ** 2))

    if l2 is None:
        l2 = min(L2_GRID, key=error_of_left_out)
    weights = right.T @ ((singular / (singular**2 + l2))[:, None] * rotated)
    return LinearClassifier(mean, scale, weights, bias, l2)
