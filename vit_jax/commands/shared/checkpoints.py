"""Arguments and helpers of the commands that take a checkpoint."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from vit_jax.commands.shared import common, foreign
from vit_jax.config.families import FAMILIES
from vit_jax.errors import UserError, nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name a checkpoint and say how to load it."""
    parser.add_argument(
        "checkpoint",
        metavar="WORKDIR",
        type=common.given,
        help="a workdir, WORKDIR/checkpoints/STEP, or a file or folder of foreign weights",
    )
    parser.add_argument(
        "--average",
        type=common.at_least(1),
        default=1,
        metavar="N",
        help="average the newest N checkpoints (default: 1)",
    )
    parser.add_argument("--best", action="store_true", help="use the workdir's best checkpoint instead of the newest")
    parser.add_argument("--trust", action="store_true", help="import code outside vit_jax that the checkpoint names")
    group = parser.add_argument_group("foreign weights", "What a file does not state; see docs/checkpoints.md.")
    foreign.add_arguments(group)
    group.add_argument(
        "--labels",
        metavar="FILE",
        type=common.given,
        help="names of the outputs: a text file with one per line, a .json file, or imagenet2012",
    )
    group.add_argument("--sampling", metavar="HOW", type=common.given, help="how the frames of a clip are chosen")


def load(args: argparse.Namespace) -> Any:
    """Loads the run, or the foreign weights, that the arguments name."""
    from vit_jax.data.labels import read_labels
    from vit_jax.load import load_run

    options = foreign.given(args)
    if (name := options.get("name")) and name.partition(":")[0] not in FAMILIES:
        family = nearest(name.partition(":")[0], FAMILIES)
        raise UserError(f"--name={name} is not a model, such as vit:B/16{family} (the data set is --data)")
    if args.labels:
        options["labels"] = read_labels(args.labels)
    if args.sampling:
        options["sampling"] = args.sampling
    return load_run(args.checkpoint, average=args.average, best=args.best, trust=args.trust, **options)


def tracked(description: str) -> Callable[[Any, int], Iterable[Any]]:
    """Returns a function that shows a progress bar over batches."""
    return lambda batches, total: common.progress(batches, total, description)
