"""Evaluate a checkpoint or foreign weights on any split of any data set with the same labels, or some of them.

Every example is scored exactly once, with the preprocessing that the checkpoint holds; examples that cannot be scored
are counted. For videos, --clips and --crops also score several views of each example, which are averaged as
config.task.average_views of the run says. With --few_shot, a linear classifier is fitted to frozen features of K
labelled training examples per class and scored in place of the checkpoint's own head; the data set may then have other
labels.

Weights of others are scored in every format that docs/checkpoints.md lists. Classes are found by their names; if the
data set has only some of them, as ImageNet-A has, the others cannot be predicted.

  python -m vit_jax evaluate runs/quickstart
  python -m vit_jax evaluate runs/quickstart --split=train --json --best
  python -m vit_jax evaluate runs/kinetics --clips=1 --crops=3
  python -m vit_jax evaluate runs/messages --split=heldout --average=5
  python -m vit_jax evaluate runs/flowers --data=folder --path=DIR --split=val --predictions=flowers.parquet
  python -m vit_jax evaluate runs/quickstart --few_shot=1,5,10
  python -m vit_jax evaluate B_16.npz --name=vit:B/16 --data=imagenet2012 --split=validation --csv=scores.csv
  python -m vit_jax evaluate B_16.npz --name=vit:B/16 --data=imagenet_a --split=test --labels=imagenet2012
"""

import argparse
import datetime
import json
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from vit_jax.commands.shared import checkpoints, common
from vit_jax.errors import UserError

HELP = "score a checkpoint, or weights of others, on a split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    option, count = parser.add_argument, common.at_least(1)
    option("--data", metavar="SET", type=common.given, help="data set (default: the run's)")
    option("--path", metavar="DIR", type=common.given, help="root folder of your own data (folder, video, text)")
    option("--data_dir", metavar="DIR", type=common.given, help="folder of prepared data sets (default: the run's)")
    option(
        "--split",
        metavar="SPLIT",
        type=common.given,
        help="split, in TFDS syntax (default: the run's evaluation split)",
    )
    option(
        "--real",
        metavar="JSON",
        type=common.given,
        help="ReaL labels (real.json) for a folder of ImageNet's validation",
    )
    option("--batch_size", type=count, metavar="N", help="examples per batch (default: the run's)")
    option("--json", action="store_true", help="print one JSON object per result")
    option("--csv", metavar="FILE", type=common.given, help="also append the result, with its counts, to a CSV")
    option(
        "--predictions",
        metavar="FILE",
        type=common.given,
        help="write a row per example: id, file, label, top classes, logits (.csv, .npz or .parquet)",
    )
    option(
        "--per_class",
        action="store_true",
        help="also print the accuracy of each class, the confusion matrix and the calibration",
    )
    option = parser.add_argument_group("several views of a video").add_argument
    option("--clips", type=count, metavar="N", help="clips spread over the video (default: the run's)")
    option("--crops", type=count, metavar="N", help="crops of each clip, along its longer side (default: the run's)")
    option = parser.add_argument_group("few-shot linear evaluation").add_argument
    option("--few_shot", type=_counts, default=(), metavar="K,...", help="labelled examples per class")
    option(
        "--train_split",
        metavar="SPLIT",
        type=common.given,
        help="split to draw these examples from (default: the run's training split)",
    )
    option("--seed", type=common.at_least(0), metavar="N", help="seed with which they are drawn (default: 0)")
    common.add_distributed(parser)


def _counts(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"must be one count or several, such as 5 or 1,5,10, got {text!r}")
    return tuple(map(common.at_least(1), text.split(",")))


def run(args: argparse.Namespace) -> int:
    for option in ("train_split", "seed"):
        if getattr(args, option) is not None and not args.few_shot:
            raise UserError(f"--{option} applies to few-shot evaluation. Add --few_shot=K, or leave it out.")
    for option in ("predictions", "per_class"):
        if getattr(args, option) and args.few_shot:
            raise UserError(f"--{option} does not apply to few-shot evaluation")
    from vit_jax import records

    if args.predictions:
        records.check_table(args.predictions)
    common.start_jax(args)
    import jax

    run = checkpoints.load(args)
    source = run.open_split(args.split, name=args.data, path=args.path, data_dir=args.data_dir)
    if args.real:
        from vit_jax.data.image.real import RealLabels

        source = RealLabels(source, args.real)
    if args.csv:
        records.check_columns(args.csv, _columns(run))
    is_main = jax.process_index() == 0
    for result in _few_shot(args, run, source) if args.few_shot else _evaluate(args, run, source):
        breakdown = result.pop("breakdown", None)
        result = {"set": source.name, "split": source.split, "step": run.step, **result}
        if is_main:
            details = {"per_class": breakdown.as_json()} if breakdown else {}
            line = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
            print(json.dumps({**result, **details}) if args.json else line)
            if breakdown and not args.json:
                print("\n".join(["", *breakdown.lines()]))
        if is_main and args.csv:
            records.append_row(args.csv, _row(args, run, result))
    return 0


def _evaluate(args: argparse.Namespace, run: Any, source: Any) -> Iterator[dict[str, Any]]:
    """Yields the scores with the requested views, preceded by those of one view if --clips or --crops asks for more."""
    import jax

    from vit_jax import records

    if not run.labels and run.outputs and len(source.labels) == run.outputs:
        print(f"vit_jax: the outputs have no names, and are taken to be the classes of {source.name}", file=sys.stderr)
    asked = run.with_views(args.clips, args.crops)
    several = (args.clips or args.crops) and asked.encoder.views > 1
    for each in [run.one_view(), asked] if several else [asked]:
        is_last = each is asked
        breakdown = _breakdown(run, source) if args.per_class and is_last else None
        path = args.predictions if is_last and jax.process_index() == 0 else None
        started = time.monotonic()
        with common.ending_at_sigterm(), records.open_table(path) as table:
            sinks = [sink.add for sink in (table, breakdown) if sink is not None]
            keep = (lambda columns, sinks=sinks: [add(columns) for add in sinks]) if sinks else None
            result = each.evaluate(
                source, batch_size=args.batch_size, track=checkpoints.tracked("evaluating"), keep=keep
            )
        yield {**result, "seconds": round(time.monotonic() - started, 1), "breakdown": breakdown}


def _breakdown(run: Any, source: Any) -> Any:
    from vit_jax.analysis.robustness.breakdown import Breakdown

    if not source.labels:
        raise UserError(f"--per_class applies to data with classes; {source.name} has none")
    return Breakdown(source.labels)


def _columns(run: Any) -> list[str]:
    """Returns the columns of the CSV: those of every row of this task, whatever the data set and the views."""
    what = ["checkpoint", "model", "step", "set", "split"]
    counts = ["examples", "skipped", "views", "classes", "outputs", "shots", "seed"]
    return [*what, *run.task.scores, *counts, "seconds", "hardware", "date", "commit", "command"]


def _row(args: argparse.Namespace, run: Any, result: dict[str, Any]) -> dict[str, Any]:
    from vit_jax.architecture import title
    from vit_jax.workdir import provenance

    outputs = "" if args.few_shot else run.outputs  # the classes of the fitted classifier are those of the data
    known = {
        "checkpoint": args.checkpoint,
        "model": title(run.config.model.name, run.model),
        "views": 1,
        "classes": outputs,
        "outputs": outputs,
        **result,
        "hardware": provenance.hardware(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": provenance.commit(),
        "command": provenance.command(),
    }
    return {name: known.get(name, "") for name in _columns(run)}


def _few_shot(args: argparse.Namespace, run: Any, test: Any) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.embedding.few_shot import evaluate_few_shot

    train_split = args.train_split or run.config.data.train_split
    train = run.open_split(train_split, name=args.data, path=args.path, data_dir=args.data_dir)
    run = run.with_views(args.clips, args.crops)
    return evaluate_few_shot(
        run, train, test, args.few_shot, seed=args.seed or 0, batch_size=args.batch_size, track=checkpoints.tracked
    )
