"""Evaluates a checkpoint on any split, or on another data set with the same labels.

Every example is scored exactly once, with the preprocessing that the checkpoint holds.

  python -m vit_jax evaluate runs/quickstart
  python -m vit_jax evaluate runs/quickstart --split=train --json
  python -m vit_jax evaluate runs/flowers --name=folder --path=DIR --split=val
"""

import argparse
import json

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
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_distributed(parser)


def run(args: argparse.Namespace) -> int:
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, not {args.batch_size}")
    common.start_jax(args)
    import functools

    import jax

    from vit_jax.data.pipeline import eval_batches
    from vit_jax.data.sources import open_source
    from vit_jax.evaluate import evaluate
    from vit_jax.experiment import check_labels, load_run
    from vit_jax.parallel import make_parallel

    run = load_run(args.checkpoint)
    data = run.config.data
    same_set = args.name in (None, data.name)
    split = args.split or data.eval_split
    source = open_source(
        args.name or data.name,
        split,
        path=args.path or (data.path if same_set else None),
        data_dir=args.data_dir or data.data_dir,
        strict=data.strict,
    )
    check_labels(run.labels, source.labels, "the checkpoint", f"{source.name} {split}")
    batch_size = args.batch_size or run.config.eval_batch_size or run.config.batch_size
    batch_size = -(-batch_size // jax.device_count()) * jax.device_count()  # padding is never scored

    parallel = make_parallel("pmap")
    batches = eval_batches(
        source,
        run.preprocessing,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=data.num_workers,
        num_threads=data.num_threads,
    )
    result = evaluate(
        parallel.compile_predict(functools.partial(run.task.predict, run.model)),
        parallel.put_state(run.params),
        common.progress(batches, -(-len(source) // batch_size), "evaluating"),
        run.task,
        parallel,
    )
    assert result is not None  # nothing asks it to stop
    result = {"set": source.name, "split": split, "step": run.step, **result, "skipped": len(source.skipped)}
    if jax.process_index() == 0:
        line = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
        print(json.dumps(result) if args.json else line)
    return 0
