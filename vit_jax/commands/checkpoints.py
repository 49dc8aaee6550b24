"""Arguments and helpers of the commands that take a checkpoint."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from vit_jax.commands import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name a checkpoint and say how to load it."""
    parser.add_argument(
        "checkpoint", metavar="WORKDIR", type=common.given, help="a workdir, or WORKDIR/checkpoints/STEP"
    )
    parser.add_argument(
        "--average",
        type=common.at_least(1),
        default=1,
        metavar="N",
        help="average the newest N checkpoints (default: 1)",
    )
    parser.add_argument("--trust", action="store_true", help="import code outside vit_jax that the checkpoint names")


def load(args: argparse.Namespace) -> Any:
    """Loads the run that the arguments name."""
    from vit_jax.run import load_run

    return load_run(args.checkpoint, average=args.average, trust=args.trust)


def tracked(description: str) -> Callable[[Any, int], Iterable[Any]]:
    """Returns a function that shows a progress bar over batches."""
    return lambda batches, total: common.progress(batches, total, description)
