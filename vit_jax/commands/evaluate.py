"""Evaluates a checkpoint on any split, or on another data set with the same labels.

Every example is scored exactly once, with the preprocessing that the checkpoint holds, and what could not be scored is
counted. Of videos, --clips and --crops score several views of each as well, their probabilities averaged. With
--few_shot it is not the checkpoint's head that is scored, but a linear classifier fitted to its frozen features of K
training examples of each class; the data set may then have other labels.

  python -m vit_jax evaluate runs/quickstart
  python -m vit_jax evaluate runs/quickstart --split=train --json
  python -m vit_jax evaluate runs/kinetics --clips=1 --crops=3
  python -m vit_jax evaluate runs/messages --split=heldout --average=5
  python -m vit_jax evaluate runs/flowers --name=folder --path=DIR --split=val
  python -m vit_jax evaluate runs/quickstart --few_shot=1,5,10
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from vit_jax.commands import common
from vit_jax.errors import UserError

HELP = "score a checkpoint on a split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="WORKDIR", help="a workdir, or WORKDIR/checkpoints/STEP")
    parser.add_argument("--name", metavar="SET", help="data set; that of the run if not given")
    parser.add_argument("--path", metavar="DIR", help="where a set of your own lies (folder, video, text)")
    parser.add_argument("--data_dir", metavar="DIR", help="where prepared sets lie")
    parser.add_argument("--split", metavar="SPLIT", help="in TFDS syntax; the run's evaluation split if not given")
    parser.add_argument("--batch_size", type=int, metavar="N", help="that of the run if not given")
    parser.add_argument("--average", type=int, default=1, metavar="N", help="average the newest N checkpoints [1]")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object a result (with --few_shot, for each K)"
    )
    group = parser.add_argument_group("several views of a video")
    group.add_argument("--clips", type=int, metavar="N", help="clips spread over the video; the run's if not given")
    group.add_argument("--crops", type=int, metavar="N", help="crops of each along its longer side; likewise")
    group = parser.add_argument_group("few-shot linear evaluation")
    group.add_argument("--few_shot", type=_counts, default=(), metavar="K,...", help="labelled examples of each class")
    group.add_argument("--train_split", metavar="SPLIT", help="where they are from; the run's if not given")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="by which they are chosen [0]")
    common.add_distributed(parser)


def _counts(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: one count or several, as 5 or 1,5,10")
    return tuple(int(count) for count in text.split(","))


def run(args: argparse.Namespace) -> int:
    for option in ("batch_size", "average", "clips", "crops"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise UserError(f"--{option} must be at least 1, not {value}")
    common.start_jax(args)
    import jax

    from vit_jax.experiment import load_run, open_split

    run = load_run(args.checkpoint, average=args.average)
    split = args.split or run.config.data.eval_split
    source = open_split(run.config, split, name=args.name, path=args.path, data_dir=args.data_dir)
    for result in _few_shot(args, run, source) if args.few_shot else _evaluate(args, run, source):
        result = {"set": source.name, "split": split, "step": run.step, **result}
        if jax.process_index() == 0:
            line = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
            print(json.dumps(result) if args.json else line)
    return 0


def _views(args: argparse.Namespace, run: Any) -> list[Any]:
    """Returns the preprocessing of one view of a video, and of several if they are asked for; else the checkpoint's."""
    is_video, is_asked = run.preprocessing.key == "video", bool(args.clips or args.crops)
    if is_asked and not is_video:
        raise UserError(f"--clips and --crops are of videos; this checkpoint is of {run.preprocessing.key}")
    if not is_video or not (is_asked or args.few_shot):  # frozen features are of one view
        return [run.preprocessing]
    asked = {name: getattr(args, name) or getattr(run.preprocessing, name) for name in ("clips", "crops")}
    one = dataclasses.replace(run.preprocessing, clips=1, crops=1)
    several = dataclasses.replace(run.preprocessing, **asked)
    return [one] if several == one else [one, several]


def _evaluate(args: argparse.Namespace, run: Any, source: Any) -> Iterator[dict[str, float]]:
    from vit_jax.evaluate import Evaluator
    from vit_jax.experiment import check_labels, eval_batches
    from vit_jax.parallel import make_parallel

    check_labels(run.labels, source.labels, "the checkpoint", f"{source.name} {source.split}")
    for preprocessing in _views(args, run):
        batches, skipped = eval_batches(run.config, source, preprocessing, args.batch_size)
        batches = common.progress(batches, len(batches), "evaluating")
        task = run.task
        if hasattr(task, "views"):
            task = dataclasses.replace(task, views=preprocessing.views)
        evaluator = Evaluator(run.model, task, make_parallel("pmap"))
        result = evaluator.evaluate(evaluator.put(run.params), batches)
        assert result is not None  # nothing asks it to stop
        yield {**result, "skipped": skipped}


def _few_shot(args: argparse.Namespace, run: Any, test: Any) -> Iterator[dict[str, float]]:
    """Yields a result for each K; the labelled examples of a smaller K are among those of a larger."""
    import numpy as np

    from vit_jax.analysis import extract, few_shot
    from vit_jax.analysis.few_shot import choose_examples
    from vit_jax.data.sources import Subset
    from vit_jax.experiment import check_labels, eval_batches, open_split

    if run.preprocessing.key == "text":
        raise UserError(f"--few_shot is of images and videos; {args.checkpoint} translates")
    preprocessing = _views(args, run)[0]
    split = args.train_split or run.config.data.train_split
    train = open_split(run.config, split, name=args.name, path=args.path, data_dir=args.data_dir)
    check_labels(train.labels, test.labels, f"{train.name} {split}", f"{test.name} {test.split}")
    labels = train.all_labels()
    chosen = {shots: choose_examples(labels, shots, train.labels, seed=args.seed) for shots in args.few_shot}
    needed = np.unique(np.concatenate(list(chosen.values())))

    def extracted(source: Any, description: str) -> dict[str, np.ndarray]:
        batches, _ = eval_batches(run.config, source, preprocessing, args.batch_size)
        return extract(run.model, run.params, common.progress(batches, len(batches), description))

    learnt = extracted(Subset(train, needed.tolist()), "labelled examples")
    scored = extracted(test, "evaluating")
    for shots, indices in chosen.items():
        rows = np.searchsorted(needed, indices)
        examples = {name: learnt[name][rows] for name in ("features", "label")}
        result = few_shot(examples, scored, len(train.labels))
        yield {"shots": shots, "seed": args.seed, **result, "skipped": len(test.skipped)}
