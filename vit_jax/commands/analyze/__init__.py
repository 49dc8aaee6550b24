"""Look inside a trained model: each analysis writes a figure, and its numbers if asked for.

  python -m vit_jax analyze attention runs/quickstart image.png --out=attention.pdf

`python -m vit_jax analyze ANALYSIS --help` explains each of them.
"""

import argparse

from vit_jax.commands.shared import common

HELP = "look inside a trained model"
ANALYSES: tuple[str, ...] = (
    "attention", "distance", "rank", "positions", "embed", "calibration", "corruptions", "mistakes", "cost",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    analyses = parser.add_subparsers(dest="analysis", metavar="ANALYSIS", required=True)
    common.add_commands(analyses, __name__, ANALYSES, dest="run_analysis")


def run(args: argparse.Namespace) -> int:
    return args.run_analysis(args)
