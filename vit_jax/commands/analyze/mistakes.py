"""Show what a classifier gets wrong: its most confident mistakes, its confusion matrix, and its accuracy by class.

  python -m vit_jax analyze mistakes runs/quickstart --out=mistakes.png --confusion=confusion.pdf
  python -m vit_jax analyze mistakes runs/mine --split=test --count=32 --out=mistakes.png --csv=predictions.csv

Mistakes are drawn with the lowest probability of the true class first. Every example of the split is scored.
"""

import argparse
import csv
import json
from typing import Any

from vit_jax.commands.analyze.calibration import add_split
from vit_jax.commands.shared import checkpoints, common
from vit_jax.errors import counted

HELP = "show the worst mistakes, the confusion matrix and accuracy by class"
_MOST_PRINTED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    add_split(parser)
    out = "picture of the worst mistakes: .png, .pdf or .svg"
    parser.add_argument("--out", required=True, metavar="FILE", type=common.given, help=out)
    confusion = "also draw the confusion matrix: .png, .pdf or .svg"
    parser.add_argument("--confusion", metavar="FILE", type=common.given, help=confusion)
    count = "number of mistakes in the picture (default: 24)"
    parser.add_argument("--count", type=common.at_least(1), default=24, metavar="N", help=count)
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    parser.add_argument("--csv", metavar="FILE", type=common.given, help="also write the prediction for every example")


def run(args: argparse.Namespace) -> int:
    from vit_jax.plots import check_path
    from vit_jax.plots.robustness import plot_confusion

    check_path(args.out, "--out")
    if args.confusion:
        check_path(args.confusion, "--confusion")
    common.start_jax(args)
    run = checkpoints.load(args)

    from vit_jax.analysis.robustness import mistakes
    from vit_jax.analysis.robustness.calibration import scores_of

    source = run.open_split(args.split)
    rows = scores_of(run, source, batch_size=args.batch_size, track=checkpoints.tracked("scoring"))
    found = mistakes.predictions(rows)
    confusion = mistakes.confusion_matrix(found.label, found.predicted, len(run.labels))
    _draw(args, run, source, found)
    if args.confusion:
        plot_confusion(args.confusion, confusion, run.labels)
    if args.csv:
        _write(args.csv, found, run.labels)
    by_class = mistakes.accuracy_by_class(confusion)
    confused = mistakes.most_confused(confusion, _MOST_PRINTED)
    if args.json:
        accuracies = {
            label: None if value != value else value for label, value in zip(run.labels, by_class.tolist(), strict=True)
        }
        pairs = [{"label": run.labels[a], "predicted": run.labels[b], "examples": n} for a, b, n in confused]
        print(json.dumps({"examples": len(found), "accuracy_by_class": accuracies, "most_confused": pairs}))
        return 0
    print(f"{counted(len(found), 'examples')}, {counted(int((found.label != found.predicted).sum()), 'mistakes')}")
    for place in by_class.argsort(kind="stable")[:_MOST_PRINTED]:
        examples = int(confusion[place].sum())
        print(f"{run.labels[place]}\taccuracy {by_class[place]:.4f}\t{counted(examples, 'examples')}")
    for label, other, number in confused:
        print(f"{run.labels[label]} taken for {run.labels[other]}\t{counted(number, 'examples')}")
    return 0


def _draw(args: argparse.Namespace, run: Any, source: Any, found: Any) -> None:
    """Draws the worst mistakes, with what was predicted, its probability and the true class."""
    from vit_jax.analysis.robustness.mistakes import worst
    from vit_jax.errors import UserError
    from vit_jax.plots import RED, contact_sheet

    chosen = worst(found, args.count)
    if not len(chosen):
        raise UserError(
            f"all {counted(len(found), 'examples')} of {source.name} {source.split} are right: no mistake to draw"
        )
    examples = source.__getitems__(found.index[chosen].tolist())
    images = [run.modality.thumbnail(example[run.encoder.key]) for example in examples]
    titles = [
        f"{run.labels[found.predicted[place]]} ({found.confidence[place]:.0%})\nnot {run.labels[found.label[place]]}"
        for place in chosen
    ]
    names = [f"example {found.id[place]}" for place in chosen]
    contact_sheet(args.out, images, names, titles, [RED] * len(chosen), f"{source.name} {source.split}, worst first")


def _write(path: str, found: Any, labels: tuple[str, ...]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "label", "predicted", "confidence", "loss"))
        for place in range(len(found)):
            names = (labels[found.label[place]], labels[found.predicted[place]])
            writer.writerow((found.id[place], *names, f"{found.confidence[place]:.6g}", f"{found.loss[place]:.6g}"))
