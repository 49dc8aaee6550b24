"""Calibration: whether a classifier is right as often as its probabilities say.

With confidence c_i, the probability of the most probable class of example i, and h_i = 1 if this class is its label:

    ECE   = sum_m n_m / n |mean of h_i - mean of c_i|         over the examples with (m - 1) / M < c_i <= m / M
    Brier = mean of sum_k (p_ik - [k = y_i])^2                 from 0 to 2
    NLL   = mean of -log p_i,y_i                               in nats
    T     = argmin of NLL, with p_i = softmax(z_i / T)         temperature scaling

The expected calibration error and temperature scaling are those of Guo et al. 2017 (arXiv:1706.04599, sections 2 and
4.2), with M = 15 bins as there; the Brier score is the original of 1950, the sum over all classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vit_jax.errors import UserError

BINS = 15
_LOG_RANGE = 7.0  # temperatures are sought from e^-7 to e^7


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Accuracy and confidence in bins of equal width: a reliability diagram.

    Attributes:
      count: Number of examples of each bin, `(bins,)`.
      accuracy, confidence: Their means in each bin, `(bins,)`; NaN for an empty bin.
    """

    count: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error, from 0 to 1."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float(np.sum(gaps * self.count[filled]) / max(self.count.sum(), 1))

    def filled(self) -> list[dict[str, float]]:
        """Returns `confidence`, `accuracy` and `examples` of each bin that is not empty, for JSON."""
        return [
            {"confidence": float(c), "accuracy": float(a), "examples": int(n)}
            for n, a, c in zip(self.count, self.accuracy, self.confidence, strict=True)
            if n
        ]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The calibration of a classifier on a split.

    Attributes:
      examples: Number of examples with a label, all of which were scored.
      accuracy: Top-1 accuracy, which a temperature does not change.
      temperature: The fitted T; with two halves, the mean of both.
      before, after: `ece`, `brier` and `nll` without and with temperature scaling.
      diagrams: The reliability diagrams without and with it.
    """

    examples: int
    accuracy: float
    temperature: float
    before: dict[str, float]
    after: dict[str, float]
    diagrams: tuple[Reliability, Reliability]


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Reliability:
    """Returns the reliability diagram of examples with these confidences, `(examples,)`.

    Args:
      confidence: From 0 to 1. Bin m, from 1, holds those with (m - 1) / bins < confidence <= m / bins, and bin 1 those
        that are 0.
      correct: Whether the most probable class is the label.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, values, bins) / count for values in (correct, confidence)]
    return Reliability(count, *means)


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature T that minimises the mean of -log softmax(scores / T)[label].

    The loss is convex in 1 / T. Its derivative, the mean over the examples of E_p[score] - score of the label, is
    brought to zero. T is at most e^7, which it is if equal probabilities are best, and at least e^-7, which it is if
    all examples are right.

    Args:
      scores: Logits, or log-probabilities, `(examples, classes)`.
      labels: Classes, `(examples,)`.
    """
    from scipy.optimize import brentq

    scores = np.asarray(scores, np.float64)
    right = scores[np.arange(len(scores)), labels]

    def slope(log_inverse: float) -> float:
        powers = _softmax(scores * np.exp(log_inverse))
        return float(np.mean((powers * scores).sum(-1) - right))

    if slope(-_LOG_RANGE) >= 0:
        return float(np.exp(_LOG_RANGE))
    if slope(_LOG_RANGE) <= 0:
        return float(np.exp(-_LOG_RANGE))
    root: Any = brentq(slope, -_LOG_RANGE, _LOG_RANGE, xtol=1e-9)
    return float(np.exp(-root))


def calibration(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    bins: int = BINS,
) -> Calibration:
    """Measures calibration without and with temperature scaling.

    No example is scored with a temperature that was fitted on it. Without `held_out`, the temperature of the examples
    at even positions is fitted on those at odd positions, and the reverse.

    Args:
      scores: Logits, or log-probabilities, `(examples, classes)`.
      labels: Classes, `(examples,)`.
      held_out: Scores and labels of other examples, to fit the temperature on.

    Raises:
      UserError: There are fewer than two examples.
    """
    if len(scores) < 2:
        raise UserError(f"calibration needs at least two labelled examples, got {len(scores)}")
    scores = np.asarray(scores, np.float64)
    if held_out is None:
        fitted = [fit_temperature(scores[1 - start :: 2], labels[1 - start :: 2]) for start in (0, 1)]
        temperatures = np.array(fitted)[np.arange(len(scores)) % 2]
    else:
        fitted = [fit_temperature(*held_out)]
        temperatures = np.full(len(scores), fitted[0])
    (before, plain), (after, scaled) = (
        _scored(_softmax(each), labels, bins) for each in (scores, scores / temperatures[:, None])
    )
    return Calibration(
        examples=len(scores),
        accuracy=float(np.mean(scores.argmax(-1) == labels)),
        temperature=float(np.mean(fitted)),
        before=before,
        after=after,
        diagrams=(plain, scaled),
    )


def _scored(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> tuple[dict[str, float], Reliability]:
    """Returns `ece`, `brier` and `nll`, and the reliability diagram."""
    right = probabilities[np.arange(len(labels)), labels]
    diagram = reliability(probabilities.max(-1), probabilities.argmax(-1) == labels, bins)
    brier = np.mean((probabilities**2).sum(-1) - 2 * right + 1)
    with np.errstate(divide="ignore"):
        nll = -np.mean(np.log(right))
    return {"ece": diagram.ece, "brier": float(brier), "nll": float(nll)}, diagram


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def log_probabilities(task: Any) -> Callable[[Any, Any, dict[str, Any]], dict[str, jax.Array]]:
    """Returns a function for `Run.rows` that computes `scores`, `(examples, classes)`, on the devices.

    They are log-probabilities, averaged over the views of an example as the task does it: as probabilities or logits.

    Raises:
      UserError: The task does not predict one of several classes.
    """
    if getattr(task, "loss_name", None) != "softmax":
        found = getattr(task, "loss_name", task.name)
        raise UserError(
            f"calibration is of runs that predict one class of several: config.task.loss=softmax, not {found}"
        )

    def compute(model: Any, params: Any, batch: dict[str, Any]) -> dict[str, jax.Array]:
        logits = task.predict(model, params, batch)["logits"].astype(jnp.float32)
        if task.average_views == "logits":
            logits = logits.reshape(-1, task.views, logits.shape[-1]).mean(axis=1)
        logs = jax.nn.log_softmax(logits)
        if task.average_views == "probabilities":
            logs = jax.nn.logsumexp(logs.reshape(-1, task.views, logs.shape[-1]), axis=1) - jnp.log(task.views)
        return {"scores": logs}

    return compute


def scores_of(run: Any, source: Any, **options: Any) -> dict[str, np.ndarray]:
    """Returns `scores`, `label`, `id` and `index` of every labelled example of a source, sorted by id.

    `index` is the position in the source. The scores of 50,000 examples of 1,000 classes take 200 MB.

    Args:
      source: A source from `run.open_split`.
      **options: `batch_size` and `track` of `Run.rows`.

    Raises:
      UserError: See `log_probabilities`; or an example has several labels, or none has a label.
    """
    rows = run.rows(log_probabilities(run.task), source, **options)
    if rows["label"].ndim > 1:
        raise UserError(f"{source.name} {source.split} has several labels per example; calibration needs one")
    rows["index"] = np.arange(len(rows["label"]))
    labelled = rows["label"] >= 0
    if not labelled.any():
        raise UserError(f"{source.name} {source.split} has no labels")
    return {name: values[labelled] for name, values in rows.items()}
