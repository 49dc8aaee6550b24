"""Evaluates a checkpoint on any split, or on another data set with the same labels.

Every example is scored exactly once, with the preprocessing that the checkpoint holds. With --few_shot it is not the
checkpoint's head that is scored, but a linear classifier fitted to its frozen features of K training examples of each
class; the data set may then have other labels.

  python -m vit_jax evaluate runs/quickstart
  python -m vit_jax evaluate runs/quickstart --split=train --json
  python -m vit_jax evaluate runs/flowers --name=folder --path=DIR --split=val
  python -m vit_jax evaluate runs/quickstart --few_shot=1,5,10
"""

import argparse
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
    parser.add_argument("--path", metavar="DIR", help="the folder of images of --name=folder")
    parser.add_argument("--data_dir", metavar="DIR", help="where prepared sets lie")
    parser.add_argument("--split", metavar="SPLIT", help="in TFDS syntax; the run's evaluation split if not given")
    parser.add_argument("--batch_size", type=int, metavar="N", help="that of the run if not given")
    parser.add_argument("--json", action="store_true", help="print one JSON object (with --few_shot one for each K)")
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
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, not {args.batch_size}")
    common.start_jax(args)
    import jax

    from vit_jax.experiment import check_labels, load_run

    run = load_run(args.checkpoint)
    split = args.split or run.config.data.eval_split
    source = _open(args, run, split)
    if args.few_shot:
        results = _few_shot(args, run, source)
    else:
        check_labels(run.labels, source.labels, "the checkpoint", f"{source.name} {split}")
        results = iter([_evaluate(args, run, source)])
    for result in results:
        result = {"set": source.name, "split": split, "step": run.step, **result, "skipped": len(source.skipped)}
        if jax.process_index() == 0:
            line = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
            print(json.dumps(result) if args.json else line)
    return 0


def _open(args: argparse.Namespace, run: Any, split: str) -> Any:
    from vit_jax.data.sources import open_source

    data = run.config.data
    same_set = args.name in (None, data.name)
    return open_source(
        args.name or data.name,
        split,
        path=args.path or (data.path if same_set else None),
        data_dir=args.data_dir or data.data_dir,
        strict=data.strict,
    )


def _batches(args: argparse.Namespace, run: Any, source: Any, description: str) -> Iterator:
    import jax

    from vit_jax.data.pipeline import eval_batches

    data = run.config.data
    batch_size = args.batch_size or run.config.eval_batch_size or run.config.batch_size
    batch_size = -(-batch_size // jax.device_count()) * jax.device_count()  # padding is never scored
    batches = eval_batches(
        source,
        run.preprocessing,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=data.num_workers,
        num_threads=data.num_threads,
    )
    return common.progress(batches, -(-len(source) // batch_size), description)


def _evaluate(args: argparse.Namespace, run: Any, source: Any) -> dict[str, float]:
    import functools

    from vit_jax.evaluate import evaluate
    from vit_jax.parallel import make_parallel

    parallel = make_parallel("pmap")
    result = evaluate(
        parallel.compile_predict(functools.partial(run.task.predict, run.model)),
        parallel.put_state(run.params),
        _batches(args, run, source, "evaluating"),
        run.task,
        parallel,
    )
    assert result is not None  # nothing asks it to stop
    return result


def _few_shot(args: argparse.Namespace, run: Any, test: Any) -> Iterator[dict[str, float]]:
    """Yields a result for each K; the labelled examples of a smaller K are among those of a larger."""
    import numpy as np

    from vit_jax.analysis import extract, few_shot
    from vit_jax.analysis.few_shot import choose_examples
    from vit_jax.data.sources import Subset
    from vit_jax.experiment import check_labels

    split = args.train_split or run.config.data.train_split
    train = _open(args, run, split)
    check_labels(train.labels, test.labels, f"{train.name} {split}", f"{test.name} {test.split}")
    labels = train.all_labels()
    chosen = {shots: choose_examples(labels, shots, train.labels, seed=args.seed) for shots in args.few_shot}
    needed = np.unique(np.concatenate(list(chosen.values())))

    labelled = Subset(train, needed.tolist())
    learnt = extract(run.model, run.params, _batches(args, run, labelled, "labelled examples"))
    scored = extract(run.model, run.params, _batches(args, run, test, "evaluating"))
    for shots, indices in chosen.items():
        rows = np.searchsorted(needed, indices)
        examples = {name: learnt[name][rows] for name in ("features", "label")}
        yield {"shots": shots, "seed": args.seed, **few_shot(examples, scored, len(train.labels))}
