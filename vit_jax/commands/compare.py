"""Compare runs: what differs in their configs, their final scores and their curves.

Runs that differ by their seed only are one row: the mean of their scores, and half the width of its 95 % confidence
interval (Student's t). A folder of a sweep stands for all of its runs that have started.

  python -m vit_jax compare runs/quickstart runs/other
  python -m vit_jax compare runs/peak --out=peak.png --csv=peak.csv
  python -m vit_jax compare runs/peak runs/depth --metric=loss --json
"""

import argparse
import csv
import json
import pathlib
from collections.abc import Iterator

from vit_jax.commands.shared import common
from vit_jax.errors import UserError, counted

HELP = "compare runs: configs, scores, curves"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("runs", nargs="+", metavar="RUN", type=common.given, help="workdirs, or folders of sweeps")
    option("--out", metavar="FILE", type=common.given, help="draw the curves (.png, .pdf or .svg)")
    option("--csv", metavar="FILE", type=common.given, help="write the table to a CSV, which is replaced")
    option("--metric", metavar="NAME", type=common.given, help="score to draw (default: that which ranks checkpoints)")
    option("--json", action="store_true", help="print one JSON object per row")


def run(args: argparse.Namespace) -> int:
    from vit_jax.analysis import compare
    from vit_jax.plots import check_path
    from vit_jax.plots.runs import plot_runs

    if args.out:
        check_path(args.out, "--out")
    records = [compare.read_record(path) for path in _workdirs(args.runs)]
    groups = compare.grouped(records)
    metrics = compare.metrics_of(groups)
    if args.metric:
        compare.check_metric(args.metric, groups)
    if not metrics:
        raise UserError(f"none of the {counted(len(records), 'runs')} has been evaluated yet")
    rows = compare.table(groups, metrics)
    for line in map(json.dumps, rows) if args.json else compare.lines(rows, metrics):
        print(line)
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    if args.out:
        plot_runs(groups, args.out, args.metric or metrics[0])
    return 0


def _workdirs(paths: list[str]) -> Iterator[str]:
    """Yields the workdirs; in place of the folder of a sweep, those of its runs that have started.

    Raises:
      UserError: A path does not exist or is given twice, or no run of a sweep has started.
    """
    from vit_jax.launch import sweep

    seen: set[pathlib.Path] = set()
    for path in paths:
        folder = pathlib.Path(path)
        if "://" not in path and not folder.is_dir():
            raise UserError(f"{path}: no such workdir")
        found = [path]
        if (folder / sweep.FILE).exists():
            names = [point.name for point in sweep.load_sweep(folder).points]
            found = [str(folder / name) for name in names if (folder / name / "config.json").exists()]
            if not found:
                raise UserError(f"no run of the sweep in {path} has started yet")
        for workdir in found:
            if (absolute := pathlib.Path(workdir).absolute()) in seen:
                raise UserError(f"{workdir} is given twice")
            seen.add(absolute)
            yield workdir
