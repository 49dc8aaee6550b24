"""Evaluate a checkpoint on any split, or on another data set with the same labels.

Every example is scored exactly once, with the preprocessing that the checkpoint holds; examples that cannot be scored
are counted. For videos, --clips and --crops also score several views of each example, which are averaged as
config.task.average_views of the run says. With --few_shot, a linear classifier is fitted to frozen features of K
labelled training examples per class and scored in place of the checkpoint's own head; the data set may then have other
labels.

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
from vit_jax.errors import UserError

HELP = "score a checkpoint on a split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checkpoints.add_arguments(parser)
    option, count = parser.add_argument, common.at_least(1)
    option("--name", metavar="SET", type=common.given, help="data set (default: the run's)")
    option("--path", metavar="DIR", type=common.given, help="root folder of your own data (folder, video, text)")
    option("--data_dir", metavar="DIR", type=common.given, help="folder of prepared data sets (default: the run's)")
    option(
        "--split",
        metavar="SPLIT",
        type=common.given,
        help="split, in TFDS syntax (default: the run's evaluation split)",
    )
    option("--batch_size", type=count, metavar="N", help="examples per batch (default: the run's)")
    option("--json", action="store_true", help="print one JSON object per result")
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
        run, train, test, args.few_shot, seed=args.seed or 0, batch_size=args.batch_size, track=checkpoints.tracked
    )
