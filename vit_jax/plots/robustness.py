"""Figures of robustness: reliability diagrams, confusion matrices, and accuracy by corruption and severity."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.plots.figure import COLOURS, COLUMN, PAGE, SEQUENTIAL, drawable, figure

MOST_NAMED = 40  # classes up to which a confusion matrix has their names
_MOST_NUMBERS = 15  # classes up to which its cells have numbers


def plot_reliability(path: Any, diagrams: Sequence[tuple[str, Any]]) -> None:
    """Draws reliability diagrams above each other's histograms: accuracy against confidence, and how many examples.

    Points on the diagonal are calibrated; below it the model is overconfident.

    Args:
      diagrams: (name, `calibration.Reliability`) of each.
    """
    with figure(path, COLUMN, 3.2) as drawing:
        top, bottom = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot((0, 1), (0, 1), color="#777777", linewidth=0.8, linestyle="--", label="calibrated")
        for (name, diagram), colour, marker in zip(diagrams, COLOURS, "osD^v", strict=False):
            filled = diagram.count > 0
            label = f"{name}: ECE {diagram.ece:.2%}"
            top.plot(diagram.confidence[filled], diagram.accuracy[filled], f"-{marker}", color=colour, label=label)
            edges = np.linspace(0, 1, len(diagram.count) + 1)
            bottom.stairs(diagram.count / diagram.count.sum(), edges, color=colour, linewidth=1.0)
        top.set(ylabel="accuracy", ylim=(-0.02, 1.04), xlim=(0, 1.01))
        top.legend(frameon=False, loc="upper left")
        bottom.set(xlabel="confidence", ylabel="share", ylim=(0, None))
        for axis in (top, bottom):
            axis.grid(alpha=0.25, linewidth=0.4)


def plot_confusion(path: Any, confusion: np.ndarray, labels: Sequence[str]) -> None:
    """Draws a confusion matrix whose rows, the true classes, sum to 100 %.

    Up to 40 classes are named, and the cells of up to 15 have the rounded percentage.

    Args:
      confusion: Numbers of examples by label and prediction, `(classes, classes)`.
    """
    classes = len(confusion)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    width = COLUMN if classes <= _MOST_NUMBERS else PAGE
    with figure(path, width, 0.83 * width) as drawing:
        axis = drawing.subplots()
        drawn = axis.imshow(share, cmap=SEQUENTIAL, vmin=0, vmax=1)
        axis.set(xlabel="predicted", ylabel="true")
        if classes <= MOST_NAMED:
            names = [drawable(label) for label in labels]
            axis.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 2 else 0)
            axis.set_yticks(range(classes), names)
        for (row, column), value in np.ndenumerate(share):
            if classes <= _MOST_NUMBERS and confusion[row, column]:
                text = f"{100 * value:.0f}" if round(100 * value) else "<1"
                axis.text(column, row, text, ha="center", va="center", fontsize=5.5, color=_over(value))
        scale = drawing.colorbar(drawn, ax=axis, shrink=0.75, aspect=25, pad=0.02)
        scale.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def plot_corruptions(path: Any, scores: Sequence[Any], clean: float) -> None:
    """Draws the accuracy by corruption (rows) and severity (columns), in percent, with that of clean images on top.

    Args:
      scores: `corruptions.Score` of each corruption and severity, in order, without clean images.
      clean: Accuracy on clean images.
    """
    names = list(dict.fromkeys(score.corruption for score in scores))
    severities = sorted({score.severity for score in scores})
    accuracy = np.full((len(names), len(severities)), np.nan)
    for score in scores:
        accuracy[names.index(score.corruption), severities.index(score.severity)] = score.accuracy
    with figure(path, COLUMN, 0.19 * len(names) + 0.75) as drawing:
        axis = drawing.subplots()
        drawn = axis.imshow(accuracy, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(severities)), severities)
        axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axis.set(xlabel="severity", title=f"top-1 accuracy in percent; clean images {100 * clean:.1f}")
        for (row, column), value in np.ndenumerate(accuracy):
            axis.text(column, row, f"{100 * value:.1f}", ha="center", va="center", fontsize=6, color=_over(value))
        scale = drawing.colorbar(drawn, ax=axis, aspect=30, pad=0.02)
        scale.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _over(value: float) -> str:
    """Returns the colour of text that is legible over this part of the colour map."""
    return "black" if value > 0.55 else "white"
