"""Measure whether a classifier is right as often as its probabilities say: reliability diagram, ECE, temperature.

  python -m vit_jax analyze calibration runs/quickstart --out=calibration.pdf
  python -m vit_jax analyze calibration runs/mine --fit_split=val --split=test --out=calibration.png --json

Temperature scaling divides the logits by one number, fitted on --fit_split. Without this option, each half of the
split is scored with the temperature that was fitted on the other half. See docs/robustness.md.
"""

import argparse
import csv
import json
from typing import Any

from vit_jax.commands.shared import checkpoints, common

HELP = "measure calibration: reliability diagram, ECE, temperature"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    add_split(parser)
    fit = "split to fit the temperature on (default: the halves of --split, crosswise)"
    parser.add_argument("--fit_split", metavar="SPLIT", type=common.given, help=fit)
    add_bins(parser)
    parser.add_argument("--out", required=True, metavar="FILE", type=common.given, help="figure: .png, .pdf or .svg")
    numbers = parser.add_mutually_exclusive_group()
    numbers.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    numbers.add_argument("--csv", metavar="FILE", type=common.given, help="also write the bins of both diagrams")


def add_split(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which examples are scored, and in which batches."""
    split = "split, in TFDS syntax (default: the run's evaluation split)"
    parser.add_argument("--split", metavar="SPLIT", type=common.given, help=split)
    parser.add_argument(
        "--batch_size", type=common.at_least(1), metavar="N", help="rows per batch (default: the run's)"
    )


def add_bins(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bins", type=common.at_least(1), default=15, metavar="N", help="bins of confidence (default: 15)"
    )


def run(args: argparse.Namespace) -> int:
    from vit_jax.plots import check_path
    from vit_jax.plots.robustness import plot_reliability

    check_path(args.out, "--out")
    common.start_jax(args)
    run = checkpoints.load(args)

    from vit_jax.analysis.robustness.calibration import calibration, scores_of

    options = {"batch_size": args.batch_size, "track": checkpoints.tracked("scoring")}
    source = run.open_split(args.split)
    rows = scores_of(run, source, **options)
    held_out = None
    if args.fit_split:
        others = scores_of(run, run.open_split(args.fit_split), **options)
        held_out = (others["scores"], others["label"])
    found = calibration(rows["scores"], rows["label"], held_out=held_out, bins=args.bins)
    plot_reliability(args.out, list(zip(("as trained", "with temperature"), found.diagrams, strict=True)))
    numbers = {"set": source.name, "split": source.split, "step": run.step, **_numbers(found)}
    if args.json:
        print(json.dumps(numbers))
    else:
        print(
            "  ".join(
                f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items()
            )
        )
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("temperature", "bin", "examples", "accuracy", "confidence"))
            for name, diagram in zip(("1", f"{found.temperature:.6g}"), found.diagrams, strict=True):
                for place, count in enumerate(diagram.count, start=1):
                    means = [f"{x[place - 1]:.6g}" if count else "" for x in (diagram.accuracy, diagram.confidence)]
                    writer.writerow((name, place, count, *means))
    return 0


def _numbers(found: Any) -> dict[str, Any]:
    """Returns the numbers of a `Calibration` under one name each."""
    plain = {key: getattr(found, key) for key in ("examples", "accuracy", "temperature")}
    scaled = {f"{key}_with_temperature": value for key, value in found.after.items()}
    return {**plain, **found.before, **scaled}
