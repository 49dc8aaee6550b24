"""The results of a comparison as Markdown and as a figure."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.reproduce.comparison import Comparison, Interval, Trial, verdict
from vit_jax.reproduce.trained import Rows

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: safe if colour-blind
MARKERS = "osD^vP"


def scores_of(comparison: Comparison, rows: Rows) -> dict[str, dict[int, float]]:
    """Returns the score by row and seed, in the unit in which it is printed."""
    scores: dict[str, dict[int, float]] = {trial.name: {} for trial in comparison.trials}
    for (name, seed), row in rows.items():
        scores[name][seed] = comparison.unit * float(row["score"])
    return scores


def markdown(comparison: Comparison, scale: str, rows: Rows) -> str:
    """Returns the rows with mean, 95 % interval and the paper's number, and a sentence for each claim of the paper."""
    scores, metric = scores_of(comparison, rows), _metric(comparison)
    lines = [f"| row | {metric} | seeds | paper | parameters |", "|" + "---|" * 5]
    for trial in comparison.at(scale):
        of_row = [row for (name, _), row in rows.items() if name == trial.name]
        parameters = f"{int(of_row[0]['parameters']):,}" if of_row else ""
        cells = [trial.name, _mean(Interval.of(list(scores[trial.name].values()))), str(len(of_row)), trial.printed]
        lines.append(f"| {' | '.join([*cells, parameters])} |")
    where = "trained here at small scale" if scale == "small" else "the full recipes"
    parts = [f"## {comparison.title}: {where}", "", comparison.question, "", *lines, ""]
    shown = {trial.name for trial in comparison.at(scale)}
    claims = [claim for claim in comparison.claims if {claim.better, claim.worse} <= shown]
    if claims and rows:
        parts += ["The order in the paper:", ""]
        parts += [f"- {verdict(claim, scores)}" for claim in claims] + [""]
    parts.append(" ".join([*_sentences(comparison, scale), *_provenance(rows)]))
    if scale == "paper":
        parts += ["", "```bash", *_commands(comparison, scale), "```"]
    return "\n".join(parts).rstrip()


def _metric(comparison: Comparison) -> str:
    names = {"top1": "top-1 (%)", "bleu": "BLEU", "perplexity": "perplexity"}
    return names.get(comparison.metric, comparison.metric)


def _mean(interval: Interval) -> str:
    if not interval.count:
        return ""
    return f"{interval.mean:.1f}" + (f" ± {interval.half:.1f}" if math.isfinite(interval.half) else "")


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
        f"python -m vit_jax {' '.join(words).replace('{workdir}', 'DIR')}  # {name}"
        for name, recipe in recipes
        if recipe
        for words in recipe.commands(0)
    ]


def draw(figure: Any, comparison: Comparison, scale: str, rows: Rows) -> None:
    """Draws every seed as a small dot, and the mean with its 95 % interval, on a Matplotlib figure."""
    axis = figure.add_subplot()
    trials, scores = comparison.at(scale), scores_of(comparison, rows)
    if comparison.x_label:
        _along(axis, trials, scores)
        axis.set(xlabel=comparison.x_label, ylabel=_metric(comparison))
    else:
        _by_row(axis, trials, scores)
        axis.set(xlabel=_metric(comparison))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _by_row(axis: Any, trials: Sequence[Trial], scores: Mapping[str, Mapping[int, float]]) -> None:
    for place, trial in enumerate(trials):
        values = list(scores[trial.name].values())
        if values:
            interval = Interval.of(values)
            axis.plot(values, [place] * len(values), ".", color="#999999", ms=5)
            error = [[interval.half]] * 2 if math.isfinite(interval.half) else None
            axis.errorbar([interval.mean], [place], xerr=error, fmt="o", color=COLOURS[0], ms=5, capsize=3)
    axis.set_yticks(range(len(trials)), [trial.name for trial in trials])
    axis.invert_yaxis()


def _along(axis: Any, trials: Sequence[Trial], scores: Mapping[str, Mapping[int, float]]) -> None:
    series = dict.fromkeys(trial.series for trial in trials)
    for name, colour, marker in zip(series, COLOURS, MARKERS, strict=False):
        points = [
            (float(trial.x or 0), Interval.of(list(scores[trial.name].values())))
            for trial in trials
            if trial.series == name and scores[trial.name]
        ]
        if points:
            xs, intervals = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            halves = [each.half if math.isfinite(each.half) else 0 for each in intervals]
            means = [each.mean for each in intervals]
            axis.errorbar(xs, means, yerr=halves, marker=marker, color=colour, label=name, ms=4, lw=1.3, capsize=3)
    xs = sorted({float(trial.x or 0) for trial in trials})
    if xs[0] > 0 and xs[-1] / xs[0] >= 8:
        axis.set_xscale("log", base=2)
    axis.set_xticks(xs, [re.sub(r"\.0$", "", f"{x:,}") for x in xs])
    if any(series):
        axis.legend(frameon=False)
