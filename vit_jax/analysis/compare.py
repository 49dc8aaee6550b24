"""Runs side by side: what differs in their configs, their final scores over seeds, and their curves."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from vit_jax import config as schema
from vit_jax.errors import UserError, nearest
from vit_jax.workdir import files

_NOT_SCORES = ("step", "split", "examples", "skipped", "seconds", "views")


@dataclasses.dataclass(frozen=True)
class Record:
    """What a workdir says about its run.

    Attributes:
      path: The workdir.
      config: The config, flat.
      rows: The rows of `metrics.jsonl`.
    """

    path: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def final(self) -> dict[str, Any]:
        """The last evaluation; empty if there is none."""
        return next((row for row in reversed(self.rows) if row["split"] == "eval"), {})


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ by their seed only.

    Attributes:
      values: The keys in which the groups differ, and this group's values.
      records: The runs.
    """

    values: dict[str, Any]
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """The differing values, or the path of the only run."""
        if self.values:
            return ", ".join(f"{key.rpartition('.')[2]} {_brief(value)}" for key, value in self.values.items())
        return pathlib.PurePath(self.records[0].path).name

    @property
    def seeds(self) -> list[int]:
        return [record.config["seed"] for record in self.records]

    def scores(self, metric: str) -> np.ndarray:
        """Returns the final values of a metric, one per run that has it."""
        return np.array([record.final[metric] for record in self.records if metric in record.final], np.float64)

    def curve(self, split: str, metric: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns steps and values of a metric for each run that has it."""
        curves = []
        for record in self.records:
            points = [(row["step"], row[metric]) for row in record.rows if row["split"] == split and metric in row]
            if points:
                steps, values = zip(*points, strict=True)
                curves.append((np.array(steps), np.array(values, np.float64)))
        return curves


def read_record(path: str) -> Record:
    """Reads the config and the metrics of a workdir.

    Raises:
      UserError: The folder is not a workdir.
    """
    workdir = epath.Path(path)
    try:
        saved = json.loads((workdir / "config.json").read_text())
        config = schema.flatten(schema.from_dict(saved))
    except FileNotFoundError:
        raise UserError(f"{path} has no config.json. Name workdirs, or the folder of a sweep.") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}/config.json is damaged ({type(error).__name__})") from None
    rows, _ = files.read_rows(
        workdir / "metrics.jsonl", lambda row: isinstance(row.get("step"), int) and isinstance(row.get("split"), str)
    )
    return Record(path, config, rows)


def grouped(records: Sequence[Record]) -> list[Group]:
    """Gathers runs that differ by their seed only; the groups are in the order of their first runs.

    Keys that do not change results, such as `log_every`, do not tell groups apart; `duration` does.
    """
    known = schema.keys()
    compared = [key for key in known if known[key].affects_results or key == "duration"]
    names = [key for key in compared if key != "seed"]
    names += sorted({key for record in records for key in record.config if ".extra." in key})
    differing = [key for key in names if len({_frozen(record.config.get(key)) for record in records}) > 1]
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(_frozen(record.config.get(key)) for key in differing), []).append(record)
    return [Group({key: each[0].config.get(key) for key in differing}, tuple(each)) for each in groups.values()]


def metrics_of(groups: Sequence[Group]) -> list[str]:
    """Returns the scores of the runs' evaluations, that by which their checkpoints are ranked first."""
    finals = [record.final for group in groups for record in group.records]
    names = dict.fromkeys(
        name
        for final in finals
        for name, value in final.items()
        if isinstance(value, float) and name not in _NOT_SCORES
    )
    best = [record.config["checkpoint.best"] for group in groups for record in group.records]
    return sorted(names, key=lambda name: name not in best)


def check_metric(metric: str, groups: Sequence[Group]) -> None:
    """Raises UserError unless an evaluation of the runs has a metric."""
    if metric not in (known := metrics_of(groups)):
        raise UserError(f"no evaluation of these runs has the metric {metric!r}{nearest(metric, known)}")


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the mean of values, and half the width of its 95 % confidence interval.

        half = t(0.975, n - 1) * s / sqrt(n)

    with Student's t and the standard deviation s of the n values. It is NaN for a single value.
    """
    from scipy import stats

    count = len(values)
    if count < 2:
        return (float(values.mean()) if count else math.nan), math.nan
    return float(values.mean()), float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count))


def table(groups: Sequence[Group], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row for each group: the differing values, the runs, and mean and half interval of each metric."""
    rows = []
    for group in groups:
        row: dict[str, Any] = dict(group.values) or {"run": group.records[0].path}
        row["seeds"] = " ".join(map(str, group.seeds))
        row["step"] = "-".join(sorted({str(record.final.get("step", 0)) for record in group.records}, key=int))
        for metric in metrics:
            row[metric], row[f"{metric}_95"] = interval(group.scores(metric))
        rows.append(row)
    return rows


def lines(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[str]:
    """Returns a table as aligned text; a mean over seeds is followed by half its interval."""
    names = [name for name in rows[0] if not name.endswith("_95")]
    cells = [list(names)]
    for row in rows:
        cells.append([_mean(row[name], row[f"{name}_95"]) if name in metrics else _brief(row[name]) for name in names])
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "x".join(map(str, value)) if isinstance(value, list) and value else str(value)


def _mean(mean: float, half: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.4f}" if math.isnan(half) else f"{mean:.4f} ± {half:.4f}"
