"""The results of a comparison as Markdown and as a figure."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.plots.figure import COLOURS
from vit_jax.reproduce.comparison import Comparison, Interval, Metric, Trial, verdict
from vit_jax.reproduce.trained import Rows, quoted

_MARKERS = "osD^vP"


def scores_of(comparison: Comparison, rows: Rows, metric: str) -> dict[str, dict[int, float]]:
    """Returns a score by row and seed, in the unit in which it is printed."""
    scores: dict[str, dict[int, float]] = {trial.name: {} for trial in comparison.trials}
    column = "score" if metric == comparison.metric else metric
    for (name, seed), row in rows.items():
        scores[name][seed] = Metric.of(metric).unit * float(row[column])
    return scores


def markdown(comparison: Comparison, scale: str, rows: Rows) -> str:
    """Returns the rows with mean, 95 % interval and the paper's number, and a sentence for each claim of the paper."""
    scores = {metric: scores_of(comparison, rows, metric) for metric in comparison.metrics}
    headings = ["row", *(Metric.of(metric).heading for metric in comparison.metrics), "seeds", "paper", "parameters"]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for trial in comparison.at(scale):
        of_row = [row for (name, _), row in rows.items() if name == trial.name]
        parameters = f"{int(of_row[0]['parameters']):,}" if of_row else ""
        means = [_mean(list(scores[metric][trial.name].values()), metric) for metric in comparison.metrics]
        lines.append(f"| {' | '.join([trial.name, *means, str(len(of_row)), trial.printed, parameters])} |")
    where = "trained here at small scale" if scale == "small" else "the full recipes"
    parts = [f"## {comparison.title}: {where}", "", comparison.question, "", *lines, ""]
    shown = {trial.name for trial in comparison.at(scale)}
    claims = [claim for claim in comparison.claims if {claim.better, claim.worse} <= shown]
    if claims and rows:
        parts += ["The order in the paper:", ""]
        for claim in claims:
            metric = claim.metric or comparison.metric
            said = verdict(claim, scores[metric], Metric.of(metric), named=len(comparison.metrics) > 1)
            parts.append(f"- {said}")
        parts.append("")
    parts.append(" ".join([*_sentences(comparison, scale), *_provenance(rows)]))
    if scale == "paper":
        parts += ["", "```bash", *_commands(comparison, scale), "```"]
    return "\n".join(parts).rstrip()


def _mean(values: Sequence[float], metric: str) -> str:
    if not values:
        return ""
    interval, digits = Interval.of(values), Metric.of(metric).digits
    return f"{interval.mean:.{digits}f}" + (f" ± {interval.half:.{digits}f}" if math.isfinite(interval.half) else "")


def _sentences(comparison: Comparison, scale: str) -> list[str]:
    note = [comparison.note] if comparison.note and scale == "small" else []
    return [*note, *([f"Source of the paper's numbers: {comparison.source}."] if comparison.source else [])]


def _provenance(rows: Rows) -> list[str]:
    if not rows:
        return ["Not run yet."]

    def distinct(name: str) -> str:
        return ", ".join(dict.fromkeys(row[name] for row in rows.values() if row[name]))

    skipped = sum(int(row["skipped"]) for row in rows.values())
    seconds = [float(row["seconds"]) for row in rows.values() if row["seconds"]]
    times = list(dict.fromkeys(f"{each:,.0f}" for each in (min(seconds), max(seconds)))) if seconds else []
    time = f" A run took {' to '.join(times)} s." if times else ""
    return [
        f"Mean and 95 % interval over seeds. Every run scored {distinct('examples')} examples and skipped "
        f"{skipped or 'none'}.{time} Hardware: {distinct('hardware')}; JAX {distinct('jax')}; "
        f"commit {distinct('commit')}."
    ]


def _commands(comparison: Comparison, scale: str) -> list[str]:
    recipes = [(trial.name, trial.recipe(scale)) for trial in (*comparison.preparation, *comparison.at(scale))]
    return [
        f"python -m vit_jax {' '.join(map(quoted, words)).replace('{workdir}', 'DIR')}  # {name}"
        for name, recipe in recipes
        if recipe
        for words in recipe.commands(0)
    ]


def size(comparison: Comparison, scale: str) -> tuple[float, float]:
    """Returns width and height of the figure in inches."""
    if comparison.x_label:
        has_legend = any(trial.series or trial.x is None for trial in comparison.at(scale))
        return (8.5 if has_legend else 6.5) * len(comparison.metrics), 3.2
    return 6.5 + 3 * (len(comparison.metrics) - 1), 0.8 + 0.32 * len(comparison.at(scale))


def draw(figure: Any, comparison: Comparison, scale: str, rows: Rows) -> None:
    """Draws every seed as a small dot, and the mean with its 95 % interval: a panel for each metric."""
    axes = figure.subplots(1, len(comparison.metrics), squeeze=False, sharey=not comparison.x_label)[0]
    trials = comparison.at(scale)
    for axis, metric in zip(axes, comparison.metrics, strict=True):
        scores, heading = scores_of(comparison, rows, metric), Metric.of(metric).heading
        if comparison.x_label:
            _along(axis, trials, scores)
            axis.set(xlabel=comparison.x_label, ylabel=heading)
        else:
            _by_row(axis, trials, scores)
            axis.set(xlabel=heading)
        if Metric.of(metric).unit == 100:  # an interval may exceed 100 %, the axis does not
            scale_of = axis.yaxis if comparison.x_label else axis.xaxis
            low, high = scale_of.get_view_interval()
            scale_of.set_view_interval(low, min(high, 100), ignore=True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if not comparison.x_label:
        axes[0].set_yticks(range(len(trials)), [trial.name for trial in trials])
        axes[0].set_ylim(len(trials) - 0.5, -0.5)  # the first row is at the top


def _by_row(axis: Any, trials: Sequence[Trial], scores: Mapping[str, Mapping[int, float]]) -> None:
    for place, trial in enumerate(trials):
        if values := list(scores[trial.name].values()):
            interval = Interval.of(values)
            axis.plot(values, [place + 0.22] * len(values), ".", color="#777777", ms=5)  # below, so that none is hidden
            error = [[interval.half]] * 2 if math.isfinite(interval.half) else None
            axis.errorbar([interval.mean], [place], xerr=error, fmt="o", color=COLOURS[0], ms=5, capsize=3)


def _along(axis: Any, trials: Sequence[Trial], scores: Mapping[str, Mapping[int, float]]) -> None:
    lines = dict.fromkeys(trial.series for trial in trials if trial.x is not None)
    styles = dict(zip(lines, zip(COLOURS, _MARKERS, strict=False), strict=False))
    for name, (colour, marker) in styles.items():
        points = {
            trial.x: list(scores[trial.name].values())
            for trial in sorted(trials, key=lambda trial: trial.x or 0)
            if trial.series == name and trial.x is not None and scores[trial.name]
        }
        intervals = [Interval.of(values) for values in points.values()]
        halves = [each.half if math.isfinite(each.half) else 0 for each in intervals]
        for x, values in points.items():
            axis.plot([x] * len(values), values, ".", color=colour, alpha=0.4, ms=4)
        if points:
            means, style = [each.mean for each in intervals], {"marker": marker, "color": colour, "label": name or None}
            axis.errorbar(list(points), means, yerr=halves, ms=4, lw=1.3, capsize=3, **style)
    for trial in trials:
        if trial.x is None and scores[trial.name]:
            mean = Interval.of(list(scores[trial.name].values())).mean
            colour = styles.get(trial.series, ("#555555", ""))[0]
            axis.axhline(mean, color=colour, lw=1, ls="--", label=trial.name)
    xs = sorted({float(trial.x) for trial in trials if trial.x is not None})
    if xs[0] > 0 and xs[-1] / xs[0] >= 8:
        axis.set_xscale("log", base=2)
    axis.set_xticks(xs, [re.sub(r"\.0$", "", f"{x:,}") for x in xs], minor=False)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
