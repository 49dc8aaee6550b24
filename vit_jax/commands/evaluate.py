"""Evaluate a checkpoint on any split, or on another data set with the same labels.

Every example is scored exactly once, with the preprocessing that the checkpoint holds; examples that cannot be scored
are counted. For videos, --clips and --crops also score several views of each example, whose probabilities are averaged.
With --few_shot, a linear classifier is fitted to frozen features of K labelled training examples per class and scored
in place of the checkpoint's own head; the data set may then have other labels.

  python -m vit_jax evaluate runs/quickstart
  python -m vit_jax evaluate runs/quickstart --split=train --json
  python -m vit_jax evaluate runs/kinetics --clips=1 --crops=3
  python -m vit_jax evaluate runs/messages --split=heldout --average=5
  python -m vit_jax evaluate runs/flowers --name=folder --path=DIR --split=val
  python -m vit_jax evaluate runs/quickstart --few_shot=1,5,10
"""

import argparse
import json
import re
from collections.abc import Iterator
from typing import Any

from vit_jax.commands import checkpoints, common

HELP = "score a checkpoint on a split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    parser.add_argument("--name", metavar="SET", help="data set [default: the run's]")
    parser.add_argument("--path", metavar="DIR", help="root folder of a data set of your own (folder, video, text)")
    parser.add_argument("--data_dir", metavar="DIR", help="folder of prepared data sets")
    parser.add_argument("--split", metavar="SPLIT", help="split, in TFDS syntax [default: the run's evaluation split]")
    parser.add_argument("--batch_size", type=int, metavar="N", help="examples per batch [default: the run's]")
    parser.add_argument("--json", action="store_true", help="print one JSON object per result")
    group = parser.add_argument_group("several views of a video")
    group.add_argument("--clips", type=int, metavar="N", help="clips spread over the video [default: the run's]")
    group.add_argument(
        "--crops", type=int, metavar="N", help="crops of each clip, along its longer side [default: the run's]"
    )
    group = parser.add_argument_group("few-shot linear evaluation")
    group.add_argument("--few_shot", type=_counts, default=(), metavar="K,...", help="labelled examples per class")
    group.add_argument("--train_split", metavar="SPLIT", help="split to draw these examples from [default: the run's]")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed with which they are drawn [default: 0]")
    common.add_distributed(parser)


def _counts(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be one count or several, for example 5 or 1,5,10")
    return tuple(int(count) for count in text.split(","))


def run(args: argparse.Namespace) -> int:
    checkpoints.check_positive(args, "batch_size", "average", "clips", "crops")
    common.start_jax(args)
    import jax

    run = checkpoints.load(args)
    source = run.open_split(args.split, name=args.name, path=args.path, data_dir=args.data_dir)
    for result in _few_shot(args, run, source) if args.few_shot else _evaluate(args, run, source):
        result = {"set": source.name, "split": source.split, "step": run.step, **result}
        if jax.process_index() == 0:
            line = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
            print(json.dumps(result) if args.json else line)
    return 0


def _evaluate(args: argparse.Namespace, run: Any, source: Any) -> Iterator[dict[str, Any]]:
    """Yields the scores with the requested views, preceded by those of one view if --clips or --crops asks for more."""
    asked = run.with_views(args.clips, args.crops)
    several = (args.clips or args.crops) and asked.encoder.views > 1
    for each in [run.one_view(), asked] if several else [asked]:
        yield each.evaluate(source, batch_size=args.batch_size, track=checkpoints.tracked("evaluating"))


def _few_shot(args: argparse.Namespace, run: Any, test: Any) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.few_shot import evaluate_few_shot

    train_split = args.train_split or run.config.data.train_split
    train = run.open_split(train_split, name=args.name, path=args.path, data_dir=args.data_dir)
    run = run.with_views(args.clips, args.crops)
    return evaluate_few_shot(
        run, train, test, args.few_shot, seed=args.seed, batch_size=args.batch_size, track=checkpoints.tracked
    )
