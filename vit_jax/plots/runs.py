"""Curves of several runs side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.analysis.compare import Group, interval
from vit_jax.plots.figure import COLOURS, PAGE, figure

_STYLES = ("-", "--", ":", "-.")
_FEWEST_FOR_A_BAND = 3  # runs
_FEW_POINTS = 20  # up to this number, every point of a curve has a marker


def plot_runs(groups: Sequence[Group], path: Any, metric: str) -> None:
    """Writes `draw_runs` to a figure."""
    with figure(path, PAGE, 2.7 + 0.2 * -(-len(groups) // 3)) as drawing:
        draw_runs(drawing, groups, metric)


def draw_runs(drawing: Any, groups: Sequence[Group], metric: str) -> None:
    """Draws the training loss and the metric in evaluation on a Matplotlib figure: a colour for each group.

    A thin line is a run. If a group has several runs that were evaluated at the same steps, a thick line is their mean,
    and the band its 95 % confidence interval, from three runs on: that of two is wider than most plots. The axes show
    the whole of every line, and what fits of the bands.
    """
    from matplotlib.ticker import LogLocator

    loss, score = drawing.subplots(1, 2)
    for number, group in enumerate(groups):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": _STYLES[number // len(COLOURS) % len(_STYLES)],
        }
        _draw(loss, group.curve("train", "loss"), style, "")
        seeds = f" ({len(group.records)} seeds)" if len(group.records) > 1 else ""
        _draw(score, group.curve("eval", metric), style, f"{group.name}{seeds}")
    for axis, title in ((loss, "training loss"), (score, f"{metric} in evaluation")):
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
    loss.set_yscale("log")
    loss.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for write in (loss.yaxis.set_major_formatter, loss.yaxis.set_minor_formatter):
        write("{x:g}")
    handles, names = score.get_legend_handles_labels()
    if handles:
        drawing.legend(handles, names, loc="outside lower center", ncols=max(1, min(3, len(names))), frameon=False)


def _draw(axis: Any, curves: list[tuple[np.ndarray, np.ndarray]], style: dict[str, Any], label: str) -> None:
    if not curves:
        return
    together = len(curves) > 1 and all(np.array_equal(steps, curves[0][0]) for steps, _ in curves)
    marker = "." if max(len(steps) for steps, _ in curves) <= _FEW_POINTS else None
    for i, (steps, values) in enumerate(curves):
        named = "" if together or i else label
        thin = {"alpha": 0.35, "lw": 0.7} if together else {"lw": 1.2, "marker": marker}
        axis.plot(steps, values, label=named or None, **thin, **style)
    if together:
        steps, stacked = curves[0][0], np.stack([values for _, values in curves])
        means, halves = np.array([interval(values) for values in stacked.T]).T
        axis.plot(steps, means, label=label or None, lw=1.6, marker=marker, **style)
        if len(curves) >= _FEWEST_FOR_A_BAND:
            limits = axis.dataLim.frozen()
            axis.fill_between(steps, means - halves, means + halves, color=style["color"], alpha=0.15, lw=0)
            axis.dataLim.set(limits)
