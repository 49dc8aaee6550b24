"""Few-shot linear evaluation: a linear classifier fitted to frozen features of a few labelled examples per class.

The classifier is the closed-form solution of regularised least squares, with targets of -1 and 1 (ViT, section 4.1 and
Table 8). It is computed in float64 on the host.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.data.modality import check_labels
from vit_jax.data.source import Subset
from vit_jax.errors import UserError, counted

if TYPE_CHECKING:
    from vit_jax.run import Run

L2_GRID = tuple(2.0**power for power in range(-10, 21))


def evaluate_few_shot(
    run: "Run",
    train: Any,
    test: Any,
    shots: Sequence[int],
    *,
    seed: int = 0,
    batch_size: int | None = None,
    track: Callable[[str], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the scores of a classifier fitted to `k` examples per class, for each `k` in `shots`.

    Args:
      train, test: Sources, as `Run.open_split` returns them. Their labels must be the same, but may differ from the
        run's.
      shots: Values of `k`. The labelled examples of a smaller `k` are among those of a larger one.
      seed: Seed with which the labelled examples are drawn.
      track: Returns the `track` argument of `Run.features`, given a description.

    Raises:
      UserError: The labels differ, a class has fewer than `k` examples, or the model has no features.
    """
    if not train.labels:
        raise UserError(f"few-shot evaluation needs a data set with classes; {train.name} has none")
    check_labels(train.labels, test.labels, f"{train.name} {train.split}", f"{test.name} {test.split}")
    labels = train.all_labels()
    chosen = {k: choose_examples(labels, k, train.labels, seed=seed) for k in shots}
    needed = np.unique(np.concatenate(list(chosen.values())))

    def features(source: Any, description: str) -> dict[str, np.ndarray]:
        tracked = {"track": track(description)} if track else {}
        return run.features(source, batch_size=batch_size, **tracked)

    train_features = features(Subset(train, needed.tolist()), "labelled examples")
    test_features = features(test, "evaluating")
    for k, indices in chosen.items():
        rows = np.searchsorted(needed, indices)
        labelled = {name: train_features[name][rows] for name in ("features", "label")}
        scores = few_shot(labelled, test_features, len(train.labels))
        yield {"shots": k, "seed": seed, **scores, "skipped": len(test.skipped)}


def few_shot(
    train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray], num_classes: int, l2: float | None = None
) -> dict[str, float]:
    """Fits a linear classifier to the examples of `train` and scores it on every example of `test`.

    Both have `features` and `label`, one row per example, as `Run.features` returns them; `choose_examples` can select
    the rows of `train`. If examples in `test` have several labels, any of them counts as correct, and examples without
    a label are left out (ReaL, arXiv:2006.07159).

    Returns:
      `top1`, the number of scored `examples` in `test`, the number of `labelled` examples in `train`, and `l2`.
    """
    classifier = fit_linear(train["features"], train["label"], num_classes, l2)
    best, labels = classifier.scores(test["features"]).argmax(-1), test["label"]
    targets = labels if labels.ndim == 2 else np.eye(num_classes)[labels]
    hits = targets[np.arange(len(best)), best][targets.any(-1)] > 0
    counts = {"examples": len(hits), "labelled": len(train["label"])}
    return {"top1": float(np.mean(hits)), **counts, "l2": classifier.l2}


@dataclasses.dataclass(frozen=True)
class LinearClassifier:
    """A classifier with the class scores `(features - mean) / scale @ weights + bias`.

    Attributes:
      mean, scale: `(feature_dim,)`.
      weights: `(feature_dim, classes)`.
      bias: `(classes,)`.
      l2: The regularisation with which it was fitted.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    l2: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns scores `(examples, classes)` of features `(examples, feature_dim)`."""
        return (np.asarray(features, np.float64) - self.mean) / self.scale @ self.weights + self.bias


def choose_examples(labels: np.ndarray, shots: int, names: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """Returns the indices of `shots` examples per class, one class after another.

    They are the first examples of each class in a random order that depends on `seed`, as in big_vision. A larger
    number of shots therefore includes the examples of a smaller one.

    Raises:
      UserError: A class has fewer examples (the message names all such classes), or examples have several labels.
    """
    if labels.ndim != 1:
        raise UserError("few-shot evaluation needs training examples with one label each")
    rng = np.random.default_rng(seed)
    classes = [rng.permutation(np.flatnonzero(labels == index)) for index in range(len(names))]
    if few := [f"{name!r} ({len(found)})" for name, found in zip(names, classes, strict=True) if len(found) < shots]:
        needed = counted(shots, "examples")
        raise UserError(f"few-shot evaluation needs {needed} per class, but some have fewer: {', '.join(few)}")
    return np.concatenate([found[:shots] for found in classes])


def fit_linear(features: np.ndarray, labels: np.ndarray, num_classes: int, l2: float | None = None) -> LinearClassifier:
    """Fits the classifier that minimises `|scores - targets|^2 + l2 |weights|^2` over the examples.

    As in google-research/big_vision, features are standardised with the mean and standard deviation of these examples.
    If `l2` is None, the value in `L2_GRID` with the smallest leave-one-out squared error on these examples is chosen,
    which has a closed form.

    Deviations: big_vision fixes l2 at 2**10, and also regularises the bias slightly. The latter shifts all class scores
    by the same amount if every class has the same number of examples.

    Args:
      features: `(examples, feature_dim)`; there may be more features than examples.
      labels: Integers `(examples,)`.
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
