"""Comparisons: the rows of a paper's table as training runs, at small scale and as the paper's full recipe."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from vit_jax.errors import UserError, nearest

SCALES = ("small", "paper")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained for a row.

    Attributes:
      config: The config file, with its argument: `configs/vit.py:B/16,imagenet2012`.
      overrides: Values of config keys. `{NAME}` in a value stands for the workdir of the trial NAME with the same seed,
        `{workdir}` for the run's own, and `{data}` for the folder of `Comparison.programs`.
      before: Other commands, run before the training starts or resumes, with the same placeholders.
    """

    config: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    before: Sequence[Sequence[str]] = ()

    def commands(self, seed: int, workdirs: Mapping[str, pathlib.Path] | None = None) -> list[list[str]]:
        """Returns the arguments of `python -m vit_jax` for each command; the last one trains.

        Args:
          workdirs: The folder of each placeholder. If it is not given, the placeholders remain.
        """
        values = {**self.overrides, "seed": seed}
        options = [f"--config={self.config}", *(f"--config.{key}={value}" for key, value in values.items())]
        commands = [*map(list, self.before), ["train", *options, "--workdir={workdir}"]]
        return commands if workdirs is None else [[_filled(word, workdirs) for word in words] for words in commands]

    def needs(self) -> list[str]:
        """Returns the names of the trials whose workdirs the commands name."""
        names = [name for words in self.commands(0) for word in words for name in _named(word)]
        return [name for name in dict.fromkeys(names) if name not in ("workdir", "data")]


def _named(word: str) -> list[str]:
    return re.findall(r"\{([^{}]+)\}", word)


def _filled(word: str, workdirs: Mapping[str, pathlib.Path]) -> str:
    for name in _named(word):
        word = word.replace(f"{{{name}}}", str(workdirs[name]))
    return word


@dataclasses.dataclass(frozen=True)
class Trial:
    """One row of a comparison.

    Attributes:
      name: The row's name, as the paper prints it.
      small: The recipe of the small-scale run.
      paper: The recipe of the full run; None if the data or the method cannot be had.
      printed: The paper's metric, as printed.
      x: Value on the horizontal axis of the figure, for comparisons along a quantity such as the number of frames. In
        such comparisons, a row without it is drawn as a horizontal line.
      series: The line of the figure to which the row belongs, for such comparisons.
      of: Name of another trial: this row scores that trial's run, and trains none.
      scoring: How the run is scored, if not as at the end of its training: `average`, the number of newest checkpoints
        whose parameters are averaged; fields of the task such as `beam_size`; or `few_shot`, the number of labelled
        examples per class from which a linear classifier of frozen features is fitted, and `data`, the data set of
        these examples and of the test split, if it is not the run's.
    """

    name: str
    small: Recipe | None = None
    paper: Recipe | None = None
    printed: str = ""
    x: float | None = None
    series: str = ""
    of: str = ""
    scoring: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def recipe(self, scale: str) -> Recipe | None:
        return self.small if scale == "small" else self.paper


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the paper's table says: row `better` has a better score than row `worse`.

    Attributes:
      better, worse: Names of the rows.
      metric: The score that is compared, one of `Comparison.metrics`; by default the first.
    """

    better: str
    worse: str
    metric: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A question of a paper that is answered by training.

    Attributes:
      title: The paper, the number of the table and its subject.
      question: The question, as one sentence.
      trials: The rows.
      claims: What the paper's table says about them.
      source: Where the printed numbers were read.
      metric: The name of the score in `metrics.jsonl`.
      also: Names of other scores, which have a column each.
      preparation: Trials that other trials start from, and that are not rows.
      data: Sets that are prepared first: the arguments of `python -m vit_jax data prepare`.
      programs: Releases of programs on PyPI. They are downloaded, and the strings of their Italian catalogues become
        the parallel text in `{data}/messages`.
      note: What holds for all rows, such as the data set and the length of training.
      x_label: Label of the horizontal axis, if trials have `x`.
    """

    title: str
    question: str
    trials: Sequence[Trial]
    claims: Sequence[Claim] = ()
    source: str = ""
    metric: str = "top1"
    also: Sequence[str] = ()
    preparation: Sequence[Trial] = ()
    data: Sequence[Sequence[str]] = ()
    programs: Sequence[str] = ()
    note: str = ""
    x_label: str = ""

    def __post_init__(self):
        names = [trial.name for trial in (*self.preparation, *self.trials)]
        named = [name for claim in self.claims for name in (claim.better, claim.worse)]
        named += [trial.of for trial in self.trials if trial.of]
        if unknown := sorted({claim.metric for claim in self.claims} - {"", *self.metrics}):
            raise UserError(f"comparison {self.title!r} has no metric {unknown[0]!r}")
        recipes = [trial.recipe(scale) for trial in (*self.preparation, *self.trials) for scale in SCALES]
        named += [name for recipe in recipes if recipe for name in recipe.needs()]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated or not set(named) <= set(names):
            problem = f"two rows named {repeated[0]!r}" if repeated else f"no row {min(set(named) - set(names))!r}"
            raise UserError(f"comparison {self.title!r} has {problem}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all scores; that of the claims comes first."""
        return (self.metric, *self.also)

    @property
    def scales(self) -> list[str]:
        """The scales at which there is something to train."""
        return [scale for scale in SCALES if self.at(scale)]

    def trial(self, name: str) -> Trial:
        return next(trial for trial in (*self.preparation, *self.trials) if trial.name == name)

    def at(self, scale: str) -> list[Trial]:
        """Returns the rows of a scale."""
        return [each for each in self.trials if (self.trial(each.of) if each.of else each).recipe(scale)]

    def select(self, scale: str, name: str | None) -> list[Trial]:
        """Returns the rows of a scale, or the one with this name.

        Raises:
          UserError: No row of this scale has this name.
        """
        names = [trial.name for trial in self.at(scale)]
        if name is not None and name not in names:
            raise UserError(f"no row {name!r} in {self.title}{nearest(name, names)}")
        return [trial for trial in self.at(scale) if name in (None, trial.name)]

    def with_preparation(self, trials: Sequence[Trial], scale: str) -> list[Trial]:
        """Returns the trials, each after those that it needs."""
        ordered: dict[str, Trial] = {}

        def add(trial: Trial) -> None:
            recipe = trial.recipe(scale)
            for name in [*(recipe.needs() if recipe else []), *([trial.of] if trial.of else [])]:
                add(self.trial(name))
            ordered.setdefault(trial.name, trial)

        for trial in trials:
            add(trial)
        return list(ordered.values())


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Attributes:
      mean: The mean.
      half: Half the width of the interval; infinite if there are fewer than two values.
      count: Number of values.
    """

    mean: float
    half: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Returns mean and interval by Student's t distribution: t_{0.975, n - 1} s / sqrt(n)."""
        count = len(values)
        if count < 2:
            return cls(float(values[0]) if count else math.nan, math.inf, count)
        half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count)
        return cls(float(np.mean(values)), float(half), count)

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a score is printed.

    Attributes:
      heading: Its name in tables and figures.
      unit: What the score is multiplied by: shares are printed in percent.
      digits: Number of decimals.
      lower_is_better: Whether a claim that one row is better says that its score is lower.
    """

    heading: str
    unit: float = 1.0
    digits: int = 1
    lower_is_better: bool = False

    @classmethod
    def of(cls, name: str) -> "Metric":
        return _METRICS.get(name, cls(name))


_METRICS = {
    "top1": Metric("top-1 (%)", unit=100.0),
    "top5": Metric("top-5 (%)", unit=100.0),
    "bleu": Metric("BLEU"),
    "chrf": Metric("chrF"),
    "f1": Metric("F1"),
    "loss": Metric("loss", digits=3, lower_is_better=True),
    "perplexity": Metric("perplexity", digits=2, lower_is_better=True),
}


def verdict(claim: Claim, scores: Mapping[str, Mapping[int, float]], metric: Metric, *, named: bool = False) -> str:
    """Says in one sentence whether a claim holds, by the differences between runs with the same seed.

    Args:
      scores: The score by row and seed, in the unit in which it is printed.
      named: Whether the sentence starts with the name of the score.
    """
    better, worse = scores.get(claim.better, {}), scores.get(claim.worse, {})
    seeds = sorted(better.keys() & worse.keys())
    sign, order = (-1, "below") if metric.lower_is_better else (1, "above")
    pair = f"{metric.heading}: " * named + f"{claim.better} {order} {claim.worse}"
    if not seeds:
        return f"{pair}: not run yet."
    difference = Interval.of([better[seed] - worse[seed] for seed in seeds])
    mean, low, high = (f"{each:+.{metric.digits}f}" for each in (difference.mean, difference.low, difference.high))
    if difference.count < 2:
        return f"{pair}: {mean} with one seed, which decides nothing."
    found = f"{pair}: {mean} ({low} to {high}, {difference.count} seeds)"
    if min(sign * difference.low, sign * difference.high) > 0:
        return f"{found}; this holds here."
    if max(sign * difference.low, sign * difference.high) < 0:
        return f"{found}; here it is the other way round."
    return f"{found}; these runs do not decide it."
